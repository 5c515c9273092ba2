"""Which part of the product may import which: the arrows of the design."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter

import pytest

from tests.support.paths import ROOT

OURS = {"handlers", "training", "portal", "deploy", "tests"}

# From each wing of the portal, and from each module at its top, to those that it may import.
# `files`, `errors`, `fields`, `png` and the contract of the handlers are free to all.
ARROWS = {
    "files": set[str](),
    "errors": set[str](),
    "fields": set[str](),
    "png": set[str](),
    "credentials": set[str](),
    "settings": {"credentials"},
    "jobs": {"storage"},
    "storage": set[str](),
    "catalog": set[str](),
    "serving": {"catalog", "settings"},
    "scenes": {"serving", "catalog", "storage", "jobs", "settings"},
    "observability": {"serving", "catalog", "storage"},
    "deployments": {"observability", "serving", "catalog", "storage", "jobs", "settings"},
    "services": {
        "scenes", "deployments", "observability", "serving", "catalog", "storage", "jobs",
        "settings", "credentials",
    },
    "web": {
        "services", "scenes", "deployments", "observability", "serving", "catalog", "storage",
        "jobs", "settings", "credentials",
    },
    "cli": {"scenes", "serving", "credentials", "storage", "settings"},
}  # fmt: skip
FREE = {"files", "errors", "fields", "png"}
MOST_MODULES = 12  # directly in the portal
MOST_FLOORS = 9  # of imports between its wings


def imported(source: str, package: str) -> set[str]:
    """Top-level names that a module of ``package`` imports, anywhere in it."""
    return {name.partition(".")[0] for name in imports(source, package)}


def imports(source: str, package: str = "") -> set[str]:
    """The modules, and the names in modules, that a module of ``package`` imports."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            names.add(package)
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def modules(package: str) -> Iterator[tuple[str, set[str]]]:
    """Each module of a package, as path from the root, with what it imports."""
    paths = sorted((ROOT / package).rglob("*.py"))
    assert paths, f"no modules in {package}"
    for path in paths:
        yield path.relative_to(ROOT).as_posix(), imported(path.read_text(), package)


def importers(package: str, names: set[str]) -> dict[str, set[str]]:
    """The modules of a package that import one of the names, with what they import of them."""
    return {path: found & names for path, found in modules(package) if found & names}


def portal_graph() -> dict[str, set[str]]:
    """Each module of the portal, by its dotted name, and those of the portal that it imports."""
    sources = {}
    for path in (ROOT / "portal").rglob("*.py"):
        name = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        sources[name.removesuffix(".__init__")] = path.read_text()
    graph = {}
    for name, source in sources.items():
        found = {
            imported if imported in sources else imported.rpartition(".")[0]
            for imported in imports(source)
            if imported.startswith("portal.")
        }
        graph[name] = found & sources.keys() - {name}
    return graph


def wing(module: str) -> str:
    """The wing of a module of the portal, or the module itself where it stands at the top."""
    return module.split(".")[1]


def test_every_kind_of_import_is_seen() -> None:
    source = """
import a, b.c as d
from e.f import g
from . import h
def late():
    if True:
        import i
        from j import k
"""
    assert imported(source, "own") == {"a", "b", "e", "own", "i", "j"}
    assert {"b.c", "e.f.g", "j.k"} < imports(source)


def test_arrows_between_the_wings_of_the_portal() -> None:
    graph = {name: found for name, found in portal_graph().items() if name != "portal"}
    assert {wing(name) for name in graph} <= ARROWS.keys()
    forbidden = {
        (name, found)
        for name, imports_of in graph.items()
        for found in imports_of
        if wing(found) not in ARROWS[wing(name)] | FREE | {wing(name)}
    }
    assert forbidden == set()


def test_no_module_of_the_portal_imports_itself_by_a_detour() -> None:
    order = list(TopologicalSorter(portal_graph()).static_order())  # CycleError names a circle
    assert "portal.web.app" in order


def test_the_portal_has_few_rooms_at_its_top_and_few_floors() -> None:
    assert len(list((ROOT / "portal").glob("*.py"))) <= MOST_MODULES
    floors: dict[str, int] = {}
    wings: dict[str, set[str]] = {}
    for name, found in portal_graph().items():
        if name != "portal":
            wings.setdefault(wing(name), set()).update(map(wing, found - {"portal"}))
    for name in TopologicalSorter({k: v - {k} for k, v in wings.items()}).static_order():
        floors[name] = 1 + max((floors[below] for below in wings[name] - {name}), default=0)
    assert max(floors.values()) <= MOST_FLOORS


def test_flask_lives_in_one_wing() -> None:
    frameworks = {"flask", "werkzeug", "flask_login", "flask_wtf", "flask_limiter", "flask_openapi"}
    elsewhere = [
        path for path in importers("portal", frameworks) if not path.startswith("portal/web/")
    ]
    assert elsewhere == []


@pytest.mark.parametrize(
    ("package", "others"),
    [
        ("handlers", set()),
        ("training", {"handlers"}),
        ("portal", {"handlers"}),
        ("deploy", {"portal", "handlers"}),
    ],
)
def test_a_package_imports_of_ours_only_what_the_design_says(
    package: str, others: set[str]
) -> None:
    assert importers(package, OURS - {package} - others) == {}


def test_portal_and_supervisor_know_the_contract_of_the_handlers_alone() -> None:
    """But for scenes, whose pixels are made as those of tiles are."""
    found = {
        (path.parent.name, name)
        for package in ("portal", "deploy")
        for path in (ROOT / package).rglob("*.py")
        for name in imports(path.read_text())
        if name.startswith("handlers") and not name.startswith("handlers.contract.")
    }
    assert {room for room, _ in found} <= {"scenes"}
    shared = ("handlers.radiometry", "handlers.rasters", "handlers.reading")
    assert [name for _, name in found if not name.startswith(shared)] == []


def test_the_supervisor_knows_of_the_portal_what_a_start_needs() -> None:
    found = {
        name.rpartition(".")[0]
        for path in (ROOT / "deploy").rglob("*.py")
        for name in imports(path.read_text())
        if name.startswith("portal.")
    }
    assert found == {"portal.deployments.boot", "portal.errors", "portal.settings"}


def test_the_handlers_need_nothing_that_a_worker_lacks() -> None:
    needed = {name for _, found in modules("handlers") for name in found}
    brought = {"handlers", "torch", "numpy", "PIL", "rasterio"}
    assert needed - set(sys.stdlib_module_names) == brought


def test_no_worker_loads_gdal_before_it_must() -> None:
    code = "import sys, handlers.landuse_handler\nprint('rasterio' in sys.modules)"
    words = [sys.executable, "-c", code]
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False"]


def test_the_contract_needs_the_standard_library_alone() -> None:
    needed = {name for _, found in modules("handlers/contract") for name in found}
    assert needed - set(sys.stdlib_module_names) <= {"handlers"}


def test_the_portal_needs_no_torch() -> None:
    assert importers("portal", {"torch", "torchvision", "ts"}) == {}


def test_scenes_alone_need_what_works_on_pixels() -> None:
    found = importers("portal", {"numpy", "PIL", "rasterio"})
    assert [path for path in found if not path.startswith("portal/scenes/")] == []


def test_the_web_process_does_without_what_works_on_pixels() -> None:
    """It has a worker for that, and a child that looks into what was sent."""
    code = "import sys, portal.web.app\nprint(*{'numpy', 'PIL', 'rasterio'} & set(sys.modules))"
    words = [sys.executable, "-c", code]
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


def test_dask_is_known_where_many_scenes_are_mapped_alone() -> None:
    assert set(importers("portal", {"dask", "distributed"})) == {"portal/scenes/cluster.py"}
    graph = portal_graph()
    knowing = {name for name, found in graph.items() if "portal.scenes.cluster" in found}
    assert knowing == {"portal.cli.scenes_many"}


def test_one_wing_of_the_portal_speaks_http() -> None:
    clients = {"requests", "urllib3", "httpx", "http", "socket"}
    speakers = {path: found - {"http"} for path, found in importers("portal", clients).items()}
    assert {path: found for path, found in speakers.items() if found} == {
        "portal/serving/torchserve/inference_api.py": {"socket"},
        "portal/serving/torchserve/management_api.py": {"requests"},
    }


def test_only_one_module_of_the_training_downloads() -> None:
    assert importers("training", {"requests"}) == {"training/dataset/download.py": {"requests"}}
    assert importers("handlers", {"requests"}) == {}


def test_nothing_of_the_product_imports_torchserve() -> None:
    for package in OURS - {"tests"}:
        assert importers(package, {"ts"}) == {}


def test_archives_are_built_without_what_only_training_needs() -> None:
    """The container has none of it; torch is there, but takes seconds to import."""
    absent = "torch torchvision timm sklearn tqdm tensorboard matplotlib requests"
    code = f"import sys, training.archive\nprint(*set('{absent}'.split()) & set(sys.modules))"
    words = [sys.executable, "-c", code]
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == []

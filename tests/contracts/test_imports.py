"""Which part of the product may import which: the arrows of the design."""

import ast
import sys
from collections.abc import Iterator

import pytest

from tests.support.paths import ROOT

OURS = {"handlers", "training", "portal", "deploy", "tests"}


def imported(source: str, package: str) -> set[str]:
    """Top-level names that a module of ``package`` imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(package if node.level else (node.module or "").partition(".")[0])
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


@pytest.mark.parametrize(
    ("package", "others"),
    [("portal", set()), ("handlers", set()), ("training", {"handlers"}), ("deploy", {"portal"})],
)
def test_a_package_imports_of_ours_only_what_the_design_says(
    package: str, others: set[str]
) -> None:
    assert importers(package, OURS - {package} - others) == {}


def test_the_handlers_need_nothing_that_a_worker_lacks() -> None:
    needed = {name for _, found in modules("handlers") for name in found}
    assert needed - set(sys.stdlib_module_names) == {"handlers", "torch", "numpy", "PIL"}


def test_the_portal_needs_no_torch() -> None:
    assert importers("portal", {"torch", "torchvision", "numpy", "PIL", "ts"}) == {}


def test_two_files_of_the_portal_speak_http() -> None:
    clients = {"requests", "urllib3", "httpx", "http", "socket"}
    speakers = importers("portal", clients)
    assert "requests" in speakers.pop("portal/serving/torchserve/management_api.py")
    assert "socket" in speakers.pop("portal/serving/torchserve/inference_api.py")
    assert {path: found for path, found in speakers.items() if found != {"http"}} == {}


def test_only_the_data_module_of_the_training_downloads() -> None:
    assert importers("training", {"requests"}) == {"training/eurosat.py": {"requests"}}
    assert importers("handlers", {"requests"}) == {}


def test_nothing_of_the_product_imports_torchserve() -> None:
    for package in OURS - {"tests"}:
        assert importers(package, {"ts"}) == {}

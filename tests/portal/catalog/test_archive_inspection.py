import json
import stat
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from portal.catalog import archive_inspection
from portal.catalog.archive_inspection import inspect
from portal.errors import BadArchive
from tests.support.archive_files import LABELS, WEIGHTS, Entries, write_archive

MANY_BYTES = 10_000_000
EIGHT_VIEWS = b"tta: 8\nspec: {labels: [A, B]}"


def test_what_a_good_archive_holds(tmp_path: Path) -> None:
    path = write_archive(tmp_path)
    found = inspect(path, path.name, MANY_BYTES)
    assert (found.model, found.version, found.file) == ("baseline", "1.1", "baseline-1.1.mar")
    assert found.sha256 == sha256(path.read_bytes()).hexdigest()
    assert found.model_sha256 == sha256(WEIGHTS).hexdigest()
    assert found.labels == LABELS
    assert (found.workers, found.startup_timeout) == (2, 60)
    assert found.size_bytes == path.stat().st_size
    assert found.views == 1
    path = write_archive(tmp_path, "1.2", change=with_entry("model-config.yaml", EIGHT_VIEWS))
    assert inspect(path, path.name, MANY_BYTES).views == 8


def manifest(entries: Entries, **fields: object) -> None:
    content = json.loads(entries["MAR-INF/MANIFEST.json"])
    content["model"].update(fields)
    entries["MAR-INF/MANIFEST.json"] = json.dumps(content).encode()


def without(*names: str) -> Callable[[Entries], None]:
    def change(entries: Entries) -> None:
        for name in names:
            del entries[name]

    return change


def with_entry(name: str, content: bytes) -> Callable[[Entries], None]:
    return lambda entries: entries.update({name: content})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without("MAR-INF/MANIFEST.json"), "no MAR-INF/MANIFEST.json"),
        (with_entry("MAR-INF/MANIFEST.json", b"{"), "is not what `make archive` writes"),
        (with_entry("MAR-INF/MANIFEST.json", b'{"model": 3}'), "is not what `make archive`"),
        (lambda e: manifest(e, modelName="other"), "its manifest says other 1.1"),
        (lambda e: manifest(e, modelVersion="1.2"), "its manifest says baseline 1.2"),
        (lambda e: manifest(e, modelVersion=1), "its manifest says baseline None"),
        (lambda e: manifest(e, handler="../../x.py"), "is missing in the archive"),
        (lambda e: manifest(e, handler="model.pt"), "its handler is no Python file"),
        (lambda e: manifest(e, serializedFile=None), "names no serializedFile"),
        (without("model.pt"), "its weights, 'model.pt'"),
        (without("landuse_handler.py"), "its handler, 'landuse_handler.py'"),
        (without("model-config.yaml"), "its model-config.yaml"),
        (without("handlers/__init__.py", "handlers/contract/spec.py"), "no handlers/ package"),
        (with_entry("landuse_handler.py", b"a b"), "landuse_handler.py is no valid Python"),
        (with_entry("landuse_handler.py", b"\xff"), "is no UTF-8 text"),
        (with_entry("landuse_handler.py", b"a\0"), "is no valid Python"),
        (with_entry("landuse_handler.py", b"#" * 300_000), "is larger than 256 KB"),
        (with_entry("model-config.yaml", b"a: ["), "is no valid YAML"),
        (with_entry("model-config.yaml", b"minWorkers: 1"), "has no spec"),
        (
            with_entry("model-config.yaml", b"tta: 4\nspec: {labels: [A, B]}"),
            "cannot be served: tta: expected 1 (each picture as it is) or 8",
        ),
        (with_entry("model-config.yaml", b"spec: {labels: [A]}"), "2 to 100 different class names"),
        (with_entry("model-config.yaml", b"spec: {labels: [A, A]}"), "different class names"),
        (with_entry("model-config.yaml", b"spec: {labels: [A, '<b>']}"), "different class names"),
        (
            with_entry("model-config.yaml", b"minWorkers: x\nspec: {labels: [A, B]}"),
            "minWorkers in its configuration is no number",
        ),
        (
            with_entry("model-config.yaml", b"startupTimeout: 0\nspec: {labels: [A, B]}"),
            "startupTimeout in its configuration is 0, expected 1 to 3600",
        ),
        (with_entry("../evil.py", b""), "is no plain file inside the archive"),
        (with_entry("a/../../evil.py", b""), "is no plain file inside the archive"),
        (with_entry("/etc/evil", b""), "is no plain file inside the archive"),
        (with_entry("a\\..\\evil", b""), "is no plain file inside the archive"),
        (with_entry("C:/evil", b""), "is no plain file inside the archive"),
    ],
)
def test_a_broken_archive_is_refused(
    tmp_path: Path, change: Callable[[Entries], None], reason: str
) -> None:
    path = write_archive(tmp_path, change=change)
    with pytest.raises(BadArchive) as refused:
        inspect(path, path.name, MANY_BYTES)
    assert reason in str(refused.value)


def test_a_link_is_refused(tmp_path: Path) -> None:
    path = write_archive(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("handlers/link.py")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(BadArchive, match="no plain file"):
        inspect(path, path.name, MANY_BYTES)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_two_entries_of_one_name_are_refused(tmp_path: Path) -> None:
    path = write_archive(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model.pt", b"other")
    with pytest.raises(BadArchive, match=r"two entries called 'model\.pt'"):
        inspect(path, path.name, MANY_BYTES)


def test_an_archive_that_is_cut_off_or_damaged_is_refused(tmp_path: Path) -> None:
    path = write_archive(tmp_path)
    whole = path.read_bytes()
    damaged = whole.replace(WEIGHTS, b"WEIGHTS")
    for content in (b"", b"PK", whole[:-30], whole[30:], damaged, b"text" * 100):
        path.write_bytes(content)
        with pytest.raises(BadArchive, match="no zip file, or a damaged one"):
            inspect(path, path.name, MANY_BYTES)


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_archive(tmp_path)
    with pytest.raises(BadArchive, match="PORTAL_MAX_ARCHIVE_BYTES"):
        inspect(path, path.name, 100)
    monkeypatch.setattr(archive_inspection, "LARGEST_UNPACKED", 100)
    with pytest.raises(BadArchive, match="unpacked it would have"):
        inspect(path, path.name, MANY_BYTES)
    monkeypatch.setattr(archive_inspection, "MOST_ENTRIES", 3)
    with pytest.raises(BadArchive, match="6 entries, more than 3"):
        inspect(path, path.name, MANY_BYTES)


@pytest.mark.parametrize("name", ["baseline.mar", "Baseline-1.0.mar", "baseline-1.0.zip", "x"])
def test_a_file_of_another_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadArchive, match="<model>-<version>"):
        inspect(write_archive(tmp_path), name, MANY_BYTES)


def test_an_archive_from_before_the_contract_is_taken(tmp_path: Path) -> None:
    def change(entries: Entries) -> None:
        entries["handlers/spec.py"] = entries.pop("handlers/contract/spec.py")

    path = write_archive(tmp_path, change=change)
    assert inspect(path, path.name, 10**6).version == "1.1"

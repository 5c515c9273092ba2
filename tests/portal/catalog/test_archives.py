import io
from pathlib import Path

import pytest

from handlers.contract.names import ModelVersion
from portal.catalog.archives import Archives, Rejected
from portal.errors import BadArchive, NotPossible, StoreUnavailable, UnknownArchive
from tests.support.archive_files import write_archive


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def archives(store: Path) -> Archives:
    return Archives(store, 1_000_000)


@pytest.fixture
def uploaded(tmp_path: Path) -> bytes:
    return write_archive(tmp_path / "elsewhere").read_bytes()


def test_an_empty_or_missing_store(archives: Archives, store: Path) -> None:
    assert archives.all() == []
    with pytest.raises(UnknownArchive, match=r"baseline-1\.1\.mar"):
        archives.get(ModelVersion("baseline", "1.1"))


def test_good_and_bad_archives_are_listed(archives: Archives, store: Path) -> None:
    write_archive(store, "1.1")
    (store / "baseline-1.2.mar").write_bytes(b"text")
    good, bad = archives.all()
    assert good == archives.get(ModelVersion("baseline", "1.1"))
    assert isinstance(bad, Rejected)
    assert bad.file == "baseline-1.2.mar"
    with pytest.raises(BadArchive, match="no zip file"):
        archives.get(ModelVersion("baseline", "1.2"))


def test_a_changed_file_is_looked_at_again(archives: Archives, store: Path) -> None:
    write_archive(store, "1.1")
    before = archives.get(ModelVersion("baseline", "1.1"))
    write_archive(store, "1.1", change=lambda entries: entries.update({"model.pt": b"others"}))
    assert archives.get(ModelVersion("baseline", "1.1")).sha256 != before.sha256


def test_an_upload_is_in_the_store(archives: Archives, store: Path, uploaded: bytes) -> None:
    found = archives.add(io.BytesIO(uploaded), "baseline-1.1.mar", replace=False)
    assert archives.get(ModelVersion("baseline", "1.1")) == found
    assert [path.name for path in store.iterdir()] == ["baseline-1.1.mar"]
    again = archives.add(io.BytesIO(uploaded), "baseline-1.1.mar", replace=False)
    assert again == found


@pytest.mark.parametrize(
    "name", ["baseline-1.1 (1).mar", "../baseline-1.1.mar", "a/baseline-1.1.mar", ".mar"]
)
def test_an_upload_of_another_name_is_refused(
    archives: Archives, store: Path, uploaded: bytes, name: str
) -> None:
    with pytest.raises(BadArchive, match="<model>-<version>"):
        archives.add(io.BytesIO(uploaded), name, replace=True)
    assert not store.exists()


def test_a_bad_upload_leaves_nothing(archives: Archives, store: Path) -> None:
    for content in (b"", b"text", b"x" * 2_000_000):
        with pytest.raises(BadArchive):
            archives.add(io.BytesIO(content), "baseline-1.1.mar", replace=True)
        assert list(store.iterdir()) == []


def test_a_served_archive_keeps_its_content(
    archives: Archives, store: Path, uploaded: bytes
) -> None:
    path = write_archive(store, "1.1", change=lambda entries: entries.update({"model.pt": b"x"}))
    before = path.read_bytes()
    with pytest.raises(NotPossible, match="served with another content"):
        archives.add(io.BytesIO(uploaded), path.name, replace=False)
    assert path.read_bytes() == before
    archives.add(io.BytesIO(uploaded), path.name, replace=True)
    assert path.read_bytes() == uploaded


def test_a_store_that_cannot_be_written(store: Path, uploaded: bytes) -> None:
    store.write_bytes(b"a file where the folder should be")
    with pytest.raises(StoreUnavailable, match="read-only or full"):
        Archives(store, 1_000_000).add(io.BytesIO(uploaded), "baseline-1.1.mar", replace=True)

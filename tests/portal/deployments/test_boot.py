from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest

from portal.deployments.boot import models_to_load, note_archives
from portal.deployments.records import Deployment, Records, Wanted
from portal.storage.database import Database

EVERYTHING = [f"baseline-{version}.mar" for version in ("1.3", "1.2", "1.1", "1.0")]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/portal.db"


def serve(url: str, version: str, wanted: Wanted = "served") -> None:
    row = Deployment(
        model="baseline",
        version=version,
        wanted=wanted,
        archive=f"baseline-{version}.mar",
        sha256="",
        size_bytes=0,
        workers=1,
        deployed_by="operator",
        deployed_at=datetime.now(UTC),
    )
    Records(Database(url)).serve(row, default=wanted == "served")


def names(*versions: str) -> list[str]:
    return [f"baseline-{version}.mar" for version in versions]


def test_the_first_start_loads_everything_the_newest_first(url: str) -> None:
    assert models_to_load(url, EVERYTHING) == EVERYTHING


def test_later_the_database_decides(url: str) -> None:
    for version in ("1.2", "1.0"):
        serve(url, version)
    serve(url, "1.3", "withdrawn")
    assert models_to_load(url, EVERYTHING) == names("1.0", "1.2", "1.1")


def test_an_archive_that_was_built_anew_is_noted(url: str, tmp_path: Path) -> None:
    store = tmp_path / "model_store"
    store.mkdir()
    serve(url, "1.1")
    serve(url, "2.0")  # its archive is gone
    serve(url, "1.2", "withdrawn")
    (store / "baseline-1.1.mar").write_bytes(b"anew")
    note_archives(url, store)
    state = Records(Database(url))
    found = {row.version: (row.sha256, row.size_bytes) for row in state.deployments()}
    anew = sha256(b"anew").hexdigest()
    assert found == {"1.1": (anew, 4), "1.2": ("", 0), "2.0": ("", 0)}
    note_archives(url, store)
    (line,) = state.audit(10)
    assert (line.version, line.reason) == (
        "1.1", f"Its archive was built anew: sha256 {anew[:12]}, before unknown.",
    )  # fmt: skip


def test_nothing_to_load_is_said(url: str) -> None:
    for version in ("1.0", "1.1", "1.2", "1.3"):
        serve(url, version, "withdrawn")
    assert models_to_load(url, EVERYTHING) == ["none"]

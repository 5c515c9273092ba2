import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from handlers.contract.names import ModelVersion
from portal.deployments.records import Deployment, Records, Wanted
from portal.errors import StateUnavailable
from tests.support.postgres import Postgres, postgres

__all__ = ["postgres"]  # a fixture

NOON_ABROAD = datetime(2026, 1, 2, 12, tzinfo=timezone(timedelta(hours=2)))


def row(version: str, wanted: Wanted = "served") -> Deployment:
    return Deployment(
        model="baseline",
        version=version,
        wanted=wanted,
        archive=f"baseline-{version}.mar",
        sha256="ab" * 32,
        size_bytes=10,
        workers=1,
        deployed_by="operator",
        deployed_at=NOON_ABROAD,
    )


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database; on Postgres where one is installed."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/new/folder/portal.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
def state(url: str) -> Iterator[Records]:
    found = Records(url)
    yield found
    found.close()


def test_what_is_kept_outlives_the_process(state: Records, url: str) -> None:
    state.serve(row("1.0"), default=True)
    state.serve(row("1.1"), default=False)
    state.record("token", "deploy", "baseline", "1.1", "done", "fine")
    again = Records(url)
    assert [found.version for found in again.deployments()] == ["1.0", "1.1"]
    assert again.defaults()["baseline"].version == "1.0"
    (line,) = again.audit(10)
    assert (line.actor, line.action, line.outcome, line.reason) == (
        "token", "deploy", "done", "fine",
    )  # fmt: skip
    again.close()


def test_times_are_utc(state: Records) -> None:
    state.save(row("1.0"))
    found = state.deployment(ModelVersion("baseline", "1.0"))
    assert found is not None
    assert found.deployed_at == NOON_ABROAD
    assert found.deployed_at.tzinfo is UTC


def test_a_default_that_was_not_noted_can_be_told(state: Records) -> None:
    state.serve(row("1.1"), default=True, former="1.0")
    default = state.defaults()["baseline"]
    assert (default.version, default.previous) == ("1.1", "1.0")
    state.serve(row("1.2"), default=True, former="1.0")  # one was noted: it counts
    default = state.defaults()["baseline"]
    assert (default.version, default.previous) == ("1.2", "1.1")


def test_the_previous_default_is_remembered(state: Records) -> None:
    for version in ("1.0", "1.1", "1.1", "1.2"):
        state.serve(row(version), default=True)
    default = state.defaults()["baseline"]
    assert (default.version, default.previous) == ("1.2", "1.1")
    state.withdraw(ModelVersion("baseline", "1.1"))
    default = state.defaults()["baseline"]
    assert (default.version, default.previous) == ("1.2", None)
    withdrawn = state.deployment(ModelVersion("baseline", "1.1"))
    assert withdrawn is not None
    assert withdrawn.wanted == "withdrawn"


def test_a_change_of_an_unknown_version_is_none(state: Records) -> None:
    state.change(ModelVersion("baseline", "9.9"), sha256="x")
    state.withdraw(ModelVersion("baseline", "9.9"))
    assert state.deployments() == []


def test_the_audit_is_newest_first_and_bounded(state: Records) -> None:
    for number in range(5):
        state.record("operator", "deploy", None, None, "refused", f"{number} {'x' * 3000}")
    assert [line.reason[0] for line in state.audit(3)] == ["4", "3", "2"]
    assert len(state.audit(1)[0].reason) == 2000


def test_the_longest_names_and_largest_archives_are_kept(state: Records) -> None:
    longest = row("123456789.123456789.123456789")
    longest.archive = f"{'m' * 64}-{longest.version}.mar"
    longest.size_bytes = 2**40
    state.serve(longest, default=True)
    found = state.deployment(longest.name)
    assert found is not None
    assert (found.archive, found.size_bytes) == (longest.archive, 2**40)


def test_many_threads_write_at_once(state: Records) -> None:
    def write() -> None:
        for _ in range(5):
            state.record("operator", "deploy", "baseline", "1.0", "done")

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(state.audit(100)) == 30


def test_the_tables_of_another_release_are_refused(state: Records, url: str) -> None:
    state.open()
    engine = create_engine(url)
    with engine.begin() as database:
        database.execute(text("UPDATE schema_version SET number = 99"))
    engine.dispose()
    with pytest.raises(StateUnavailable, match=r"schema \[99\], this release reads schema 1"):
        Records(url).open()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "portal.db"
    path.write_text("this is no database, but long enough to look at" * 50)
    with pytest.raises(StateUnavailable, match="PORTAL_DATABASE_URL"):
        Records(f"sqlite:///{path}").deployments()


def test_a_password_is_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    state = Records("postgresql+psycopg://user:geheim@127.0.0.1:1/database")
    with pytest.raises(StateUnavailable) as refused:
        state.open()
    assert "geheim" not in str(refused.value) + caplog.text

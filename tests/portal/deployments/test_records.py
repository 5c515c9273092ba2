import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest

from handlers.contract.names import ModelVersion
from portal.deployments.records import Audit, Deployment, Records, Wanted
from portal.storage.database import Database
from tests.support.databases import database, url
from tests.support.postgres import postgres

__all__ = ["database", "postgres", "url"]  # fixtures

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


@pytest.fixture
def state(database: Database) -> Records:
    return Records(database)


def test_what_is_kept_outlives_the_process(state: Records, url: str) -> None:
    state.serve(row("1.0"), default=True)
    state.serve(row("1.1"), default=False)
    state.record(Audit("token", "deploy", "baseline", "1.1", "done", "fine"))
    database = Database(url)
    again = Records(database)
    assert [found.version for found in again.deployments()] == ["1.0", "1.1"]
    assert again.defaults()["baseline"].version == "1.0"
    (line,) = again.audit(10)
    assert (line.actor, line.action, line.outcome, line.reason) == (
        "token", "deploy", "done", "fine",
    )  # fmt: skip
    database.close()


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
        state.record(Audit("operator", "deploy", None, None, "refused", f"{number} {'x' * 3000}"))
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
            state.record(Audit("operator", "deploy", "baseline", "1.0", "done", ""))

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(state.audit(100)) == 30

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from portal.deployments.locks import ModelLocks
from portal.errors import ModelBusy, StateUnavailable
from portal.storage import heartbeat as heartbeats
from portal.storage.database import Database
from portal.storage.heartbeat import Heartbeat
from tests.support.databases import database, execute, url
from tests.support.paths import ROOT
from tests.support.postgres import postgres

__all__ = ["database", "postgres", "url"]  # fixtures


def portal(database: Database) -> ModelLocks:
    """The locks of one of perhaps several portals."""
    return ModelLocks(database, Heartbeat(database))


@pytest.fixture
def locks(database: Database) -> ModelLocks:
    return portal(database)


def is_free(locks: ModelLocks, model: str = "baseline") -> bool:
    try:
        locks.take(model, patience=0)
    except ModelBusy:
        return False
    locks.free(model)
    return True


def test_one_change_of_a_model_at_a_time(locks: ModelLocks, database: Database, url: str) -> None:
    other = portal(database)
    locks.take("baseline")
    assert [is_free(locks), is_free(other)] == [False, False]
    assert is_free(other, "resnet18")
    ((model, owner),) = execute(url, "SELECT model, owner FROM locks")
    assert model == "baseline"
    assert str(owner).split(":")[1] == str(os.getpid())
    locks.free("baseline")
    assert execute(url, "SELECT * FROM locks") == []
    assert [is_free(locks), is_free(other)] == [True, True]


def test_a_lock_that_is_freed_in_a_moment_is_waited_for(locks: ModelLocks) -> None:
    locks.take("baseline")
    thread = threading.Timer(0.2, locks.free, ["baseline"])
    thread.start()
    locks.take("baseline", patience=10)
    thread.join()
    locks.free("baseline")


def test_many_threads_and_portals_want_one_lock(locks: ModelLocks, database: Database) -> None:
    inside: list[int] = []
    most: list[int] = []

    def change(of: ModelLocks) -> None:
        of.take("baseline", patience=30)
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.01)
        inside.pop()
        of.free("baseline")

    portals = [locks, portal(database)]
    threads = [threading.Thread(target=change, args=(portals[n % 2],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8


def test_a_lock_that_cannot_be_written_is_not_taken(
    locks: ModelLocks, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise StateUnavailable("locked")

    database.open()
    with monkeypatch.context() as patch:
        patch.setattr(database, "transaction", fail)
        with pytest.raises(StateUnavailable):
            locks.take("baseline")
    assert is_free(locks)


def test_a_lock_that_stayed_behind_is_its_owners(
    locks: ModelLocks, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise StateUnavailable("locked")

    locks.take("baseline")
    with monkeypatch.context() as patch:
        patch.setattr(database, "transaction", fail)
        locks.free("baseline")
    assert is_free(locks)


KEEP = """
import sys, time
from portal.deployments.locks import ModelLocks
from portal.storage.database import Database
from portal.storage.heartbeat import Heartbeat
database = Database(sys.argv[1])
ModelLocks(database, Heartbeat(database)).take("baseline")
print("taken", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(url: str) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts a process that has locked the baseline; it is killed at the end."""
    started = []

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", KEEP, url], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_lock_lives_as_long_as_its_process(
    locks: ModelLocks,
    holder: Callable[[], subprocess.Popen[str]],
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heartbeats, "DEAD_AFTER", 4.0)  # of a heart that beats every 2 s
    process = holder()
    ended = time.monotonic() + 5
    while time.monotonic() < ended:
        assert not is_free(locks)
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed = time.monotonic()
    while not is_free(locks):
        assert time.monotonic() < killed + 10
        time.sleep(0.05)
    waited = time.monotonic() - killed
    assert waited < (1 if database.is_postgres else 5)

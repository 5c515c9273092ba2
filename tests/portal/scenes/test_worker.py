import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import pytest

from portal.errors import StateUnavailable, UnusableScene
from portal.scenes import watch as watching
from portal.scenes import worker as module
from portal.scenes.records import SceneRecords, SceneRow
from portal.scenes.store import Store
from portal.scenes.watch import Cancelled, Mapped, Watch
from portal.scenes.worker import Ending, Step, Worker
from portal.storage.database import Database
from portal.storage.heartbeat import Heartbeat
from tests.support.databases import database
from tests.support.paths import ROOT
from tests.support.scenes import AREAS, age, stored, write_map

__all__ = ["database"]  # a fixture


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Where two kinds of database differ, test_records looks."""
    return f"sqlite:///{tmp_path}/portal.db"


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(module, "POLL", 0.02)
    monkeypatch.setattr(module, "PAUSE", 0.05)


@pytest.fixture
def records(database: Database) -> SceneRecords:
    return SceneRecords(database)


@pytest.fixture
def store(tmp_path: Path, records: SceneRecords) -> Store:
    return Store(tmp_path / "scenes", records, 10**6, 7)


class Crew:
    """Workers on one database, each in a thread of its own."""

    def __init__(self, database: Database, records: SceneRecords, store: Store) -> None:
        self._parts = database, records, store
        self._running: list[tuple[Worker, threading.Thread]] = []

    def worker(self, step: Step) -> Worker:
        database, records, store = self._parts
        return Worker(records, store, Heartbeat(database), step)

    def start(self, step: Step) -> Worker:
        worker = self.worker(step)
        thread = threading.Thread(target=worker.run)
        thread.start()
        self._running.append((worker, thread))
        return worker

    def end(self) -> None:
        for worker, _ in self._running:
            worker.ending.set()
        for _, thread in self._running:
            thread.join(30)
            assert not thread.is_alive()


@pytest.fixture
def crew(database: Database, records: SceneRecords, store: Store) -> Iterator[Crew]:
    found = Crew(database, records, store)
    yield found
    found.end()


def until(true: Callable[[], bool], seconds: float = 30) -> float:
    """Seconds until it was true."""
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < seconds
        time.sleep(0.01)
    return time.monotonic() - started


def whole(_row: SceneRow, folder: Path, watch: Watch) -> Mapped:
    (folder / "out.part").mkdir(exist_ok=True)
    watch.progress(3, 6)
    return write_map(folder / "out")


class Slow:
    """A step that writes a strip for each window and waits until it may do the next one."""

    def __init__(self) -> None:
        self.windows = 0
        self.asked = 0
        self.reached = threading.Event()
        self.may = threading.Event()

    def __call__(self, _row: SceneRow, folder: Path, watch: Watch) -> Mapped:
        work = folder / "out.part"
        work.mkdir(parents=True, exist_ok=True)
        for window in range(6):
            strip = work / f"{window}.strip"
            if not strip.exists():
                self.asked += 1
                strip.touch()
            watch.progress(window + 1, 6)
            if window == 2:
                self.reached.set()
                while not self.may.wait(0.02):
                    watch.look()
        return write_map(folder / "out")


def test_a_scene_that_waits_is_mapped(crew: Crew, records: SceneRecords, store: Store) -> None:
    row = stored(records, store)
    worker = crew.worker(whole)
    assert worker.work()
    assert not worker.work()
    done = records.get(row.id)
    assert (done.state, done.reason, done.done, done.total) == ("done", "The map is whole.", 6, 6)
    assert (done.version, done.archive_sha256, done.areas) == ("1.0", "cd" * 32, AREAS)
    assert done.finished is not None
    names = {path.name for path in store.folder(row.id).iterdir()}
    assert names == {"scene", "out"}  # what the work left is gone


def test_a_scene_is_taken_at_once_when_its_sender_rings(
    crew: Crew, records: SceneRecords, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POLL", 3600)
    first = stored(records, store)
    crew.start(whole)
    until(lambda: records.get(first.id).state == "done")
    time.sleep(0.2)  # it waits
    second = stored(records, store)
    store.ring()
    until(lambda: records.get(second.id).state == "done")


def test_how_far_it_is_can_be_seen(crew: Crew, records: SceneRecords, store: Store) -> None:
    row, slow = stored(records, store), Slow()
    crew.start(slow)
    assert slow.reached.wait(30)
    until(lambda: records.get(row.id).done == 3)
    now = records.get(row.id)
    assert (now.state, now.total) == ("running", 6)
    assert now.started is not None
    assert not (store.folder(row.id) / "out").exists()
    slow.may.set()
    until(lambda: records.get(row.id).state == "done")


def test_the_remaining_time_is_that_of_the_last_windows(
    records: SceneRecords, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(records, store)
    row = records.claim("one")
    assert row is not None
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watch = Watch(records, row, threading.Event())
    for done in (0, 10, 20):
        watch.progress(done, 100)
        now[0] += 5
    assert records.get(row.id).seconds_left == pytest.approx(80 / 2)
    now[0] += 60
    watch.progress(40, 100)
    assert records.get(row.id).seconds_left is None  # nothing is known of the last half minute
    now[0] += 1
    watch.progress(50, 100)
    assert records.get(row.id).seconds_left == pytest.approx(50 / 10)


def test_a_scene_that_is_cancelled_ends_within_two_seconds(
    crew: Crew, records: SceneRecords, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "LOOK_EVERY", 0.7)
    first, second, slow = stored(records, store), stored(records, store), Slow()
    crew.start(slow)
    assert slow.reached.wait(30)
    slow.reached.clear()
    assert records.cancel(first.id)
    # the next one is begun: the first one has ended
    assert slow.reached.wait(2)
    assert records.get(second.id).state == "running"
    assert {path.name for path in store.folder(first.id).iterdir()} == {"scene"}
    slow.may.set()


def test_one_that_is_forgotten_meanwhile_leaves_nothing(
    crew: Crew, records: SceneRecords, store: Store
) -> None:
    row, slow = stored(records, store), Slow()
    crew.start(slow)
    assert slow.reached.wait(30)
    records.cancel(row.id)
    records.remove(row.id)
    store.remove(row.id)
    until(lambda: not store.folder(row.id).exists())
    other = stored(records, store)
    slow.may.set()
    until(lambda: records.get(other.id).state == "done")
    assert not store.folder(row.id).exists()


def test_a_worker_that_is_asked_to_end_gives_its_scene_back(
    crew: Crew, records: SceneRecords, store: Store
) -> None:
    row, slow = stored(records, store), Slow()
    worker = crew.start(slow)
    assert slow.reached.wait(30)
    worker.ending.set()
    until(lambda: records.get(row.id).state == "queued")
    assert slow.asked == 3
    slow.may.set()
    crew.start(slow)
    until(lambda: records.get(row.id).state == "done")
    assert slow.asked == 6  # it went on where the first one had ended


def test_another_worker_goes_on_with_the_scene_of_a_dead_one(
    crew: Crew, records: SceneRecords, store: Store, database: Database
) -> None:
    """The dead one lives, in truth: what it does from then on is not heard."""
    row, slow, other = stored(records, store), Slow(), Slow()
    crew.start(slow)
    assert slow.reached.wait(30)
    taken = None
    while taken is None:  # its heart goes on to beat
        age(database, records.get(row.id), timedelta(seconds=60), "heartbeat")
        taken = records.claim("another")
    other.may.set()
    other(taken, store.folder(row.id), Watch(records, taken, threading.Event()))
    assert other.asked == 3
    until(lambda: slow.asked == 3)
    time.sleep(0.3)  # the first one has seen that it is not its scene any more
    assert (store.folder(row.id) / "out.part").exists()
    assert records.get(row.id).owner == "another"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (UnusableScene("Its values fit two scales."), "Its values fit two scales."),
        (OSError(errno.ENOSPC, "No space left on device"), "is full: "),
        (MemoryError(), "too little memory"),
        (ZeroDivisionError("a secret path"), "Something went wrong in the portal"),
    ],
)
def test_a_failure_is_told_and_nothing_is_half_published(
    crew: Crew, records: SceneRecords, store: Store, error: Exception, sentence: str
) -> None:
    row, other = stored(records, store), stored(records, store)

    def fail(row_: SceneRow, folder: Path, watch: Watch) -> Mapped:
        if row_.id == other.id:
            return whole(row_, folder, watch)
        (folder / "out.part").mkdir()
        write_map(folder / "out")
        raise error

    worker = crew.worker(fail)
    assert worker.work()
    assert worker.work()  # the next one is not harmed
    failed = records.get(row.id)
    assert failed.state == "failed"
    assert sentence in failed.reason
    assert "secret" not in failed.reason
    assert {path.name for path in store.folder(row.id).iterdir()} == {"scene"}
    assert records.get(other.id).state == "done"


def test_the_map_of_a_scene_that_is_cancelled_at_the_last_moment_is_removed(
    crew: Crew, records: SceneRecords, store: Store
) -> None:
    row = stored(records, store)

    def late(row_: SceneRow, folder: Path, watch: Watch) -> Mapped:
        records.cancel(row_.id)
        return write_map(folder / "out")

    assert crew.worker(late).work()
    assert records.get(row.id).state == "cancelled"
    assert {path.name for path in store.folder(row.id).iterdir()} == {"scene"}


def test_a_database_that_is_away_for_a_while_costs_nothing(
    crew: Crew, records: SceneRecords, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, slow = stored(records, store), Slow()
    crew.start(slow)
    assert slow.reached.wait(30)

    def fail(*_: object, **__: object) -> NoReturn:
        raise StateUnavailable("locked")

    with monkeypatch.context() as patch:
        patch.setattr(records, "note", fail)
        patch.setattr(records, "settle", fail)
        slow.may.set()
        until((store.folder(row.id) / "out").exists)
        time.sleep(0.1)
        assert records.get(row.id).state == "running"
    until(lambda: records.get(row.id).state == "done")


def test_two_workers_share_the_queue(crew: Crew, records: SceneRecords, store: Store) -> None:
    taken: list[str] = []

    def note(row: SceneRow, folder: Path, watch: Watch) -> Mapped:
        taken.append(row.id)
        return whole(row, folder, watch)

    rows = [stored(records, store) for _ in range(8)]
    crew.start(note)
    crew.start(note)
    until(lambda: all(records.get(row.id).state == "done" for row in rows))
    assert sorted(taken) == sorted(row.id for row in rows)


def test_a_watch_is_not_fooled_by_the_same_worker_again(
    records: SceneRecords, store: Store
) -> None:
    stored(records, store)
    row = records.claim("one")
    assert row is not None
    watch = Watch(records, row, threading.Event())
    watch.progress(1, 6)
    records.cancel(row.id)
    time.sleep(0.1)
    with pytest.raises(Cancelled):
        watch.progress(2, 6)


# A worker as a process, whose step writes a strip now and then.
PROCESS = """
import sys, time
from pathlib import Path
from portal.scenes.records import SceneRecords
from portal.scenes.store import Store
from portal.scenes.worker import Worker
from portal.storage.database import Database
from portal.storage.heartbeat import Heartbeat
from tests.support.scenes import write_map

def step(row, folder, watch):
    (folder / "out.part").mkdir(exist_ok=True)
    for window in range(row.total):
        strip = folder / "out.part" / f"{window}.strip"
        if not strip.exists():
            time.sleep(float(sys.argv[3]))
            strip.write_text(sys.argv[4])
        watch.progress(window + 1, row.total)
    strips = sorted(path.read_text() for path in (folder / "out.part").iterdir())
    mapped = write_map(folder / "out")
    (folder / "out" / "class.tif").write_text("".join(strips))
    return mapped

database = Database(sys.argv[1])
records = SceneRecords(database)
store = Store(Path(sys.argv[2]), records, 10**6, 7)
Worker(records, store, Heartbeat(database), step).run()
"""


def test_a_killed_worker_loses_nothing(
    records: SceneRecords, store: Store, url: str, tmp_path: Path
) -> None:
    row = stored(records, store)

    def start(seconds: str, name: str) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", PROCESS, url, str(tmp_path / "scenes"), seconds, name]
        return subprocess.Popen(words, cwd=ROOT)

    first = start("0.5", "a")
    work = store.folder(row.id) / "out.part"
    until(lambda: len(list(work.glob("*.strip"))) >= 2)
    first.send_signal(signal.SIGKILL)
    first.wait()
    kept = len(list(work.glob("*.strip")))
    second = start("0", "b")
    try:
        until(lambda: records.get(row.id).state == "done", 60)
    finally:
        second.kill()
        second.wait()
    assert (store.folder(row.id) / "out" / "class.tif").read_text() == "a" * kept + "b" * (6 - kept)
    assert records.get(row.id).lost == 1


def test_the_process_says_what_is_wrong_with_its_settings() -> None:
    environ = {**os.environ, "PORTAL_MAX_SCENE_BYTES": "much"}
    ended = subprocess.run(
        [sys.executable, "-m", "portal.scenes.worker"],
        cwd=ROOT, env=environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "PORTAL_MAX_SCENE_BYTES" in ended.stderr


def test_a_signal_may_come_at_any_time() -> None:
    """The ``set`` of a plain event is stuck within some of the first thousand."""
    ending = Ending()
    before = signal.signal(signal.SIGALRM, lambda *_: ending.set())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        until = time.monotonic() + 1
        while time.monotonic() < until:
            ending.wait(0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert ending.wait(0)

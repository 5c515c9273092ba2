import subprocess
import sys
from datetime import timedelta

import pytest

from portal.errors import Busy, SceneNotReady, UnknownScene
from portal.scenes.records import MOST_LOST, SceneRecords
from portal.scenes.terms import Options
from portal.storage.database import Database
from tests.support.databases import database, url
from tests.support.paths import ROOT
from tests.support.postgres import postgres
from tests.support.scenes import NUMBER, added, age, inspection

__all__ = ["database", "postgres", "url"]  # fixtures

DEAD = timedelta(seconds=60)


@pytest.fixture
def records(database: Database) -> SceneRecords:
    return SceneRecords(database)


def numbered(count: int) -> list[str]:
    return [f"{number:032x}" for number in range(count)]


def test_what_was_asked_and_found_comes_back_as_it_was(records: SceneRecords) -> None:
    row = added(records, queued=False)
    assert row.asked == Options("baseline", "1.0")
    assert row.seen == inspection()
    assert (row.state, row.total, row.areas, row.finished) == ("checked", 6, None, None)


@pytest.mark.parametrize("number", [NUMBER, "../../etc/passwd", "", NUMBER.upper()])
def test_an_unknown_scene(records: SceneRecords, number: str) -> None:
    with pytest.raises(UnknownScene, match="no such scene for you"):
        records.get(number)


def test_scenes_are_listed_by_whose_they_are(records: SceneRecords) -> None:
    first, second, third = numbered(3)
    for number, key in ((first, "a"), (second, "b"), (third, "a")):
        added(records, number, key)
    assert [row.id for row in records.of({"a"})] == [third, first]
    assert [row.id for row in records.of({"a", "b"})] == [third, second, first]
    assert records.of(set()) == []
    assert len(records.of(None)) == 3


def test_the_queue_has_an_end(records: SceneRecords) -> None:
    options, seen = Options("baseline", look="l1c"), inspection(stride=32, windows=9)
    for number in numbered(3):
        added(records, number, queued=False)
    first, second, third = numbered(3)
    records.enqueue(first, options, seen, 2)
    records.enqueue(second, options, seen, 2)
    with pytest.raises(Busy, match="2 scenes wait") as refused:
        records.enqueue(third, options, seen, 2)
    assert refused.value.retry_after == 60
    assert records.get(third).state == "checked"
    row = records.get(first)
    assert (row.state, row.total, row.asked.look, row.seen.stride) == ("queued", 9, "l1c", 32)
    with pytest.raises(SceneNotReady, match="This scene is queued; only one that is checked"):
        records.enqueue(first, options, seen, 9)
    with pytest.raises(UnknownScene):
        records.enqueue("f" * 32, options, seen, 9)


def test_the_oldest_is_taken_first_and_once(records: SceneRecords) -> None:
    first, second = numbered(2)
    added(records, first)
    added(records, second)
    one, two = records.claim("one"), records.claim("two")
    assert one is not None
    assert two is not None
    assert (one.id, one.owner, one.state, two.id) == (first, "one", "running", second)
    assert records.claim("three") is None


def test_workers_that_claim_at_once_never_get_the_same(records: SceneRecords, url: str) -> None:
    for number in numbered(30):
        added(records, number)
    code = (
        "import sys\n"
        "from portal.scenes.records import SceneRecords\n"
        "from portal.storage.database import Database\n"
        "records = SceneRecords(Database(sys.argv[1]))\n"
        "records.of(None); print('ready', flush=True); sys.stdin.readline()\n"
        "while (row := records.claim(sys.argv[2])) is not None: print(row.id, flush=True)\n"
    )
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code, url, name],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for name in "abc"
    ]  # fmt: skip
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    taken = []
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        taken += worker.communicate(timeout=60)[0].split()
        assert worker.returncode == 0
    # on Postgres one may have found nothing while the others held the last ones
    assert sorted(taken) == numbered(30)


def test_a_scene_outlives_its_worker(records: SceneRecords, database: Database) -> None:
    added(records)
    one = records.claim("one")
    assert one is not None
    records.note(one, done=4)
    assert records.claim("two") is None
    age(database, one, DEAD, "heartbeat")
    two = records.claim("two")
    assert two is not None
    assert (two.owner, two.done, two.lost) == ("two", 4, 1)
    assert not records.note(one, done=5)
    assert not records.settle(one, "done", "It is whole.")
    assert not records.release(one)
    assert records.settle(two, "done", "It is whole.", areas=[])
    assert records.get(NUMBER).areas == []


def test_a_scene_that_ends_every_worker_is_given_up(
    records: SceneRecords, database: Database
) -> None:
    added(records)
    for number in range(MOST_LOST):
        row = records.claim(str(number))
        assert row is not None
        age(database, row, DEAD, "heartbeat")
    assert records.claim("last") is None
    row = records.get(NUMBER)
    assert (row.state, row.lost) == ("failed", MOST_LOST)
    assert "It ended 3 workers" in row.reason


def test_one_that_is_given_back_is_the_next_one(records: SceneRecords) -> None:
    first, second = numbered(2)
    added(records, first)
    added(records, second)
    row = records.claim("one")
    assert row is not None
    assert records.release(row)
    again = records.claim("two")
    assert again is not None
    assert (again.id, again.lost) == (first, 0)


def test_what_is_cancelled_is_not_its_workers_any_more(records: SceneRecords) -> None:
    first, second = numbered(2)
    added(records, first)
    added(records, second)
    row = records.claim("one")
    assert row is not None
    assert records.cancel(first)
    assert records.cancel(second)
    assert not records.note(row, done=1)
    assert not records.cancel(first)
    assert records.claim("one") is None
    ended = records.get(second)
    assert (ended.state, ended.reason) == ("cancelled", "It was cancelled.")
    assert ended.finished is not None


def test_only_what_is_not_under_way_is_forgotten(records: SceneRecords) -> None:
    added(records)
    assert not records.remove(NUMBER)
    records.cancel(NUMBER)
    assert records.remove(NUMBER)
    assert not records.remove(NUMBER)
    assert records.of(None) == []


def test_the_pace_is_that_of_the_last_map(records: SceneRecords, database: Database) -> None:
    assert records.pace("baseline") is None
    added(records)
    row = records.claim("one")
    assert row is not None
    age(database, row, timedelta(seconds=12), "started")
    records.settle(row, "done", "It is whole.")
    pace = records.pace("baseline")
    assert pace == pytest.approx(12 / 6, rel=0.2)
    assert records.pace("resnet18") is None

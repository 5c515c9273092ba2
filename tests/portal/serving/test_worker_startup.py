import time
from dataclasses import replace

import pytest

from portal.serving.worker_startup import WorkerStartup
from tests.support.fake_torchserve import served

AGAIN = "its worker crashes again and again; see TorchServe's model log"


def problems(startup: WorkerStartup, *looks: tuple[int, ...], wanted: int = 1) -> list[str | None]:
    """What is said at each look; each finds workers with these process ids, none of them ready."""
    return [startup.problem(served(pids=pids, ready=False, wanted=wanted)) for pids in looks]


def test_a_worker_may_end_twice() -> None:
    assert problems(WorkerStartup(), (11,), (11,), (12,), (12,), (13,), (13,)) == [
        *[None] * 4,
        *[AGAIN] * 2,
    ]


def test_a_worker_without_a_process_is_no_new_one() -> None:
    assert problems(WorkerStartup(), (-1,), (11,), (-1,), (0,), (12,), (-1,)) == [None] * 6


def test_each_of_many_workers_may_end_twice() -> None:
    looks = [(pid, pid + 1) for pid in range(10, 16, 2)]
    assert problems(WorkerStartup(), *looks, wanted=2) == [None, None, AGAIN]
    assert problems(WorkerStartup(), *looks, wanted=3) == [None] * 3
    assert problems(WorkerStartup(), (11, 12, 13, 14), wanted=4) == [None]


def test_workers_that_nobody_wants_count_as_one() -> None:
    assert problems(WorkerStartup(), (11,), (12,), (13,), wanted=0) == [None, None, AGAIN]


def test_with_a_ready_worker_there_is_no_crash_loop() -> None:
    startup = WorkerStartup()
    problems(startup, (11,), (12,), (13,))
    assert startup.problem(served(pids=(13,))) is None


def test_each_version_is_watched_alone() -> None:
    problems(WorkerStartup(), (11,), (12,), (13,))
    assert problems(WorkerStartup(), (14,)) == [None]


def test_a_slow_worker_has_its_time_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    startup = WorkerStartup()
    began = startup._since
    slow = replace(served(ready=False), startup_timeout=90.5)
    monkeypatch.setattr(time, "monotonic", lambda: began + 90.5)
    assert startup.seconds == pytest.approx(90.5)
    assert startup.problem(slow) is None
    monkeypatch.setattr(time, "monotonic", lambda: began + 90.6)
    assert startup.problem(slow) == "no worker became ready within 90.5 s"

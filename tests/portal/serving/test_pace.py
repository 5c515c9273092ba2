import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from portal.serving.pace import APART, AT_ONCE, Pace


def later(seconds: float) -> float:
    return time.monotonic() + seconds


def test_stacks_leave_one_by_one() -> None:
    pace, left = Pace(), []

    def leave(_: int) -> None:
        with pace.turn(later(10)):
            left.append(time.monotonic())

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(leave, range(20)))
    assert max(left) - min(left) > 10 * APART  # 19, but for threads that note their time late


def test_so_many_are_under_way_and_the_next_has_the_place_of_one_that_ended() -> None:
    pace, ended = Pace(), threading.Event()

    def stay(_: int) -> None:
        with pace.turn(later(10)):
            ended.wait(10)

    with ThreadPoolExecutor(AT_ONCE) as threads:
        staying = [threads.submit(stay, number) for number in range(AT_ONCE)]
        time.sleep(AT_ONCE * APART + 0.1)
        with pytest.raises(TimeoutError), pace.turn(later(0.05)):
            pytest.fail("there was a place")
        with pytest.raises(TimeoutError), pace.turn(later(-1)):
            pytest.fail("there was a place")
        ended.set()
        for one in staying:
            one.result()
    with pace.turn(later(1)):
        pass


def test_a_stack_that_fails_gives_its_place_back() -> None:
    pace = Pace()
    for _ in range(AT_ONCE + 1):
        with pytest.raises(ValueError, match="lost"), pace.turn(later(1)):
            raise ValueError("lost")

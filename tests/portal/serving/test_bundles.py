import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from handlers.contract.tile_bundle import LARGEST_BUNDLE, pack
from portal.serving.bundles import (
    APART,
    LARGEST_BODY,
    LARGEST_SHARED_TILE,
    SMALLEST_BUNDLE,
    UNDER_WAY,
    Pacer,
    split,
)


def test_a_few_images_stay_together() -> None:
    assert split([b"x"] * 8, 4) == [list(range(8))]
    assert split([b"x"], 4) == [[0]]
    assert split([], 4) == []
    assert [len(bundle) for bundle in split([b"x"] * 20, 4)] == [
        SMALLEST_BUNDLE,
        SMALLEST_BUNDLE,
        4,
    ]


def test_more_are_shared_out() -> None:
    bundles = split([b"x"] * 129, 4)
    assert [len(bundle) for bundle in bundles] == [33, 33, 33, 30]
    assert [place for bundle in bundles for place in bundle] == list(range(129))


def test_many_images_fill_their_bundles() -> None:
    bundles = split([b"x"] * 300, 2)
    assert [len(bundle) for bundle in bundles] == [LARGEST_BUNDLE] * 2 + [300 - 2 * LARGEST_BUNDLE]
    assert [place for bundle in bundles for place in bundle] == list(range(300))


def test_a_bundle_of_heavy_images_has_fewer() -> None:
    heavy = bytes(LARGEST_SHARED_TILE)
    together = LARGEST_BODY // LARGEST_SHARED_TILE
    bundles = split([heavy] * 100, 1)
    assert [len(bundle) for bundle in bundles] == [together, 100 - together]
    assert [place for bundle in bundles for place in bundle] == list(range(100))


def test_large_images_are_alone() -> None:
    large = bytes(LARGEST_SHARED_TILE + 1)
    assert split([b"x", large, b"y", large, b"z"], 1) == [[0, 2, 4], [1], [3]]
    assert split([bytes(LARGEST_SHARED_TILE)] * 2, 1) == [[0, 1]]


def test_the_largest_bundle_is_taken() -> None:
    heavy = [bytes(LARGEST_SHARED_TILE)] * LARGEST_BUNDLE
    largest = [heavy[place] for place in split(heavy, 1)[0]]
    assert 4_000_000 < len(pack(largest)) < 6_553_500  # TorchServe's max_request_size


def later(seconds: float) -> float:
    return time.monotonic() + seconds


def test_bundles_leave_one_by_one() -> None:
    pace, left = Pacer(), []

    def leave(_: int) -> None:
        with pace.turn(later(10)):
            left.append(time.monotonic())

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(leave, range(20)))
    assert max(left) - min(left) > 10 * APART  # 19, but for threads that note their time late


def test_so_many_are_under_way_and_the_next_has_the_place_of_one_that_ended() -> None:
    pace, ended = Pacer(), threading.Event()

    def stay(_: int) -> None:
        with pace.turn(later(10)):
            ended.wait(10)

    with ThreadPoolExecutor(UNDER_WAY) as threads:
        staying = [threads.submit(stay, number) for number in range(UNDER_WAY)]
        time.sleep(UNDER_WAY * APART + 0.1)
        with pytest.raises(TimeoutError), pace.turn(later(0.05)):
            pytest.fail("there was a place")
        with pytest.raises(TimeoutError), pace.turn(later(-1)):
            pytest.fail("there was a place")
        ended.set()
        for one in staying:
            one.result()
    with pace.turn(later(1)):
        pass


def test_a_bundle_that_fails_gives_its_place_back() -> None:
    pace = Pacer()
    for _ in range(UNDER_WAY + 1):
        with pytest.raises(ValueError, match="lost"), pace.turn(later(1)):
            raise ValueError("lost")

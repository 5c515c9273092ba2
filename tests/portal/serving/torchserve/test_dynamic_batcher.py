import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from handlers.contract.names import ModelVersion
from portal.errors import ModelNotReady, PortalError, UnusableImage
from portal.serving.bundles import LARGEST_SHARED_TILE
from portal.serving.model_server import Prediction
from portal.serving.torchserve.dynamic_batcher import (
    POSTS,
    TILES_PER_POST,
    DynamicBatcher,
    TileOutcome,
)
from tests.support.fake_torchserve import answered

SERVED = ModelVersion("baseline", "1.0")
LATE = 30.0  # seconds until a deadline that is never reached


def answer(image: bytes, served: ModelVersion = SERVED) -> Prediction:
    return answered(class_name=image.decode("latin-1"), model=served.model, version=served.version)


class Server:
    """Holds every post until it is let go; answers each tile with its own bytes."""

    def __init__(self) -> None:
        self.posts: list[list[bytes]] = []
        self.bad: dict[bytes, TileOutcome] = {}
        self.error: Exception | None = None
        self._lock = threading.Lock()
        self._gates: list[threading.Event] = []
        self._gone = 0
        self._closed = True

    def post(self, served: ModelVersion, images: list[bytes], deadline: float) -> list[TileOutcome]:
        gate = threading.Event()
        with self._lock:
            self.posts.append(images)
            self._gates.append(gate)
        if self._closed:
            assert gate.wait(LATE)
        if self.error is not None:
            raise self.error
        assert time.monotonic() < deadline
        return [self.bad.get(image, answer(image, served)) for image in images]

    def wait_for_posts(self, count: int) -> None:
        """Return when so many have come in all."""
        give_up = time.monotonic() + LATE
        while len(self.posts) < count:
            assert time.monotonic() < give_up
            time.sleep(0.001)

    def let_go(self, count: int = 1) -> None:
        """Answer so many more, in the order in which they came."""
        self.wait_for_posts(self._gone + count)
        for gate in self._gates[self._gone : self._gone + count]:
            gate.set()
        self._gone += count

    def open(self) -> None:
        """Answer all, and those to come at once."""
        with self._lock:
            self._closed = False
            for gate in self._gates:
                gate.set()


Ask = Callable[..., "Future[TileOutcome]"]


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.open()


@pytest.fixture
def room(server: Server) -> DynamicBatcher:
    return DynamicBatcher(server.post)


@pytest.fixture
def ask(room: DynamicBatcher, server: Server) -> Iterator[Ask]:
    """Ask about a tile in a thread of its own, which stands in the line before this returns."""
    with ThreadPoolExecutor(64) as pool:

        def begin(
            image: bytes, served: ModelVersion = SERVED, seconds: float = LATE
        ) -> "Future[TileOutcome]":
            before = standing(room, server)
            future = pool.submit(room.ask, served, image, time.monotonic() + seconds)
            give_up = time.monotonic() + LATE
            while standing(room, server) == before:
                assert time.monotonic() < give_up
                time.sleep(0.001)
            return future

        yield begin
        server.open()


def standing(room: DynamicBatcher, server: Server) -> int:
    """Tiles that have come so far, as long as none has left by itself."""
    waiting = sum(len(line.waiting) for line in room._lines.values())
    return waiting + sum(len(post) for post in server.posts)


def test_few_tiles_leave_at_once_and_alone(ask: Ask, server: Server) -> None:
    asked = [ask(b"%d" % n) for n in range(POSTS)]
    assert server.posts == [[b"%d" % n] for n in range(POSTS)]
    server.let_go(POSTS)
    assert [future.result() for future in asked] == [answer(b"%d" % n) for n in range(POSTS)]
    again = ask(b"again")
    server.let_go()
    assert again.result() == answer(b"again")


def test_those_that_wait_leave_together_and_each_gets_its_own(ask: Ask, server: Server) -> None:
    first = [ask(b"first") for _ in range(POSTS)]
    waiting = [ask(b"%d" % n) for n in range(5)]
    assert len(server.posts) == POSTS
    server.bad = {b"2": (bad := UnusableImage("cut off")), b"3": None}
    server.let_go()
    server.wait_for_posts(POSTS + 1)
    assert server.posts[POSTS] == [b"%d" % n for n in range(5)]
    server.let_go(POSTS)
    found = [future.result() for future in waiting]
    assert found == [answer(b"0"), answer(b"1"), bad, None, answer(b"4")]
    assert [future.result() for future in first] == [answer(b"first")] * POSTS


def test_a_post_carries_only_so_many(ask: Ask, server: Server) -> None:
    asked = [ask(b"%d" % n) for n in range(POSTS + TILES_PER_POST + 3)]
    for ended in range(1, 3):
        server.let_go()
        server.wait_for_posts(POSTS + ended)
    server.open()
    assert [future.result() for future in asked] == [
        answer(b"%d" % n) for n in range(POSTS + TILES_PER_POST + 3)
    ]
    assert [len(post) for post in server.posts[POSTS:]] == [TILES_PER_POST, 3]


def test_a_large_image_travels_alone_and_in_its_turn(ask: Ask, server: Server) -> None:
    large = bytes(LARGEST_SHARED_TILE + 1)
    asked = [ask(image) for image in [b"x"] * POSTS + [b"a", large, b"b", b"c"]]
    for ended in range(1, 4):
        server.let_go()
        server.wait_for_posts(POSTS + ended)
    assert server.posts[POSTS:] == [[b"a"], [large], [b"b", b"c"]]
    server.open()
    assert asked[-1].result() == answer(b"c")


def test_who_waits_too_long_goes_and_holds_nobody_up(ask: Ask, server: Server) -> None:
    first = [ask(b"x") for _ in range(POSTS)]
    impatient, patient = ask(b"impatient", seconds=0.3), ask(b"patient")
    with pytest.raises(TimeoutError):
        impatient.result()
    server.let_go()
    server.wait_for_posts(POSTS + 1)
    assert server.posts[POSTS] == [b"patient"]
    server.open()
    assert patient.result() == answer(b"patient")
    assert [future.result() for future in first] == [answer(b"x")] * POSTS


def test_who_leaves_a_post_under_way_leaves_the_others_there(ask: Ask, server: Server) -> None:
    first = [ask(b"x") for _ in range(POSTS)]
    leader, impatient = ask(b"leader"), ask(b"impatient", seconds=2)
    server.let_go()
    server.wait_for_posts(POSTS + 1)
    assert server.posts[POSTS] == [b"leader", b"impatient"]
    with pytest.raises(TimeoutError):
        impatient.result()
    server.open()
    assert leader.result() == answer(b"leader")
    assert len([future.result() for future in first]) == POSTS


def test_an_error_is_everybodys(ask: Ask, server: Server) -> None:
    asked = [ask(b"x") for _ in range(POSTS + 2)]
    server.error = ModelNotReady("no worker")
    server.open()
    found = [future.result() for future in asked]
    assert {(type(error), str(error)) for error in found} == {(ModelNotReady, "no worker")}
    assert isinstance(found[-1], PortalError)
    assert found[-1] is not found[-2]  # both are raised, in two threads
    server.error = None
    assert ask(b"after").result() == answer(b"after")


def test_a_mistake_of_ours_leaves_nobody_waiting(ask: Ask, server: Server) -> None:
    first = [ask(b"x") for _ in range(POSTS)]
    leader, member = ask(b"leader"), ask(b"member")
    server.let_go(POSTS)
    for future in first:
        future.result()
    server.wait_for_posts(POSTS + 1)
    server.error = RuntimeError("ours")
    server.open()
    with pytest.raises(RuntimeError):
        leader.result()
    assert member.result() is None
    server.error = None
    assert ask(b"after").result() == answer(b"after")


def test_versions_do_not_wait_for_each_other(ask: Ask, server: Server) -> None:
    for _ in range(POSTS):
        ask(b"x")
    other = ask(b"y", ModelVersion("baseline", "2.0"))
    assert server.posts[POSTS] == [b"y"]
    server.open()
    assert other.result() == answer(b"y", ModelVersion("baseline", "2.0"))


def test_a_version_without_bundles_is_asked_tile_by_tile(
    ask: Ask, room: DynamicBatcher, server: Server
) -> None:
    room.without_bundles(SERVED)
    room.try_bundles_again("resnet18")
    assert not room.takes_bundles(SERVED)
    asked = [ask(b"x") for _ in range(POSTS + 3)]
    server.open()
    assert [future.result() for future in asked] == [answer(b"x")] * (POSTS + 3)
    assert [len(post) for post in server.posts] == [1] * (POSTS + 3)
    room.try_bundles_again("baseline")
    assert room.takes_bundles(SERVED)

"""Where tiles wait while enough requests are under way to the model server, and leave together.

A request costs the model server and its Java part the same for one tile and for many. While few
clients ask, each tile is posted at once and alone; while many do, those that would only stand in
the model server's queue share a post. Nothing is ever held back to wait for company.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from copy import copy

from handlers.contract.names import ModelVersion
from portal.errors import PortalError
from portal.serving.bundles import LARGEST_SHARED_TILE
from portal.serving.model_server import Prediction

# Posts of one version at a time: two workers must find work in TorchServe's queue whenever they are
# done with theirs; with more posts each carries fewer tiles.
POSTS = 4
# In one post; every tile of a post waits for the last one. 32 clients get 1,400 tiles/s of the
# baseline; with a post for each tile they get 750.
TILES_PER_POST = 16

# What became of a tile; None: it was refused a place in a bundle and must be asked about alone.
TileOutcome = Prediction | PortalError | None


class _Tile:
    """One that waits, and the lock on which its thread does.

    It ends with an outcome, or is told to post others with itself: ``company`` is then set.
    """

    __slots__ = ("company", "image", "outcome", "small", "turn")

    def __init__(self, image: bytes) -> None:
        self.image = image
        self.small = len(image) <= LARGEST_SHARED_TILE
        self.turn = threading.Lock()
        self.turn.acquire()
        self.company: list[_Tile] | None = None
        self.outcome: TileOutcome = None


class _Line:
    """What waits for one version, and how many posts of it are under way."""

    def __init__(self) -> None:
        self.under_way = 0
        self.waiting: deque[_Tile] = deque()
        self.bundles = True  # the version's handler knows them, as far as is known


class DynamicBatcher:
    """Posts tiles for the threads that bring them. Safe to use from many threads.

    Each thread posts its own tile, and those behind it in the line with it.

    Args:
        post: asks about one or more tiles of a version until a deadline (time.monotonic): as many
            outcomes as tiles. An error that it raises is the outcome of all of them.
    """

    def __init__(
        self, post: Callable[[ModelVersion, list[bytes], float], list[TileOutcome]]
    ) -> None:
        self._post = post
        self._lock = threading.Lock()
        self._lines: dict[ModelVersion, _Line] = {}

    def ask(self, served: ModelVersion, image: bytes, deadline: float) -> TileOutcome:
        """What became of one tile.

        Raises:
            TimeoutError: its turn did not come before the deadline, or no answer did.
        """
        tile = _Tile(image)
        with self._lock:
            line = self._lines.setdefault(served, _Line())
            at_once = line.under_way < POSTS
            if at_once:
                line.under_way += 1
                tile.company = [tile]
            else:
                line.waiting.append(tile)
        if not at_once and not tile.turn.acquire(timeout=max(deadline - time.monotonic(), 0)):
            with self._lock:
                if not tile.turn.acquire(blocking=False):  # it may come at the last moment
                    if tile in line.waiting:
                        line.waiting.remove(tile)
                    raise TimeoutError
        if tile.company is not None:
            self._lead(served, line, tile.company, deadline)
        return tile.outcome

    def takes_bundles(self, served: ModelVersion) -> bool:
        """Whether tiles of a version may share a request."""
        with self._lock:
            return self._lines.setdefault(served, _Line()).bundles

    def without_bundles(self, served: ModelVersion) -> None:
        """Note that the handler of a version knows no bundles: it is in an older archive."""
        with self._lock:
            self._lines.setdefault(served, _Line()).bundles = False

    def try_bundles_again(self, model: str) -> None:
        """Try bundles with every version of a model: its archives may be other ones now."""
        with self._lock:
            for served, line in self._lines.items():
                line.bundles = line.bundles or served.model == model

    def _lead(
        self, served: ModelVersion, line: _Line, company: list[_Tile], deadline: float
    ) -> None:
        """Post tiles, the first of which is that of this thread; tell each what became of it."""
        # If a mistake of ours ends the post, each thread of the company meets it by itself.
        outcomes: list[TileOutcome] = [None] * len(company)
        try:
            outcomes = self._post(served, [member.image for member in company], deadline)
        except PortalError as error:
            # an error gets a traceback where it is raised, and each thread raises its own
            outcomes = [copy(error) for _ in company]
        finally:
            self._call_next(line)
            for member, outcome in zip(company, outcomes, strict=True):
                member.outcome = outcome
                member.turn.release()

    def _call_next(self, line: _Line) -> None:
        """Give the place of a post that has ended to who waits longest, and to those behind it."""
        with self._lock:
            if not line.waiting:
                line.under_way -= 1
                return
            first = line.waiting.popleft()
            first.company = company = [first]
            most = TILES_PER_POST if line.bundles and first.small else 1
            while len(company) < most and line.waiting and line.waiting[0].small:
                company.append(line.waiting.popleft())
            first.turn.release()

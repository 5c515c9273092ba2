"""How the tiles of a batch share requests to the model server, and when these leave."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from handlers.contract.tile_bundle import LARGEST_BUNDLE

SMALLEST_BUNDLE = 8  # fewer are not shared out: bundles leave 4 ms apart
# Of a tile that shares a bundle: one has 3 KB as JPEG, 12 as PNG; whatever is larger is sent alone.
LARGEST_SHARED_TILE = 64 * 1024
LARGEST_BODY = 4 * 1024 * 1024  # of all tiles of a bundle, far below what TorchServe takes (6.5 MB)
# Of all batches together: what one worker may find in its queue, with other requests, it must be
# through with before TorchServe takes it for dead.
UNDER_WAY = 3  # bundles
# Seconds from one bundle to the next: bundles that reach TorchServe within maxBatchDelay, 1 ms, go
# to one worker while the other idles (256 tiles, ResNet-18: 190 ms instead of 160).
APART = 0.004


def split(images: Sequence[bytes], shares: int) -> list[list[int]]:
    """Places of the images, those of one bundle together; the large ones are alone.

    Args:
        shares: how many bundles there are to be at least, so that all workers have some; fewer
            where these would have fewer images than ``SMALLEST_BUNDLE``.
    """
    small = [place for place, image in enumerate(images) if len(image) <= LARGEST_SHARED_TILE]
    size = min(LARGEST_BUNDLE, max(SMALLEST_BUNDLE, -(-len(small) // shares)))
    bundles: list[list[int]] = []
    room = 0
    for place in small:
        if not bundles or len(bundles[-1]) == size or len(images[place]) > room:
            bundles.append([])
            room = LARGEST_BODY
        bundles[-1].append(place)
        room -= len(images[place])
    large = sorted(set(range(len(images))) - set(small))
    return bundles + [[place] for place in large]


class Pacer:
    """Lets bundles leave one by one, and only so many be under way. Safe for many threads."""

    def __init__(self) -> None:
        self._places = threading.BoundedSemaphore(UNDER_WAY)
        self._gate = threading.Lock()
        self._next = 0.0  # time.monotonic() at which one may leave

    @contextmanager
    def turn(self, deadline: float) -> Iterator[None]:
        """Wait for a place; the bundle is under way inside.

        Raises:
            TimeoutError: there was none before the deadline (time.monotonic).
        """
        if not self._places.acquire(timeout=max(deadline - time.monotonic(), 0)):
            raise TimeoutError
        try:
            with self._gate:
                time.sleep(max(self._next - time.monotonic(), 0))
                self._next = time.monotonic() + APART
            yield
        finally:
            self._places.release()

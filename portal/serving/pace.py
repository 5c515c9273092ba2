"""When the stacks of batches leave for the model server."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

# Of all batches together: what one worker may find in its queue, with other requests, it must be
# through with before TorchServe takes it for dead.
AT_ONCE = 3
# Seconds from one stack to the next. TorchServe gives a worker whatever else comes within
# maxBatchDelay, 1 ms, of its first request: stacks that leave together are worked on by one worker
# while the other idles (256 tiles, ResNet-18, three stacks at a time: 190 ms instead of 160).
APART = 0.004


class Pace:
    """Lets stacks leave one by one, and only so many be under way. Safe for many threads."""

    def __init__(self) -> None:
        self._places = threading.BoundedSemaphore(AT_ONCE)
        self._gate = threading.Lock()
        self._next = 0.0  # time.monotonic() at which one may leave

    @contextmanager
    def turn(self, deadline: float) -> Iterator[None]:
        """Wait for a place; the stack is under way inside.

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

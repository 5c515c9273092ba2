"""Predictions under way, by version: what is drained, what is idle, what sleeps."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from handlers.contract.names import ModelVersion
from portal.errors import UnknownModel


class VersionGate:
    """Counts the predictions of each version on their way to the model server.

    Safe to use from many threads. A version that is closed takes no new prediction; one that
    sleeps is woken by its next one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_flight: Counter[ModelVersion] = Counter()
        self._last: dict[ModelVersion, float] = {}  # time.monotonic() of the last start or end
        self._closed: set[ModelVersion] = set()
        self._on_trial: set[ModelVersion] = set()
        self._closed_elsewhere: set[ModelVersion] = set()
        self._on_trial_elsewhere: set[ModelVersion] = set()
        self._lazy: dict[ModelVersion, bool] = {}  # version that may sleep -> whether it does
        # wakes a sleeping version, until a deadline
        self.waker: Callable[[ModelVersion, float], None] | None = None

    @contextmanager
    def passing(self, served: ModelVersion, deadline: float) -> Iterator[None]:
        """Surround one prediction; wake the version first if it sleeps.

        Args:
            deadline: of the prediction (time.monotonic), for the waking too.

        Raises:
            UnknownModel: the version is being retired.
            ModelNotReady: the version sleeps, and did not wake in time.
        """
        with self._lock:
            if served in self._closed or served in self._closed_elsewhere:
                raise UnknownModel(
                    f"{served} is being retired and takes no tiles any more. "
                    "Choose another version; see /models."
                )
            self._in_flight[served] += 1
            self._last[served] = time.monotonic()
            asleep = self._lazy.get(served, False)
        try:
            if asleep and self.waker is not None:
                self.waker(served, deadline)
            yield
        finally:
            with self._lock:
                self._in_flight[served] -= 1
                self._last[served] = time.monotonic()

    def in_flight(self, served: ModelVersion) -> int:
        """Predictions of a version that are under way."""
        with self._lock:
            return self._in_flight[served]

    def close(self, served: ModelVersion) -> None:
        """Let no new prediction of a version pass."""
        with self._lock:
            self._closed.add(served)

    def open(self, served: ModelVersion) -> None:
        """Let predictions of a version pass again."""
        with self._lock:
            self._closed.discard(served)

    @contextmanager
    def trial(self, served: ModelVersion) -> Iterator[None]:
        """Surround the deploy of a version: until it has passed, it is nobody's loss."""
        with self._lock:
            self._on_trial.add(served)
        try:
            yield
        finally:
            with self._lock:
                self._on_trial.discard(served)

    def is_on_trial(self, served: ModelVersion) -> bool:
        """Whether the version is being deployed."""
        with self._lock:
            return served in self._on_trial or served in self._on_trial_elsewhere

    def follow(self, *, closed: set[ModelVersion], on_trial: set[ModelVersion]) -> None:
        """Say which versions other portals have closed, and which they have on trial."""
        with self._lock:
            self._closed_elsewhere, self._on_trial_elsewhere = closed, on_trial

    def set_lazy(self, model: str, asleep: dict[ModelVersion, bool]) -> None:
        """Say which versions of a model may sleep, and which of them do."""
        with self._lock:
            others = {name: sleeps for name, sleeps in self._lazy.items() if name.model != model}
            self._lazy = others | asleep
            for served in asleep:
                self._last.setdefault(served, time.monotonic())

    def is_lazy(self, served: ModelVersion) -> bool:
        """Whether the version may sleep."""
        with self._lock:
            return served in self._lazy

    def is_asleep(self, served: ModelVersion) -> bool:
        """Whether the version has no workers because nobody needs it."""
        with self._lock:
            return self._lazy.get(served, False)

    def touch(self, served: ModelVersion) -> None:
        """Note that somebody else asks a version: it is not idle."""
        with self._lock:
            self._last[served] = time.monotonic()

    def awake(self, served: ModelVersion) -> None:
        """Note that a version has its workers again."""
        with self._lock:
            if served in self._lazy:
                self._lazy[served] = False

    def fall_asleep(self, served: ModelVersion, idle: float) -> bool:
        """Mark a version asleep if nothing passed for ``idle`` seconds; say whether it was."""
        with self._lock:
            quiet = time.monotonic() - self._last.get(served, time.monotonic()) >= idle
            if self._lazy.get(served) is not False or self._in_flight[served] or not quiet:
                return False
            self._lazy[served] = True
            return True

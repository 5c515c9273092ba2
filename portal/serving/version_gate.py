"""Predictions under way, by version: what is drained, what is idle, what sleeps."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from portal.errors import UnknownModel

Served = tuple[str, str]  # model, version
Waker = Callable[[str, str, float], None]


class VersionGate:
    """Counts the predictions of each version on their way to the model server.

    Safe to use from many threads. A version that is closed takes no new prediction; one that
    sleeps is woken by its next one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_flight: Counter[Served] = Counter()
        self._last: dict[Served, float] = {}  # time.monotonic() of the last start or end
        self._closed: set[Served] = set()
        self._on_trial: set[Served] = set()
        self._lazy: dict[Served, bool] = {}  # version that may sleep -> whether it does
        self._waker: Waker | None = None

    @contextmanager
    def passing(self, model: str, version: str, deadline: float) -> Iterator[None]:
        """Surround one prediction; wake the version first if it sleeps.

        Args:
            deadline: of the prediction (time.monotonic), for the waking too.

        Raises:
            UnknownModel: the version is being retired.
            ModelNotReady: the version sleeps, and did not wake in time.
        """
        served = (model, version)
        with self._lock:
            if served in self._closed:
                raise UnknownModel(
                    f"{model} {version} is being retired and takes no tiles any more. "
                    "Choose another version; see /models."
                )
            self._in_flight[served] += 1
            self._last[served] = time.monotonic()
            asleep = self._lazy.get(served, False)
            waker = self._waker
        try:
            if asleep and waker is not None:
                waker(model, version, deadline)
            yield
        finally:
            with self._lock:
                self._in_flight[served] -= 1
                self._last[served] = time.monotonic()

    def in_flight(self, model: str, version: str) -> int:
        """Predictions of a version that are under way."""
        with self._lock:
            return self._in_flight[model, version]

    def close(self, model: str, version: str) -> None:
        """Let no new prediction of a version pass."""
        with self._lock:
            self._closed.add((model, version))

    def open(self, model: str, version: str) -> None:
        """Let predictions of a version pass again."""
        with self._lock:
            self._closed.discard((model, version))

    @contextmanager
    def trial(self, model: str, version: str) -> Iterator[None]:
        """Surround the deploy of a version: until it has passed, it is nobody's loss."""
        with self._lock:
            self._on_trial.add((model, version))
        try:
            yield
        finally:
            with self._lock:
                self._on_trial.discard((model, version))

    def is_on_trial(self, model: str, version: str) -> bool:
        """Whether the version is being deployed."""
        with self._lock:
            return (model, version) in self._on_trial

    def on_wake(self, waker: Waker) -> None:
        """Name what wakes a sleeping version: called with model, version and deadline."""
        self._waker = waker

    def set_lazy(self, model: str, asleep: dict[str, bool]) -> None:
        """Say which versions of a model may sleep, and which of them do."""
        with self._lock:
            for served in [served for served in self._lazy if served[0] == model]:
                del self._lazy[served]
            for version, sleeps in asleep.items():
                self._lazy[model, version] = sleeps
                self._last.setdefault((model, version), time.monotonic())

    def is_lazy(self, model: str, version: str) -> bool:
        """Whether the version may sleep."""
        with self._lock:
            return (model, version) in self._lazy

    def is_asleep(self, model: str, version: str) -> bool:
        """Whether the version has no workers because nobody needs it."""
        with self._lock:
            return self._lazy.get((model, version), False)

    def awake(self, model: str, version: str) -> None:
        """Note that a version has its workers again."""
        with self._lock:
            if (model, version) in self._lazy:
                self._lazy[model, version] = False

    def fall_asleep(self, model: str, version: str, idle: float) -> bool:
        """Mark a version asleep if nothing passed for ``idle`` seconds; say whether it was."""
        served = (model, version)
        with self._lock:
            quiet = time.monotonic() - self._last.get(served, time.monotonic()) >= idle
            if self._lazy.get(served) is not False or self._in_flight[served] or not quiet:
                return False
            self._lazy[served] = True
            return True

"""What a worker and the mapping of its scene tell each other: how far it is, whether to go on."""

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from portal.errors import StateUnavailable
from portal.scenes.records import SceneRecords, SceneRow

log = logging.getLogger("portal.scenes.watch")

LOOK_EVERY = 0.7  # seconds between two looks at whether a scene is still wanted
PACE_OF = 30.0  # seconds from whose windows the remaining time is told


class Cancelled(Exception):
    """The scene is not wanted any more, or another worker has it."""


class Asked(Exception):
    """This worker was asked to end."""


@dataclass(frozen=True)
class Mapped:
    """What a map is, for its row.

    Attributes:
        areas: as of ``SceneRow``.
    """

    version: str
    archive_sha256: str
    areas: list[dict[str, Any]]


class Watch:
    """Tells how far a scene is, and ends its mapping when it is not wanted any more."""

    def __init__(self, records: SceneRecords, row: SceneRow, ending: threading.Event) -> None:
        self._records = records
        self._row = row
        self._ending = ending
        self._done, self._total = 0, row.total
        self._known: dict[str, Any] = {}
        self._looked = 0.0
        self._past: deque[tuple[float, int]] = deque()

    def progress(self, done: int, total: int) -> None:
        """So many windows are done, of so many.

        Raises:
            Cancelled, Asked: it is not to go on.
        """
        self._done, self._total = done, total
        self.look()

    def know(self, **columns: Any) -> None:
        """Something else to be noted with the next look."""
        self._known |= columns

    def look(self) -> None:
        """Whether it is to go on; may be called at any time, and often.

        Raises:
            Cancelled, Asked: it is not.
        """
        if self._ending.is_set():
            raise Asked
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY:
            return
        self._looked = now
        self._past.append((now, self._done))
        while now - self._past[0][0] > PACE_OF:
            self._past.popleft()
        left = self._seconds_left(now)
        try:
            mine = self._records.note(
                self._row, done=self._done, total=self._total, seconds_left=left, **self._known
            )
        except StateUnavailable as error:
            log.warning("how far scene %s is cannot be noted: %s", self._row.id, error)
            return
        if not mine:
            raise Cancelled

    def _seconds_left(self, now: float) -> float | None:
        began, before = self._past[0]
        if self._done <= before:
            return None
        return (now - began) / (self._done - before) * (self._total - self._done)

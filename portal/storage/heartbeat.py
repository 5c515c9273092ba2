"""Who holds a row, and whether that process still lives: an owner and a heartbeat."""

import logging
import os
import platform
import threading
import uuid
from datetime import UTC, datetime, timedelta

from sqlalchemy import String, update
from sqlalchemy.orm import Mapped, MappedAsDataclass, mapped_column

from portal.errors import StateUnavailable
from portal.storage.database import Database, UtcDateTime

log = logging.getLogger("portal.storage.heartbeat")

BEAT_EVERY = 2.0  # seconds between two beats
DEAD_AFTER = 10.0  # seconds without one: more than a beat and the patience of a transaction


class Owned(MappedAsDataclass):
    """A row that means something only as long as a process lives.

    Attributes:
        owner: the process that holds it, see ``Heartbeat.owner``.
        heartbeat: when it was last known to live, UTC.
    """

    owner: Mapped[str] = mapped_column(String(200))
    heartbeat: Mapped[datetime] = mapped_column(UtcDateTime)


class Heartbeat:
    """This process as an owner: as long as it holds something, its rows are kept fresh.

    Nothing is written while it holds nothing. Safe to use from many threads.

    Attributes:
        owner: another one after each start: ``<host>:<process id>:<random>``.
    """

    def __init__(self, database: Database) -> None:
        self.owner = f"{platform.node()[:100]}:{os.getpid()}:{uuid.uuid4().hex[:12]}"
        self._database = database
        self._lock = threading.Lock()
        self._held = 0
        self._ended = threading.Event()

    def begin(self) -> None:
        """Hold one thing more."""
        with self._lock:
            self._held += 1
            if self._held == 1:
                self._ended = threading.Event()
                threading.Thread(
                    target=self._run, args=(self._ended,), name="portal-heartbeat", daemon=True
                ).start()

    def end(self) -> None:
        """Hold one thing less."""
        with self._lock:
            self._held -= 1
            if self._held == 0:
                self._ended.set()

    def _beat(self) -> None:
        now = datetime.now(UTC)
        with self._database.transaction() as session:
            for table in Owned.__subclasses__():
                mine = update(table).where(table.owner == self.owner)
                session.execute(mine.values(heartbeat=now))

    def _run(self, ended: threading.Event) -> None:
        told = ""
        while not ended.wait(BEAT_EVERY):
            try:
                self._beat()
                told = ""
            except StateUnavailable as error:
                if str(error) != told:
                    log.warning("no heartbeat: %s", error)
                told = str(error)
            except Exception:  # the next beat may succeed, and others would take us for dead
                log.exception("no heartbeat")


def cutoff() -> datetime:
    """Rows whose heartbeat is before this have lost their owner."""
    return datetime.now(UTC) - timedelta(seconds=DEAD_AFTER)

"""The process that maps scenes, one at a time: ``python -m portal.scenes.worker``.

It takes them from the database, where the portal has put them, and runs beside it: several may run
on one database and one folder of scenes. What one of them had begun when it ended, another goes on
with.
"""

import ctypes
import gc
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from portal.errors import PortalError, StateUnavailable, UnknownScene
from portal.jobs import UNEXPECTED
from portal.scenes.records import Ended, SceneRecords, SceneRow
from portal.scenes.store import Store, unusable
from portal.scenes.watch import Asked, Cancelled, Mapped, Watch
from portal.settings import BadSetting, Settings
from portal.storage.database import Database
from portal.storage.heartbeat import Heartbeat

log = logging.getLogger("portal.scenes.worker")

LISTEN = 0.05  # seconds between two looks at whether a scene began to wait: 10 us of CPU each
POLL = 1.0  # seconds until the database is asked all the same: 5 ms of CPU each
CLEAN_EVERY = 600.0  # seconds between two looks for what is too old
PAUSE = 2.0  # seconds until the database is tried again
NICE = 10  # single predictions, and the portal, come first


# From a scene and its folder to the map in the folder ``out`` in it, which appears as a whole; ends
# with whatever error the watch raises.
Step = Callable[[SceneRow, Path, Watch], Mapped]


class Ending(threading.Event):
    """An event that a signal may set.

    Its handler runs within whatever the main thread does: if that was in ``wait``, the ``set`` of
    other events waits for a lock that the same thread holds, forever.
    """

    def __init__(self) -> None:
        super().__init__()
        self._is_set = False

    def is_set(self) -> bool:
        """Whether it was set."""
        return self._is_set

    def set(self) -> None:
        """Set it."""
        self._is_set = True

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, for so many seconds at most; whether it is."""
        end = time.monotonic() + (threading.TIMEOUT_MAX if timeout is None else timeout)
        while not self._is_set and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, LISTEN))
        return self._is_set


class Worker:
    """Maps the scenes that wait, one after the other, until ``ending`` is set.

    Args:
        step: makes the map.
    """

    def __init__(
        self, records: SceneRecords, store: Store, heartbeat: Heartbeat, step: Step
    ) -> None:
        self.ending = Ending()
        self._records = records
        self._store = store
        self._heartbeat = heartbeat
        self._step = step
        self._cleaned = -CLEAN_EVERY

    def run(self) -> None:
        """Work until asked to end; the scene in hand goes back to the queue then."""
        told = ""
        while not self.ending.is_set():
            try:
                rung = self._store.rung()
                if not self.work():
                    self._clean()
                    self._listen(rung)
                told = ""
            except PortalError as error:  # the database, or the folder, is away
                if str(error) != told:
                    log.warning("no scene can be taken: %s", error)
                told = str(error)
                self.ending.wait(PAUSE)

    def work(self) -> bool:
        """Map the next scene; False: none waits."""
        self._heartbeat.begin()  # before the claim: the row must not look dead for a moment
        try:
            row = self._records.claim(self._heartbeat.owner)
            if row is None:
                return False
            log.info("scene %s (%d windows) is being mapped", row.id, row.total)
            self._map(row)
        finally:
            self._heartbeat.end()
        _give_memory_back()
        return True

    def _map(self, row: SceneRow) -> None:
        folder = self._store.folder(row.id)
        known: dict[str, Any] = {"done": row.total}
        state: Ended = "failed"
        try:
            mapped = self._step(row, folder, Watch(self._records, row, self.ending))
            state, reason = "done", "The map is whole."
            known |= vars(mapped)
        except Cancelled:
            log.info("scene %s is not wanted any more", row.id)
            self._tidy(row)
            return
        except Asked:
            self._until_it_is_written(lambda: self._records.release(row))
            log.info("scene %s goes back to the queue", row.id)
            return
        except PortalError as error:
            reason, known = str(error), {}
        except OSError as error:
            log.warning("scene %s: %s", row.id, error)
            reason, known = str(unusable(error, folder.parent)), {}
        except MemoryError:
            reason, known = "The machine has too little memory for it. Map a smaller part.", {}
        except Exception:  # the next scene may be better
            log.exception("scene %s failed", row.id)
            reason, known = UNEXPECTED, {}
        self._until_it_is_written(lambda: self._records.settle(row, state, reason, **known))
        log.info("scene %s: %s", row.id, state)
        self._tidy(row)

    def _until_it_is_written(self, write: Callable[[], bool]) -> None:
        """Try for as long as the database is away; when asked to end, once more only."""
        while True:
            try:
                write()
                return
            except StateUnavailable as error:
                log.warning("the end of a scene is not recorded: %s", error)
                if self.ending.wait(PAUSE):
                    return

    def _tidy(self, row: SceneRow) -> None:
        """Remove what a scene leaves behind, unless another worker is at it."""
        try:
            now = self._records.get(row.id)
        except UnknownScene:
            self._store.remove(row.id)
            return
        except StateUnavailable:
            return
        if now.state in ("queued", "running"):
            return
        folder = self._store.folder(row.id)
        for name in ("out.part", *(() if now.state == "done" else ("out",))):
            shutil.rmtree(folder / name, ignore_errors=True)
        (folder / "out.lock").unlink(missing_ok=True)

    def _listen(self, rung: int) -> None:
        """Wait, but not while a scene does."""
        end = time.monotonic() + POLL
        while self._store.rung() == rung and time.monotonic() < end:
            if self.ending.wait(LISTEN):
                return

    def _clean(self) -> None:
        if time.monotonic() - self._cleaned > CLEAN_EVERY:
            self._cleaned = time.monotonic()
            self._store.clean()


def _give_memory_back() -> None:
    """To the system: between two scenes, which may be hours apart, nothing of it is needed."""
    gc.collect()
    with suppress(AttributeError, OSError):  # of glibc alone
        ctypes.CDLL(None).malloc_trim(0)


def _stand_back() -> None:
    """Let others have the CPU first: in this session, and as a session among others."""
    os.nice(NICE)
    with suppress(OSError):  # of Linux alone, and not everywhere: see sched(7), autogroup
        Path("/proc/self/autogroup").write_text(str(NICE))


def main() -> int:
    """Work until SIGTERM or SIGINT; return the exit status."""
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        settings = Settings.from_environment(os.environ)
    except BadSetting as error:
        log.error("%s", error)  # noqa: TRY400  (a sentence for the operator, no traceback)
        return 1
    _stand_back()
    from portal.scenes.task import Task  # noqa: PLC0415  (numpy and GDAL, in this process alone)

    database = Database(settings.database_url.get_secret_value())
    records = SceneRecords(database)
    store = Store(
        settings.scenes_dir, records, settings.scenes_kept_bytes, settings.scenes_kept_days
    )
    worker = Worker(records, store, Heartbeat(database), Task(settings))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: worker.ending.set())
    log.info("ready for scenes")
    worker.run()
    database.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

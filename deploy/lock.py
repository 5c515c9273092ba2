"""At most one supervisor per run folder, and a way to end it from another terminal."""

import fcntl
import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from deploy import CannotServe
from deploy.child import end
from deploy.product import clean
from deploy.settings import Settings

log = logging.getLogger("serve")


@contextmanager
def only_one(settings: Settings) -> Iterator[None]:
    """Hold the run folder; CannotServe when another supervisor does."""
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    lock_file(settings).touch()
    with lock_file(settings).open("r+", encoding="ascii") as lock:
        if not take(lock):
            raise CannotServe(
                f"The product already runs (process {supervisor(settings)}). "
                "End it with `make stop` before you start it again."
            )
        # one write of fixed length: whoever reads the file never finds a number half written
        os.pwrite(lock.fileno(), f"{os.getpid():<10}".encode(), 0)
        # what a supervisor that was killed left running
        end(f"{settings.run_dir}:", grace=10)
        clean(settings)
        yield


def stop(settings: Settings) -> int:
    """End the product that runs, if one does; return 0 when nothing is left of it."""
    if not lock_file(settings).exists():
        log.info("Nothing is running")
        return 0
    with lock_file(settings).open(encoding="ascii") as lock:
        deadline, asked = time.monotonic() + 60, None
        while not take(lock):
            pid = supervisor(settings)
            if pid and pid != asked:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
                asked = pid
            if time.monotonic() > deadline:
                raise CannotServe(f"Process {pid} does not end: see {settings.logs}.")
            time.sleep(0.1)
        end(f"{settings.run_dir}:", grace=10)
        clean(settings)
    log.info("Nothing is running any more")
    return 0


def lock_file(settings: Settings) -> Path:
    """Return the file that a supervisor holds locked; it contains the supervisor's process id."""
    return settings.run_dir / "serve.lock"


def take(lock: TextIO) -> bool:
    """Lock the file; return False when another process holds it."""
    with suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def supervisor(settings: Settings) -> int:
    """Return the process id of the supervisor that holds the lock, 0 until it has written it."""
    return int(lock_file(settings).read_text(encoding="ascii") or 0)

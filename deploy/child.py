"""A program that the supervisor starts, and everything that this program starts in turn."""

import contextlib
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

# A child and whatever descends from it, TorchServe's workers for example, carry this variable: the
# folder of the run and the name of the child. So none is forgotten, even when its parent is dead.
MARK = "EUROSAT_SERVE_CHILD"

LOG_LIMIT = 10_000_000  # bytes


class Child:
    """One program, its descendants and the file, in ``run_dir``/logs, that receives their output.

    It runs in a session of its own: Ctrl-C in the terminal reaches the supervisor alone, which
    then ends its children in order.
    """

    def __init__(self, name: str, run_dir: Path) -> None:
        self.name = name
        self.log = run_dir / "logs" / f"{name}.log"
        self.mark = f"{run_dir}:{name}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, command: Sequence[str | Path], cwd: Path, environ: Mapping[str, str]) -> None:
        """Start the program; its log goes on where it ended, or anew when it has grown large."""
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT:
            self.log.replace(self.log.with_suffix(".1.log"))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=cwd,
                env={**environ, MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """Whether the program itself is alive; a descendant alone doesn't count."""
        return self._process is not None and self._process.poll() is None

    def stop(self, grace: float) -> None:
        """End the program and its descendants; after ``grace`` seconds those left are killed."""
        end(self.mark, grace)
        if self._process is not None:
            self._process.wait()


def marked(prefix: str) -> list[psutil.Process]:
    """Return the living processes whose mark starts with ``prefix``."""
    found = []
    for process in psutil.process_iter():
        # one that ended meanwhile, a zombie, or another user's: none is ours to end
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(MARK, "").startswith(prefix):
                found.append(process)
    return found


def end(prefix: str, grace: float) -> None:
    """End all processes marked with ``prefix``; return when none is left.

    They are asked to end, and those that live after ``grace`` seconds are killed.
    """
    for process in marked(prefix):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    deadline = time.monotonic() + grace
    while left := marked(prefix):
        if time.monotonic() > deadline:
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        time.sleep(0.05)

"""Looks into a file that somebody sent, in a process that may break.

What is in the file is read by a child of ``portal.scenes.inspector``: it has little memory and
little time, looks into this one file, and knows none of the portal's secrets. NumPy and GDAL take
longer to load than most files to be looked at, so its parent has loaded them and stays for a while.
"""

import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from portal import errors
from portal.scenes.terms import Inspection, Options

logger = logging.getLogger(__name__)

SECONDS = 120  # that an inspection may wait for its answer; a large scene takes five
LATE = 10  # seconds in which what should have ended by itself has ended
KEPT = 600  # seconds for which an inspector waits for the next file
_COMMAND = [sys.executable, "-m", "portal.scenes.inspector", str(KEPT + LATE)]
_ROOT = Path(__file__).parents[2]
_KINDS = {
    kind.__name__: kind
    for kind in (errors.UnsupportedScene, errors.UnusableScene, errors.DamagedScene)
}
# A child needs to find Python and its packages, nothing else.
_PASSED_ON = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "SYSTEMROOT", "LANG", "LC_ALL")
# Signals that end a child which takes too much.
_KILLED = (-signal.SIGKILL, -signal.SIGXCPU, -signal.SIGALRM)


def inspect(path: Path, options: Options, *, previews: Path | None = None) -> Inspection:
    """What a scene is, before it is mapped.

    Args:
        previews: a folder that gets ``as-it-is.png`` and ``as-the-model-sees.png``, the same part
            of the scene, at most 512 px a side.

    Raises:
        UnsupportedScene: no raster in a format that is read.
        DamagedScene: one that is cut off or damaged where it was looked at.
        UnusableScene: one that cannot be mapped as ``options`` say, or that takes too much memory
            or time.
    """
    code, said, log = _ask(
        {
            "path": str(path.absolute()),
            "options": options.to_dict(),
            "previews": None if previews is None else str(previews.absolute()),
            "seconds": SECONDS,
        }
    )
    try:
        answer = json.loads(said)
    except ValueError as broken:
        logger.warning("inspecting a scene ended with %d: %s", code, log[-2000:])
        if code in _KILLED:
            raise errors.UnusableScene(
                f"The file could not be looked at within {SECONDS} seconds; export it again, as a "
                "GeoTIFF in tiles for example."
            ) from broken
        raise errors.DamagedScene(
            "The file is damaged in a way that broke what reads it; export it again, as a GeoTIFF "
            "in tiles for example."
        ) from broken
    if log:
        logger.info("inspecting a scene: %s", log[-2000:])
    if "error" in answer:
        raise _KINDS[answer["error"]](answer["message"])
    return Inspection.from_dict(answer)


class _Inspector:
    """A process that has files looked into, one after the other; used by one thread at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            _COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            cwd=_ROOT,
            env={name: os.environ[name] for name in _PASSED_ON if name in os.environ}
            | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUTF8": "1"},
        )
        # else one that nobody asks any more stays in the list of processes until the next file
        threading.Thread(target=self._process.wait, name="inspector", daemon=True).start()
        self._used = time.monotonic()

    @property
    def fresh(self) -> bool:
        """Whether it waits for a file, and will not end at this moment."""
        return self._process.poll() is None and time.monotonic() - self._used < KEPT

    def ask(self, question: str) -> str:
        """The line that it answers to a line; "" if it has ended."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.write(question)
            process.stdin.flush()
        if not select.select([process.stdout], [], [], SECONDS + LATE)[0]:
            process.kill()
        self._used = time.monotonic()
        return process.stdout.readline()

    def end(self) -> int:
        """Let it end; its exit status."""
        with self._process as process:
            pass
        return process.returncode


_waiting: list[_Inspector] = []  # one at most
_lock = threading.Lock()
os.register_at_fork(after_in_child=_waiting.clear)  # two would read each other's answers


def _ask(question: dict[str, Any]) -> tuple[int, str, str]:
    """Exit status, answer and log of the child that looked into a file."""
    with _lock:
        inspector = _waiting.pop() if _waiting else _Inspector()
    if not inspector.fresh:
        inspector.end()
        inspector = _Inspector()
    line = inspector.ask(json.dumps(question) + "\n")
    if not line:
        return inspector.end(), "", ""
    with _lock:
        keep = not _waiting
        if keep:
            _waiting.append(inspector)
    if not keep:
        inspector.end()
    code, said, log = json.loads(line)
    return code, said, log

"""Looks into a file that somebody sent, in a process that may break.

What is in the file is read by ``portal.scenes.inspector`` in a child: it has little memory and
little time, and knows none of the portal's secrets.
"""

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

from portal import errors
from portal.scenes.terms import Inspection, Options

logger = logging.getLogger(__name__)

SECONDS = 120  # that an inspection may wait for its answer; a large scene takes five
_ROOT = Path(__file__).parents[2]
_KINDS = {
    kind.__name__: kind
    for kind in (errors.UnsupportedScene, errors.UnusableScene, errors.DamagedScene)
}
# A child needs to find Python and its packages, nothing else.
_PASSED_ON = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "SYSTEMROOT", "LANG", "LC_ALL")
_KILLED = (-signal.SIGKILL, -signal.SIGXCPU)


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
    asked = {
        "path": str(path.absolute()),
        "options": options.to_dict(),
        "previews": None if previews is None else str(previews.absolute()),
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "portal.scenes.inspector"],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=SECONDS,
            cwd=_ROOT,
            env={name: os.environ[name] for name in _PASSED_ON if name in os.environ}
            | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUTF8": "1"},
        )
    except subprocess.TimeoutExpired as slow:
        raise _too_slow() from slow
    try:
        answer = json.loads(done.stdout)
    except ValueError as broken:
        logger.warning("inspecting a scene ended with %d: %s", done.returncode, done.stderr[-2000:])
        if done.returncode in _KILLED:
            raise _too_slow() from broken
        raise errors.DamagedScene(
            "The file is damaged in a way that broke what reads it; export it again, as a GeoTIFF "
            "in tiles for example."
        ) from broken
    if done.stderr:
        logger.info("inspecting a scene: %s", done.stderr[-2000:])
    if "error" in answer:
        raise _KINDS[answer["error"]](answer["message"])
    return Inspection.from_dict(answer)


def _too_slow() -> errors.UnusableScene:
    return errors.UnusableScene(
        f"The file could not be looked at within {SECONDS} seconds; export it again, as a GeoTIFF "
        "in tiles for example."
    )

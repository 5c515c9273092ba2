"""What many tests of scenes stand on."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.real_archives import RELEASE


@pytest.fixture(scope="session")
def mar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of one release, built from the code as it is now."""
    store = tmp_path_factory.mktemp("archive")
    command = [sys.executable, "-m", "training.archive", "--store", str(store), str(RELEASE)]
    subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, check=True)
    return store / f"{RELEASE.name}.mar"

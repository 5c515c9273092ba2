"""What every test of the running product stands on: real archives, free ports, own folders."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.child import marked
from deploy.settings import Settings
from tests.support.paths import ROOT
from tests.support.product import own_settings

SettingsFor = Callable[[str], Settings]


@pytest.fixture(scope="session")
def model_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model store with the archive of every release, built from the code as it is now."""
    store = tmp_path_factory.mktemp("model_store")
    command = [sys.executable, "-m", "training.archive", "--store", str(store)]
    subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, check=True)
    return store


@pytest.fixture(scope="session")
def settings_for(
    tmp_path_factory: pytest.TempPathFactory, model_store: Path
) -> Iterator[SettingsFor]:
    """Settings of a product beside any other one: call it with a name for its folder.

    They are those of config.properties, with free ports. At the end no process of such a product
    may be left.
    """
    made = []

    def settings(name: str) -> Settings:
        made.append(own_settings(tmp_path_factory.mktemp(name), model_store))
        return made[-1]

    yield settings
    left = [process for found in made for process in marked(f"{found.run_dir}:")]
    assert left == []

"""What every test of the running product stands on: real archives, free ports, own folders."""

import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deploy.child import marked
from deploy.settings import Settings
from tests.support.paths import ROOT

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
        folder = tmp_path_factory.mktemp(name)
        config = folder / "config.properties"
        portal, *ports = free_ports(6)
        text = (ROOT / "config.properties").read_text()
        keys = r"^(inference_address|management_address|metrics_address|grpc_\w+_port)=(.*?)\d+$"
        text, replaced = re.subn(
            keys, lambda match: f"{match[1]}={match[2]}{ports.pop()}", text, flags=re.MULTILINE
        )
        assert replaced == 5
        text, replaced = re.subn(
            r"^model_store=.*$", f"model_store={model_store}", text, flags=re.MULTILINE
        )
        assert replaced == 1
        config.write_text(text)
        made.append(Settings(ROOT, config, folder / "run", "127.0.0.1", portal))
        return made[-1]

    yield settings
    left = [process for found in made for process in marked(f"{found.run_dir}:")]
    assert left == []


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 on which nothing listens, all different."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]

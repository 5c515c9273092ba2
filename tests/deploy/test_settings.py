import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deploy import CannotServe
from deploy.settings import Settings, archives, check_ports
from tests.support.paths import ROOT


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    config = tmp_path / "config.properties"
    config.write_text((ROOT / "config.properties").read_text())
    (tmp_path / "model_store").mkdir()
    return Settings(ROOT, config, tmp_path / "run", "127.0.0.1", 8000)


def test_the_checkout_keeps_torchserve_closed() -> None:
    properties = Settings(ROOT, ROOT / "config.properties", ROOT, "127.0.0.1", 8000).properties
    assert properties["disable_token_authorization"] == "false"
    assert properties["allowed_urls"] == "file:///nonexistent/.*"
    addresses = [value for key, value in properties.items() if key.endswith("_address")]
    assert len(addresses) == 5
    assert all(value.removeprefix("http://").startswith("127.0.0.1") for value in addresses)


def test_newest_version_is_loaded_first_and_so_the_default(settings: Settings) -> None:
    for name in ("resnet18-1.0", "baseline-1.9", "baseline-1.10", "baseline-1.10.1"):
        (settings.model_store / f"{name}.mar").touch()
    assert archives(settings) == [
        "resnet18-1.0.mar",
        "baseline-1.10.1.mar",
        "baseline-1.10.mar",
        "baseline-1.9.mar",
    ]


def test_an_empty_store_says_what_to_do(settings: Settings) -> None:
    with pytest.raises(CannotServe, match=r"No archive in .*model_store.*make archive"):
        archives(settings)


def test_a_badly_named_archive_is_named(settings: Settings) -> None:
    (settings.model_store / "Baseline.mar").touch()
    with pytest.raises(CannotServe, match=r"Baseline\.mar is not called <model>-<version>\.mar"):
        archives(settings)


def test_a_missing_config_is_named(settings: Settings) -> None:
    with pytest.raises(CannotServe, match=r"Cannot read .*nowhere: No such file"):
        check_ports(replace(settings, config=Path("nowhere")))


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_the_portals_port_in_use(settings: Settings, taken_port: int) -> None:
    with pytest.raises(CannotServe) as caught:
        check_ports(replace(settings, port=taken_port))
    message = str(caught.value)
    assert f"Port {taken_port} is in use" in message
    assert f"(process {os.getpid()})" in message
    assert f"make serve PORT={taken_port + 1}" in message


@pytest.mark.parametrize("key", ["management_address", "grpc_inference_port"])
def test_a_port_of_torchserve_in_use(settings: Settings, taken_port: int, key: str) -> None:
    lines = settings.config.read_text().splitlines()
    value = f"http://127.0.0.1:{taken_port}" if key.endswith("address") else str(taken_port)
    changed = [f"{key}={value}" if line.startswith(f"{key}=") else line for line in lines]
    settings.config.write_text("\n".join(changed))
    with pytest.raises(CannotServe, match=f"Port {taken_port} is in use.*change {key} in "):
        check_ports(settings)

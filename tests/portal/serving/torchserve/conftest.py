"""TorchServe's HTTP dialect on a free port, and clients of it."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from portal.serving.torchserve.client import TorchServe
from portal.settings import Settings
from tests.support.torchserve_dialect import (
    ClientFor,
    Dialect,
    QuietServer,
    handler_for,
    write_keys,
)


@pytest.fixture
def dialect() -> Dialect:
    return Dialect()


@pytest.fixture
def address(dialect: Dialect) -> Iterator[str]:
    server = QuietServer(("127.0.0.1", 0), handler_for(dialect))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key_file.json"
    write_keys(path, "infer000", "manage00")
    return path


@pytest.fixture
def client_for(key_file: Path) -> Iterator[ClientFor]:
    made = []

    def client(address: str, timeout: float = 5) -> TorchServe:
        settings = Settings(
            torchserve_inference=address,
            torchserve_management=address,
            torchserve_metrics=address,
            torchserve_key_file=key_file,
            predict_timeout=timeout,
        )
        made.append(TorchServe(settings))
        return made[-1]

    yield client
    for found in made:
        found.close()


@pytest.fixture
def torchserve(address: str, client_for: ClientFor) -> TorchServe:
    return client_for(address)


@pytest.fixture
def free_port() -> int:
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.server_close()
    return server.server_port

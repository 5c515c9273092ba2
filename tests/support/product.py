"""The product on free ports, in its own folder: one way to start it in tests and benchmarks."""

import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread

import pytest
import requests
from flask import Flask
from werkzeug.serving import make_server

from deploy.child import end, marked
from deploy.java import find_java
from deploy.product import Product
from deploy.settings import Settings
from tests.support.paths import ROOT

_PORTS = r"^(inference_address|management_address|metrics_address|grpc_\w+_port)=(.*?)\d+$"


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 on which nothing listens, all different."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def own_settings(folder: Path, store: Path) -> Settings:
    """Those of config.properties, with free ports, this model store and a run folder of its own."""
    portal, *ports = free_ports(6)
    text = (ROOT / "config.properties").read_text()
    text, replaced = re.subn(
        _PORTS, lambda found: f"{found[1]}={found[2]}{ports.pop()}", text, flags=re.MULTILINE
    )
    assert replaced == 5
    text, replaced = re.subn(r"^model_store=.*$", f"model_store={store}", text, flags=re.MULTILINE)
    assert replaced == 1
    config = folder / "config.properties"
    config.write_text(text)
    return Settings(ROOT, config, folder / "run", "127.0.0.1", portal)


@contextmanager
def running_product(settings: Settings) -> Iterator[Product]:
    """The whole product, started and not yet ready; ended with all that they began."""
    started = Product(settings, find_java(os.environ))
    try:
        started.start_torchserve()
        started.start_portal()
        started.start_scenes()
        yield started
    finally:
        started.stop()
        end(f"{settings.run_dir}:", grace=0)


@contextmanager
def running_app(app: Flask) -> Iterator[str]:
    """An app alone, on a fake model server perhaps, in this process: its URL."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class RunningProduct:
    """Addresses of the running product, and the ways to disturb it."""

    def __init__(self, product: Product) -> None:
        self._product = product
        settings = product.settings
        self.url = settings.url
        self.inference_url = settings.properties["inference_address"]
        self.management_url = settings.properties["management_address"]
        self.key_file: Path = settings.key_file
        self.logs: Path = settings.logs
        self.scenes: Path = settings.run_dir / "scenes"

    @property
    def torchserve_pid(self) -> int:
        """Process id of TorchServe's Java part."""
        (pid,) = (
            process.pid
            for process in marked(self._product.torchserve.mark)
            if "org.pytorch.serve.ModelServer" in process.cmdline()
        )
        return pid

    @property
    def worker_pids(self) -> set[int]:
        """Process ids of TorchServe's workers."""
        return {
            process.pid
            for process in marked(self._product.torchserve.mark)
            if any("model_service_worker" in word for word in process.cmdline())
        }

    def kill_torchserve(self) -> None:
        """End TorchServe and its workers at once, as a crash does; the portal goes on."""
        self._product.torchserve.stop(grace=0)

    def start_torchserve(self) -> None:
        """Start TorchServe again, after kill_torchserve; return before it is ready."""
        self._product.start_torchserve()

    def start_torchserve_with(self, archives: list[str]) -> None:
        """Start TorchServe again as if it knew of nothing but these archives."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("deploy.product.to_load", lambda _settings: archives)
            self._product.start_torchserve()

    def restart_portal(self, grace: float = 10) -> None:
        """End the portal, after ``grace`` seconds as a crash does, and start it again.

        Returns before it answers.
        """
        self._product.portal.stop(grace)
        self._product.start_portal()

    def restart_after_a_crash(self) -> None:
        """End all that runs at once, as a power cut does, and start it again.

        Returns before it answers.
        """
        product = self._product
        for child in (product.scenes, product.portal, product.torchserve):
            child.stop(grace=0)
        product.start_torchserve()
        product.start_portal()
        product.start_scenes()

    def wait_until_ready(self, seconds: float = 180) -> None:
        """Return when every model answers, as health says."""
        deadline = time.monotonic() + seconds
        while (answer := self._health())[0] != 200:
            assert time.monotonic() < deadline, f"{answer}, logs in {self.logs}"
            time.sleep(0.5)

    def _health(self) -> tuple[int, str]:
        try:
            answer = requests.get(f"{self.url}/api/health", timeout=5)
        except requests.RequestException as error:
            return 0, str(error)
        return answer.status_code, answer.text

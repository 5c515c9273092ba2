"""The whole product, running: TorchServe with the real archives and the portal in front of it."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
import requests

from deploy.child import end, marked
from deploy.java import find_java
from deploy.product import Product
from deploy.settings import Settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser


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

    def restart_portal(self) -> None:
        """End the portal and start it again; return before it answers."""
        self._product.portal.stop(grace=10)
        self._product.start_portal()

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


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    """The Chromium that is installed; without one, or without playwright, its tests are skipped."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing("playwright is not installed")
    executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if executable is None:
        _missing("no chromium is installed: install it to test the page in a browser")
    with sync_playwright() as playwright:
        # Without its sandbox chromium also runs as root, as in a container; it sees our page only.
        found = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield found
        found.close()


def _missing(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def product(settings_for: Callable[[str], Settings]) -> Iterator[RunningProduct]:
    """The product on free ports, ready for predictions; ended after the last test."""
    settings = settings_for("e2e")
    started = Product(settings, find_java(os.environ))
    try:
        started.start_torchserve()
        started.start_portal()
        running = RunningProduct(started)
        running.wait_until_ready()
        yield running
    finally:
        started.stop()
        end(f"{settings.run_dir}:", grace=0)

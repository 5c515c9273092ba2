"""The whole product, running: TorchServe with the real archives and the portal in front of it."""

import os
import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn

import pytest

from deploy.settings import Settings
from tests.support.product import RunningProduct, running_product

if TYPE_CHECKING:
    from playwright.sync_api import Browser


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
    with running_product(settings_for("e2e")) as started:
        running = RunningProduct(started)
        running.wait_until_ready()
        yield running

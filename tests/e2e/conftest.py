"""The whole product, running: TorchServe with the real archives and the portal in front of it."""

import os
import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

import pytest

from deploy.settings import Settings
from tests.support.product import RunningProduct, running_product

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from tests.support.browsing import Open, Product


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


@pytest.fixture
def console() -> list[str]:
    """What the browser complained about."""
    return []


@pytest.fixture
def hosts() -> set[str]:
    """Whom the browser asked."""
    return set()


@pytest.fixture
def open_page(
    browser: "Browser", product: "Product", console: list[str], hosts: set[str]
) -> Iterator["Open"]:
    contexts = []

    def note_request(url: str) -> None:
        if urlsplit(url).scheme not in ("blob", "data"):
            hosts.add(urlsplit(url).netloc)

    def open_it(width: int = 1280, *, dark: bool = False, scripts: bool = True) -> "Page":
        context = browser.new_context(
            viewport={"width": width, "height": 800},
            color_scheme="dark" if dark else "light",
            java_script_enabled=scripts,
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: console.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: console.append(f"uncaught: {error}"))
        page.on("request", lambda request: note_request(request.url))
        page.goto(product.url)
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert hosts <= {urlsplit(product.url).netloc}


@pytest.fixture
def page(open_page: "Open") -> "Page":
    return open_page()

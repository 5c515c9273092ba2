"""What tests of the pages in a real browser share; it needs playwright."""

from typing import Protocol

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page


class Product(Protocol):
    """The part of the session fixture that a browser needs."""

    url: str


class Open(Protocol):
    """Opens the first page in a window of its own."""

    def __call__(self, width: int = 1280, *, dark: bool = False, scripts: bool = True) -> Page: ...


def expect_inside_panels(page: Page) -> None:
    """Nothing reaches over the right edge of the panel that it is in, but what is cut off there."""
    beyond = page.locator(".panel").evaluate_all(
        """panels => panels.flatMap((panel) => {
            const edge = panel.getBoundingClientRect().right;
            return [...panel.querySelectorAll("*")]
                .filter((one) => !one.parentElement.closest(".scroll, .leaflet-container"))
                .filter((one) => one.getBoundingClientRect().right > edge)
                .map((one) => one.outerHTML.slice(0, 80));
        })"""
    )
    assert beyond == [], beyond


def expect_accessible(page: Page) -> None:
    found = Axe().run(page).response["violations"]
    serious = [problem for problem in found if problem["impact"] in ("serious", "critical")]
    assert [(problem["help"], problem["nodes"][0]["html"][:200]) for problem in serious] == []

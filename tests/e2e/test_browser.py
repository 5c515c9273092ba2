"""The page in a real browser, on the real product."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import pytest

try:
    from playwright.sync_api import Browser, Page, expect, sync_playwright
except ImportError:
    if os.environ.get("CI"):
        raise
    pytest.skip("playwright is not installed", allow_module_level=True)

SAMPLES = sorted((Path(__file__).resolve().parents[2] / "portal/static/samples").glob("*.jpg"))
ANSWER_WITHIN = 15_000  # ms: the portal's own deadline and some more


class Product(Protocol):
    """The part of the session fixture that a browser needs."""

    url: str


class Open(Protocol):
    """Opens the first page in a window of its own."""

    def __call__(self, width: int = 1280, *, dark: bool = False, scripts: bool = True) -> Page: ...


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if executable is None:
        reason = "no chromium is installed: install it to test the page in a browser"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        # Without its sandbox chromium also runs as root, as in a container; it sees our page only.
        found = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield found
        found.close()


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
    browser: Browser, product: Product, console: list[str], hosts: set[str]
) -> Iterator[Open]:
    contexts = []

    def note_request(url: str) -> None:
        if urlsplit(url).scheme not in ("blob", "data"):
            hosts.add(urlsplit(url).netloc)

    def open_it(width: int = 1280, *, dark: bool = False, scripts: bool = True) -> Page:
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
def page(open_page: Open) -> Page:
    return open_page()


def expect_answer(page: Page) -> None:
    """A class with its confidence, ten bars in falling order, and who answered."""
    expect(page.locator(".verdict h2")).not_to_be_empty(timeout=ANSWER_WITHIN)
    expect(page.locator(".confidence")).to_contain_text("%")
    widths = page.locator(".bars rect").evaluate_all("bars => bars.map(b => b.width.baseVal.value)")
    assert len(widths) == 10
    assert widths == sorted(widths, reverse=True)
    assert 95 < sum(widths) < 105
    expect(page.locator("#result > .quiet")).to_contain_text(re.compile(r"\w+ \d+\.\d+ . \d+ ms"))


def choose_sample(page: Page, sample: Path) -> None:
    """Click a sample and wait for its own answer."""
    button = page.locator(f"button[value={sample.stem}]")
    button.click()
    expect(page.locator("#result > .quiet")).to_contain_text(
        f"{button.inner_text()} sample", timeout=ANSWER_WITHIN
    )
    expect(button).to_have_attribute("aria-pressed", "true")


def test_a_click_on_a_sample_shows_its_class(page: Page, console: list[str]) -> None:
    right = 0
    for sample in SAMPLES:
        choose_sample(page, sample)
        expect_answer(page)
        right += page.locator(".verdict").get_attribute("data-class") == sample.stem
    assert right >= 9  # of ten tiles that the model has not seen
    assert console == []


def test_a_file_is_classified_and_shown_in_its_own_pixels(page: Page, console: list[str]) -> None:
    page.set_input_files("#file", SAMPLES[0])
    expect_answer(page)
    expect(page.locator("#result > .quiet")).to_contain_text(SAMPLES[0].name)
    preview = page.locator("#preview")
    expect(preview).to_have_js_property("naturalWidth", 64)
    expect(preview).to_have_css("image-rendering", "pixelated")
    box = preview.bounding_box()
    assert box is not None
    assert box["width"] >= 256
    assert console == []


def test_the_same_file_can_be_chosen_again(page: Page) -> None:
    for _ in range(2):
        with page.expect_response(lambda answer: answer.request.method == "POST") as answer:
            page.set_input_files("#file", SAMPLES[0])
        assert answer.value.status == 200


GIVE: dict[str, Callable[[Page], None]] = {
    "drop": lambda page: page.evaluate(
        """async (url) => {
            const blob = await (await fetch(url)).blob();
            const transfer = new DataTransfer();
            transfer.items.add(new File([blob], "given.jpg", {type: "image/jpeg"}));
            const init = {dataTransfer: transfer, bubbles: true, cancelable: true};
            const stage = document.getElementById("stage");
            stage.dispatchEvent(new DragEvent("dragenter", init));
            stage.dispatchEvent(new DragEvent("drop", init));
        }""",
        f"/static/samples/{SAMPLES[0].name}",
    ),
    "paste": lambda page: page.evaluate(
        """async (url) => {
            const blob = await (await fetch(url)).blob();
            const transfer = new DataTransfer();
            transfer.items.add(new File([blob], "given.jpg", {type: "image/jpeg"}));
            const init = {clipboardData: transfer, bubbles: true, cancelable: true};
            document.body.dispatchEvent(new ClipboardEvent("paste", init));
        }""",
        f"/static/samples/{SAMPLES[0].name}",
    ),
}


@pytest.mark.parametrize("how", GIVE)
def test_a_tile_can_be_given(page: Page, console: list[str], how: str) -> None:
    GIVE[how](page)
    expect_answer(page)
    expect(page.locator("#result > .quiet")).to_contain_text("given.jpg")
    expect(page.locator("#bench")).not_to_have_class(re.compile("dropping"))
    assert console == []


def test_a_bad_file_is_explained_and_the_next_one_works(
    page: Page, console: list[str], tmp_path: Path
) -> None:
    bad = tmp_path / "notes.jpg"
    bad.write_text("these are notes")
    page.set_input_files("#file", bad)
    problem = page.locator("#result .problem")
    expect(problem).to_contain_text("Send JPEG, PNG", timeout=ANSWER_WITHIN)
    page.click("#result ~ .samples button >> nth=0")
    expect_answer(page)
    expect(problem).to_have_count(0)
    # The browser itself reports the status 415; nothing else may be said.
    assert [line for line in console if "415" not in line] == []


def test_a_truncated_image_is_explained(page: Page, tmp_path: Path) -> None:
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(SAMPLES[0].read_bytes()[:700])
    page.set_input_files("#file", cut)
    problem = page.locator("#result .problem")
    expect(problem).to_have_attribute("data-code", "unusable_image", timeout=ANSWER_WITHIN)


def test_too_large_a_file_is_not_even_sent(page: Page, console: list[str], tmp_path: Path) -> None:
    large = tmp_path / "large.jpg"
    large.write_bytes(bytes(6_000_000))
    page.set_input_files("#file", large)
    expect(page.locator("#result .problem")).to_contain_text("larger than 5 MB")
    assert console == []


def test_everything_can_be_done_by_keyboard(page: Page) -> None:
    focused = "document.activeElement.id || document.activeElement.value"
    wanted = {"file", *(sample.stem for sample in SAMPLES)}
    reached: set[str] = set()
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.add(page.evaluate(focused))
    assert wanted <= reached
    page.locator(f"button[value={SAMPLES[-1].stem}]").focus()
    page.keyboard.press("Enter")
    expect_answer(page)


def test_the_focus_on_the_hidden_input_is_visible(page: Page) -> None:
    page.keyboard.press("Tab")
    page.locator("#file").focus()
    expect(page.locator("label.button")).to_have_css("outline-style", "solid")


def test_the_result_is_announced(page: Page) -> None:
    result = page.locator("#result")
    expect(result).to_have_attribute("aria-live", "polite")
    page.click(f"button[value={SAMPLES[0].stem}]")
    expect_answer(page)
    expect(result).not_to_have_attribute("aria-busy", "true")
    expect(page.locator(".bars")).to_have_attribute("aria-live", "off")


def test_the_state_of_the_model_server_is_shown(page: Page) -> None:
    health = page.locator("#health")
    expect(health).to_have_attribute("data-state", "ok", timeout=ANSWER_WITHIN)
    expect(health).to_have_text(re.compile("ready"))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1600])
def test_nothing_sticks_out(open_page: Open, console: list[str], width: int, *, dark: bool) -> None:
    page = open_page(width, dark=dark)
    page.click(f"button[value={SAMPLES[2].stem}]")
    expect_answer(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(int(value) for value in re.findall(r"\d+", ground)) < 128) is dark
    assert console == []


def test_on_a_phone_the_answer_comes_into_view(open_page: Open) -> None:
    page = open_page(360)
    page.click(f"button[value={SAMPLES[-1].stem}]")
    expect(page.locator(".verdict h2")).to_be_in_viewport(timeout=ANSWER_WITHIN)


def test_without_javascript_a_file_is_classified(open_page: Open) -> None:
    page = open_page(scripts=False)
    page.set_input_files("#file", SAMPLES[0])
    page.click("#submit")
    expect_answer_without_scripts(page)
    page.click(f"button[value={SAMPLES[1].stem}]")
    expect_answer_without_scripts(page)


def expect_answer_without_scripts(page: Page) -> None:
    expect(page.locator(".verdict h2")).not_to_be_empty(timeout=ANSWER_WITHIN)
    expect(page.locator(".bars rect")).to_have_count(10)
    expect(page.locator("#preview")).to_be_visible()


def test_without_javascript_an_error_leads_back(open_page: Open) -> None:
    page = open_page(scripts=False)
    page.click("#submit")
    expect(page.locator(".problem")).to_contain_text("no file was chosen")
    page.click("text=Choose a tile")
    expect(page.locator("#bench")).to_be_visible()

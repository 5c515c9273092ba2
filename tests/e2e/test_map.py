"""From a scene to a map in a real browser, on the real product: models, worker and all."""

import os
import re
import time
from pathlib import Path

import pytest
import requests

from portal.web.pages.map import SAMPLE

try:
    from playwright.sync_api import Page, expect

    from tests.support.browsing import Open, Product, expect_accessible, expect_inside_panels
except ImportError:
    if os.environ.get("CI"):
        raise
    pytest.skip("playwright is not installed", allow_module_level=True)

MAPPED_WITHIN = 120_000  # ms
LOOKED_AT_WITHIN = 30_000
CANCELLED_WITHIN = 5_000  # ms: the two seconds of the worker, and those of the page
OUTPUTS = {
    "map.png",
    "class.tif",
    "class.tif.aux.xml",
    "class.qml",
    "confidence.tif",
    "probabilities.tif",
    "classes.geojson",
    "cells.csv",
    "areas.json",
    "item.json",
    "scene.png",
    "cells.json",
}


class Browsing:
    """A browser that has mapped the sample: its pages are those of the cookie."""

    def __init__(self, url: str) -> None:
        self.session = requests.Session()
        answer = self.session.post(f"{url}/map/sample", timeout=60)
        assert answer.status_code == 200, answer.text
        self.url, self.address = url, answer.url
        self.wait()

    def wait(self) -> None:
        """Return when the newest scene is done."""
        deadline = time.monotonic() + MAPPED_WITHIN / 1000
        while (scene := self.newest())["state"] != "done":
            assert scene["state"] in ("queued", "running"), scene["reason"]
            assert time.monotonic() < deadline, scene
            time.sleep(0.3)

    def newest(self) -> dict[str, str]:
        """The scene that was sent last."""
        found: dict[str, list[dict[str, str]]]
        found = self.session.get(f"{self.url}/api/scenes", timeout=10).json()
        return found["scenes"][0]

    def show(self, page: Page, address: str = "") -> Page:
        """Open the map of the sample, or another page, as this browser."""
        cookies = self.session.cookies.get_dict()
        page.context.add_cookies(
            [{"name": name, "value": value, "url": self.url} for name, value in cookies.items()]
        )
        page.goto(address or self.address)
        return page


@pytest.fixture(scope="module")
def sample(product: Product) -> Browsing:
    return Browsing(product.url)


@pytest.fixture
def shown(sample: Browsing, page: Page) -> Page:
    """The map of the sample."""
    expect_map(sample.show(page))
    return page


def expect_map(page: Page) -> None:
    expect(page.locator("#map.leaflet-container")).to_be_visible(timeout=MAPPED_WITHIN)
    expect(page.locator("#map canvas.classes").first).to_be_visible()


def coloured(page: Page) -> int:
    """How many pixels the layer of the classes covers, once it is drawn."""
    counts = [-1]
    while len(counts) < 3 or counts[-1] != counts[-2]:
        assert len(counts) < 50, counts
        page.wait_for_timeout(100)
        counts.append(
            page.evaluate(
                """() => [...document.querySelectorAll("#map .classes")].reduce((sum, tile) => {
                    const copy = document.createElement("canvas");
                    [copy.width, copy.height] = [tile.width, tile.height];
                    const context = copy.getContext("2d", { willReadFrequently: true });
                    context.drawImage(tile, 0, 0);
                    const { data } = context.getImageData(0, 0, copy.width, copy.height);
                    for (let i = 3; i < data.length; i += 4) sum += data[i] > 0;
                    return sum;
                }, 0)"""
            )
        )
    return counts[-1]


def tab_to(page: Page, wanted: str) -> None:
    """Press Tab until what matches has the focus."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("wanted => document.activeElement.matches(wanted)", wanted):
            return
    pytest.fail(f"{wanted} cannot be reached with Tab")


def choose(page: Page, file: Path) -> None:
    """From any page to what was found in a file."""
    page.click("nav >> text=Map")
    page.set_input_files("#file", file)
    page.click("text=Look at it")
    expect(page.locator("#found-title")).to_be_visible(timeout=60_000)


def test_from_a_file_to_every_download(
    page: Page, product: Product, console: list[str], tmp_path: Path
) -> None:
    choose(page, SAMPLE)
    facts = page.locator(".facts").first
    for words in ("640 x 640 px", "EPSG:32630", "10 m", "uint8"):
        expect(facts).to_contain_text(words)
    expect(page.locator(".facts").nth(1)).to_contain_text("a true-colour image (tci")
    for picture in page.locator(".previews img").all():
        assert picture.evaluate("picture => picture.decode().then(() => picture.naturalWidth)") > 64
    page.click("text=Make the map")
    expect(page.locator("#job")).to_be_visible()
    expect_map(page)
    links = page.locator("#outputs a")
    assert set(links.all_inner_texts()) == OUTPUTS
    for link in links.all():
        answer = page.request.get(f"{product.url}{link.get_attribute('href')}")
        assert (answer.status, len(answer.body()) > 100) == (200, True), link
    with page.expect_download() as download:  # browsers ask before they take more than ten
        links.first.click()
    download.value.save_as(tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 100
    assert console == []


def test_it_can_be_looked_at_in_another_way_before(page: Page) -> None:
    choose(page, SAMPLE)
    seen = page.locator(".previews img").nth(1)
    former = seen.evaluate("picture => fetch(picture.src).then(r => r.text()).then(t => t.length)")
    page.select_option("#start-look", "eurosat")
    page.get_by_role("button", name="Look again").click()
    expect(page.locator("#start-look option").first).to_have_text(
        "as now: EuroSAT's own colours", timeout=LOOKED_AT_WITHIN
    )
    length = seen.evaluate("picture => fetch(picture.src).then(r => r.text()).then(t => t.length)")
    assert length != former
    expect(page.get_by_text("Make the map")).to_be_visible()


def test_the_sea_is_water_and_the_ten_probabilities_are_told(
    shown: Page, console: list[str]
) -> None:
    shown.focus("#map")
    told = shown.locator("#cell-words")
    for key in ("Shift+ArrowLeft", "Shift+ArrowLeft", "Shift+ArrowUp", "Shift+ArrowUp"):
        shown.keyboard.press(key)
    sea = []
    for row in range(1, 9):
        expect(told).to_contain_text(f"Row {row} of 20, column 1 of 20:")
        sea.append("Sea lake" in told.inner_text())
        shown.keyboard.press("ArrowDown")
    assert sum(sea) >= 7
    expect(shown.locator("#cell-bars tbody tr")).to_have_count(10)
    shares = shown.locator("#cell-bars .number").all_inner_texts()
    assert all(re.fullmatch(r"(<1|>99|\d+) %", share) for share in shares)
    expect(told).to_have_attribute("aria-live", "polite")
    assert console == []


def test_the_pointer_tells_the_cell_under_it(shown: Page) -> None:
    box = shown.locator("#map").bounding_box()
    assert box is not None
    shown.mouse.move(box["x"] + box["width"] / 2 + 3, box["y"] + box["height"] / 2 + 3)
    expect(shown.locator("#cell-words")).to_contain_text("Row 11 of 20, column 11 of 20:")
    expect(shown.locator(".cell-mark")).to_have_count(1)


def test_the_legend_hides_classes(shown: Page) -> None:
    box = shown.locator("#legend input").first  # of the largest class
    box.uncheck()
    fewer = coloured(shown)
    box.check()
    assert 0 < fewer < coloured(shown)
    box.uncheck()
    assert coloured(shown) == fewer


def test_the_classes_can_be_made_fainter(shown: Page) -> None:
    layer = shown.locator("#map .leaflet-layer")
    expect(layer).to_have_css("opacity", "0.7")
    shown.get_by_label("Strength of the classes").fill("30")
    expect(layer).to_have_css("opacity", "0.3")


def test_the_areas_are_those_of_the_scene(shown: Page) -> None:
    lines = shown.locator("#legend tbody tr").all_inner_texts()
    areas = [float(re.sub(r"[^\d]", "", line.split("\t")[1])) for line in lines]
    assert lines[-1].startswith("Water")
    assert len(lines) == 11
    assert abs(sum(areas[:-1]) - 640 * 640 / 100) <= 10  # rounded to hectares; a few cells are none
    assert areas[-1] > 200


def test_everything_can_be_done_by_keyboard(page: Page, product: Product) -> None:
    page.goto(f"{product.url}/map")
    tab_to(page, "#file")
    tab_to(page, ".scene-sample button")
    page.keyboard.press("Enter")
    expect_map(page)
    tab_to(page, "#map")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#cell-words")).to_contain_text("Row 11 of 20, column 11 of 20:")
    page.keyboard.press("Shift+ArrowLeft")
    expect(page.locator("#cell-words")).to_contain_text("Row 11 of 20, column 1 of 20:")
    page.keyboard.press("+")
    page.keyboard.press("0")
    tab_to(page, "#strength")
    tab_to(page, "#legend input")
    page.keyboard.press("Space")
    fewer = coloured(page)
    page.keyboard.press("Space")
    assert fewer < coloured(page)
    tab_to(page, "#outputs a")
    tab_to(page, "#again-stride")
    page.keyboard.press("ArrowDown")
    tab_to(page, "form[action$=again] button")
    page.keyboard.press("Enter")
    expect(page.locator("#job")).to_be_visible(timeout=LOOKED_AT_WITHIN)
    tab_to(page, "form[action$=cancel] button")
    page.keyboard.press("Enter")
    expect(page.locator("#result h2")).to_have_text("Cancelled", timeout=CANCELLED_WITHIN)
    tab_to(page, "form[action$=remove] button")
    page.keyboard.press("Enter")
    expect(page.locator("#scenes tbody tr")).to_have_count(1)


def test_two_maps_of_a_scene_are_compared(sample: Browsing, page: Page, console: list[str]) -> None:
    sample.show(page)
    models = page.locator("#again-use option").evaluate_all("all => all.map(one => one.value)")
    other = next(model for model in models if model.split("/")[0] != models[0].split("/")[0])
    page.select_option("#again-use", other)
    page.click("form[action$=again] button")
    expect_map(page)
    page.get_by_role("button", name="Compare").click()
    expect(page.locator(".agreement")).to_have_text(
        re.compile(r"They agree on \d.* of \d+ cells\.")
    )
    expect_map(page)
    page.focus("#map")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#cell-words")).to_contain_text(f"{other.replace('/', ' ')} says")
    page.get_by_label("Only where the two differ").check()
    fewer = coloured(page)
    page.get_by_label("Only where the two differ").uncheck()
    assert fewer < coloured(page)
    expect_accessible(page)
    assert console == []


def test_what_is_no_scene_is_explained_and_the_next_file_works(
    page: Page, console: list[str], tmp_path: Path
) -> None:
    page.click("nav >> text=Map")
    bad = tmp_path / "scene.tif"
    bad.write_text('<VRTDataset rasterXSize="64" rasterYSize="64"/>')
    page.set_input_files("#file", bad)
    page.click("text=Look at it")
    expect(page.locator("#refused .problem")).to_be_visible(timeout=30_000)
    expect(page.locator("#sending")).to_be_hidden()
    page.set_input_files("#file", SAMPLE)
    page.click("text=Look at it")
    expect(page.locator("#found-title")).to_be_visible(timeout=60_000)
    assert [line for line in console if "415" not in line] == []


def test_too_large_a_file_is_not_even_sent(page: Page, console: list[str]) -> None:
    page.click("nav >> text=Map")
    page.locator("#upload").evaluate("form => { form.dataset.maxBytes = '1000' }")
    page.set_input_files("#file", SAMPLE)
    page.click("text=Look at it")
    expect(page.locator("#refused .problem")).to_contain_text("larger than 1 GB")
    assert console == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1600])
def test_nothing_sticks_out_and_everything_is_accessible(
    sample: Browsing, open_page: Open, console: list[str], width: int, *, dark: bool
) -> None:
    page = open_page(width, dark=dark)
    choose(page, SAMPLE)
    for address in ("", f"{sample.url}/map", sample.address):
        if address:
            sample.show(page, address)
        if address == sample.address:
            expect_map(page)
            page.focus("#map")
            page.keyboard.press("ArrowDown")
        expect_accessible(page)
        expect_inside_panels(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert console == []  # nothing that the Content-Security-Policy forbids was tried


def test_without_javascript_the_sample_is_mapped(open_page: Open) -> None:
    page = open_page(scripts=False)
    page.click("nav >> text=Map")
    page.click(".scene-sample button")
    expect(page.locator("#legend tbody tr")).to_have_count(11, timeout=MAPPED_WITHIN)
    picture = page.locator(".map-picture")
    assert picture.evaluate("picture => picture.decode().then(() => picture.naturalWidth)") > 200
    expect(page.locator("#outputs a")).to_have_count(len(OUTPUTS))
    expect(page.locator("#legend input").first).to_be_hidden()


def test_without_javascript_a_file_is_looked_at_and_cancelled(open_page: Open) -> None:
    page = open_page(scripts=False)
    choose(page, SAMPLE)
    page.select_option("#start-stride", "16")
    page.click("text=Make the map")
    page.click("text=Cancel")
    expect(page.locator("#result h2")).to_have_text("Cancelled", timeout=CANCELLED_WITHIN)

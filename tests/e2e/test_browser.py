"""The pages in a real browser, on the real product; where two versions of a model or a known report
are needed, on a portal that has them.
"""

import csv
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import pytest
import requests
from pydantic import SecretStr
from werkzeug.security import generate_password_hash

from handlers.contract.image_body import wrap
from handlers.contract.names import ModelVersion
from portal.errors import NoExplanations, NothingToSee, UnknownScale
from portal.serving.model_server import Prediction, PredictionWarning
from portal.serving.torchserve.answers import NOT_JUDGED
from portal.settings import Settings
from portal.web.app import create_app
from tests.support.fake_torchserve import FakeTorchServe, served
from tests.support.paths import SAMPLES
from tests.support.product import running_app
from tests.support.report_content import CARD, report_content, write_release

try:
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import Page, expect

    from tests.support.browsing import Open, Product, expect_accessible, expect_inside_panels
except ImportError:
    if os.environ.get("CI"):
        raise
    pytest.skip("playwright is not installed", allow_module_level=True)

TILES = sorted(SAMPLES.glob("*.jpg"))
ANSWER_WITHIN = 15_000  # ms: the portal's own deadline and some more


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
    for sample in TILES:
        choose_sample(page, sample)
        expect_answer(page)
        right += page.locator(".verdict").get_attribute("data-class") == sample.stem
    assert right >= 9  # of ten tiles that the model has not seen
    assert console == []


def test_a_file_is_classified_and_shown_in_its_own_pixels(page: Page, console: list[str]) -> None:
    page.set_input_files("#file", TILES[0])
    expect_answer(page)
    expect(page.locator("#result > .quiet")).to_contain_text(TILES[0].name)
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
            page.set_input_files("#file", TILES[0])
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
        f"/static/samples/{TILES[0].name}",
    ),
    "paste": lambda page: page.evaluate(
        """async (url) => {
            const blob = await (await fetch(url)).blob();
            const transfer = new DataTransfer();
            transfer.items.add(new File([blob], "given.jpg", {type: "image/jpeg"}));
            const init = {clipboardData: transfer, bubbles: true, cancelable: true};
            document.body.dispatchEvent(new ClipboardEvent("paste", init));
        }""",
        f"/static/samples/{TILES[0].name}",
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
    cut.write_bytes(TILES[0].read_bytes()[:700])
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
    wanted = {"file", *(sample.stem for sample in TILES)}
    reached: set[str] = set()
    for _ in range(24):
        page.keyboard.press("Tab")
        reached.add(page.evaluate(focused))
    assert wanted <= reached
    page.locator(f"button[value={TILES[-1].stem}]").focus()
    page.keyboard.press("Enter")
    expect_answer(page)


def test_the_focus_on_the_hidden_input_is_visible(page: Page) -> None:
    page.keyboard.press("Tab")
    page.locator("#file").focus()
    expect(page.locator("label.button")).to_have_css("outline-style", "solid")


def test_the_result_is_announced(page: Page) -> None:
    result = page.locator("#result")
    expect(result).to_have_attribute("aria-live", "polite")
    page.click(f"button[value={TILES[0].stem}]")
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
    page.click(f"button[value={TILES[2].stem}]")
    expect_answer(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(int(value) for value in re.findall(r"\d+", ground)) < 128) is dark
    assert console == []


def test_on_a_phone_the_answer_comes_into_view(open_page: Open) -> None:
    page = open_page(360)
    page.click(f"button[value={TILES[-1].stem}]")
    expect(page.locator(".verdict h2")).to_be_in_viewport(timeout=ANSWER_WITHIN)


def test_without_javascript_a_file_is_classified(open_page: Open) -> None:
    page = open_page(scripts=False)
    page.set_input_files("#file", TILES[0])
    page.click("#submit")
    expect_answer_without_scripts(page)
    page.click(f"button[value={TILES[1].stem}]")
    expect_answer_without_scripts(page)


def test_why_lays_a_heat_map_over_the_tile(page: Page, console: list[str]) -> None:
    choose_sample(page, TILES[8])
    why, figure = page.locator(".why button"), page.locator(".why figure")
    expect(why).to_have_attribute("aria-pressed", "false")
    why.click()
    expect(why).to_have_attribute("aria-pressed", "true")
    expect(figure).to_contain_text("The answer rests", timeout=ANSWER_WITHIN)
    expect(page.locator(".why-ground")).to_have_js_property("naturalWidth", 64)
    heat = page.locator(".heat")
    expect(heat).to_have_js_property("naturalWidth", 16)
    assert heat.bounding_box() == page.locator(".why-ground").bounding_box()
    page.get_by_label("Strength of the colours").fill("20")
    expect(heat).to_have_css("opacity", "0.2")
    why.press("Enter")
    expect(figure).to_be_hidden()
    expect(why).to_have_attribute("aria-pressed", "false")
    why.press("Enter")
    expect(figure).to_be_visible()
    assert console == []


def test_why_of_a_file_is_shown_over_that_file(page: Page) -> None:
    page.set_input_files("#file", TILES[3])
    expect_answer(page)
    page.click(".why button")
    expect(page.locator(".why-ground")).to_have_attribute(
        "src", re.compile("^blob:"), timeout=ANSWER_WITHIN
    )
    page.click(f"button[value={TILES[0].stem}]")
    expect(page.locator("figure")).to_have_count(0)


@pytest.mark.parametrize("width", [360, 1600])
def test_without_javascript_why_is_asked_for_before(open_page: Open, width: int) -> None:
    page = open_page(width, scripts=False)
    page.check("text=Show why")
    page.click(f"button[value={TILES[1].stem}]")
    expect(page.locator(".why figure")).to_contain_text("odds of", timeout=ANSWER_WITHIN)
    expect(page.locator(".heat")).to_be_visible()
    expect(page.locator(".why button")).to_be_hidden()
    expect_inside_panels(page)


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


# --- many tiles ----------------------------------------------------------------------------------


def choose_many(page: Page, *files: Path) -> None:
    """Choose tiles and wait until all have their answers."""
    page.set_input_files("#file", list(files))
    expect(page.locator("#many-table tbody tr")).to_have_count(len(files))
    expect(page.locator("[data-download=csv]")).to_be_enabled(timeout=60_000)


def column(page: Page, number: int) -> list[str]:
    """The texts of a column of the table, picture and tile being 1 and 2."""
    return page.locator(f"#many-table tbody tr > :nth-child({number})").all_inner_texts()


def downloaded(page: Page, form: str) -> str:
    with page.expect_download() as download:
        page.click(f"[data-download={form}]")
    assert download.value.suggested_filename == f"tiles.{form}"
    return Path(download.value.path()).read_text()


@pytest.fixture
def bad_file(tmp_path: Path) -> Path:
    bad = tmp_path / "=notes, 1.jpg"
    bad.write_text("these are notes")
    return bad


def test_many_tiles_make_a_table(
    page: Page, product: Product, console: list[str], bad_file: Path
) -> None:
    choose_many(page, *TILES, bad_file)
    expect(page.locator("#many-title")).to_have_text("11 tiles")
    expect(page.locator("#many-summary")).to_contain_text("10 classified, 1 not")
    assert column(page, 2) == [*(sample.name for sample in TILES), bad_file.name]
    for sample, words in zip(TILES, column(page, 3)[:-1], strict=True):
        alone = page.request.post(f"{product.url}/api/predict", data=sample.read_bytes()).json()
        assert words.replace(" ", "").lower() == alone["class_name"].lower()
    assert "Send JPEG, PNG" in page.locator("#many-table .failed").inner_text()
    expect(page.locator("#many-table .thumb img")).to_have_count(10)
    assert console == []


def test_the_table_is_sorted_by_its_heads(page: Page) -> None:
    choose_many(page, *TILES)
    head = page.locator("#many-table thead th", has_text="Confidence")
    for direction in ("ascending", "descending"):
        page.keyboard.press("Tab")
        head.locator("button").focus()
        page.keyboard.press("Enter")
        expect(head).to_have_attribute("aria-sort", direction)
        shown = [float(text.strip("<> %")) for text in column(page, 4)]
        assert shown == sorted(shown, reverse=direction == "descending")


def test_the_answers_can_be_downloaded(page: Page, bad_file: Path) -> None:
    choose_many(page, *TILES[:2], bad_file)
    lines = list(csv.DictReader(downloaded(page, "csv").splitlines()))
    assert [line["file"] for line in lines] == [
        TILES[0].name,
        TILES[1].name,
        f"'{bad_file.name}",  # no spreadsheet takes it for a formula
    ]
    assert lines[0]["model"] == "baseline"
    assert 0 < float(lines[0]["confidence"]) <= 1
    assert lines[0]["warnings"] in ("", "not_judged")
    assert (lines[2]["warnings"], lines[2]["prediction_set"]) == ("", "")
    assert (lines[2]["class_name"], lines[0]["error"]) == ("", "")
    assert lines[2]["error"]
    content = json.loads(downloaded(page, "json"))
    assert [tile["file"] for tile in content][:2] == [TILES[0].name, TILES[1].name]
    assert len(content[0]["answers"][0]["prediction"]["probabilities"]) == 10
    assert content[2]["answers"][0]["error"]["code"] == "unsupported_image"


def test_one_of_many_can_be_looked_at(page: Page) -> None:
    choose_many(page, *TILES[:3])
    page.click(f"#many-table button:text-is('{TILES[1].name}')")
    expect_answer(page)
    expect(page.locator("#result > .quiet")).to_contain_text(TILES[1].name)
    expect(page.locator("#many-table tbody tr")).to_have_count(3)
    page.click(f"button[value={TILES[0].stem}]")
    expect(page.locator("#many")).to_be_hidden()


def test_many_tiles_can_be_dropped(page: Page) -> None:
    page.evaluate(
        """async (urls) => {
            const transfer = new DataTransfer();
            for (const url of urls) {
                const blob = await (await fetch(url)).blob();
                transfer.items.add(new File([blob], url.split("/").pop(), {type: "image/jpeg"}));
            }
            const init = {dataTransfer: transfer, bubbles: true, cancelable: true};
            document.getElementById("stage").dispatchEvent(new DragEvent("drop", init));
        }""",
        [f"/static/samples/{sample.name}" for sample in TILES[:4]],
    )
    expect(page.locator("#many-summary")).to_contain_text("4 classified", timeout=ANSWER_WITHIN)


# --- the API ------------------------------------------------------------------------------------


def test_the_api_can_be_tried_in_swagger_ui(page: Page, console: list[str]) -> None:
    page.click("nav >> text=API")
    operation = page.locator("#operations-Health-live")
    operation.locator(".opblock-summary-control").click(timeout=ANSWER_WITHIN)
    operation.locator("text=Try it out").click()
    operation.locator(".execute").click()
    status = operation.locator(".live-responses-table tbody .response-col_status")
    expect(status).to_contain_text("200", timeout=ANSWER_WITHIN)
    assert console == []  # nothing that the Content-Security-Policy forbids was tried


# --- a portal with two versions and a report ------------------------------------------------------


DIFFERENT = TILES[3:6]
SQUEEZED = PredictionWarning(
    "squeezed",
    "943 x 960 px were squeezed into one tile of 64: the answer is about all of it at once. Cut it "
    "into tiles of 64 px, 640 m, to see what is where.",
)
COLOURS = PredictionWarning(
    "colours_unlike_training",
    "Its colours and textures are unlike those of the tiles that the model learned from. Send a "
    "true-colour Sentinel-2 tile of 64 px at 10 m, or say with look= and scale= what it is.",
)
DOUBTFUL = MappingProxyType(
    {
        "uncertain": True,
        "prediction_set": ("AnnualCrop", "SeaLake"),
        "warnings": (SQUEEZED, COLOURS),
        "assumed": {"type": "uint16", "scale": "10000", "look": "l1c"},
    }
)
PASSWORD = "correct horse battery"


class TwoVersions(FakeTorchServe):
    """Two versions that differ on some tiles: the releases have but one of each model."""

    def __init__(self) -> None:
        super().__init__()
        self.versions = [served(), served("2.0", default=False)]

    def predict(self, image: bytes, name: ModelVersion, timeout: float | None = None) -> Prediction:
        answer = super().predict(image, name, timeout)
        if name.version == "2.0" and image in {sample.read_bytes() for sample in DIFFERENT}:
            other = {"River": 0.6, "AnnualCrop": 0.4}
            return replace(
                answer,
                class_name="River",
                confidence=0.6,
                probabilities=other,
                prediction_set=("River",),
            )
        return answer


@dataclass
class Address:
    url: str


class TestOnAnyModels:
    @pytest.fixture
    def models(self) -> TwoVersions:
        return TwoVersions()

    @pytest.fixture
    def product(self, tmp_path: Path, models: TwoVersions) -> Iterator[Product]:
        releases, tiles = tmp_path / "releases", tmp_path / "2750" / "River"
        write_release(releases, report_content(), spatial=report_content(), card=CARD)
        (releases / "broken-1.0").mkdir()
        tiles.mkdir(parents=True)
        (tiles / "River_1.jpg").write_bytes(TILES[8].read_bytes())
        settings = Settings(
            reports_dir=releases,
            tiles_dir=tmp_path,
            model_store=tmp_path / "model_store",
            database_url=SecretStr(f"sqlite:///{tmp_path}/portal.db"),
            password_hash=SecretStr(generate_password_hash(PASSWORD)),
        )
        with running_app(create_app(settings, models)) as url:
            yield Address(url)

    def test_from_the_reports_to_a_cell_to_its_tiles(self, page: Page, console: list[str]) -> None:
        page.click("nav >> text=Reports")
        expect(page.locator("#unreadable")).to_contain_text("broken-1.0: there is no report.json")
        page.click("text=baseline 1.0")
        page.click("role=link[name='2: River taken for Annual crop']")
        expect(page.locator("h1")).to_have_text("River taken for Annual crop")
        images = page.locator(".tiles img")
        expect(images).to_have_count(2)
        expect(images.nth(0)).to_have_js_property("naturalWidth", 64)
        expect(page.locator(".tiles .file").nth(1)).to_have_text("River_2.jpg")
        # River_2.jpg is not there; only the browser says so.
        assert [line for line in console if "404" not in line] == []

    def test_the_confusion_matrix_has_its_colours(self, page: Page, product: Product) -> None:
        page.goto(f"{product.url}/reports/baseline/1.0")
        colours = {
            page.locator(f".confusion .{kind}").first.evaluate(
                "cell => getComputedStyle(cell).backgroundColor"
            )
            for kind in ("right", "wrong", "none")
        }
        assert len(colours) == 3

    @pytest.mark.parametrize("media_type", ["multipart/form-data", "image/jpeg"])
    @pytest.mark.parametrize("operation", ["predict", "explain"])
    def test_the_api_can_be_tried_with_an_image_alone(
        self, page: Page, product: Product, operation: str, media_type: str
    ) -> None:
        page.goto(f"{product.url}/docs")
        block = page.locator(f"#operations-Predict-{operation}")
        block.locator(".opblock-summary-control").click()
        block.get_by_role("button", name="Try it out").click()
        block.locator("select.content-type").first.select_option(media_type)
        texts = block.locator("input[type=text]")
        expect(texts.first).to_be_visible()
        assert {text.input_value() for text in texts.all()} == {""}
        block.locator("input[type=file]").set_input_files(TILES[0])
        with page.expect_response(f"**/api/{operation}*") as answered:
            block.get_by_role("button", name="Execute").click()
        assert answered.value.status == 200

    def test_only_what_changes_something_shows_a_lock(self, page: Page, product: Product) -> None:
        page.goto(f"{product.url}/docs")
        blocks = page.locator(".opblock")
        paths = requests.get(f"{product.url}/openapi.json", timeout=10).json()["paths"]
        expect(blocks).to_have_count(sum(map(len, paths.values())))
        locked = blocks.filter(has=page.locator(".authorization__btn"))
        names = {block.get_attribute("id") for block in locked.all()}
        changes = "deploy", "promote", "scale", "retire", "roll_back", "upload_archive"
        assert names == {f"operations-Models-{change}" for change in changes}

    @pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
    @pytest.mark.parametrize("width", [360, 768, 1600])
    def test_nothing_sticks_out_anywhere(
        self, open_page: Open, product: Product, console: list[str], width: int, *, dark: bool
    ) -> None:
        page = open_page(width, dark=dark)
        for address in ("/reports", "/reports/baseline/1.0", "/docs"):
            page.goto(product.url + address)
            page.wait_for_load_state("networkidle")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, address
        assert [line for line in console if "404" not in line] == []
        page.goto(product.url)
        page.select_option("#compare", "baseline/2.0")
        choose_many(page, *TILES)
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    def test_the_reports_can_be_read_without_javascript(
        self, open_page: Open, product: Product
    ) -> None:
        page = open_page(scripts=False)
        page.goto(f"{product.url}/reports/baseline/1.0")
        expect(page.locator(".confusion td.wrong")).to_have_count(2)
        expect(page.locator(".chart polyline")).to_have_count(6)
        page.click("text=Read the card")
        expect(page.locator(".card")).to_contain_text("Ten classes")

    def test_two_versions_are_compared_on_one_tile(self, page: Page, console: list[str]) -> None:
        page.click(f"button[value={DIFFERENT[0].stem}]")
        expect(page.locator(".verdict")).to_have_count(1)
        page.select_option("#compare", "baseline/2.0")  # asks anew by itself
        expect(page.locator(".verdict h2")).to_have_text(["Annual crop", "River"])
        expect(page.locator(".agreement")).to_have_text("They differ.")
        assert console == []

    @pytest.mark.parametrize("width", [360, 1600])
    def test_why_is_shown_for_each_of_two_versions(
        self, open_page: Open, console: list[str], width: int
    ) -> None:
        page = open_page(width)
        page.select_option("#compare", "baseline/2.0")
        page.click(f"button[value={TILES[0].stem}]")
        page.locator(".why button").nth(1).click()
        expect(page.locator(".heat")).to_have_count(2)
        expect_inside_panels(page)
        page.locator(".why button").nth(0).click()
        expect(page.locator(".why-map").nth(0)).to_be_hidden()
        expect(page.locator(".why-map").nth(1)).to_contain_text("most on the upper left")
        assert console == []

    def test_a_version_that_cannot_explain_says_so_beside_its_answer(
        self, page: Page, models: TwoVersions
    ) -> None:
        models.explain_error = NoExplanations("Its archive is older than explanations.")
        page.click(f"button[value={TILES[0].stem}]")
        page.click(".why button")
        expect(page.locator(".why")).to_contain_text("Its archive is older than explanations.")
        expect(page.locator(".verdict")).to_have_count(1)
        expect(page.locator(".why button")).to_have_attribute("aria-pressed", "false")
        models.explain_error = None
        page.click(".why button")
        expect(page.locator(".heat")).to_be_visible()

    def test_two_versions_are_compared_on_many_tiles(self, page: Page) -> None:
        page.select_option("#compare", "baseline/2.0")
        choose_many(page, *TILES)
        expect(page.locator("#many-summary")).to_contain_text("the two differ on 3.")
        heads = page.locator("#many-table thead button").all_inner_texts()
        assert "Class, baseline 1.0" in heads
        assert "Class, baseline 2.0" in heads
        assert column(page, 11).count("differ") == 3
        assert len(list(csv.DictReader(downloaded(page, "csv").splitlines()))) == 2 * len(TILES)
        page.select_option("#compare", "")
        expect(page.locator("#many-table thead button")).to_have_count(6)
        expect(page.locator("#many-summary")).to_contain_text("by baseline 1.0")

    @pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
    @pytest.mark.parametrize("width", [360, 1280])
    def test_what_makes_an_answer_doubtful_is_shown(
        self, open_page: Open, models: TwoVersions, console: list[str], width: int, *, dark: bool
    ) -> None:
        models.told = dict(DOUBTFUL)
        page = open_page(width, dark=dark)
        page.click(f"button[value={TILES[0].stem}]")
        expect(page.locator(".verdict h2")).to_have_text("Annual crop or sea lake")
        expect(page.locator(".confidence")).to_have_text("75.0 % confidence in annual crop")
        warnings = page.locator(".doubts li")
        expect(warnings).to_have_count(2)
        expect(warnings.nth(0)).to_have_text(
            f"More than one tile. {SQUEEZED.message} Map all of it"
        )
        expect(warnings.nth(0).locator("a")).to_have_attribute("href", "/map")
        expect(page.locator(".reading")).to_contain_text("Read as reflectance x 10000, L1C")
        expect(page.locator(".not-judged").first).to_be_hidden()
        expect_inside_panels(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        expect(page.locator("#scale")).to_be_hidden()
        page.click("text=Not so?")
        expect(page.locator("#scale")).to_be_focused()
        expect_accessible(page)
        assert console == []

    def test_what_it_is_can_be_said_and_asks_anew(
        self, page: Page, models: TwoVersions, console: list[str]
    ) -> None:
        models.predict_error = UnknownScale("Found uint16 values from 0 to 19, which fit no scale.")
        page.set_input_files("#file", TILES[0])
        problem = page.locator("#result .problem")
        expect(problem).to_have_attribute("data-code", "unknown_scale", timeout=ANSWER_WITHIN)
        expect(problem).to_contain_text("Found uint16 values")
        expect_accessible(page)
        models.predict_error = None
        page.select_option("#scale", "10000")  # shown now
        expect(page.locator(".verdict")).to_be_visible(timeout=ANSWER_WITHIN)
        page.select_option("#look", "l2a")
        expect(page.locator("#result")).not_to_have_attribute("aria-busy", "true")
        body = wrap(TILES[0].read_bytes(), "10000", "l2a")
        assert models.asked[-1] == (body, "baseline", "1.0")
        page.click(".why button")
        expect(page.locator(".heat")).to_be_visible(timeout=ANSWER_WITHIN)
        assert models.explained == [(body, "baseline", "1.0")]
        choose_many(page, *TILES[:2])
        assert {image for image, *_ in models.asked[-2:]} == {
            wrap(tile.read_bytes(), "10000", "l2a") for tile in TILES[:2]
        }
        # 503: of the product's state, if that was looked at while predictions failed
        assert [line for line in console if "422" not in line and "503" not in line] == []

    def test_without_javascript_what_it_is_is_said_in_the_same_form(
        self, open_page: Open, models: TwoVersions
    ) -> None:
        page = open_page(scripts=False)
        models.predict_error = UnknownScale("Found uint16 values from 0 to 19, which fit no scale.")
        page.set_input_files("#file", TILES[0])
        page.click("#submit")
        expect(page.locator(".problem")).to_contain_text(
            "Choose its scale and its look", timeout=ANSWER_WITHIN
        )
        models.predict_error = None
        page.select_option("#scale", "255")
        page.set_input_files("#file", TILES[0])
        page.click("#submit")
        expect(page.locator(".verdict")).to_be_visible(timeout=ANSWER_WITHIN)
        expect(page.locator("#scale")).to_have_value("255")
        assert models.asked[-1][0] == wrap(TILES[0].read_bytes(), "255", "auto")

    def test_nothing_to_see_leads_on(self, page: Page, models: TwoVersions) -> None:
        models.predict_error = NothingToSee("Nothing to see: the whole image has one colour.")
        page.set_input_files("#file", TILES[0])
        problem = page.locator("#result .problem")
        expect(problem).to_contain_text("shows ground in more than half", timeout=ANSWER_WITHIN)
        expect(page.locator("#scale")).to_be_hidden()
        problem.locator("a").click()
        expect(page.locator("#scale")).to_be_focused()

    def test_a_version_that_cannot_judge_has_one_quiet_line(
        self, page: Page, models: TwoVersions
    ) -> None:
        models.told = {"prediction_set": None, "warnings": (NOT_JUDGED,)}
        page.click(f"button[value={TILES[0].stem}]")
        expect(page.locator("#result .not-judged")).to_have_text(NOT_JUDGED.message)
        expect(page.locator(".uncertain")).to_have_count(0)
        choose_many(page, *TILES[:2])
        expect(page.locator("#many-not-judged")).to_have_text(NOT_JUDGED.message)
        assert column(page, 5) == column(page, 6) == ["", ""]

    @pytest.mark.parametrize("width", [360, 1280])
    def test_the_table_and_its_csv_have_warnings_and_prediction_sets(
        self, open_page: Open, models: TwoVersions, width: int
    ) -> None:
        models.told = {**DOUBTFUL, "prediction_set": ("=AnnualCrop", "Sea,Lake")}
        page = open_page(width)
        choose_many(page, *TILES[:2])
        expect(page.locator("#many-summary")).to_contain_text("2 uncertain, 2 with a warning")
        assert column(page, 5) == ["=annual crop, Sea,lake"] * 2
        assert page.locator("#many-table tbody tr >> nth=0").locator(".mark").all_inner_texts() == [
            "More than one tile",
            "Unusual colours",
            "uncertain",
        ]
        text = downloaded(page, "csv")
        for line in csv.DictReader(text.splitlines()):
            assert line["prediction_set"] == "'=AnnualCrop; Sea,Lake"
            assert line["warnings"] == "squeezed; colours_unlike_training"
            assert (line["uncertain"], line["error"]) == ("true", "")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        expect_accessible(page)

    def test_another_version_can_be_chosen(self, page: Page) -> None:
        page.select_option("#use", "baseline/2.0")
        page.set_input_files("#file", TILES[0])
        expect(page.locator("#result > .quiet")).to_contain_text("baseline 2.0")

    @pytest.mark.parametrize("scripts", [True, False], ids=["with-js", "without-js"])
    def test_an_operator_logs_in_and_out(
        self, open_page: Open, console: list[str], *, scripts: bool
    ) -> None:
        page = open_page(360, scripts=scripts)
        page.click("text=Reports")
        page.click("header >> text=Log in")
        if scripts:
            expect(page.locator("#password")).to_be_focused()
        page.fill("#password", "wrong")
        page.keyboard.press("Enter")
        wrong = page.locator("[role=alert]")
        expect(wrong).to_contain_text("not the password", timeout=ANSWER_WITHIN)
        page.fill("#password", PASSWORD)
        page.keyboard.press("Enter")
        page.click("header >> text=Log out")
        expect(page.locator("header >> text=Log in")).to_be_visible(timeout=ANSWER_WITHIN)
        # The browser itself reports the status 401; nothing else may be said.
        assert [line for line in console if "401" not in line] == []

    @pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
    @pytest.mark.parametrize("width", [360, 1280])
    def test_everyone_can_read_and_use_the_pages(
        self, open_page: Open, product: Product, width: int, *, dark: bool
    ) -> None:
        page = open_page(width, dark=dark)
        found: list[str] = []

        def look(state: str) -> None:
            page.wait_for_load_state("networkidle")
            # Swagger UI is another's work; its frame is ours.
            answer = Axe().run(page, context={"exclude": ["#swagger-ui"]})
            found.extend(
                f"{state}: {problem['help']}: {node['html'][:200]}"
                for problem in answer.response["violations"]
                if problem["impact"] in ("serious", "critical")
                for node in problem["nodes"]
            )

        look("first page")
        choose_sample(page, TILES[0])
        look("a tile")
        page.select_option("#compare", "baseline/2.0")
        expect(page.locator(".verdict")).to_have_count(2)
        look("two versions")
        choose_many(page, *TILES)
        look("many tiles")
        report = "/reports/baseline/1.0"
        for address in ("/reports", report, "/models", "/docs", "/login", "/nothing"):
            page.goto(product.url + address)
            look(address)
        page.goto(product.url + report)
        page.click("text=Read the card")
        page.click("text=Numbers of the diagram")
        look("an opened report")
        page.click("role=link[name='2: River taken for Annual crop']")
        look("the tiles of a cell")
        page.goto(f"{product.url}/login")
        page.fill("#password", "wrong")
        page.keyboard.press("Enter")
        expect(page.locator("[role=alert]")).to_be_visible(timeout=ANSWER_WITHIN)
        look("a wrong password")
        page.fill("#password", PASSWORD)
        page.keyboard.press("Enter")
        expect(page.locator("header >> text=Log out")).to_be_visible(timeout=ANSWER_WITHIN)
        look("logged in")
        assert found == []

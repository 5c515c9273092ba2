import base64
import io
import re

import pytest
from flask import Flask
from flask.testing import FlaskClient

from handlers.contract.image_body import LOOKS, SCALES, wrap
from portal import errors
from portal.errors import ModelServerDown, NoExplanations
from portal.serving.model_server import PredictionWarning
from portal.serving.torchserve.answers import NOT_JUDGED
from tests.support.fake_torchserve import WARNING, FakeTorchServe, served
from tests.support.paths import ROOT

PORTAL = ROOT / "portal"


def test_home_offers_samples_and_credits(client: FlaskClient) -> None:
    page = client.get("/").text
    assert re.findall(r'name="sample" value="(\w+)"', page) == [
        "AnnualCrop",
        "Forest",
        "HerbaceousVegetation",
        "Highway",
        "Industrial",
        "Pasture",
        "PermanentCrop",
        "Residential",
        "River",
        "SeaLake",
    ]
    for credit in ("Helber et al., 2019", "MIT", "Copernicus Sentinel"):
        assert credit in page


def test_home_does_not_need_the_model_server(
    client: FlaskClient, torchserve: FakeTorchServe
) -> None:
    torchserve.served_error = torchserve.predict_error = ModelServerDown("down")
    assert client.get("/").status_code == 200


def test_a_sample_is_classified_without_javascript(
    client: FlaskClient, torchserve: FakeTorchServe, tile: bytes
) -> None:
    empty = (io.BytesIO(b""), "")
    response = client.post("/", data={"sample": "AnnualCrop", "file": empty})
    assert response.status_code == 200
    assert torchserve.asked == [(tile, "baseline", "1.0")]
    assert "<h2>Annual crop</h2>" in response.text
    assert "<strong>75.0 %</strong>" in response.text
    assert 'src="/static/samples/AnnualCrop.jpg"' in response.text
    assert "baseline 1.0 &middot; 12 ms" in response.text


def test_bars_are_sorted_and_as_long_as_they_say(client: FlaskClient) -> None:
    page = client.post("/", data={"sample": "River", "file": (io.BytesIO(), "")}).text
    assert re.findall(r'<th scope="row">([\w ]+)</th>', page) == [
        "Annual crop",
        "Sea lake",
        "River",
    ]
    assert re.findall(r'<rect width="([\d.]+)"', page) == ["75.00", "24.96", "0.04"]
    assert re.findall(r'<td class="number">([^<]+)</td>', page) == ["75.0 %", "25.0 %", "&lt;0.1 %"]


def test_an_upload_is_shown_again_without_being_stored(client: FlaskClient, tile: bytes) -> None:
    page = client.post("/", data={"file": (io.BytesIO(tile), "<b>.jpg")}).text
    assert 'src="data:image/jpeg;base64,/9j/' in page
    assert "<b>.jpg" not in page
    assert "&lt;b&gt;.jpg" in page


def test_what_browsers_cannot_show_is_not_echoed(client: FlaskClient) -> None:
    page = client.post("/", data={"file": (io.BytesIO(b"II*\x00" + bytes(50)), "a.tif")}).text
    assert "data:image" not in page
    assert "No preview for a.tif" in page


def test_why_is_shown_without_javascript(
    client: FlaskClient, torchserve: FakeTorchServe, tile: bytes
) -> None:
    empty = (io.BytesIO(b""), "")
    page = client.post("/", data={"sample": "AnnualCrop", "file": empty, "why": "1"}).text
    assert torchserve.explained == [(tile, "baseline", "1.0")]
    assert "The answer rests most on the upper left." in page
    assert "multiplies the odds of annual crop by 2.7." in page
    assert 'class="heat" src="data:image/png;base64,' in page
    assert 'class="why-ground" alt="" src="/static/samples/AnnualCrop.jpg"' in page
    assert 'name="why" value="1" checked' in page


def test_nobody_is_asked_why_without_a_wish(
    client: FlaskClient, torchserve: FakeTorchServe, tile: bytes
) -> None:
    page = post(client, tile)
    assert torchserve.explained == []
    assert "<figure>" not in page
    assert "checked" not in page


def test_what_cannot_be_explained_says_so(
    client: FlaskClient, torchserve: FakeTorchServe, tile: bytes
) -> None:
    torchserve.explain_error = NoExplanations("Its archive is older than explanations.")
    data = {"file": (io.BytesIO(tile), "tile.jpg"), "why": "1"}
    response = client.post("/", data=data)
    assert response.status_code == 501
    assert "Its archive is older than explanations." in response.text


def test_uncertain_is_said(client: FlaskClient, torchserve: FakeTorchServe, tile: bytes) -> None:
    assert "Uncertain" not in client.post("/", data=tile).text
    torchserve.told = {"uncertain": True}
    assert "Uncertain" in client.post("/", data=tile).text


def test_what_makes_it_doubtful_is_said(
    client: FlaskClient, torchserve: FakeTorchServe, tile: bytes
) -> None:
    strange = PredictionWarning("so_new", "Of a later version.")
    torchserve.told = {"uncertain": True, "warnings": (WARNING, strange, NOT_JUDGED)}
    page = post(client, tile)
    assert re.findall(r'<li data-code="(\w+)"><strong>([^<]+)</strong> ([^<]+)</li>', page) == [
        ("too_bright", "Too bright.", "More than a tenth of it is white."),
        ("so_new", "So new.", "Of a later version."),
    ]


def test_what_was_squeezed_leads_to_the_map(
    client: FlaskClient, torchserve: FakeTorchServe, tile: bytes
) -> None:
    squeezed = PredictionWarning("squeezed", "943 x 960 px were squeezed into one tile of 64.")
    torchserve.told = {"uncertain": True, "warnings": (squeezed, WARNING)}
    page = post(client, tile)
    assert re.findall(r'tile of 64. <a href="([^"]+)">([^<]+)</a></li>', page) == [
        ("/map", "Map all of it")
    ]


def test_a_version_that_cannot_judge_says_so_in_one_line(
    client: FlaskClient, torchserve: FakeTorchServe, tile: bytes
) -> None:
    torchserve.told = {"prediction_set": None, "warnings": (NOT_JUDGED,)}
    page = post(client, tile)
    assert re.findall(r'<p class="not-judged">([^<]+)</p>', page) == [NOT_JUDGED.message]
    assert "<li data-code" not in page
    assert "Uncertain" not in page
    torchserve.told = {}
    assert '<p class="not-judged">' not in post(client, tile)


def test_several_classes_are_all_named(
    client: FlaskClient, torchserve: FakeTorchServe, tile: bytes
) -> None:
    torchserve.told = {"prediction_set": ("AnnualCrop", "SeaLake")}
    page = post(client, tile)
    assert "<h2>Annual crop or sea lake</h2>" in page
    assert "<strong>75.0 %</strong> confidence in annual crop" in page
    assert "<title>Annual crop or sea lake - " in page


def test_what_was_assumed_is_said(
    client: FlaskClient, torchserve: FakeTorchServe, tile: bytes
) -> None:
    torchserve.told = {"assumed": {"type": "uint16", "scale": "10000", "look": "l1c"}}
    page = post(client, tile)
    assert "Read as reflectance x 10000, L1C, top of atmosphere (uint16)." in page
    assert '<a href="#scale">Not so?</a>' in page
    torchserve.told = {}
    assert "Not so?" not in post(client, tile)


def test_what_it_is_can_be_said_and_stays_said(
    client: FlaskClient, torchserve: FakeTorchServe, tile: bytes
) -> None:
    page = client.get("/").text
    assert '<details class="what" id="what">' in page
    for name, known in (("scale", SCALES), ("look", LOOKS)):
        assert {value for value, _ in options(page, name)} == set(known)
        assert '<option value="auto" selected>' in page
    page = post(client, tile, scale="10000", look="l2a", why="1")
    assert {image for image, *_ in torchserve.asked + torchserve.explained} == {
        wrap(tile, "10000", "l2a")
    }
    assert '<details class="what" id="what" open>' in page
    assert '<option value="10000" selected>' in page
    assert '<option value="l2a" selected>' in page


@pytest.mark.parametrize(
    ("error", "is_open", "way_on"),
    [
        (errors.UnknownScale, True, "Choose its scale and its look"),
        (errors.NothingToSee, False, "shows ground in more than half of it"),
        (errors.UnusableImage, False, "cut off"),
    ],
)
def test_a_refusal_leads_on(
    client: FlaskClient,
    torchserve: FakeTorchServe,
    tile: bytes,
    error: type[errors.PortalError],
    way_on: str,
    *,
    is_open: bool,
) -> None:
    torchserve.predict_error = error("The file is cut off.")
    response = client.post("/", data={"file": (io.BytesIO(tile), "tile.jpg"), "why": "1"})
    assert response.status_code == 422
    assert f'<div class="problem" data-code="{error.code}">' in response.text
    assert "The file is cut off." in response.text
    assert way_on in response.text
    assert ('id="what" open' in response.text) is is_open
    assert 'id="bench"' in response.text
    assert 'src="data:image/jpeg;base64,/9j/' in response.text
    assert f"<title>{error.title} - " in response.text


def test_an_older_version_says_that_it_cannot_be_told(
    client: FlaskClient, torchserve: FakeTorchServe, tile: bytes
) -> None:
    torchserve.old = {"1.0"}
    data = {"file": (io.BytesIO(tile), "tile.jpg"), "scale": "10000"}
    response = client.post("/", data=data)
    assert response.status_code == 501
    assert "baseline 1.0 cannot be told scale or look" in response.text
    assert '<option value="10000" selected>' in response.text


def test_a_value_of_what_it_is_that_no_option_has(
    client: FlaskClient, torchserve: FakeTorchServe, tile: bytes
) -> None:
    data = {"file": (io.BytesIO(tile), "tile.jpg"), "look": "other"}
    assert client.post("/", data=data).status_code == 400
    assert torchserve.asked == []


def test_base64_is_shown_as_the_image_that_it_is(client: FlaskClient, tile: bytes) -> None:
    page = client.post("/", data={"file": (io.BytesIO(base64.b64encode(tile)), "a.txt")}).text
    assert 'src="data:image/jpeg;base64,/9j/' in page


@pytest.mark.parametrize("name", ["Nothing", "../portal", "", "AnnualCrop.jpg"])
def test_an_unknown_sample_is_refused(
    client: FlaskClient, torchserve: FakeTorchServe, name: str
) -> None:
    response = client.post("/", data={"sample": name, "file": (io.BytesIO(), "")})
    assert response.status_code == 400
    assert "no such sample" in response.text
    assert torchserve.asked == []


def test_submitting_nothing_says_what_to_do(client: FlaskClient) -> None:
    response = client.post("/", data={"file": (io.BytesIO(), "")})
    assert response.status_code == 400
    assert "Choose another" in response.text


def test_pages_have_nothing_inline_and_nothing_from_outside(
    client: FlaskClient, tile: bytes
) -> None:
    for page in (client.get("/"), client.post("/", data=tile), client.get("/nothing")):
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page.text)
        addresses = re.findall(r'(?:src|href|action)="([^"]+)"', page.text)
        assert addresses
        assert [a for a in addresses if not a.startswith(("/", "#", "data:image/"))] == []


def test_no_label_is_written_in_the_portal() -> None:
    for path in PORTAL.rglob("*"):
        if path.suffix in (".py", ".html", ".js") and path.name != "palette.py":
            assert "PermanentCrop" not in path.read_text(), path


def test_the_form_says_the_limit(app: Flask, client: FlaskClient) -> None:
    assert 'data-max-bytes="20000"' in client.get("/").text


def post(client: FlaskClient, tile: bytes, **fields: str) -> str:
    data = {"file": (io.BytesIO(tile), "tile.jpg"), **fields}
    response = client.post("/", data=data)
    assert response.status_code == 200
    return response.text


def options(page: str, field: str) -> list[tuple[str, str]]:
    select = re.search(rf'<select id="{field}".*?</select>', page, re.DOTALL)
    return re.findall(r'<option value="([^"]*)"[^>]*>([^<]+)', select[0]) if select else []


class TestChoice:
    @pytest.fixture
    def torchserve(self) -> FakeTorchServe:
        fake = FakeTorchServe()
        fake.versions = [
            served("1.0", model="resnet18"),
            served("2.0", default=False),
            served("1.0"),
        ]
        return fake

    def test_served_versions_can_be_chosen(self, client: FlaskClient) -> None:
        page = client.get("/").text
        assert options(page, "use") == [
            ("", "baseline 1.0 (default)"),
            ("baseline/2.0", "baseline 2.0"),
            ("resnet18/1.0", "resnet18 1.0"),
        ]
        assert [value for value, _ in options(page, "compare")] == [
            "",
            "baseline/1.0",
            "baseline/2.0",
            "resnet18/1.0",
        ]

    def test_the_chosen_one_answers_and_stays_chosen(
        self, client: FlaskClient, torchserve: FakeTorchServe, tile: bytes
    ) -> None:
        page = post(client, tile, use="resnet18/1.0", compare="")
        assert torchserve.asked == [(tile, "resnet18", "1.0")]
        assert '<option value="resnet18/1.0" selected>' in page
        assert "versus" not in page

    def test_two_are_compared_on_the_same_tile(
        self, client: FlaskClient, torchserve: FakeTorchServe, tile: bytes
    ) -> None:
        page = post(client, tile, use="", compare="baseline/2.0", why="1")
        assert torchserve.explained == [(tile, "baseline", "1.0"), (tile, "baseline", "2.0")]
        assert len(re.findall(r'class="heat"', page)) == 2
        assert {*re.findall(r'id="(scale-\d)"', page)} == {"scale-0", "scale-1"}
        assert torchserve.asked == [(tile, "baseline", "1.0"), (tile, "baseline", "2.0")]
        assert page.count('class="verdict"') == 2
        assert "They agree." in page
        for version in ("1.0", "2.0"):
            assert f'<section aria-label="baseline {version}">' in page

    @pytest.mark.parametrize("value", ["baseline", "../x/1.0", "baseline/1.0/x", "/"])
    def test_a_value_that_no_option_has(
        self, client: FlaskClient, torchserve: FakeTorchServe, tile: bytes, value: str
    ) -> None:
        data = {"file": (io.BytesIO(tile), "tile.jpg"), "use": value}
        assert client.post("/", data=data).status_code == 404
        assert torchserve.asked == []


def test_with_one_version_there_is_nothing_to_compare(client: FlaskClient) -> None:
    page = client.get("/").text
    assert options(page, "use") == [("", "baseline 1.0 (default)")]
    assert options(page, "compare") == []


def test_without_the_model_server_there_is_no_choice(
    client: FlaskClient, torchserve: FakeTorchServe
) -> None:
    torchserve.served_error = ModelServerDown("down")
    assert options(client.get("/").text, "use") == []


@pytest.mark.parametrize(
    ("address", "current"),
    [
        ("/", "Classify"),
        ("/map", "Map"),
        ("/reports", "Reports"),
        ("/models", "Models"),
        ("/docs", "API"),
    ],
)
def test_the_navigation_says_where_one_is(client: FlaskClient, address: str, current: str) -> None:
    page = client.get(address).text
    assert re.findall(r'aria-current="page">(\w+)', page) == [current]
    assert re.findall(r'<li><a href="([^"]+)"', page.split("</nav>")[0]) == [
        "/",
        "/map",
        "/reports",
        "/models",
        "/docs",
    ]


def test_a_page_shows_the_state_that_was_seen_last(client: FlaskClient) -> None:
    assert 'data-state="unknown"' in client.get("/").text
    client.get("/api/health")
    page = client.get("/").text
    assert 'data-state="ok"' in page
    assert "Model server ready</span>" in re.sub(r"\s+</span>", "</span>", page)

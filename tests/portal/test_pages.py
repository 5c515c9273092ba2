import io
import re
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from portal.errors import ModelServerDown
from portal.pages import human, percent
from tests.portal.fake_torchserve import FakeTorchServe

PORTAL = Path(__file__).resolve().parents[2] / "portal"


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("AnnualCrop", "Annual crop"),
        ("HerbaceousVegetation", "Herbaceous vegetation"),
        ("River", "River"),
        ("sea_lake", "Sea lake"),
        ("Band8Water", "Band8 water"),
        ("", ""),
    ],
)
def test_class_names_in_words(label: str, words: str) -> None:
    assert human(label) == words


@pytest.mark.parametrize(
    ("probability", "text"),
    [
        (0, "0.0 %"),
        (0.0004, "<0.1 %"),
        (0.0005, "0.1 %"),
        (0.5, "50.0 %"),
        (0.9994, "99.9 %"),
        (0.9996, ">99.9 %"),
        (1, "100.0 %"),
    ],
)
def test_percent_never_claims_certainty(probability: float, text: str) -> None:
    assert percent(probability) == text


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
    assert torchserve.asked == [(tile, "baseline", None)]
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


def test_uncertain_is_said(client: FlaskClient, torchserve: FakeTorchServe, tile: bytes) -> None:
    assert "Uncertain" not in client.post("/", data=tile).text
    torchserve.uncertain = True
    assert "Uncertain" in client.post("/", data=tile).text


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
        if path.suffix in (".py", ".html", ".js"):
            assert "PermanentCrop" not in path.read_text(), path


def test_the_form_says_the_limit(app: Flask, client: FlaskClient) -> None:
    assert 'data-max-bytes="20000"' in client.get("/").text

import io
import re
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from portal.scenes.records import SceneRecords, SceneRow
from portal.services import Services
from portal.web.pages.map import SAMPLE
from tests.support.fake_torchserve import FakeTorchServe, served
from tests.support.scenes import SCENE, Inspector, write_map


@pytest.fixture
def own(app: Flask) -> Services:
    found = app.extensions["portal"]
    assert isinstance(found, Services)
    found.database.open()
    return found


@pytest.fixture(autouse=True)
def inspector(own: Services) -> Inspector:
    own.scenes.inspect = Inspector()
    return own.scenes.inspect


@pytest.fixture
def records(own: Services) -> SceneRecords:
    return SceneRecords(own.database)


def send(client: FlaskClient, name: str = "a.tif", scene: bytes = SCENE) -> str:
    """Let a scene be looked at; the address of its page."""
    data = {"file": (io.BytesIO(scene), name), "start": "false"}
    answer = client.post("/map", data=data)
    assert answer.status_code == 303, answer.text
    return answer.headers["Location"]


def begin(client: FlaskClient, name: str = "a.tif") -> str:
    """Let a scene wait for a worker; the address of its page."""
    page = send(client, name)
    assert client.post(f"{page}/start", data={"start": "true"}).headers["Location"] == page
    return page


def claimed(records: SceneRecords) -> SceneRow:
    """The scene that waits, as of a worker that has begun with it."""
    row = records.claim("a worker")
    assert row is not None
    return row


def finish(own: Services, records: SceneRecords, **cells: Any) -> None:
    """Map the scene that waits."""
    row = claimed(records)
    out = own.settings.scenes_dir / row.id / "out"
    out.mkdir()
    for name in ("map.png", "scene.png"):
        (out / name).write_bytes(b"png")
    mapped = write_map(out, **cells)
    assert records.settle(row, "done", "", version=mapped.version, areas=mapped.areas)


def words(page: str) -> str:
    """A page without its tags and breaks."""
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_the_page_offers_a_sample_and_credits_it(client: FlaskClient) -> None:
    page = client.get("/map").text
    assert "Contains modified Copernicus Sentinel data 2021." in page
    assert "up to 1 GB" in words(page)
    assert 'data-max-bytes="1073741824"' in page
    assert "None yet." in page
    assert "Only this browser sees them. They are forgotten after 7 days" in words(page)
    assert "small villages" in page


def test_the_sample_is_a_small_file_with_its_credit() -> None:
    assert SAMPLE.stat().st_size < 700 * 1024
    assert (
        "Contains modified Copernicus Sentinel data 2021" in SAMPLE.with_suffix(".txt").read_text()
    )


def test_what_was_found_is_shown_before_anything_is_mapped(
    client: FlaskClient, records: SceneRecords
) -> None:
    address = send(client)
    page = client.get(address).text
    told = words(page)
    assert "Size 130 x 70 px Where it lies EPSG:32630" in told
    assert "Look L2A, surface" in told
    assert "The pixels had 20 m." in told
    assert "6 windows." in told
    pictures = re.findall(r'<img src="(/api/scenes/[^"]+)" alt="([^"]+)"', page)
    assert [alt for _, alt in pictures] == [
        "As it is: a part of the scene",
        "As the model sees it: a part of the scene",
    ]
    for url, _ in pictures:
        with client.get(url) as answer:
            assert answer.status_code == 200
    assert records.claim("a worker") is None


def test_it_can_be_looked_at_again_in_another_way(
    client: FlaskClient, inspector: Inspector
) -> None:
    address = send(client)
    form = {"look": "l1c", "scale": "", "bands": "", "stride": "32", "start": "false"}
    assert client.post(f"{address}/start", data=form).status_code == 303
    assert (inspector.asked[-1].look, inspector.asked[-1].stride) == ("l1c", 32)
    page = client.get(address).text
    assert "as now: L1C, top of atmosphere" in page
    assert '<option value="32" selected>' in page
    assert "Make the map" in page


def test_another_model_can_be_chosen(
    client: FlaskClient, torchserve: FakeTorchServe, records: SceneRecords
) -> None:
    torchserve.versions.append(served("2.0", default=False))
    address = send(client)
    page = client.get(address).text
    offered = re.findall(r'<option value="([^"]+)"( selected)?>baseline', page)
    assert offered == [("baseline/1.0", " selected"), ("baseline/2.0", "")]
    client.post(f"{address}/start", data={"use": "baseline/2.0", "start": "true"})
    row = claimed(records)
    assert (row.model, row.version) == ("baseline", "2.0")


def test_a_scene_that_waits_can_be_cancelled_and_then_removed(client: FlaskClient) -> None:
    address = begin(client)
    page = client.get(address).text
    assert '<noscript><meta http-equiv="refresh" content="2"></noscript>' in page
    assert "Waiting for its turn" in page
    assert client.post(f"{address}/cancel").headers["Location"] == address
    assert "Cancelled" in words(client.get(address).text)
    assert client.post(f"{address}/cancel").headers["Location"] == address  # which changes nothing
    assert client.get(address).status_code == 200
    assert client.post(f"{address}/remove").headers["Location"] == "/map#scenes"
    assert client.get(address).status_code == 404


def test_the_progress_is_told(client: FlaskClient, records: SceneRecords) -> None:
    address = begin(client)
    row = claimed(records)
    records.note(row, done=2, seconds_left=95.0, reason="TorchServe is awaited.")
    page = client.get(address).text
    assert 'max="6" value="2"' in page
    assert "2 of 6 windows. About 2 min left. TorchServe is awaited." in words(page)
    assert 'content="2"' in page


def test_why_it_failed_is_told(client: FlaskClient, records: SceneRecords) -> None:
    address = begin(client)
    records.settle(claimed(records), "failed", "It is cut off at row 31, column 0.")
    page = client.get(address).text
    assert "It is cut off at row 31, column 0." in page
    assert "Map it again" in page
    assert "refresh" not in page


def test_the_map_has_areas_and_downloads(
    client: FlaskClient, own: Services, records: SceneRecords
) -> None:
    address = begin(client)
    finish(own, records)
    page = client.get(address).text
    assert "Mapped by baseline 1.0, a cell is 640 m" in words(page)
    legend = re.findall(r'data-class="(\w+)"', page)
    assert legend == ["SeaLake", "River"]  # the largest first
    for color in ("#3366cc", "#000099"):
        assert f'fill="{color}"' in page
    assert re.findall(r'<td class="number">([^<]+)</td>', page) == ["75.0 %", "41", "25.0 %"]
    outputs = re.findall(r'<a href="([^"]+)" download="([^"]+)">', page)
    assert {name for _, name in outputs} == {"map.png", "scene.png", "class.tif", "cells.json"}
    for url, _ in outputs:
        with client.get(url) as answer:
            assert answer.status_code == 200
    assert re.search(r'<img class="map-picture" src="/api/scenes/\w+/map.png"', page)


def test_two_maps_of_a_scene_are_compared(
    client: FlaskClient, own: Services, records: SceneRecords
) -> None:
    first = begin(client)
    finish(own, records)
    assert "Compare with" not in client.get(first).text
    second = client.post(f"{first}/again", data={}).headers["Location"]
    assert second != first
    finish(own, records, classes=bytes([0, 0, 1, 0, 255, 255]))
    page = client.get(second).text
    (other,) = re.findall(r'<select id="with".*?<option value="(\w+)"', page, re.DOTALL)
    assert first.endswith(other)
    told = words(client.get(f"{second}?with={other}").text)
    assert "They agree on 75.0 % of 4 cells." in told
    assert "Cells Hectares River Sea lake 1 4 No class River 1 0" in told


def test_a_scene_of_another_browser_is_none(app: Flask, client: FlaskClient) -> None:
    address, stranger = send(client), app.test_client()
    assert "a.tif" in client.get("/map").text
    assert "a.tif" not in stranger.get("/map").text
    assert stranger.get(address).status_code == 404
    assert stranger.post(f"{address}/remove").status_code == 404
    assert client.get(address).status_code == 200


def test_what_is_no_scene_is_explained(client: FlaskClient) -> None:
    answer = client.post("/map", data={"file": (io.BytesIO(b"<VRTDataset/>"), "a.tif")})
    assert answer.status_code == 415
    assert "This is no raster that is read." in answer.text
    assert client.post("/map", data={"start": "false"}).status_code == 400


def test_names_are_never_markup(client: FlaskClient) -> None:
    address = send(client, "<i>a</i>.tif")
    for page in (client.get("/map").text, client.get(address).text):
        assert "<i>" not in page


def test_no_other_site_can_start_or_remove(client: FlaskClient) -> None:
    address = send(client)
    elsewhere = {"Sec-Fetch-Site": "cross-site"}
    for action in ("start", "again", "cancel", "remove"):
        assert client.post(f"{address}/{action}", headers=elsewhere).status_code == 403
    assert client.post("/map/sample", headers=elsewhere).status_code == 403
    data = {"file": (io.BytesIO(SCENE), "b.tif")}
    assert client.post("/map", data=data, headers=elsewhere).status_code == 403
    assert "Make the map" in client.get(address).text


def test_the_sample_is_mapped_at_once(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sample = tmp_path / "aberystwyth.tif"
    sample.write_bytes(SCENE)  # which the made-up inspector takes for one
    monkeypatch.setattr("portal.web.pages.map.SAMPLE", sample)
    address = client.post("/map/sample").headers["Location"]
    assert "Waiting for its turn" in client.get(address).text
    assert "aberystwyth.tif" in client.get(address).text


@pytest.mark.parametrize("file", ["leaflet.js", "leaflet.css"])
def test_leaflet_is_here(client: FlaskClient, file: str) -> None:
    with client.get(f"/map/leaflet/{file}") as answer:
        assert answer.status_code == 200
        assert answer.headers["Cache-Control"] != "no-store"


@pytest.mark.parametrize("file", ["leaflet-src.js", "images", "..%2Fapps.py"])
def test_no_other_file_of_the_package_is_given(client: FlaskClient, file: str) -> None:
    assert client.get(f"/map/leaflet/{file}").status_code == 404

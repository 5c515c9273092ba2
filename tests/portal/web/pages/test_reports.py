import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from portal.catalog.report_schema import Figure, parse_report
from portal.catalog.reports import Reports
from portal.settings import Settings
from portal.web.pages.reports import figure, heat_map
from tests.support.report_content import (
    CARD,
    OPTIONAL,
    int8_content,
    report_content,
    write_release,
)

PAGE = "/reports/baseline/1.0"


@pytest.fixture
def release(reports_dir: Path) -> Path:
    spatial = report_content()
    spatial["split"]["name"] = "spatial"
    spatial["per_class"][1]["f1"] = 0.123
    return write_release(reports_dir, report_content(), spatial=spatial, card=CARD)


def test_no_report_yet(client: FlaskClient) -> None:
    assert "No reports yet" in client.get("/reports").text
    assert client.get("/api/reports").get_json() == {"reports": [], "unreadable": []}


def test_the_comparison_shows_figures_with_intervals(client: FlaskClient, release: Path) -> None:
    page = client.get("/reports").text
    assert '<a href="/reports/baseline/1.0">baseline 1.0</a>' in page
    for shown in ("75.00 % (50.00-100.00)", "1.54 %", "1.23 MB", "1.3 ms", "2026-01-02"):
        assert shown in page
    assert 'id="unreadable"' not in page
    assert ">int8" not in page


def test_an_unreadable_report_is_shown_with_its_reason(client: FlaskClient, release: Path) -> None:
    broken = release.with_name("broken-1.0")
    broken.mkdir()
    (broken / "report.json").write_text('{"schema_version": 2}')
    response = client.get("/reports")
    assert response.status_code == 200
    assert "<strong>broken-1.0</strong>: schema_version: expected 1, found 2" in response.text
    assert client.get("/api/reports").get_json()["unreadable"] == [
        {
            "folder": "broken-1.0",
            "reason": "schema_version: expected 1, found 2; it is newer than this portal",
        }
    ]
    for page in ("/reports/broken/1.0", "/api/reports/broken/1.0"):
        refused = client.get(page)
        assert refused.status_code == 404
        assert "it is newer than this portal" in refused.text
    assert client.get("/api/reports/broken/1.0").get_json()["error"]["code"] == "unreadable_report"


@pytest.mark.parametrize(
    "page", ["/reports/none/1.0", "/reports/%2e%2e/1.0", "/reports/baseline/2"]
)
def test_no_such_report(client: FlaskClient, release: Path, page: str) -> None:
    assert client.get(page).status_code == 404
    assert client.get(f"/api{page}").get_json()["error"]["code"] == "unknown_report"


def test_a_report_shows_all_its_parts(client: FlaskClient, release: Path) -> None:
    page = client.get(PAGE).text
    for title in (
        "Figures",
        "Confusion matrix",
        "Classes",
        "Most confused pairs",
        "Can its confidence be believed?",
        "The uncertain mark",
        "Changed tiles",
        "Pictures unlike its training",
        "Prediction sets",
        "Maps of scenes",
        "Reviewed labels",
        "Training",
        "Certain and wrong",
        "Model card",
    ):
        assert re.search(f"<h2[^>]*>{re.escape(title)}</h2>", page), title
    assert "spatial split</th>" in page
    assert "12.30 %" in page  # the F1 of River there
    assert "-38.0" in page  # points that haze costs
    assert page.count("<polyline") == 2 + 2 * 2


def test_a_report_without_the_optional_parts(client: FlaskClient, reports_dir: Path) -> None:
    content = report_content()
    for field in OPTIONAL:
        del content[field]
    content["training"]["history"] = []
    write_release(reports_dir, content)
    page = client.get(PAGE).text
    assert "Not measured on a spatial split" in page
    for title in (
        "Changed tiles",
        "Pictures unlike its training",
        "Prediction sets",
        "Maps of scenes",
        "Reviewed labels",
        "Training",
        "Model card",
    ):
        assert f">{title}</h2>" not in page


def test_the_int8_file_has_its_line(client: FlaskClient, reports_dir: Path) -> None:
    write_release(reports_dir, {**report_content(), "int8": int8_content()})
    comparison, report = client.get("/reports").text, client.get(PAGE).text
    rows = comparison.split("<tbody>")[1].split("</tr>")
    for row, figures in (
        (rows[0], ("int8", "81.25 % (50.00-100.00)", "1.55 %", "0.33 MB", "0.4 ms")),
        (rows[1], ("fp32", "75.00 % (50.00-100.00)", "1.54 %", "1.23 MB", "1.3 ms")),
    ):
        assert all(words in row for words in figures), row
    for shown in ("81.25 % (50.00-100.00)", "0.42 ms (0.50)", "99.69 % of the tiles", "ee" * 32):
        assert shown in report
    assert ">served<" not in comparison + report
    both = client.get("/api/reports").get_json()["reports"][0]["files"]
    assert [(file["precision"], file["size_bytes"]) for file in both] == [
        ("int8", 331_795),
        ("fp32", 1_226_298),
    ]


def test_the_mean_over_views_is_shown_with_its_cost(client: FlaskClient, reports_dir: Path) -> None:
    content = {**report_content(), "int8": int8_content()}
    write_release(reports_dir, content, spatial=report_content())
    page = client.get(PAGE).text
    rows = {
        row.partition("</th>")[0].rpartition(">")[2]: re.findall(r"<td[^>]*>(.*?)</td>", row)
        for row in page.split("<tr>")
    }
    assert rows["Accuracy, mean of 8 views"] == ["82.34 %", "80.00 %", "80.00 %"]
    assert rows["ECE of it, as served (by a temperature of its own)"] == ["1.23 % (1.11 %)"] * 3
    assert rows["One tile in all views, median"] == [
        "2.10 ms (5.0 &times;)", "10.48 ms (8.0 &times;)", "-",
    ]  # fmt: skip
    assert "validation tiles would want 0.876 instead of 0.900" in page
    older = {"views": 8, "accuracy": 0.8, "macro_f1": 0.79}
    del content["int8"]["test_time_augmentation"]
    content |= {"version": "0.9", "test_time_augmentation": older}
    write_release(reports_dir, content)
    page = client.get("/reports/baseline/0.9").text
    assert "Accuracy, mean of 8 views" in page
    assert "temperature of its own" not in page
    assert "all views, median" not in page


def test_scenes_are_told_of_each_split(client: FlaskClient, reports_dir: Path) -> None:
    spatial = report_content()
    spatial["split"]["name"] = "spatial"
    spatial["scenes"]["mosaics"]["strides"].pop()
    spatial["scenes"]["demo"].pop()
    write_release(reports_dir, report_content(), spatial=spatial)
    page = client.get(PAGE).text.partition("Maps of scenes</h2>")[2].partition("</section>")[0]
    rows = {
        row.partition("</th>")[0].rpartition(">")[2]: re.findall(r"<td[^>]*>(.*?)</td>", row)
        for row in page.split("<tr>")
    }
    assert "int8, random split" in page
    assert "int8, spatial split" in page
    assert rows["Whole tiles"] == ["98.01 %", "98.01 %"]
    assert rows["Mean, a window each 16 px"] == ["98.03 %", "-"]
    assert rows["Window between four tiles of a class"] == ["97.04 %", "97.04 %"]
    assert rows["32 px"] == ["95.05 % of 128", "1.06 % of 160"] * 2
    assert rows["16 px"] == ["95.05 % of 256", "1.06 % of 320", "-", "-"]


def test_classes_are_told_of_the_int8_file_too(client: FlaskClient, reports_dir: Path) -> None:
    content = {**report_content(), "int8": int8_content()}
    folder = write_release(reports_dir, content)
    page = client.get(PAGE).text
    assert [row[3:5] for row in rows(page, "Classes")] == [
        ["F1", "F1, int8"],
        *(["75.00 %", f1] for f1 in ("75.11 %", "75.22 %", "75.33 %")),
    ]
    for row in (["Macro precision", "81.11 %", "80.55 %"], ["Macro recall", "82.22 %", "80.00 %"]):
        assert row in rows(page, "Figures")
    answer = client.get("/api/reports/baseline/1.0").get_json()["report"]["int8"]
    assert answer["per_class"][0]["f1"] == 0.7511
    for field in ("macro_precision", "macro_recall", "per_class"):  # a report from before that
        del content["int8"][field]
    (folder / "report.json").write_text(json.dumps(content))
    page = client.get(PAGE).text
    assert ["Macro recall", "-", "80.00 %"] in rows(page, "Figures")
    assert "F1, int8" not in page
    assert rows(page, "Classes")[1][3] == "75.00 %"


def rows(page: str, title: str) -> list[list[str]]:
    """The texts of the cells of the tables under a heading, row by row."""
    part = page.split(f">{title}</h2>")[1].split("</section>", maxsplit=1)[0]
    return [
        [re.sub("<[^>]+>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
        for row in re.findall(r"<tr>.*?</tr>", part, re.DOTALL)
    ]


def test_doubt_is_shown_of_each_file(client: FlaskClient, reports_dir: Path) -> None:
    content = {**report_content(), "int8": int8_content()}
    content["int8"]["unlike_training"]["kinds"][0]["flagged"] = 0.9
    content["int8"]["prediction_sets"]["per_class"][1]["coverage"] = 0.91
    spatial = report_content()
    spatial["prediction_sets"]["coverage"] = 0.955
    spatial["unlike_training"]["flagged"]["any"] = 0.0321
    write_release(reports_dir, content, spatial=spatial)
    page = client.get(PAGE).text
    kinds = rows(page, "Pictures unlike its training")
    assert kinds[1] == ["Photos", "60", "90.00 %", "50.00 %", "75.00 %"]
    assert kinds[2][:3] == ["Thin cloud, changed tiles", "60", "21.67 %"]
    assert kinds[4][2] == "98.33 %"
    for said in ("int8: 1.12 % of the test tiles flagged", "flags 3.21 % of the test tiles"):
        assert said in page
    sets = rows(page, "Prediction sets")
    assert sets[0] == ["Class", "int8", "fp32", "fp32, spatial split"]
    assert sets[1] == ["All", "99.17 %", "99.17 %", "95.50 %"]
    assert sets[2] == ["Classes named, mean", "1.04", "1.04", "1.04"]
    assert sets[4] == ["River", "91.00 %", "97.23 %", "97.23 %"]
    reviewed = rows(page, "Reviewed labels")
    assert reviewed[1] == ["On the labels as given", "81.25 %", "75.00 %"]
    assert reviewed[2] == ["On reviewed labels, 12 tiles", "91.67 %", "83.33 %"]
    assert reviewed[4] == ["River_1.jpg", "River", "wrong", "Annual crop", "bare ground"]
    assert reviewed[5] == ["River_5.jpg", "River", "right", "-", "bare ground"]


def test_only_the_file_that_can_judge_is_shown(client: FlaskClient, reports_dir: Path) -> None:
    content = {**report_content(), "int8": int8_content()}
    for field in ("unlike_training", "prediction_sets"):
        del content[field]
    write_release(reports_dir, content)
    page = client.get(PAGE).text
    assert "int8: 1.12 % of the test tiles flagged" in page
    assert "fp32: 1.12 %" not in page
    assert rows(page, "Prediction sets")[0] == ["Class", "int8"]


def test_the_card_is_shown_and_its_markup_is_not_obeyed(client: FlaskClient, release: Path) -> None:
    page = client.get(PAGE).text
    assert "<h3>baseline 1.0</h3>" in page
    assert "<code>abc&lt;b&gt;</code>" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>" not in page


def test_nothing_is_inline(client: FlaskClient, release: Path) -> None:
    for address in ("/reports", PAGE, f"{PAGE}/mistakes/River/AnnualCrop"):
        page = client.get(address).text
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script>", page), address


def test_cells_lead_to_their_tiles(client: FlaskClient, release: Path) -> None:
    page = client.get(PAGE).text
    cells = re.findall(r'<td class="wrong[^>]*><a href="([^"]+)"', page)
    assert cells == [
        f"{PAGE}/mistakes/AnnualCrop/River",
        f"{PAGE}/mistakes/River/AnnualCrop",
    ]
    tiles = client.get(cells[1]).text
    assert re.findall(r'class="file">([^<]+)', tiles) == ["River_1.jpg", "River_2.jpg"]
    assert "70.0 %" in tiles
    assert "<img" not in tiles.split("<main")[1]
    assert "PORTAL_TILES_DIR" in tiles


def test_an_empty_cell_and_no_cell(client: FlaskClient, release: Path) -> None:
    assert "no such mistake" in client.get(f"{PAGE}/mistakes/SeaLake/River").text
    for cell in ("River/River", "River/Moon", "Moon/River"):
        assert client.get(f"{PAGE}/mistakes/{cell}").status_code == 404


def test_without_tiles_there_are_no_images(client: FlaskClient, release: Path) -> None:
    assert client.get(f"{PAGE}/tiles/River_1.jpg").status_code == 404


@pytest.mark.usefixtures("release")
class TestWithTiles:
    @pytest.fixture
    def settings(self, reports_dir: Path, tmp_path: Path, tile: bytes) -> Settings:
        folder = tmp_path / "tiles" / "2750" / "River"
        folder.mkdir(parents=True)
        for name in ("River_1.jpg", "River_5.jpg", "River_6.jpg"):
            (folder / name).write_bytes(tile)
        (folder / "River_2.jpg").write_text("<script>")
        return Settings(reports_dir=reports_dir, tiles_dir=tmp_path / "tiles")

    def test_a_named_tile_is_shown(self, client: FlaskClient, tile: bytes) -> None:
        page = client.get(f"{PAGE}/mistakes/River/AnnualCrop").text
        assert f'src="{PAGE}/tiles/River_1.jpg"' in page
        response = client.get(f"{PAGE}/tiles/River_1.jpg")
        assert (response.status_code, response.mimetype) == (200, "image/jpeg")
        assert response.data == tile

    def test_a_reviewed_tile_is_shown(self, client: FlaskClient, tile: bytes) -> None:
        assert f'href="{PAGE}/tiles/River_5.jpg"' in client.get(PAGE).text
        assert client.get(f"{PAGE}/tiles/River_5.jpg").data == tile

    @pytest.mark.parametrize(
        "file",
        [
            "River_6.jpg",  # there, but no mistake and not reviewed
            "AnnualCrop_7.jpg",  # a mistake, but not there
            "River_2.jpg",  # both, but no JPEG
            "..%2FRiver%2FRiver_1.jpg",
        ],
    )
    def test_no_other_file_is_given(self, client: FlaskClient, file: str) -> None:
        assert client.get(f"{PAGE}/tiles/{file}").status_code == 404


def test_the_same_as_json(client: FlaskClient, release: Path) -> None:
    (line,) = client.get("/api/reports").get_json()["reports"]
    assert line == {
        "model": "baseline",
        "version": "1.0",
        "created": "2026-01-02T03:04:05+00:00",
        "split": "random",
        "test_tiles": 12,
        "accuracy": {"value": 0.75, "low": 0.5, "high": 1.0},
        "macro_f1": {"value": 0.798, "low": 0.48, "high": 1.0},
        "ece": 0.0154,
        "size_bytes": 1_226_298,
        "latency_ms": 1.31,
        "spatial_accuracy": {"value": 0.75, "low": 0.5, "high": 1.0},
        "files": [
            {
                "precision": "fp32",
                "served": False,
                "accuracy": {"value": 0.75, "low": 0.5, "high": 1.0},
                "macro_f1": {"value": 0.798, "low": 0.48, "high": 1.0},
                "ece": 0.0154,
                "size_bytes": 1_226_298,
                "latency_ms": 1.31,
            }
        ],
    }
    whole = json.loads(client.get("/api/reports/baseline/1.0").data)
    assert whole["report"]["confusion"] == [[4, 1, 0], [2, 3, 0], [0, 0, 2]]
    assert whole["report"]["mistakes"][0]["file"] == "AnnualCrop_7.jpg"
    assert whole["spatial"]["split"]["name"] == "spatial"
    assert whole["card"] == CARD


def test_colours_are_those_of_the_share_in_the_row() -> None:
    rows = dict(heat_map(parse_report(report_content())))
    assert [cell.count for cell in rows["River"]] == [2, 3, 0]
    assert [cell.share for cell in rows["River"]] == [0.4, 0.6, 0]
    levels = [cell.level for cell in rows["River"]]
    assert levels[1] > levels[0] > levels[2] == 0
    assert rows["SeaLake"][2].level == 8


def test_a_figure_has_its_interval() -> None:
    assert figure(Figure(0.98765, 0.98, 0.9912)) == "98.77 % (98.00-99.12)"


def places(content: Any, way: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where every value of a JSON document stands."""
    if way:
        yield way
    if isinstance(content, dict | list):
        steps = content.items() if isinstance(content, dict) else enumerate(content)
        for step, part in steps:
            yield from places(part, (*way, step))


NASTY: tuple[Any, ...] = (None, True, -1, 0, 1e308, 10**400, 2**53, "", "\ud800<b>", [], {})


@pytest.mark.parametrize("value", NASTY, ids=lambda value: ascii(value)[:12])
def test_no_report_breaks_a_page(app: Flask, reports_dir: Path, value: Any) -> None:
    folder = write_release(reports_dir, report_content(), card=CARD)
    client = app.test_client()
    readable = 0
    for way in places(report_content()):
        content: Any = report_content()
        part = content
        for step in way[:-1]:
            part = part[step]
        part[way[-1]] = value
        (folder / "report.json.new").write_text(json.dumps(content))
        (folder / "report.json.new").replace(folder / "report.json")
        app.extensions["portal"].reports = Reports(reports_dir)  # reads it whatever its stamp is
        for address in ("/reports", PAGE, "/api/reports", f"/api{PAGE}"):
            status = client.get(address).status_code
            assert status in (200, 404), (way, address)
            readable += status == 200 and address == PAGE
    assert readable  # fields that are not used may hold anything


def test_a_report_names_its_teacher(client: FlaskClient, release: Path) -> None:
    assert "from the answers of big-1.0" in client.get("/reports/baseline/1.0").text

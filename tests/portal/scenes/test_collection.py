"""The files beside the maps of a run."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from portal.scenes.collection import Outcome, find_scenes, stac_collection, write_run


def item(bbox: list[float] | None, taken: str) -> dict[str, Any]:
    found: dict[str, Any] = {"id": "x", "properties": {"datetime": taken}, "links": []}
    return found | ({"bbox": bbox} if bbox else {})


def add_map(results: Path, folder: str, hectares: float | None, content: dict[str, Any]) -> None:
    (results / folder).mkdir(parents=True)
    areas = [
        {"class_name": "Forest", "hectares": hectares, "share": 0.75, "color": "#005500"},
        {"class_name": "water", "hectares": hectares, "share": 0.25, "color": "#0000ff"},
    ]
    (results / folder / "areas.json").write_text(json.dumps(areas))
    (results / folder / "item.json").write_text(json.dumps(content))


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_scenes_are_found_by_their_names(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    for name in ("b.TIF", "a/b.jp2", ".hidden/c.tif", "maps/d.tif", "notes.txt", "c.tif.aux.xml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    scenes, others = find_scenes(tmp_path, maps)
    assert list(scenes) == ["a/b.jp2", "b.TIF"]
    assert scenes["a/b.jp2"] == tmp_path / "a" / "b.jp2"
    assert others == ["c.tif.aux.xml", "notes.txt"]
    assert find_scenes(tmp_path / "b.TIF", maps) == ({"b.TIF": tmp_path / "b.TIF"}, [])


def test_a_run_is_told_in_tables(tmp_path: Path) -> None:
    add_map(tmp_path, "f1", 12.5, item([1, 2, 3, 4], "2021-05-01T00:00:00Z"))
    add_map(tmp_path, "f2", None, item(None, "2022-05-01T00:00:00Z"))
    outcomes = [
        Outcome("z.tif", reason='It ends at row 7, "column" 8.'),
        Outcome("b.tif", "f2"),
        Outcome("a.tif", "f1", kept=True),
    ]
    write_run(tmp_path, outcomes)
    assert rows(tmp_path / "scenes.csv") == [
        ["scene", "folder", "Forest_ha", "Forest_share", "water_ha", "water_share"],
        ["a.tif", "f1", "12.5", "0.75", "12.5", "0.25"],
        ["b.tif", "f2", "", "0.75", "", "0.25"],
    ]
    assert rows(tmp_path / "failed.csv") == [
        ["scene", "reason"],
        ["z.tif", 'It ends at row 7, "column" 8.'],
    ]
    write_run(tmp_path, outcomes[1:])
    assert rows(tmp_path / "failed.csv") == [["scene", "reason"]]
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_items_and_collection_name_each_other(tmp_path: Path) -> None:
    add_map(tmp_path, "f1", 1, item([-4.1, 52.3, -3.9, 52.5], "2021-05-01T00:00:00Z"))
    add_map(tmp_path, "f2", 1, item([-4.0, 52.4, -3.8, 52.6], "2020-05-01T00:00:00Z"))
    for _ in range(2):
        write_run(tmp_path, [Outcome("a.tif", "f1"), Outcome("b.tif", "f2"), Outcome("c", "f2")])
        collection = json.loads((tmp_path / "collection.json").read_text())
        assert collection["extent"]["spatial"]["bbox"] == [[-4.1, 52.3, -3.8, 52.6]]
        assert collection["extent"]["temporal"]["interval"] == [
            ["2020-05-01T00:00:00Z", "2021-05-01T00:00:00Z"]
        ]
        links = [link["href"] for link in collection["links"] if link["rel"] == "item"]
        assert links == ["./f1/item.json", "./f2/item.json"]
        for href in links:
            content = json.loads((tmp_path / href).read_text())
            assert content["collection"] == collection["id"]
            found = {link["rel"]: link["href"] for link in content["links"]}
            assert (tmp_path / href).parent / found["collection"] == (
                tmp_path / href
            ).parent / "../collection.json"
            assert found.keys() == {"root", "parent", "collection"}


@pytest.mark.parametrize("items", [{}, {"f": item(None, "2021-05-01T00:00:00Z")}])
def test_a_collection_without_places_is_one(items: dict[str, Any]) -> None:
    collection = stac_collection(items)
    assert collection["type"] == "Collection"
    assert collection["extent"]["spatial"]["bbox"] == [[-180, -90, 180, 90]]
    assert len(collection["extent"]["temporal"]["interval"][0]) == 2

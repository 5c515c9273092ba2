"""Many scenes and their maps: the files of a folder, tables and STAC collection of a run."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUFFIXES = frozenset((".tif", ".tiff", ".jp2", ".png", ".jpg", ".jpeg"))
EVERYWHERE = [-180.0, -90.0, 180.0, 90.0]  # of a collection without a located map: it must have one


@dataclass(frozen=True)
class Outcome:
    """What became of one scene.

    Attributes:
        scene: its path below the folder of all scenes.
        folder: name of the folder of its map; "" where there is none.
        reason: a sentence why there is none.
        kept: the map was there before.
    """

    scene: str
    folder: str = ""
    reason: str = ""
    kept: bool = False


def find_scenes(source: Path, results: Path) -> tuple[dict[str, Path], list[str]]:
    """The scenes in a folder, with all below, or the one file that ``source`` is.

    Args:
        results: left out where it lies in ``source``.

    Returns:
        Absolute paths by their path below ``source``, and the names of other files there, both
        sorted. Hidden files and folders are left out.
    """
    source, results = source.resolve(), results.resolve()
    if source.is_file():
        return {source.name: source}, []
    scenes: dict[str, Path] = {}
    others = []
    for path in sorted(source.rglob("*")):
        below = path.relative_to(source)
        hidden = any(part.startswith(".") for part in below.parts)
        if hidden or path.is_relative_to(results) or not path.is_file():
            continue
        if path.suffix.lower() in SUFFIXES:
            scenes[below.as_posix()] = path
        else:
            others.append(below.as_posix())
    return scenes, others


def write_run(results: Path, outcomes: Iterable[Outcome]) -> None:
    """Write scenes.csv, failed.csv and collection.json about a run, each as a whole.

    Args:
        results: with the folders of the maps; their items are made part of the collection.
    """
    outcomes = sorted(outcomes, key=lambda outcome: outcome.scene)
    mapped = [outcome for outcome in outcomes if outcome.folder]
    failed = [outcome for outcome in outcomes if not outcome.folder]
    _write(results / "scenes.csv", _areas(results, mapped))
    rows = [(outcome.scene, outcome.reason) for outcome in failed]
    _write(results / "failed.csv", _table(("scene", "reason"), rows))
    folders = sorted({outcome.folder for outcome in mapped})
    items = {folder: _read(results / folder / "item.json") for folder in folders}
    for folder, item in items.items():
        _join(results / folder / "item.json", item)
    _write(results / "collection.json", _json(stac_collection(items)))


def stac_collection(items: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The collection (STAC 1.1) of the items of maps, by the names of their folders."""
    boxes = [item["bbox"] for item in items.values() if item.get("bbox")]
    times = [time for item in items.values() if (time := item["properties"]["datetime"])]
    box = EVERYWHERE
    if boxes:
        west, south, east, north = zip(*boxes, strict=True)
        box = [min(west), min(south), max(east), max(north)]
    return {
        "type": "Collection",
        "stac_version": "1.1.0",
        "id": "land-use-maps",
        "title": "Land-use maps",
        "description": "Land use in Sentinel-2 scenes, by a model that learned from EuroSAT.",
        "license": "other",
        "extent": {
            "spatial": {"bbox": [box]},
            "temporal": {"interval": [[min(times, default=None), max(times, default=None)]]},
        },
        "links": [
            {"rel": "root", "href": "./collection.json", "type": "application/json"},
            *(
                {"rel": "item", "href": f"./{folder}/item.json", "type": "application/geo+json"}
                for folder in items
            ),
        ],
    }


def _areas(results: Path, mapped: Sequence[Outcome]) -> str:
    """A row for each scene, with hectares and share of each class; no hectares if not located."""
    rows: list[dict[str, Any]] = []
    columns = {"scene": None, "folder": None}  # in their order
    for outcome in mapped:
        row: dict[str, Any] = {"scene": outcome.scene, "folder": outcome.folder}
        for area in _read(results / outcome.folder / "areas.json"):
            row[f"{area['class_name']}_ha"] = area["hectares"]
            row[f"{area['class_name']}_share"] = area["share"]
        rows.append(row)
        columns |= dict.fromkeys(row)
    return _table(list(columns), [[row.get(column) for column in columns] for row in rows])


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def _join(path: Path, item: dict[str, Any]) -> None:
    """Say in a map's item which collection it belongs to."""
    whole = {"href": "../collection.json", "type": "application/json"}
    links = [{"rel": rel, **whole} for rel in ("root", "parent", "collection")]
    joined = item | {"collection": "land-use-maps", "links": links}
    if joined != item:
        _write(path, _json(joined))


def _read(path: Path) -> Any:
    return json.loads(path.read_bytes())


def _json(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n"


def _write(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)

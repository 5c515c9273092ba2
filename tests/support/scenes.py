"""Scenes without a raster: what a look at them finds is made up, as is what a worker makes."""

import base64
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import update

from portal.errors import UnsupportedScene
from portal.scenes.manager import PREVIEWS
from portal.scenes.records import SceneRecords, SceneRow, new_scene
from portal.scenes.store import Store
from portal.scenes.terms import Geo, Inspection, Options
from portal.scenes.watch import Mapped
from portal.storage.database import Database

SCENE = b"SCENE" + bytes(1000)
NUMBER = "0123456789abcdef0123456789abcdef"
AREAS: list[dict[str, Any]] = [
    {"class_name": "River", "hectares": 40.96, "share": 0.25, "color": "#3366cc"},
    {"class_name": "SeaLake", "hectares": None, "share": 0.75, "color": "#000099"},
]


def inspection(**changes: Any) -> Inspection:
    fields: dict[str, Any] = {
        "found": {"format": "GTiff", "width": 130, "height": 70, "crs": "EPSG:32630"},
        "assumed": {"look": "l2a"},
        "warnings": {"resampled": "The pixels had 20 m."},
        "geo": Geo(130, 70, "WKT", (500000.0, 5800000.0)),
        "bands": (3, 2, 1),
        "scale": "10000",
        "look": "l2a",
        "slope": (1.0, 1.0, 1.0),
        "intercept": None,
        "stride": 64,
        "windows": 6,
    }
    return Inspection(**fields | changes)


class Inspector:
    """Finds something in whatever begins as ``SCENE``; ``asked`` collects the options."""

    def __init__(self) -> None:
        self.asked: list[Options] = []

    def __call__(self, path: Path, options: Options, *, previews: Path | None = None) -> Inspection:
        self.asked.append(options)
        if path.read_bytes()[:5] != SCENE[:5]:
            raise UnsupportedScene("This is no raster that is read.")
        if previews is not None:
            for name in PREVIEWS:
                (previews / name).write_bytes(f"{name} {options.look}".encode())
        look = options.look if options.look != "auto" else "l2a"
        return inspection(stride=options.stride or 64, look=look)


def added(
    records: SceneRecords, number: str = NUMBER, key: str = "somebody", *, queued: bool = True
) -> SceneRow:
    """A scene in the database."""
    options = Options("baseline", "1.0")
    records.add(new_scene(number, key, "a.tif", 10, "ab" * 32, options, inspection()))
    if queued:
        records.enqueue(number, options, inspection(), 100)
    return records.get(number)


def stored(records: SceneRecords, store: Store, **given: Any) -> SceneRow:
    """A scene in the database and in the folder."""
    with store.upload(len(SCENE)) as upload:
        upload.write(SCENE)
        upload.close()
        row = added(records, upload.number, **given)
        upload.publish()
    return row


def age(database: Database, row: SceneRow, by: timedelta, *columns: str) -> None:
    """Let times of a scene be longer ago."""
    with database.transaction() as session:
        times = {name: getattr(row, name) - by for name in columns}
        session.execute(update(SceneRow).where(SceneRow.id == row.id).values(**times))


def write_map(out: Path, classes: bytes = bytes([0, 0, 1, 1, 255, 0]), **changes: Any) -> Mapped:
    """The files of a map of 2 x 3 cells."""
    out.mkdir(exist_ok=True)
    cells = {
        "labels": ["River", "SeaLake"],
        "rows": 2,
        "columns": 3,
        "stride": 64,
        "width": 130,
        "height": 70,
        "located": True,
        "classes": base64.b64encode(classes).decode(),
    }
    (out / "cells.json").write_text(json.dumps(cells | changes))
    (out / "class.tif").write_bytes(b"II*\0")
    return Mapped("1.0", "cd" * 32, AREAS)

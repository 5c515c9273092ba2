"""The files of a map: rasters, polygons, tables, pictures and metadata."""

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from portal.scenes.terms import Geo, Inspection, Provenance

if TYPE_CHECKING:  # the portal's web process asks for OUTPUTS, and does without numpy
    import numpy as np

    from portal.scenes.scene import CellMap

_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
# By name: media type, and what it is.
OUTPUTS = {
    "map.png": ("image/png", "The map with legend and areas, to print"),
    "class.tif": (_COG, "The class of each cell, a COG with a palette; 255: no class"),
    "class.tif.aux.xml": ("application/xml", "The classes' names for GDAL, beside class.tif"),
    "class.qml": ("application/xml", "Names and colours for QGIS, beside class.tif"),
    "confidence.tif": (_COG, "The probability of each cell's class, a COG of float32"),
    "probabilities.tif": (_COG, "The probability of every class, a COG with a band for each"),
    "classes.geojson": (
        "application/geo+json",
        "A feature for each class, in longitude and latitude, with area and mean confidence",
    ),
    "cells.csv": ("text/csv", "A line for each cell: place, class, confidence and state"),
    "areas.json": ("application/json", "Hectares and share of each class, and of water"),
    "item.json": ("application/geo+json", "How the map came about, a STAC item"),
    "scene.png": ("image/png", "The scene as the model sees it"),
    "cells.json": ("application/json", "What the page draws the map from"),
}
LOCATED = frozenset({"classes.geojson"})  # made only where it is known where a scene lies


def write_outputs(
    folder: Path,
    cells: "CellMap",
    geo: Geo,
    inspection: Inspection,
    provenance: Provenance,
    preview: "np.ndarray",
) -> None:
    """Write all files of a map: those of ``OUTPUTS``, without a CRS all but ``LOCATED``.

    Args:
        folder: is there; files of these names in it are replaced.
        geo: of the scene as it was mapped.
        preview: the whole scene in EuroSAT's look, uint8 (h, w, 3), of any size.

    Raises:
        ValueError: the map has more than 255 classes.
        OSError: there is no room.
    """
    from portal.scenes import cogs, item, picture, polygons, tables  # noqa: PLC0415, load GDAL

    if len(cells.labels) > cogs.NO_CLASS:
        raise ValueError(
            f"the map has {len(cells.labels)} classes; its raster has room for {cogs.NO_CLASS}"
        )
    there = {name: of for name, of in OUTPUTS.items() if geo.crs is not None or name not in LOCATED}
    assets = {name: of for name, of in there.items() if name != "item.json"}
    listed = tables.areas_listed(cells, geo)
    makers: dict[str, Callable[[], Iterable[bytes]]] = {
        "map.png": lambda: [picture.draw_map(cells, geo, provenance, preview, listed)],
        "class.tif": lambda: [cogs.class_cog(cells, geo)],
        "class.tif.aux.xml": lambda: [cogs.category_names(cells.labels)],
        "class.qml": lambda: [cogs.qgis_style(cells.labels)],
        "confidence.tif": lambda: [cogs.confidence_cog(cells, geo)],
        "probabilities.tif": lambda: [cogs.probability_cog(cells, geo)],
        "classes.geojson": lambda: _collection(polygons.class_polygons(cells, geo)),
        "cells.csv": lambda: tables.cell_table(cells, geo),
        "areas.json": lambda: [_json(listed)],
        "item.json": lambda: [_json(item.stac_item(cells, geo, inspection, provenance, assets))],
        "scene.png": lambda: [picture.png(preview)],
        "cells.json": lambda: [_json(tables.cell_arrays(cells, geo))],
    }

    def write(name: str) -> None:
        with (folder / name).open("wb") as file:
            file.writelines(makers[name]())

    with ThreadPoolExecutor(2) as pool:  # all at once would fill 100 MB with a large map
        list(pool.map(write, there))


def _json(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def _collection(features: Iterable[Any]) -> Iterator[bytes]:
    """A GeoJSON feature collection, in parts."""
    yield b'{"type":"FeatureCollection","features":['
    for number, feature in enumerate(features):
        yield (b"," if number else b"") + _json(feature)
    yield b"]}"

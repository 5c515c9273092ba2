"""A map as polygons in degrees, one feature for each class."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from rasterio.features import shapes

from portal.scenes.grid import areas
from portal.scenes.palette import palette
from portal.scenes.places import Ring, geometry
from portal.scenes.scene import CellMap, Geo


def class_polygons(cells: CellMap, geo: Geo) -> Iterator[dict[str, Any]]:
    """GeoJSON features of the classes that occur, with area, mean confidence and colour.

    One after the other: a large map has a million corners.
    """
    hectares = {area.class_name: area.hectares for area in areas(cells)}
    colors = palette(cells.labels)
    classes, confidence = cells.classes, cells.confidence
    for number, label in enumerate(cells.labels):
        here = classes == number
        if not here.any():
            continue
        polygons = (
            [_within(ring, cells.stride, geo) for ring in shape["coordinates"]]
            for shape, _ in shapes(here.astype(np.uint8), mask=here, connectivity=4)
        )
        mean = np.average(confidence[here], weights=cells.valid[here])
        yield {
            "type": "Feature",
            "properties": {
                "class_name": label,
                "area_ha": round(hectares[label], 2),
                "mean_confidence": round(float(mean), 4),
                "color": colors[label],
            },
            "geometry": geometry(geo, polygons),
        }


def _within(ring: list[tuple[float, float]], stride: int, geo: Geo) -> Ring:
    """From cells to px; the last cells reach beyond the scene."""
    width, height = geo.width, geo.height
    return [(min(int(x) * stride, width), min(int(y) * stride, height)) for x, y in ring]

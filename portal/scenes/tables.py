"""A map in numbers: areas, a table of its cells, and its cells as the page takes them."""

import base64
import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from portal.scenes.grid import areas
from portal.scenes.palette import WATER, palette
from portal.scenes.places import lon_lat
from portal.scenes.scene import GSD, CellMap, Geo, State

STATES = {state: state.name.lower().replace("_", " ") for state in State}


def areas_listed(cells: CellMap, geo: Geo) -> list[dict[str, Any]]:
    """Class name, hectares (None without a CRS), share and colour of each, for API and page."""
    colors = palette(cells.labels)
    return [
        {
            "class_name": area.class_name,
            "hectares": None if geo.crs is None else round(area.hectares, 2),
            "share": round(area.share, 6),
            "color": colors.get(area.class_name, WATER),
        }
        for area in areas(cells)
    ]


def cell_table(cells: CellMap, geo: Geo) -> Iterator[bytes]:
    """CSV, a line for each cell, in parts; it lies at the middle of what of it is on the scene."""
    located = geo.crs is not None
    place = ["lon", "lat"] if located else []
    yield _lines([["row", "col", *place, "class", "confidence", "state"]])
    x = _middles(cells.state.shape[1], cells.stride, geo.width)
    y = _middles(cells.state.shape[0], cells.stride, geo.height)
    names = {**dict(enumerate(cells.labels)), 255: ""}
    classes, confidence = cells.classes, cells.confidence
    for row, states in enumerate(cells.state):
        table: list[Iterable[Any]] = [[row] * len(x), range(len(x))]
        if located:
            degrees = lon_lat(geo, x, np.full(len(x), y[row]))
            table += [[f"{one:.6f}" for one in found] for found in degrees]
        found = classes[row].tolist()
        sure = zip(confidence[row].tolist(), found, strict=True)
        table.append([names[number] for number in found])
        table.append(["" if number == 255 else f"{share:.4f}" for share, number in sure])
        table.append([STATES[State(state)] for state in states.tolist()])
        yield _lines(zip(*table, strict=True))


def cell_arrays(cells: CellMap, geo: Geo) -> dict[str, Any]:
    """Everything of each cell, arrays as base64 of uint8, row by row; 0..255 for 0..1."""
    rows, columns = cells.state.shape
    return {
        "labels": list(cells.labels),
        "colors": palette(cells.labels),
        "rows": rows,
        "columns": columns,
        "stride": cells.stride,
        "width": geo.width,
        "height": geo.height,
        "gsd": GSD,
        "located": geo.crs is not None,
        "states": list(STATES.values()),
        "classes": _base64(cells.classes),
        "confidence": _base64(_bytes(cells.confidence)),
        "state": _base64(cells.state),
        "probabilities": _base64(_bytes(cells.probabilities)),
    }


def _lines(rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _middles(count: int, stride: int, side: int) -> np.ndarray:
    """In px, float64 (N,), of rows or columns of which the last may reach beyond the scene."""
    edges = np.minimum(np.arange(count + 1) * stride, side)
    middles: np.ndarray = (edges[:-1] + edges[1:]) / 2
    return middles


def _bytes(shares: np.ndarray) -> np.ndarray:
    return (shares * 255).round().astype(np.uint8)


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode()

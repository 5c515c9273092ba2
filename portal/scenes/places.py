"""Where the cells of a map lie on the ground."""

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from rasterio import Affine
from rasterio.warp import transform, transform_geom

from portal.scenes.scene import GSD, Geo

LON_LAT = "EPSG:4326"
_DECIMALS = 7  # of a degree: a centimetre
# A line that is straight in metres is bent in degrees: by less than a metre on this many px (60
# degrees from the equator). It is a multiple of every stride, so that neighbours bend alike.
_STRAIGHT = 512

Ring = list[tuple[int, int]]


def cell_transform(geo: Geo, stride: int) -> Affine:
    """From columns and rows of cells to the scene's CRS, or without one to its px.

    In px y falls from 0, as QGIS lays a scene without a place.
    """
    side = stride * (1.0 if geo.crs is None else GSD)
    return Affine(side, 0.0, geo.origin[0], 0.0, -side, geo.origin[1])


def lon_lat(geo: Geo, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Degrees east and north of points, float64 (N,), given in px from the scene's first corner."""
    east = geo.origin[0] + x * GSD
    north = geo.origin[1] - y * GSD
    lon, lat = transform(geo.crs, LON_LAT, east.tolist(), north.tolist())
    return np.array(lon), np.array(lat)


def geometry(geo: Geo, polygons: Iterable[list[Ring]]) -> Mapping[str, Any]:
    """A GeoJSON geometry in degrees, cut where it crosses the 180th meridian (RFC 7946).

    Args:
        polygons: the rings of each, the outer one first, closed, along rows and columns; points
            (x, y) in px from the scene's first corner.
    """
    on_ground = [
        [_on_ground(geo, ring, hole=n > 0) for n, ring in enumerate(rings)] for rings in polygons
    ]
    found: Mapping[str, Any] = transform_geom(
        geo.crs,
        LON_LAT,
        {"type": "MultiPolygon", "coordinates": on_ground},
        precision=_DECIMALS,
    )
    return found


def box(geometry: Mapping[str, Any]) -> list[float]:
    """West, south, east and north of a MultiPolygon; west > east: it crosses the 180th meridian."""
    parts = [np.array(rings[0]) for rings in geometry["coordinates"]]
    west = [float(part[:, 0].min()) for part in parts]
    east = [float(part[:, 0].max()) for part in parts]
    if max(east) == 180 and min(west) == -180:
        west = [edge for edge in west if edge >= 0]
        east = [edge for edge in east if edge < 0]
    points = np.concatenate(parts)
    return [min(west), float(points[:, 1].min()), max(east), float(points[:, 1].max())]


def _on_ground(geo: Geo, ring: Ring, *, hole: bool) -> list[tuple[float, float]]:
    """Its points in the CRS; anticlockwise with north up, holes clockwise (RFC 7946)."""
    doubled = sum([x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise(ring)])
    clockwise = doubled > 0  # y points to the south
    if clockwise != hole:
        ring = ring[::-1]
    x, y = geo.origin
    return [(x + GSD * column, y - GSD * row) for column, row in _bent(ring)]


def _bent(ring: Ring) -> Ring:
    """With points between the corners, where long sides must bend."""
    points = [ring[0]]
    for (x0, y0), (x1, y1) in pairwise(ring):
        if x0 // _STRAIGHT != x1 // _STRAIGHT:
            points += [(x, y0) for x in _between(x0, x1)]
        elif y0 // _STRAIGHT != y1 // _STRAIGHT:
            points += [(x0, y) for y in _between(y0, y1)]
        points.append((x1, y1))
    return points


def _between(first: int, last: int) -> Iterable[int]:
    inner = range(min(first, last) // _STRAIGHT + 1, -(-max(first, last) // _STRAIGHT))
    steps = [step * _STRAIGHT for step in inner]
    return steps if first < last else reversed(steps)

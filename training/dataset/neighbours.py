"""EuroSAT's tiles that lie side by side: pieces of scenes of which the truth is known.

They lie on a grid of 650 m, 64 px and one that is left out, so that many have their real neighbours
in the dataset. Where they lie is told by a file beside the tiles (``find_places``).
"""

import csv
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rasterio.warp import transform

from training.dataset.eurosat import DEFAULT_DIR, BadData, Tiles

PLACES = "eurosat_latlon_spatial.csv"
PITCH, TOLERANCE = 650.0, 2.5  # m

Quad = tuple[str, str, str, str]  # upper left, upper right, lower left, lower right
Group = dict[tuple[int, int], str]  # from row and column in the grid, both from 0, to a tile


@dataclass(frozen=True)
class Zone:
    """Tiles of one UTM zone.

    Attributes:
        names: of the tiles.
        x, y: metres, float64 (N,), of their centres.
    """

    names: list[str]
    x: np.ndarray
    y: np.ndarray

    def at(self, tile: int, down: int, right: int) -> int | None:
        """The tile so many steps of the grid away; None: there is none."""
        apart_x = abs(self.x - self.x[tile] - right * PITCH)
        apart_y = abs(self.y - self.y[tile] + down * PITCH)
        found = np.flatnonzero((apart_x <= TOLERANCE) & (apart_y <= TOLERANCE))
        return int(found[0]) if len(found) else None


def find_places(tiles: Tiles) -> Path:
    """The file that tells where tiles lie: beside them, or in ``splits``.

    Raises:
        BadData: it is missing.
    """
    home = tiles.location.parent
    folders = (tiles.location, home, home / "splits", home.parent / "splits", DEFAULT_DIR)
    for folder in folders:
        if (path := folder / PLACES).is_file():
            return path
    raise BadData(
        f"{PLACES}, which tells where tiles lie, is in none of {', '.join(map(str, folders))}; "
        "it comes with TorchGeo's EuroSATSpatial: put it beside the tiles"
    )


def read_zones(path: Path) -> list[Zone]:
    """All tiles of the file."""
    rows: dict[int, list[tuple[str, float, float]]] = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            longitude, latitude = float(row["longitude"]), float(row["latitude"])
            zone = int((longitude + 180) // 6) + 1
            rows[zone].append((f"{row['name']}.jpg", longitude, latitude))
    zones = []
    for number, found in rows.items():
        names, *degrees = zip(*found, strict=True)
        x, y = map(np.array, transform("EPSG:4326", f"EPSG:{32600 + number}", *degrees))
        zones.append(Zone(list(names), x, y))
    return zones


def quads(zones: list[Zone]) -> list[Quad]:
    """All four tiles that meet in a corner."""
    found = []
    for zone in zones:
        for tile in range(len(zone.names)):
            places = [zone.at(tile, down, right) for down in (0, 1) for right in (0, 1)]
            if None not in places:
                found.append(tuple(zone.names[place] for place in places if place is not None))
    return found  # type: ignore[return-value]


def groups(zones: list[Zone]) -> list[Group]:
    """All tiles, with those that hang together by their sides in one group."""
    found = []
    for zone in zones:
        left = set(range(len(zone.names)))
        while left:
            first = min(left)
            left.remove(first)
            places, todo = {(0, 0): first}, [(0, 0)]
            while todo:
                row, column = todo.pop()
                for down, right in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                    near = zone.at(places[row, column], down, right)
                    if near in left:
                        left.remove(near)
                        places[row + down, column + right] = near
                        todo.append((row + down, column + right))
            top, start = (min(ends) for ends in zip(*places, strict=True))
            found.append(
                {(row - top, col - start): zone.names[one] for (row, col), one in places.items()}
            )
    return found

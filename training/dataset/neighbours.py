"""EuroSAT's tiles that lie side by side, and windows between them.

They lie on a grid of 650 m, 64 px and one that is left out, so that many have their real neighbours
in the dataset. Where they lie is told by a list of places beside the tiles; what a window between
two tiles shows is real but for that one pixel, and so are scenes that are made of them.
"""

import csv
from collections import defaultdict
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from training.config import BadConfig
from training.dataset.eurosat import TILE_SIZE, BadData, Tiles, label_of
from training.dataset.splits import find_beside

PLACES = "eurosat_latlon_spatial.csv"
PITCH, TOLERANCE = 650.0, 2.5  # m
STEPS = ((-1, 0), (1, 0), (0, -1), (0, 1))  # up, down, left, right

# Of the WGS 84 ellipsoid: the larger radius, m, and the third flattening.
_RADIUS, _N = 6_378_137.0, 1 / (2 * 298.257223563 - 1)
_SERIES = (
    _N / 2 - 2 / 3 * _N**2 + 5 / 16 * _N**3,
    13 / 48 * _N**2 - 3 / 5 * _N**3,
    61 / 240 * _N**3,
)


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


def read_zones(path: Path, wanted: Container[str] | None = None) -> list[Zone]:
    """The tiles of a list of places, all of them or the wanted ones.

    Args:
        path: a CSV file with the columns ``name`` (without ``.jpg``), ``longitude`` and
            ``latitude``, in degrees.

    Raises:
        BadData: it is no such file.
    """
    rows: dict[int, list[tuple[str, float, float]]] = defaultdict(list)
    try:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                name = f"{row['name']}.jpg"
                longitude, latitude = float(row["longitude"]), float(row["latitude"])
                if wanted is None or name in wanted:
                    rows[int((longitude + 180) // 6) + 1].append((name, longitude, latitude))
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError) as error:
        raise BadData(
            f"{path} is no list of places: expected the columns name, longitude and latitude (in "
            f"degrees), found {error!r}"
        ) from error
    zones = []
    for number, found in rows.items():
        names, *degrees = zip(*found, strict=True)
        zones.append(Zone(list(names), *project(number, *map(np.array, degrees))))
    return zones


def project(
    zone: int, longitude: np.ndarray, latitude: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Degrees to metres in a northern UTM zone, by Krüger's series; to the millimetre within it."""
    east, north = np.radians(longitude - (6 * zone - 183)), np.radians(latitude)
    bent = 2 * _N**0.5 / (1 + _N)
    t = np.sinh(np.arctanh(np.sin(north)) - bent * np.arctanh(bent * np.sin(north)))
    up, across = np.arctan2(t, np.cos(east)), np.arctanh(np.sin(east) / np.hypot(1, t))
    x, y = across.copy(), up.copy()
    for times, factor in enumerate(_SERIES, start=1):
        x += factor * np.cos(2 * times * up) * np.sinh(2 * times * across)
        y += factor * np.sin(2 * times * up) * np.cosh(2 * times * across)
    scale = 0.9996 * _RADIUS / (1 + _N) * (1 + _N**2 / 4 + _N**4 / 64)
    return 500_000 + scale * x, scale * y


def find_neighbours(tiles: Tiles, names: tuple[str, ...]) -> Tensor:
    """Which tiles of a list have neighbours of their class in that same list.

    Returns:
        int64 (N, 4): the number of the neighbour above, below, to the left and to the right; -1
        where there is none.

    Raises:
        BadConfig: it is not known where tiles lie, or none has such a neighbour.
        BadData: the list of places is damaged.
    """
    if (path := find_beside(PLACES, tiles)) is None:
        raise BadConfig(
            f"neighbours: it is not known where the tiles lie; put {PLACES} (columns name, "
            f"longitude, latitude) beside {tiles.location}, or leave neighbours at 0"
        )
    number = {name: place for place, name in enumerate(names)}
    table = torch.full((len(names), len(STEPS)), -1)
    for zone in read_zones(path, number):
        for tile, name in enumerate(zone.names):
            for way, (down, right) in enumerate(STEPS):
                near = zone.at(tile, down, right)
                if near is not None and label_of(zone.names[near]) == label_of(name):
                    table[number[name], way] = number[zone.names[near]]
    if bool((table < 0).all()):
        raise BadConfig(
            f"neighbours: by {path} no two training tiles of a class lie side by side ({PITCH:g} m "
            "apart); leave neighbours at 0"
        )
    return table


def move(
    pixels: Tensor, chosen: Tensor, table: Tensor, share: float, generator: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """A batch in which a share of the tiles that have neighbours is moved towards one of them.

    Args:
        pixels: uint8 (M, S, S, 3), of all tiles.
        chosen: int64 (N,), the tiles of the batch.
        table: of ``find_neighbours``, (M, 4).
        share: 0..1.

    Returns:
        The batch, uint8 (N, S, S, 3); int64 (N,), the neighbour that each was moved to, itself
        where it was not; float32 (N,), 0..1, how much of the picture is that one's.
    """
    side = pixels.shape[1]
    pitch = side + round(side / TILE_SIZE)
    near = table[chosen]
    drawn = torch.rand(near.shape, generator=generator) * (near >= 0)
    steps = torch.randint(1, pitch, (len(chosen),), generator=generator)
    moved = (near >= 0).any(dim=1) & (torch.rand(len(chosen), generator=generator) < share)
    ways = drawn.argmax(dim=1)
    partners = torch.where(moved, near.gather(1, ways[:, None])[:, 0], chosen)
    batch = pixels[chosen]
    batch[moved] = between(batch[moved], pixels[partners[moved]], ways[moved], steps[moved])
    return batch, partners, torch.where(moved, steps / pitch, 0.0)


def between(own: Tensor, other: Tensor, ways: Tensor, steps: Tensor) -> Tensor:
    """Windows between tiles and their neighbours; the pixel left out is the mean of its sides.

    Args:
        own, other: uint8 (N, S, S, 3).
        ways: int64 (N,), where ``other`` lies, an index into ``STEPS``.
        steps: int64 (N,), px from ``own`` towards ``other``.

    Returns:
        uint8 (N, S, S, 3).
    """
    side = own.shape[1]
    gap = round(side / TILE_SIZE)
    upright, before = (flag[:, None, None, None] for flag in (ways < 2, ways % 2 == 0))
    own, other = (torch.where(upright, each.transpose(1, 2), each) for each in (own, other))
    left, right = torch.where(before, other, own), torch.where(before, own, other)
    seam = ((left[:, :, -1:].int() + right[:, :, :1]) // 2).to(own.dtype)
    strip = torch.cat([left, seam.expand(-1, -1, gap, -1), right], dim=2)
    start = torch.where(before.flatten(), side + gap - steps, steps)
    columns = (start[:, None] + torch.arange(side))[:, None, :, None]
    window = strip.gather(2, columns.expand(-1, side, -1, 3))
    return torch.where(upright, window.transpose(1, 2), window)


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

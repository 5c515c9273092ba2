"""Tiles of a made-up file of places, side by side."""

from pathlib import Path

import pytest
from rasterio.warp import transform

from training.dataset.neighbours import Zone, groups, quads, read_zones

# In steps of 650 m from a corner, right and down; and metres that they are off it.
PLACES = {
    "a": (0, 0, 0), "b": (1, 0, 2), "c": (0, 1, -2), "d": (1, 1, 0),
    "e": (2, 1, 1), "alone": (9, 9, 0), "crooked": (3, 1, 40),
}  # fmt: skip


@pytest.fixture
def zones(tmp_path: Path) -> list[Zone]:
    xs = [500_000 + 650 * right + off for right, _, off in PLACES.values()]
    ys = [5_400_000 - 650 * down for _, down, _ in PLACES.values()]
    degrees = zip(*transform("EPSG:32632", "EPSG:4326", xs, ys), strict=True)
    lines = [f"{name},{lon},{lat}" for name, (lon, lat) in zip(PLACES, degrees, strict=True)]
    lines.append("elsewhere,-3.1,52.4")
    path = tmp_path / "places.csv"
    path.write_text("\n".join(["name,longitude,latitude", *lines]))
    return read_zones(path)


def test_four_tiles_that_meet_in_a_corner(zones: list[Zone]) -> None:
    assert quads(zones) == [("a.jpg", "b.jpg", "c.jpg", "d.jpg")]


def test_groups_hang_together_by_their_sides(zones: list[Zone]) -> None:
    found = sorted(groups(zones), key=len)
    assert [list(group.values()) for group in found[:3]] == [
        [f"{name}.jpg"] for name in ("alone", "crooked", "elsewhere")
    ]
    assert found[3] == {
        (0, 0): "a.jpg",
        (0, 1): "b.jpg",
        (1, 0): "c.jpg",
        (1, 1): "d.jpg",
        (1, 2): "e.jpg",
    }

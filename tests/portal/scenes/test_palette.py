"""Whether colours can be told apart, by people who see all of them and by those who do not."""

from itertools import combinations

import numpy as np
import pytest

from portal.scenes.palette import WATER, palette, rgb

EUROSAT = (
    "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial",
    "Pasture", "PermanentCrop", "Residential", "River", "SeaLake",
)  # fmt: skip
# What is left of linear red, green and blue without one kind of cones (Machado, Oliveira and
# Fernandes 2009, severity 1).
SIGHT = {
    "all cones": np.eye(3),
    "protanopia": np.array([
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ]),
    "deuteranopia": np.array([
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]),
    "tritanopia": np.array([
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ]),
}  # fmt: skip
TO_XYZ = np.array([
    [0.4124564, 0.3575761, 0.1804375],
    [0.2126729, 0.7151522, 0.0721750],
    [0.0193339, 0.1191920, 0.9503041],
])  # fmt: skip


def lab(color: str, sight: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of a colour as somebody sees it."""
    parts = np.array(rgb(color)) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    seen = np.clip(sight @ linear, 0, 1)
    x, y, z = (
        np.cbrt(part) if part > 0.008856 else 7.787 * part + 16 / 116
        for part in (TO_XYZ @ seen) / (TO_XYZ @ np.ones(3))
    )
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize(
    ("sight", "floor"),
    [("all cones", 35), ("protanopia", 35), ("deuteranopia", 35), ("tritanopia", 25)],
)
def test_eurosats_classes_can_be_told_apart(sight: str, floor: float) -> None:
    colors = palette(EUROSAT)
    nearest = min(
        (float(np.linalg.norm(lab(colors[a], SIGHT[sight]) - lab(colors[b], SIGHT[sight]))), a, b)
        for a, b in combinations(EUROSAT, 2)
    )
    assert nearest[0] >= floor, nearest


def test_the_simulation_knows_what_is_confused() -> None:
    red, green = "#b05000", "#6f7d00"
    apart = {name: np.linalg.norm(lab(red, s) - lab(green, s)) for name, s in SIGHT.items()}
    assert apart["all cones"] > 50
    assert apart["deuteranopia"] < 15


def test_a_class_has_one_colour_whatever_stands_beside_it() -> None:
    colors = palette(EUROSAT)
    assert palette(("SeaLake", "Moor", "Forest"))["SeaLake"] == colors["SeaLake"]
    assert palette(tuple(reversed(EUROSAT))) == colors


def test_other_labels_get_colours_of_their_own() -> None:
    few = palette(("Forest", "Moor", "Quarry"))
    assert list(few) == ["Forest", "Moor", "Quarry"]
    assert set(few.values()) < set(palette(EUROSAT).values())
    assert len(set(few.values())) == 3
    many = palette([*EUROSAT, *(f"class {number}" for number in range(245))])
    assert len(set(many.values())) == 255
    assert all(len(rgb(color)) == 3 for color in many.values())


def test_water_looks_like_water_and_like_no_class() -> None:
    assert WATER not in palette(EUROSAT).values()
    red, green, blue = rgb(WATER)
    assert blue > green > red

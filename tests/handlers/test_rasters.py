"""What an open raster says of its bands and its data; the files themselves are in test_reading."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from handlers import rasters


def source(**known: Any) -> SimpleNamespace:
    count = known.get("count", 3)
    kind = SimpleNamespace(name=known.pop("mask", "all_valid"))
    colours = [SimpleNamespace(name=name) for name in known.pop("colours", ())]
    found = {"count": count, "dtypes": ("uint16",) * count, "descriptions": (None,) * count}
    found |= {"nodata": None, "mask_flag_enums": ([kind],) * count, "colorinterp": colours}
    return SimpleNamespace(**found | known)


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({"count": 1}, "single-band image (TIFF, uint16)"),
        ({"count": 2}, "2 bands (TIFF, uint16)"),
        ({"dtypes": ("uint16", "uint8", "uint8")}, "bands of uint16, uint8"),
        ({"dtypes": ("complex64",) * 3}, "bands of complex64"),
        ({}, ""),
    ],
)
def test_why_no_picture_can_be_made(known: dict[str, Any], words: str) -> None:
    found = rasters.unusable(source(**known), "GTiff")
    assert found.startswith(words) if "(" in words else words in found
    assert bool(found) == bool(words)


def test_red_edge_is_not_red() -> None:
    names = ("Red edge 1", "B2", "B3", "B4")
    assert rasters.find_bands(source(count=4, descriptions=names))[0] == [4, 3, 2]


@pytest.mark.parametrize(
    ("extra", "soft", "above", "words"),
    [
        ([7, 7, 7], 0, None, ""),
        ([0, 0, 0], 0, 0, "mask"),
        ([0, 9, 9], 0, 0, "mask"),
        ([0, 9, 10], 0, None, "left out"),
        ([1, 9, 9], 0, None, "left out"),
        ([0, 9, 10], 1, 127, "transparency"),
        ([0, 255, 255], 1, 0, "mask"),
    ],
)
def test_what_a_fourth_band_is(extra: list[int], soft: int, above: int | None, words: str) -> None:
    found = rasters.judge_extra(np.array([extra]), soft=bool(soft))
    assert found[0] == above
    assert words in found[1]


def test_no_data_of_each_kind() -> None:
    values = np.full((1, 5, 3), 500, np.int16)
    values[0, 1] = 0
    values[0, 2] = -2000
    values[0, 3] = 77
    values[0, 4, 0] = 0  # a band alone is dark
    found = rasters.valid_pixels(source(nodata=77), values)
    assert found is not None
    assert found.tolist() == [[True, False, False, False, True]]
    seen = np.array([[False, True, True, True, True]])
    found = rasters.valid_pixels(source(nodata=77), values, seen)
    assert found is not None
    assert found.tolist() == [[False, False, False, False, True]]
    assert rasters.valid_pixels(source(), np.zeros((2, 2, 3), np.uint8)) is None

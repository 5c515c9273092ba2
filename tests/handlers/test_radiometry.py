from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handlers.contract.image_body import LOOKS, SCALES
from handlers.radiometry import (
    GAIN25_WHITE,
    PATH,
    TCI_WHITE,
    TRANSMITTANCE,
    WHITE,
    UnknownScale,
    find_common_reading,
    find_reading,
    read_values,
)
from tests.support.paths import SAMPLES

TILES = sorted(SAMPLES.glob("*.jpg"))


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def reflectance(pixels: np.ndarray) -> np.ndarray:
    """Of EuroSAT's pixels, at the top of the atmosphere."""
    found: np.ndarray = (pixels.astype(np.float64) - 1) / 254 * WHITE
    return found


def whole(values: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.rint(values).astype(np.uint16)
    return found


ENCODED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "1": lambda found: found.astype(np.float32),
    "10000": lambda found: whole(found * 10_000),
    "10000-offset": lambda found: whole(found * 10_000 + 1000),
    "65535": lambda found: whole(found * 65_535),
    "unit": lambda found: (found / WHITE * 254 + 1).astype(np.float32) / 255,
    "255": lambda found: whole(found / WHITE * 254 + 1),
    "high-byte": lambda found: whole((found / WHITE * 254 + 1) * 257),
}


@pytest.mark.parametrize("tile", TILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("scale", ENCODED)
def test_every_scale_is_told_by_the_values(tile: Path, scale: str) -> None:
    pixels = pixels_of(tile)
    found, reading = read_values(ENCODED[scale](reflectance(pixels)), None)
    assert reading is not None
    assert reading.scale == scale
    assert reading.look == ("eurosat" if scale in ("unit", "255", "high-byte") else "l1c")
    assert np.abs(found.astype(int) - np.maximum(pixels, 1)).max() <= 1


@pytest.mark.parametrize("tile", TILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("scale", ["1", "10000"])
def test_surface_reflectance_gets_the_air_back(tile: Path, scale: str) -> None:
    pixels = pixels_of(tile)
    surface = ((reflectance(pixels) - PATH) / TRANSMITTANCE).clip(0.001)
    found, reading = read_values(ENCODED[scale](surface), None)
    assert reading is not None
    assert (reading.scale, reading.look) == (scale, "l2a")
    seen = (surface > 0.001).all(axis=2)
    assert np.abs(found.astype(int) - np.maximum(pixels, 1))[seen].max() <= 1


@pytest.mark.parametrize("tile", TILES, ids=lambda path: path.stem)
def test_a_thousandth_is_a_picture_or_nearly_one(tile: Path) -> None:
    pixels = pixels_of(tile)
    found, reading = read_values(whole(reflectance(pixels) * 1000), None)
    assert reading is not None
    assert reading.scale in ("1000", "255")  # of values below 256 they are 8 % apart
    assert np.abs(found.astype(int) - pixels).mean() < 13


@pytest.mark.parametrize("name", ["AnnualCrop", "Highway", "Industrial", "PermanentCrop"])
def test_a_value_above_255_makes_no_other_picture_of_a_tile(name: str) -> None:
    values = whole(reflectance(pixels_of(SAMPLES / f"{name}.jpg")) * 1000)
    assert values.max() > 255
    assert find_reading(values.reshape(-1, 3)).scale == "255"


def test_eight_bits_stay_as_they_are() -> None:
    pixels = pixels_of(TILES[0])
    found, reading = read_values(pixels, None)
    assert found is pixels
    assert reading is None


@pytest.mark.parametrize("tile", TILES, ids=lambda path: path.stem)
@pytest.mark.parametrize(
    ("look", "white"), [("tci", TCI_WHITE), ("l1c", TCI_WHITE), ("gain25", GAIN25_WHITE)]
)
def test_a_true_colour_image_gets_brighter(tile: Path, look: str, white: float) -> None:
    pixels = pixels_of(tile)
    tci = np.rint(reflectance(pixels) / white * 255).astype(np.uint8)
    found, reading = read_values(tci, None, look=look)
    assert reading is not None
    assert (reading.scale, reading.look) == ("255", "l1c")
    assert np.abs(found.astype(int) - np.maximum(pixels, 1)).max() <= 1


def test_what_is_known_is_not_guessed() -> None:
    values = np.full((8, 8, 3), 1234, np.uint16)
    values[0, 0] = 1300
    _, reading = read_values(values, None, scale="10000", look="l1c")
    assert reading is not None
    assert (reading.scale, reading.look) == ("10000", "l1c")
    found, _ = read_values(values, None, scale="10000", look="l1c")
    assert found[1, 1].tolist() == [round(1 + 254 * 0.1234 / WHITE)] * 3


def test_no_data_are_black_and_count_for_nothing() -> None:
    values = ENCODED["10000"](reflectance(pixels_of(TILES[3])))
    valid = np.ones(values.shape[:2], bool)
    valid[:20] = False
    alone, reading = read_values(values, None)
    spoiled = values.copy()
    spoiled[:20] = 60_000
    found, same = read_values(spoiled, valid)
    assert reading is not None
    assert same is not None
    assert same.scale == reading.scale
    assert not found[:20].any()
    assert (found[20:] == alone[20:]).all()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.random.default_rng(0).normal(0, 1e6, (64, 64, 3)).astype(np.float32), "float32"),
        (np.random.default_rng(0).integers(40_000, 41_000, (64, 64, 3)).astype(np.uint32), "4"),
    ],
    ids=["anything", "uint32"],
)
def test_what_fits_nothing_is_refused_with_what_was_found(values: np.ndarray, words: str) -> None:
    with pytest.raises(UnknownScale, match="scale=") as refused:
        read_values(values, None)
    assert words in str(refused.value)
    assert f"{values.max():.6g}" in str(refused.value)


def test_a_tie_is_refused() -> None:
    # as bright as a wood's surface with an offset, as a field under its air without
    pixels = np.random.default_rng(1).normal((1240, 1140, 1040), 30, (64, 64, 3))
    with pytest.raises(UnknownScale, match="may as well"):
        read_values(whole(pixels), None)


def test_a_scale_that_the_values_cannot_have() -> None:
    pixels = pixels_of(TILES[0])
    with pytest.raises(UnknownScale, match="look=eurosat"):
        read_values(pixels.astype(np.uint16), None, scale="10000", look="eurosat")


def test_every_choice_can_be_named() -> None:
    values = ENCODED["10000"](reflectance(pixels_of(TILES[0])))
    for scale in SCALES[1:]:
        read_values(values, None, scale=scale)
    for look in LOOKS[1:]:
        read_values(
            values, None, scale="255" if look in ("tci", "gain25", "eurosat") else "auto", look=look
        )


def scene(surface: bool, clouds: int) -> list[np.ndarray]:  # noqa: FBT001
    """Reflectances of tiles, (4096, 3) each, some of them clouds."""
    found = [reflectance(pixels_of(path)).reshape(-1, 3) for path in TILES]
    if surface:
        found = [((one - PATH) / TRANSMITTANCE).clip(0.001) for one in found]
    cloud = np.random.default_rng(0).normal(0.8, 0.05, found[0].shape)
    return found[clouds:] + [cloud] * clouds


@pytest.mark.parametrize("clouds", [0, 1, 3])
@pytest.mark.parametrize("look", ["l1c", "l2a"])
@pytest.mark.parametrize("scale", ["1", "10000", "10000-offset", "65535"])
def test_tiles_of_a_scene_are_read_alike_whatever_clouds_there_are(
    scale: str, look: str, clouds: int
) -> None:
    tiles = [ENCODED[scale](tile).clip(0, 65_535) for tile in scene(look == "l2a", clouds)]
    found = find_common_reading(tiles)
    assert (found.scale, found.look) == (scale, look)


@pytest.mark.parametrize("scale", ["1", "10000", "10000-offset", "65535"])
def test_open_sea_is_no_field_in_another_scale(scale: str) -> None:
    noise = np.random.default_rng(0).normal(0, 0.0015, (3, 4096, 3))
    sea = np.array([0.032, 0.056, 0.080]) * np.array([[0.95], [1.0], [1.05]])[:, None] + noise
    surface = ((sea - PATH) / TRANSMITTANCE).clip(0.001)
    assert find_common_reading([ENCODED[scale](tile) for tile in surface]).scale == scale


def test_one_tile_is_a_scene_of_its_own() -> None:
    values = ENCODED["10000"](reflectance(pixels_of(TILES[0]))).reshape(-1, 3)
    one, other = find_reading(values), find_common_reading([values])
    assert (one.scale, one.look) == (other.scale, other.look)


def test_no_picture_of_255_has_a_larger_value() -> None:
    tiles = [whole(tile * 1000) for tile in scene(surface=False, clouds=0)]
    assert max(tile.max() for tile in tiles) > 255
    assert find_common_reading(tiles).scale == "1000"


def test_a_scene_that_means_nothing_is_refused() -> None:
    noise = np.random.default_rng(0).normal(0, 1e6, (64, 3)).astype(np.float32)
    with pytest.raises(UnknownScale, match="float32 values from"):
        find_common_reading([noise, noise + 1, noise * 2])

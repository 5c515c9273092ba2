import numpy as np
import pytest

from training.dataset.eurosat import Tiles
from training.dataset.shifts import (
    L2A_OFFSET,
    SHIFTS,
    brightness,
    half_resolution,
    haze,
    l2a_like,
    noise,
)


@pytest.fixture
def some(tiles: Tiles) -> np.ndarray:
    """uint8 (4, 64, 64, 3): a tile of each class."""
    return tiles.decode(["Forest_1.jpg", "Industrial_1.jpg", "River_1.jpg", "SeaLake_1.jpg"])


def grey(value: int) -> np.ndarray:
    return np.full((1, 8, 8, 3), value, np.uint8)


@pytest.mark.parametrize("name", SHIFTS)
def test_a_shift_changes_tiles_always_the_same_way(name: str, some: np.ndarray) -> None:
    before = some.copy()
    once, again = SHIFTS[name](some), SHIFTS[name](some)
    assert once.dtype == np.uint8
    assert once.shape == some.shape
    assert np.array_equal(once, again)
    assert np.array_equal(some, before)
    for tile, changed in zip(some, once, strict=True):
        assert not np.array_equal(tile, changed)


def test_l2a_is_darker_and_less_blue() -> None:
    expected = [round(200 - 255 * offset) for offset in L2A_OFFSET]
    assert l2a_like(grey(200))[0, 0, 0].tolist() == expected
    assert expected[2] < expected[1] < expected[0] < 200


def test_brightness_multiplies_and_stops_at_white() -> None:
    assert brightness(0.5)(grey(101))[0, 0, 0].tolist() == [50, 50, 50]
    assert brightness(1.5)(grey(200))[0, 0, 0].tolist() == [255, 255, 255]


def test_haze_is_a_third_of_the_light() -> None:
    assert haze(grey(0))[0, 0, 0].tolist() == [67, 70, 75]
    assert haze(grey(90))[0, 0, 0].tolist() == [127, 130, 135]


def test_noise_has_its_deviation_and_no_bias() -> None:
    added = noise(10.0)(np.full((4, 64, 64, 3), 128, np.uint8)).astype(float) - 128
    assert added.std() == pytest.approx(10, rel=0.05)
    assert added.mean() == pytest.approx(0, abs=0.2)


def test_half_resolution_loses_what_is_finer_than_two_pixels() -> None:
    chequered = np.indices((64, 64)).sum(0) % 2 * 200
    tile = np.repeat(chequered[..., None], 3, axis=2).astype(np.uint8)[None]
    assert np.array_equal(half_resolution(tile), np.full_like(tile, 100))


def test_blur_and_compression_smooth(some: np.ndarray) -> None:
    def roughness(tiles: np.ndarray) -> float:
        return float(np.abs(np.diff(tiles.astype(float), axis=2)).mean())

    for name in ("blur, 1 px", "JPEG quality 30", "half resolution"):
        assert roughness(SHIFTS[name](some)) < 0.9 * roughness(some)

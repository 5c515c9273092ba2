"""Pictures that are no tiles: of the right form, and the same each time."""

import numpy as np
import pytest

from training.dataset.strangers import EACH, FAR, NEAR, SIDE, draw


@pytest.mark.parametrize("kind", FAR)
def test_far_pictures_are_drawn_alike_each_time(kind: str) -> None:
    drawn = draw(kind)
    assert drawn.shape == (EACH, SIDE, SIDE, 3)
    assert drawn.dtype == np.uint8
    assert len({picture.tobytes() for picture in drawn}) > 0.9 * EACH
    if kind != "plots":  # they take seconds
        assert np.array_equal(draw(kind), drawn)
        assert not np.array_equal(draw(kind, seed=1), drawn)


@pytest.fixture
def tiles() -> np.ndarray:
    drawn = np.random.default_rng(0).integers(0, 200, (6, SIDE, SIDE, 3))
    return drawn.astype(np.uint8)


@pytest.mark.parametrize("kind", NEAR)
def test_near_pictures_are_changed_tiles(tiles: np.ndarray, kind: str) -> None:
    before = tiles.copy()
    changed = NEAR[kind](tiles)
    assert np.array_equal(tiles, before)
    assert changed.shape == tiles.shape
    assert changed.dtype == np.uint8
    assert all((one != other).any() for one, other in zip(changed, tiles, strict=True))


def test_the_changes_are_those_that_they_say(tiles: np.ndarray) -> None:
    assert np.array_equal(NEAR["bands swapped"](tiles)[..., 0], tiles[..., 2])
    assert np.ptp(NEAR["grey"](tiles), axis=3).max() == 0
    empty = (NEAR["two fifths empty"](tiles) == 0).all(axis=3)
    assert empty[:, :, :25].all()
    assert empty.mean() == pytest.approx(25 / 64, abs=0.001)
    assert NEAR["20 m"](tiles)[0, 0, 0, 0] == tiles[0, :2, :2, 0].astype(int).sum() // 4
    assert (NEAR["thin cloud"](tiles).mean(axis=(1, 2, 3)) > tiles.mean(axis=(1, 2, 3))).all()

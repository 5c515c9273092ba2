"""Windows between tiles are what lies there, and none reaches into what is kept back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rasterio.warp import transform
from torch import Generator, Tensor

from tests.support.places import write_places
from training.config import BadConfig
from training.dataset import splits
from training.dataset.eurosat import BadData, Tiles, find_tiles
from training.dataset.neighbours import (
    PLACES,
    STEPS,
    Zone,
    between,
    find_neighbours,
    groups,
    move,
    project,
    quads,
    read_zones,
)
from training.dataset.splits import load_split

# In steps of 650 m from a corner, right and down; and metres that they are off it.
GRID = {
    "a": (0, 0, 0), "b": (1, 0, 2), "c": (0, 1, -2), "d": (1, 1, 0),
    "e": (2, 1, 1), "alone": (9, 9, 0), "crooked": (3, 1, 40),
}  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "DEFAULT_DIR", tmp_path / "default")


@pytest.fixture
def land() -> Tensor:
    """Smooth ground, uint8 (193, 193, 3): three tiles of 64 px each way with the pixels between."""
    y, x = np.mgrid[:194, :194] / 193
    planes = [40 + 160 * x, 40 + 160 * y, 40 + 80 * x + 80 * y * y]
    return torch.from_numpy(np.stack(planes, axis=-1).astype(np.uint8))


def cut(land: Tensor, top: int, left: int, side: int = 64) -> Tensor:
    return land[top : top + side, left : left + side]


def test_degrees_become_the_metres_that_gdal_says() -> None:
    random = np.random.default_rng(0)
    for zone in (29, 32, 38):
        longitude = 6 * zone - 183 + random.uniform(-3.5, 3.5, 200)
        latitude = random.uniform(27, 71, 200)
        expected = transform("EPSG:4326", f"EPSG:{32600 + zone}", longitude, latitude)
        found = project(zone, longitude, latitude)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


def test_neighbours_are_of_one_class_and_all_for_training(own_eurosat: Path) -> None:
    tiles = find_tiles(own_eurosat)
    # Right of Forest_1 lies another, below it a river, to the left a validation tile, above a test
    # tile; Forest_3 lies askew, Forest_4 far away.
    at = {
        "Forest_1.jpg": (0, 0), "Forest_2.jpg": (1, 0.002), "River_1.jpg": (0, 1),
        "Forest_14.jpg": (-1, 0), "Forest_18.jpg": (0, -1), "Forest_3.jpg": (2, 0.1),
        "Forest_4.jpg": (50, 0), "River_2.jpg": (0, 2),
    }  # fmt: skip
    write_places(own_eurosat / "splits", at)
    names = load_split("random", tiles).train
    table = find_neighbours(tiles, names)
    found = {
        (names[tile], STEPS[way], names[int(table[tile, way])])
        for tile, way in (table >= 0).nonzero().tolist()
    }
    assert found == {
        ("Forest_1.jpg", (0, 1), "Forest_2.jpg"),
        ("Forest_2.jpg", (0, -1), "Forest_1.jpg"),
        ("River_1.jpg", (1, 0), "River_2.jpg"),
        ("River_2.jpg", (-1, 0), "River_1.jpg"),
    }


@pytest.mark.parametrize("steps", [1, 17, 63, 64])
@pytest.mark.parametrize("way", range(4))
def test_a_window_shows_what_lies_between(land: Tensor, way: int, steps: int) -> None:
    down, right = STEPS[way]
    own, other = cut(land, 65, 65), cut(land, 65 + 65 * down, 65 + 65 * right)
    (window,) = between(own[None], other[None], torch.tensor([way]), torch.tensor([steps]))
    expected = cut(land, 65 + steps * down, 65 + steps * right)
    # All but the pixel that no tile has is the very same; that one is nearly so.
    apart = (window.int() - expected.int()).abs()
    seam = {(-1, 0): steps - 1, (1, 0): 64 - steps, (0, -1): steps - 1, (0, 1): 64 - steps}
    lines = apart.amax((1, 2) if down else (0, 2))
    assert lines[seam[down, right]] <= 2
    lines[seam[down, right]] = 0
    assert lines.max() == 0


def test_enlarged_tiles_are_joined_at_their_own_distance(land: Tensor) -> None:
    own, other = cut(land, 0, 0, 96), cut(land, 0, 98, 96)
    (window,) = between(own[None], other[None], torch.tensor([3]), torch.tensor([50]))
    assert (window.int() - cut(land, 0, 50, 96).int()).abs().max() <= 2


def test_a_share_is_moved_and_nothing_else(land: Tensor) -> None:
    pixels = torch.stack([cut(land, 65, 65), cut(land, 65, 130), cut(land, 0, 0)])
    before = pixels.clone()
    table = torch.tensor([[-1, -1, -1, 1], [-1, -1, 0, -1], [-1, -1, -1, -1]])
    chosen = torch.tensor([0, 1, 2]).repeat(200)
    batch, partners, parts = move(pixels, chosen, table, 0.25, Generator().manual_seed(0))
    assert torch.equal(pixels, before)
    moved = partners != chosen
    assert torch.equal(batch[~moved], pixels[chosen[~moved]])
    assert not moved[chosen == 2].any()
    assert 0.2 < moved[chosen < 2].float().mean() < 0.3
    assert torch.equal(partners[moved], 1 - chosen[moved])
    assert bool((parts[~moved] == 0).all())
    steps = (65 * parts[moved]).round().int()
    assert steps.min() < 8
    assert steps.max() > 57
    for window, tile, step in zip(batch[moved], chosen[moved], steps, strict=True):
        left = 65 + int(step) if tile == 0 else 130 - int(step)
        apart = (window.int() - cut(land, 65, left).int()).abs().amax((0, 2))
        assert int((apart > 0).sum()) <= 1


def test_where_tiles_lie_has_to_be_known(tiles: Tiles, own_eurosat: Path) -> None:
    names = load_split("random", tiles).train
    with pytest.raises(BadConfig, match=f"not known where the tiles lie; put {PLACES} "):
        find_neighbours(tiles, names)
    tiles = find_tiles(own_eurosat)
    write_places(own_eurosat, {"Forest_1.jpg": (0, 0), "Forest_13.jpg": (1, 0)})
    with pytest.raises(BadConfig, match="no two training tiles of a class lie side by side"):
        find_neighbours(tiles, names)


@pytest.mark.parametrize(
    "content",
    [
        b"tile,x,y\na,1,2\n",
        b"name,longitude,latitude\na,east,2\n",
        b"name,longitude,latitude\na,1\n",
        b"\xff\xfe\x00",
    ],
)
def test_a_damaged_list_of_places_is_named(content: bytes, own_eurosat: Path) -> None:
    (own_eurosat / PLACES).write_bytes(content)
    with pytest.raises(BadData, match="is no list of places: expected the columns name, long"):
        find_neighbours(find_tiles(own_eurosat), ("Forest_1.jpg",))


@pytest.fixture
def zones(tmp_path: Path) -> list[Zone]:
    xs = [500_000 + 650 * right + off for right, _, off in GRID.values()]
    ys = [5_400_000 - 650 * down for _, down, _ in GRID.values()]
    degrees = zip(*transform("EPSG:32632", "EPSG:4326", xs, ys), strict=True)
    lines = [f"{name},{lon},{lat}" for name, (lon, lat) in zip(GRID, degrees, strict=True)]
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

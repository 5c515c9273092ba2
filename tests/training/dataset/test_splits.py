"""The lists of tiles, whole and broken."""

import hashlib
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.support.split_lists import make_random_split
from training.dataset import splits
from training.dataset.eurosat import CLASS_COUNTS, BadData, Tiles, find_tiles, label_of
from training.dataset.splits import PARTS, Split, load_split

COMMITTED_SPLITS = Path(splits.__file__).parents[1] / "splits"


def test_the_lists_of_a_split_are_read(tiles: Tiles) -> None:
    split = load_split("random", tiles)
    assert [len(getattr(split, part)) for part in PARTS] == [48, 16, 16]
    assert {label_of(name) for name in split.test} == set(tiles.labels)


def test_an_unknown_split_is_answered_with_the_valid_ones(tiles: Tiles) -> None:
    with pytest.raises(BadData, match="unknown split 'temporal'; valid: random, spatial"):
        load_split("temporal", tiles)


def test_a_missing_list_is_named(own_eurosat: Path) -> None:
    (own_eurosat / "splits" / "random-val.txt").unlink()
    with pytest.raises(BadData, match=r"random-val\.txt is missing; restore it"):
        load_split("random", find_tiles(own_eurosat))


def test_an_empty_list_is_named(own_eurosat: Path) -> None:
    (own_eurosat / "splits" / "random-test.txt").write_text("\n")
    with pytest.raises(BadData, match="split random: the test list is empty; expected tile names"):
        load_split("random", find_tiles(own_eurosat))


def test_a_listed_tile_that_is_not_there_is_named(own_eurosat: Path) -> None:
    shutil.rmtree(own_eurosat / "2750" / "River")
    with pytest.raises(BadData, match=r"20 tiles are not in .*, River_1\.jpg first; run `make da"):
        load_split("random", find_tiles(own_eurosat))


def test_lists_that_overlap_are_refused() -> None:
    with pytest.raises(BadData, match="1 tiles stand in it twice, a_1 first"):
        Split("random", ("a_1", "a_2"), ("a_3",), ("a_1",))


def test_a_damaged_spatial_list_is_refused(own_eurosat: Path) -> None:
    (own_eurosat / "2750" / "eurosat-spatial-train.txt").write_text("River_1.jpg\n")
    with pytest.raises(BadData, match=r"spatial-train\.txt: expected md5 7be3254.*; replace it"):
        load_split("spatial", find_tiles(own_eurosat))


def test_the_committed_lists_are_the_seeded_stratified_split_of_all_tiles() -> None:
    names = [f"{c}_{n}.jpg" for c, count in CLASS_COUNTS.items() for n in range(1, count + 1)]
    split = make_random_split(names)
    for part in PARTS:
        content = (COMMITTED_SPLITS / f"random-{part}.txt").read_bytes()
        assert hashlib.sha256(content).hexdigest() == split.sha256[part]
    assert make_random_split(reversed(names)) == split
    assert make_random_split(names, seed=1) != split
    counts = Counter(label_of(name) for name in split.test)
    assert counts == {label: round(0.15 * count) for label, count in CLASS_COUNTS.items()}

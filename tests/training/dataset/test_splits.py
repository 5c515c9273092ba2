"""The lists of tiles, whole and broken."""

import hashlib
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.support.own_tiles import write_own_tiles
from tests.support.split_lists import make_random_split
from training.dataset import splits
from training.dataset.eurosat import CLASS_COUNTS, BadData, Tiles, find_tiles, label_of
from training.dataset.splits import (
    PARTS,
    Split,
    check_classes,
    choose_split,
    draw_labelled,
    draw_split,
    keep_split,
    load_split,
)

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


def test_a_class_without_training_tiles_is_an_error(own_eurosat: Path) -> None:
    shutil.copytree(own_eurosat / "2750" / "River", own_eurosat / "2750" / "Desert")
    tiles = find_tiles(own_eurosat)
    message = r"class Desert of .* has no tile in the train list; .*--set split=custom"
    with pytest.raises(BadData, match=message):
        check_classes(load_split("random", tiles), tiles)
    check_classes(draw_split(tiles.names), tiles)


# Of one's own tiles


def test_the_published_split_is_taken_only_where_all_its_tiles_are(
    own_eurosat: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert choose_split("random", find_tiles(own_eurosat)) == "random"
    (own_eurosat / "2750" / "River" / "River_7.jpg").unlink()
    tiles = find_tiles(own_eurosat)
    assert choose_split("random", tiles) == "custom"
    assert "split random: 1 of its tiles are not in" in caplog.text
    assert "a stratified split of the 79 tiles that are there is drawn instead" in caplog.text
    assert choose_split("spatial", tiles) == "spatial"  # which nothing drawn could stand for


def test_a_drawn_split_has_some_of_every_class_and_is_the_same_again(tmp_path: Path) -> None:
    tiles = find_tiles(write_own_tiles(tmp_path, each=20))
    split = draw_split(tiles.names)
    assert split == draw_split(reversed(tiles.names))
    assert sorted([*split.train, *split.val, *split.test]) == sorted(tiles.names)
    for part, count in (("train", 14), ("val", 3), ("test", 3)):
        found = Counter(map(label_of, getattr(split, part)))
        assert found == dict.fromkeys(tiles.labels, count)


@pytest.mark.parametrize("count", range(4, 30))
def test_few_tiles_leave_some_for_each_part(count: int) -> None:
    split = draw_split(f"{label}/{number}.png" for label in "ab" for number in range(count))
    sizes = [len(getattr(split, part)) // 2 for part in PARTS]
    assert sum(sizes) == count
    assert sizes[0] >= 1
    assert sizes[1] >= 2
    assert sizes[2] >= 1


def test_too_few_tiles_are_refused() -> None:
    with pytest.raises(
        BadData, match="class b has 3 tiles; expected at least 4, to learn from, to"
    ):
        draw_split([*(f"a/{n}.png" for n in range(9)), *(f"b/{n}.png" for n in range(3))])


def test_a_share_of_the_labels_has_some_of_every_class() -> None:
    names = [f"{label}_{n}.jpg" for label in ("Forest", "River") for n in range(1, 201)]
    names += ["SeaLake_7.jpg"]
    drawn = draw_labelled(names, 0.05, seed=3)
    assert Counter(map(label_of, drawn)) == {"Forest": 10, "River": 10, "SeaLake": 1}
    assert drawn == tuple(name for name in names if name in drawn)
    assert set(draw_labelled(names[::-1], 0.05, seed=3)) == set(drawn)
    assert set(draw_labelled(names, 0.05, seed=4)) != set(drawn)
    assert draw_labelled(names, 1.0, seed=3) == tuple(names)


def test_a_kept_split_is_read_whatever_came_since(tmp_path: Path) -> None:
    folder, run = write_own_tiles(tmp_path / "tiles", each=6), tmp_path / "run"
    run.mkdir()
    split = draw_split(find_tiles(folder).names)
    keep_split(split, run)
    shutil.copy(folder / "Reben" / "tile 0.jpg", folder / "Reben" / "later.jpg")
    assert load_split("custom", find_tiles(folder), run) == split
    (folder / "Reben" / "tile 0.jpg").unlink()
    with pytest.raises(
        BadData, match=r"1 tiles are not in .*, Reben/tile 0\.jpg first; does EUROSAT"
    ):
        load_split("custom", find_tiles(folder), run)


def test_a_kept_split_that_is_missing_or_damaged_is_named(tiles: Tiles, tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"split\.json is missing: it says which tiles the run"):
        load_split("custom", tiles, tmp_path)
    for text in ("{", '{"train": ["a"]}', "[]"):
        (tmp_path / "split.json").write_text(text)
        with pytest.raises(
            BadData, match=r"split\.json is damaged .*; restore it, or train another"
        ):
            load_split("custom", tiles, tmp_path)


# Published


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

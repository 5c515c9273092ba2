from pathlib import Path

import pytest

from training.config import BadConfig
from training.dataset.eurosat import Tiles
from training.dataset.mined import COLUMNS, Mined, read_mined, write_mined
from training.dataset.splits import Split, load_split

HEAD = ",".join(COLUMNS) + "\n"
GOOD = HEAD + "Forest_1.jpg,2.5,0.75,-0.1,no\nRiver_2.jpg,9,0.99,0.2,yes\n"


@pytest.fixture
def split(tiles: Tiles) -> Split:
    return load_split("random", tiles)


def test_what_is_written_is_read(split: Split, tmp_path: Path) -> None:
    mined = [
        Mined("Forest_1.jpg", 2.5, 0.75, -0.125, suspicious=False),
        Mined("River_2.jpg", 9.0, 0.99, 0.2, suspicious=True),
    ]
    path = tmp_path / "hard.csv"
    write_mined(path, mined)
    assert read_mined(path, split) == mined
    assert list(tmp_path.iterdir()) == [path]


def test_a_list_that_somebody_saved_elsewhere_is_read(split: Split, tmp_path: Path) -> None:
    path = tmp_path / "hard.csv"
    path.write_text("\ufeff" + GOOD.replace("\n", "\r\n"), newline="")
    assert [one.tile for one in read_mined(path, split)] == ["Forest_1.jpg", "River_2.jpg"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            GOOD + "River_14.jpg,1,1,0,no\n",
            r"names 1 tiles .* random keeps back, River_14.jpg \(val",
        ),
        (GOOD + "River_19.jpg,1,1,0,yes\n", r"keeps back, River_19.jpg \(test\) first; make the"),
        (GOOD + "River_99.jpg,1,1,0,no\n", r"1 tiles that are not in the split random, River_99"),
        (GOOD + "Forest_1.jpg,1,1,0,no\n", r"names Forest_1.jpg twice; expected each tile once"),
        (HEAD + "Forest_1.jpg,1,1,0,yes\n", r"has no tile that is not suspicious"),
        (HEAD, r"has no tile that is not suspicious"),
        (GOOD + "River_3.jpg,many,1,0,no\n", r"expected lines of tile, loss, .*'many'; make it"),
        (
            GOOD + "River_3.jpg,1,1,0,perhaps\n",
            r"found the tile 'River_3.jpg', suspicious 'perhaps",
        ),
        (GOOD + "River_3.jpg,1\n", r"found the tile 'River_3.jpg', suspicious ''"),
        ("Forest_1.jpg\nForest_2.jpg\n", r"found the tile '', suspicious ''"),
    ],
)
def test_a_list_that_must_not_be_used_is_refused(
    content: str, sentence: str, split: Split, tmp_path: Path
) -> None:
    path = tmp_path / "hard.csv"
    path.write_text(content)
    with pytest.raises(BadConfig, match=sentence):
        read_mined(path, split)


def test_a_file_that_is_no_list_is_refused(split: Split, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(BadConfig, match=r"cannot be read .* expected a list of `training.mini"):
            read_mined(path, split)
    (tmp_path / "tile.csv").write_bytes(b"\xff\xd8\xff\x00")
    with pytest.raises(BadConfig, match="cannot be read"):
        read_mined(tmp_path / "tile.csv", split)

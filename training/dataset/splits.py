"""Which tiles are for training, validation and test: lists of names, ours and TorchGeo's."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from training.dataset.download import SPATIAL_MD5, SPATIAL_URL, download, md5_of
from training.dataset.eurosat import DEFAULT_DIR, BadData, Tiles

PARTS = ("train", "val", "test")
SPLITS = ("random", "spatial")
SPLITS_DIR = Path(__file__).parents[1] / "splits"


@dataclass(frozen=True)
class Split:
    """Three lists of tile names that have nothing in common.

    Attributes:
        name: ``random`` (stratified 70/15/15, drawn as ``tests/support/split_lists.py`` does) or
            ``spatial`` (60/20/20 by longitude).
        train, val, test: tile names.
    """

    name: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        for part in PARTS:
            if not getattr(self, part):
                raise BadData(f"split {self.name}: the {part} list is empty; expected tile names")
        everything = [*self.train, *self.val, *self.test]
        if repeated := [name for name, n in Counter(everything).items() if n > 1]:
            raise BadData(
                f"split {self.name}: {len(repeated)} tiles stand in it twice, {repeated[0]} first"
            )

    @property
    def sha256(self) -> dict[str, str]:
        """Of each list as it stands in its file, one tile name a line."""
        texts = {part: "".join(f"{name}\n" for name in getattr(self, part)) for part in PARTS}
        return {part: hashlib.sha256(text.encode()).hexdigest() for part, text in texts.items()}


def load_split(name: str, tiles: Tiles) -> Split:
    """Read a split: ours from ``SPLITS_DIR``, TorchGeo's from beside the tiles.

    Raises:
        BadData: a list is missing, empty, damaged, or names a tile that is not there.
    """
    if name not in SPLITS:
        raise BadData(f"unknown split {name!r}; valid: {', '.join(SPLITS)}")
    lists = []
    for part in PARTS:
        ours = SPLITS_DIR / f"random-{part}.txt"
        path = _spatial_list(part, tiles) if name == "spatial" else ours
        try:
            lists.append(tuple(path.read_text().split()))
        except FileNotFoundError as error:
            raise BadData(f"{path} is missing; restore it from the repository") from error
    split = Split(name, *lists)
    present = set(tiles.names)
    if missing := [tile for part in lists for tile in part if tile not in present]:
        raise BadData(
            f"split {name}: {len(missing)} tiles are not in {tiles.location}, {missing[0]} first; "
            "run `make data` to see what is missing"
        )
    return split


def _spatial_list(part: str, tiles: Tiles) -> Path:
    name = f"eurosat-spatial-{part}.txt"
    home = tiles.location.parent
    for folder in (tiles.location, home, home / "splits", home.parent / "splits", DEFAULT_DIR):
        if (path := folder / name).is_file():
            break
    else:
        path = DEFAULT_DIR / name
        download(SPATIAL_URL + name, path, SPATIAL_MD5[name])
    if (found := md5_of(path)) != SPATIAL_MD5[name]:
        raise BadData(
            f"{path}: expected md5 {SPATIAL_MD5[name]}, found {found}; delete it and try again"
        )
    return path

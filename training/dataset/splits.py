"""Which tiles are for training, validation and test: published lists, or some drawn of one's own.

The published lists, ours and TorchGeo's, are of EuroSAT's tiles. For any other folder a split is
drawn, and kept with the run: what else uses that run reads it there, whatever was drawn since.
"""

import hashlib
import json
import logging
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.config import BadConfig, TrainConfig, is_of_no_split
from training.dataset.download import SPATIAL_MD5, SPATIAL_URL, download, md5_of
from training.dataset.eurosat import DEFAULT_DIR, BadData, Tiles, by_class_and_number, label_of
from training.runs import SPLIT_FILE, load_checkpoint, training_facts, write_json

logger = logging.getLogger(__name__)
PARTS = ("train", "val", "test")
SPLITS = ("random", "spatial")  # published
CUSTOM = "custom"
SPLITS_DIR = Path(__file__).parents[1] / "splits"
# Tiles of a class at least: one to learn from, two for validation (limits of doubt are of each half
# as the other half sees it), one for the test.
LEAST = 4


@dataclass(frozen=True)
class Split:
    """Three lists of tile names that have nothing in common.

    Attributes:
        name: ``random`` (stratified 70/15/15 of EuroSAT), ``spatial`` (60/20/20 by longitude) or
            ``custom`` (stratified 70/15/15 of any tiles).
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


def choose_split(name: str, tiles: Tiles) -> str:
    """The split that a training asked for, or ``custom`` where tiles of the random one are missing.

    Not so the spatial one: no drawn split could stand for it.
    """
    if name != "random":
        return name
    if not (missing := _missing(_published(name, tiles), tiles)):
        return name
    logger.warning(
        "split random: %d of its tiles are not in %s, %s first; a stratified split of the %d tiles "
        "that are there is drawn instead, and kept with the run as custom",
        len(missing), tiles.location, missing[0], len(tiles.names),
    )  # fmt: skip
    return CUSTOM


def load_split(name: str, tiles: Tiles, run: Path | None = None) -> Split:
    """Read a split: ours from ``SPLITS_DIR``, TorchGeo's from beside the tiles, a run's from there.

    Args:
        run: of a custom split, the folder of the run or release that has it.

    Raises:
        BadData: a list is missing, empty, damaged, or names a tile that is not there.
    """
    if name == CUSTOM and run is not None:
        split = _kept(run / SPLIT_FILE)
    elif name in SPLITS:
        split = _published(name, tiles)
    else:
        raise BadData(f"unknown split {name!r}; valid: {', '.join(SPLITS)}")
    if missing := _missing(split, tiles):
        published = "run `make data` to see what is missing"
        raise BadData(
            f"split {name}: {len(missing)} tiles are not in {tiles.location}, {missing[0]} first; "
            + (published if name in SPLITS else "does EUROSAT_DIR name the tiles of that run?")
        )
    return split


def new_split(name: str, tiles: Tiles) -> Split:
    """The split of a run that begins: a custom one is drawn from the tiles, others are read.

    Raises:
        BadData: as of ``draw_split`` and ``load_split``.
    """
    return draw_split(tiles.names) if name == CUSTOM else load_split(name, tiles)


def check_classes(split: Split, tiles: Tiles) -> None:
    """Refuse to learn where a class has no tile to learn from, to validate or to test with.

    Raises:
        BadData: it has none in one of the lists.
    """
    for part in PARTS:
        if lacking := sorted(set(tiles.labels) - set(map(label_of, getattr(split, part)))):
            raise BadData(
                f"split {split.name}: class {lacking[0]} of {tiles.location} has no tile in the "
                f"{part} list; expected some of every class. Draw a split of all tiles "
                "(`--set split=custom`, as a new version), or keep that folder elsewhere."
            )


def draw_split(names: Iterable[str], seed: int = 0) -> Split:
    """A stratified 70/15/15 split, the same for the same names and seed on every platform.

    The seed is not that of a training: whatever is trained on a folder is tested on the same tiles.

    Raises:
        BadData: a class has fewer than ``LEAST`` tiles.
    """
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    by_label: dict[str, list[str]] = {}
    for name in sorted(names, key=by_class_and_number):
        by_label.setdefault(label_of(name), []).append(name)
    if few := [label for label, members in by_label.items() if len(members) < LEAST]:
        raise BadData(
            f"class {few[0]} has {len(by_label[few[0]])} tiles; expected at least {LEAST}, to "
            "learn from, to validate and to test with"
        )
    for label, members in by_label.items():
        random.Random(f"{seed}-{label}").shuffle(members)
        # Of few tiles at least one for the test and two for validation.
        second = min(round(len(members) * 0.85), len(members) - 1)
        first = min(round(len(members) * 0.70), second - 2)
        parts["train"] += members[:first]
        parts["val"] += members[first:second]
        parts["test"] += members[second:]
    return Split(CUSTOM, **{part: tuple(names) for part, names in parts.items()})


def draw_labelled(names: Sequence[str], fraction: float, seed: int) -> tuple[str, ...]:
    """A share of each class's tiles, at least one, in their order: what few labels would give."""
    if fraction == 1:
        return tuple(names)
    by_label: dict[str, list[str]] = {}
    for name in sorted(names, key=by_class_and_number):
        by_label.setdefault(label_of(name), []).append(name)
    drawn: set[str] = set()
    for label, members in by_label.items():
        random.Random(f"{seed}-{label}").shuffle(members)
        drawn.update(members[: max(round(len(members) * fraction), 1)])
    return tuple(name for name in names if name in drawn)


def keep_split(split: Split, run: Path) -> None:
    """Write a split into the folder of its run if it was drawn; published ones are known."""
    if split.name != CUSTOM:
        return
    write_json(run / SPLIT_FILE, {part: getattr(split, part) for part in PARTS})


def refuse_known_tiles(config: TrainConfig, split: Split, tiles: Tiles) -> None:
    """Keep what a training starts from or learns from from telling of its drawn split's tiles.

    Of published splits ``training.config.refuse_other_split`` does so by their names.

    Args:
        config: whose weights and teachers were read already.

    Raises:
        BadConfig: it learned from tiles that are kept back.
        BadData: it is not known from which.
    """
    if split.name != CUSTOM:
        return
    weights, teachers = config.model.weights, config.loss.teacher.split(",")
    named = [("teacher", Path(folder).expanduser()) for folder in teachers if folder]
    if weights not in ("none", "imagenet") and not weights.endswith(".npz"):
        named.append(("weights", Path(weights).expanduser()))
    for knob, path in named:
        facts = training_facts(path) if path.is_dir() else load_checkpoint(path)
        learned_on = facts["config"]["split"]
        if is_of_no_split(facts["config"]):
            continue
        if learned_on != CUSTOM and all("/" in name for name in tiles.names):
            continue  # no list that is published has such names
        home = path if path.is_dir() else path.parent
        learned = (
            _kept(home / SPLIT_FILE) if learned_on == CUSTOM else _published(learned_on, tiles)
        )
        if known := sorted({*split.val, *split.test}.intersection(learned.train)):
            raise BadConfig(
                f"{knob}: {path.name} learned from {len(known)} tiles that are kept back here, "
                f"{known[0]} first, if their names mean the same: train one on this split"
            )


def _kept(path: Path) -> Split:
    try:
        lists = json.loads(path.read_text())
        return Split(CUSTOM, *(tuple(map(str, lists[part])) for part in PARTS))
    except FileNotFoundError as error:
        raise BadData(
            f"{path} is missing: it says which tiles the run learned from; restore it, or train "
            "another version"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise BadData(
            f"{path} is damaged ({error}); restore it, or train another version"
        ) from error


def _published(name: str, tiles: Tiles) -> Split:
    lists = []
    for part in PARTS:
        ours = SPLITS_DIR / f"random-{part}.txt"
        path = _spatial_list(part, tiles) if name == "spatial" else ours
        try:
            lists.append(tuple(path.read_text().split()))
        except FileNotFoundError as error:
            raise BadData(f"{path} is missing; restore it from the repository") from error
    return Split(name, *lists)


def _missing(split: Split, tiles: Tiles) -> list[str]:
    """The tiles of a split that are not there."""
    present = set(tiles.names)
    return [tile for part in PARTS for tile in getattr(split, part) if tile not in present]


def _spatial_list(part: str, tiles: Tiles) -> Path:
    name = f"eurosat-spatial-{part}.txt"
    if (path := find_beside(name, tiles)) is None:
        path = DEFAULT_DIR / name
        download(SPATIAL_URL + name, path, SPATIAL_MD5[name])
    if (found := md5_of(path)) != SPATIAL_MD5[name]:
        raise BadData(
            f"{path}: expected md5 {SPATIAL_MD5[name]}, found {found}; replace it with the file of "
            f"{SPATIAL_URL}{name}"
        )
    return path


def find_beside(name: str, tiles: Tiles) -> Path | None:
    """A file that belongs to tiles: with them, beside them, in ``splits`` there or by default."""
    home = tiles.location.parent
    folders = (tiles.location, home, home / "splits", home.parent / "splits", DEFAULT_DIR)
    return next((path for folder in folders if (path := folder / name).is_file()), None)

"""A list of hard training tiles, from ``training.mining`` to the sampler of ``training.train``."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from training.config import BadConfig
from training.dataset.splits import Split

COLUMNS = ("tile", "loss", "confidence", "margin", "suspicious")
KEPT = "mining.csv"  # in the folder of a run that learns from a list, whatever becomes of that


@dataclass(frozen=True)
class Mined:
    """A training tile as a model sees it.

    Attributes:
        tile: its name.
        loss: cross entropy of its label, with calibrated probabilities.
        confidence: of the class that the model names, 0..1.
        margin: confidence less the threshold of doubt, -1..1; near 0 is a close decision.
        suspicious: whether its label may be wrong; it is not drawn more often then.
    """

    tile: str
    loss: float
    confidence: float
    margin: float
    suspicious: bool


def write_mined(path: Path, mined: Iterable[Mined]) -> None:
    """One tile a line; whole or not at all."""
    partial = path.with_suffix(".part")
    with partial.open("w", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(COLUMNS)
        for one in mined:
            numbers = (f"{value:.6g}" for value in (one.loss, one.confidence, one.margin))
            lines.writerow((one.tile, *numbers, "yes" if one.suspicious else "no"))
    partial.replace(path)


def read_mined(path: Path, split: Split) -> list[Mined]:
    """What ``write_mined`` wrote, or somebody changed since.

    Raises:
        BadConfig: the file is missing or no such list, has a tile twice, names one that is not for
            training, or none that may be drawn more often.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            mined = [_read_line(line) for line in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(
            f"mining: {path} cannot be read ({error}); expected a list of `training.mining`"
        ) from error
    except (csv.Error, ValueError) as error:
        raise BadConfig(
            f"mining: {path}: expected lines of {', '.join(COLUMNS)}, found {error}; make it anew "
            "with `training.mining`"
        ) from error
    names = [one.tile for one in mined]
    kept_back = {name: part for part in ("val", "test") for name in getattr(split, part)}
    if known := [name for name in names if name in kept_back]:
        raise BadConfig(
            f"mining: {path} names {len(known)} tiles that the split {split.name} keeps back, "
            f"{known[0]} ({kept_back[known[0]]}) first; make the list from a run on this split"
        )
    if foreign := set(names) - set(split.train):
        raise BadConfig(
            f"mining: {path} names {len(foreign)} tiles that are not in the split {split.name}, "
            f"{min(foreign)} first; make the list from a run on these tiles"
        )
    if len(set(names)) < len(names):
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise BadConfig(f"mining: {path} names {twice} twice; expected each tile once")
    if all(one.suspicious for one in mined):
        raise BadConfig(
            f"mining: {path} has no tile that is not suspicious; expected some to draw more often"
        )
    return mined


def _read_line(line: dict[str | None, str | None]) -> Mined:
    tile, loss, confidence, margin, suspicious = (line.get(column) or "" for column in COLUMNS)
    if not tile or suspicious not in ("yes", "no"):
        raise ValueError(f"the tile {tile!r}, suspicious {suspicious!r} (yes or no)")
    return Mined(tile, float(loss), float(confidence), float(margin), suspicious == "yes")

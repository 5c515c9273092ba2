"""The lists of a split: how the committed random ones were drawn, and how any are written."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from training.dataset.splits import PARTS, Split, draw_split


def make_random_split(names: Iterable[str], seed: int = 0) -> Split:
    """Stratified 70/15/15 split, the same for the same names and seed on every platform."""
    return dataclasses.replace(draw_split(names, seed), name="random")


def write_split(split: Split, folder: Path) -> None:
    """Write the three lists as ``<split>-<part>.txt``, one tile name a line."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        text = "".join(f"{name}\n" for name in getattr(split, part))
        (folder / f"{split.name}-{part}.txt").write_text(text)

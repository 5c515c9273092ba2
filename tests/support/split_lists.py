"""The lists of a split: how the committed random ones were drawn, and how any are written."""

import random
from collections.abc import Iterable
from pathlib import Path

from training.dataset.eurosat import by_class_and_number, label_of
from training.dataset.splits import PARTS, Split


def make_random_split(names: Iterable[str], seed: int = 0) -> Split:
    """Stratified 70/15/15 split, the same for the same names and seed on every platform."""
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    by_label: dict[str, list[str]] = {}
    for name in sorted(names, key=by_class_and_number):
        by_label.setdefault(label_of(name), []).append(name)
    for label, members in by_label.items():
        random.Random(f"{seed}-{label}").shuffle(members)
        first, second = round(len(members) * 0.70), round(len(members) * 0.85)
        parts["train"] += members[:first]
        parts["val"] += members[first:second]
        parts["test"] += members[second:]
    return Split("random", **{part: tuple(names) for part, names in parts.items()})


def write_split(split: Split, folder: Path) -> None:
    """Write the three lists as ``<split>-<part>.txt``, one tile name a line."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        text = "".join(f"{name}\n" for name in getattr(split, part))
        (folder / f"{split.name}-{part}.txt").write_text(text)

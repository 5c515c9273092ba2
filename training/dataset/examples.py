"""Tiles in memory, as a model takes them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from handlers.contract.spec import ModelSpec
from handlers.vision import resize
from training.dataset.eurosat import TILE_SIZE, BadData, Tiles, label_of


@dataclass(frozen=True)
class Examples:
    """Tiles in memory, ready for a model: ``names``, ``pixels`` uint8 (N, S, S, 3), RGB, and
    ``targets`` int64 (N,), indices into the labels.
    """

    names: tuple[str, ...]
    pixels: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)


def load_examples(
    tiles: Tiles,
    names: tuple[str, ...],
    spec: ModelSpec,
    progress: str = "",
    change: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Examples:
    """Decode tiles, ``change`` them if asked to, and bring them to the model's input size.

    The resizing is ``handlers.vision.resize``'s, so that training sees what serving sees. Tiles are
    changed at their own size, EuroSAT's at 64 px; larger ones than the model takes at its size.

    Raises:
        BadData: a tile is missing or damaged, or its class is not among the labels.
    """
    index = {label: number for number, label in enumerate(spec.labels)}
    if foreign := sorted({label_of(name) for name in names} - set(index)):
        raise BadData(f"tiles of {', '.join(foreign)}, but the labels are {', '.join(index)}")
    targets = torch.tensor([index[label_of(name)] for name in names])
    if change is None:
        pixels = tiles.decode(names, progress, spec.image_size)
    else:
        size = min(tiles.side(), max(spec.image_size, TILE_SIZE))
        changed = change(tiles.decode(names, progress, size))
        # Some at a time: all at once would double gigabytes at 224 px.
        pixels = np.empty((len(names), spec.image_size, spec.image_size, 3), np.uint8)
        for start in range(0, len(names), 256):
            some = slice(start, start + 256)
            pixels[some] = resize(changed[some], spec.image_size)
    return Examples(names, torch.from_numpy(pixels), targets)

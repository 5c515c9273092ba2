"""What trainings keep, and whether two of them ended alike."""

from pathlib import Path
from typing import Any

import torch

# What may differ between two equal trainings: clocks, and the checkout they ran in.
AROUND = {"seconds", "images_per_second", "git_commit"}


def checkpoint(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def same(first: Any, second: Any) -> bool:
    """Whether two trees of tensors and plain values are equal bit by bit, but for ``AROUND``."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        keys = set(first) - AROUND
        return keys == set(second) - AROUND and all(same(first[key], second[key]) for key in keys)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)

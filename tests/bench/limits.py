"""From which confidence on the averaged answer to a cell can be believed.

Four tiles that meet in a corner are a piece of a scene of which the truth is known. The cells that
are looked at lie in validation tiles. Their windows reach into neighbours, among which are training
tiles, and neighbours nearly always share their class: borders between classes are told of by
strangers, validation tiles that have nothing to do with each other.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from handlers.doubt import warnings_of
from handlers.vision import resize, to_probabilities
from portal.scenes.grid import Grid
from portal.scenes.scene import SIDE
from training.dataset.eurosat import Tiles, label_of
from training.dataset.neighbours import Quad
from training.inference import judge, load_exported


class Cells:
    """The cells around the corners of many quads, one in each of their tiles.

    Attributes:
        right, confidence, sure: of each stride, (N,): whether the mean answer is right, its
            confidence, and the share of windows that the model is sure of.
    """

    def __init__(
        self, release: Path, tiles: Tiles, groups: Sequence[Quad], known: set[str]
    ) -> None:
        model, spec = load_exported(release, "int8")
        grid = Grid(2 * SIDE, 2 * SIDE, 16)
        pixels = tiles.decode([name for group in groups for name in group])
        windows = np.concatenate(
            [
                np.stack([scene[y : y + SIDE, x : x + SIDE] for y in grid.tops for x in grid.lefts])
                for scene in map(_joined, pixels.reshape(-1, 4, SIDE, SIDE, 3))
            ]
        )
        logits, distances = judge(model, torch.from_numpy(resize(windows, spec.image_size)), spec)
        answers = to_probabilities(logits, spec).numpy()
        apart = [None] * len(windows) if distances is None else distances.tolist()
        warned = [not found.keys() <= {"not_judged"} for found in warnings_of(windows, apart, spec)]
        sure = (answers.max(axis=1) >= spec.threshold) & ~np.array(warned)
        shape = (len(groups), len(grid.tops), len(grid.lefts))
        answers, sure = answers.reshape(*shape, -1), sure.reshape(shape)
        labels = [[spec.labels.index(label_of(name)) for name in group] for group in groups]
        wanted = np.array([[name in known for name in group] for group in groups])
        self.right, self.confidence, self.sure = {}, {}, {}
        for stride in (64, 32, 16):
            steps = np.arange(SIDE // stride) * stride // 16
            means, shares = np.empty((*wanted.shape, answers.shape[-1])), np.empty(wanted.shape)
            for place in range(4):
                # in steps of 16 px; but for stride 64 the cell touches the corner of the four
                begin = [half * {64: 4, 32: 2, 16: 1}[stride] for half in divmod(place, 2)]
                rows, columns = begin[0] + steps, begin[1] + steps
                which = np.ix_(np.arange(len(groups)), rows, columns)
                means[:, place] = answers[which].mean(axis=(1, 2))
                shares[:, place] = sure[which].mean(axis=(1, 2))
            self.right[stride] = (means.argmax(axis=2) == np.array(labels))[wanted]
            self.confidence[stride] = means.max(axis=2)[wanted]
            self.sure[stride] = shares[wanted]


def _joined(four: np.ndarray) -> np.ndarray:
    """Uint8 (4, SIDE, SIDE, 3) -> the scene of four tiles; the pixel between two is left out."""
    rows = four.reshape(2, 2, SIDE, SIDE, 3).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(rows.reshape(2 * SIDE, 2 * SIDE, 3))


def limit(right: np.ndarray, confidence: np.ndarray, wanted: float) -> float:
    """The lowest confidence from which on a share ``wanted`` of the answers is right; or 1."""
    order = np.argsort(-confidence)
    good = np.flatnonzero(np.cumsum(right[order]) / np.arange(1, len(order) + 1) >= wanted)
    return float(confidence[order][good[-1]]) if len(good) else 1.0


def table(cells: Cells) -> list[str]:
    """What the strides are worth."""
    single = cells.sure[64] == 1
    wanted = float(cells.right[64][single].mean())
    lines = [
        f"{len(single)} cells; single tiles that the model is sure of: "
        f"{single.mean():.3f} of all, {wanted:.4f} of them right"
    ]
    for stride in (64, 32, 16):
        right, confidence = cells.right[stride], cells.confidence[stride]
        half = cells.sure[stride] >= 0.5
        least = limit(right[half], confidence[half], wanted)
        lines.append(
            f"stride {stride}: {right.mean():.4f} right; as often as sure tiles from {least:.3f} on"
        )
        for threshold in (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95):
            kept = half & (confidence >= threshold)
            lines.append(
                f"  from {threshold}: {kept.mean():.3f} of all, {right[kept].mean():.4f} right"
            )
    return lines

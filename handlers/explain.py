"""Which places of an image an answer rests on: the arithmetic behind "Why?".

Half of the image is hidden in many random-looking ways, and each place gets the difference between
the answers in which it was shown and those in which it was hidden (Petsiuk et al., 2018, "RISE").
The ways are the rows of a Hadamard matrix and their complements (a fold-over design: Box & Wilson,
1951), so that every two places are shown together exactly as often as apart: no place is praised or
blamed for another.

Hiding one window after the other (Zeiler & Fergus, 2014) says little here: the rest of the tile
still tells the class (windows of a quarter of the side move the baseline's probability by 1 %).

It needs forward passes only, hence works for every TorchScript, frozen and quantised ones, too.
"""

import time
from collections.abc import Callable
from functools import reduce

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

PLACES = 8  # along a side: 64 places, as many as a Hadamard matrix of order 2 ** 6 tells apart
# Widths of the places in cells, 16 of which make a side of the map: of two rounds, the borders of
# one lie in the middle of the other's places.
EVEN, ODD = (2, 2, 2, 2, 2, 2, 2, 2), (1, 2, 2, 2, 2, 2, 2, 3)
# One round takes 128 passes; more leave less noise and finer places. Of one CPU core, four take
# 0.8 s for the baseline and 8 s for a ResNet-18 at 128 px.
GRIDS = ((EVEN, EVEN), (ODD, ODD), (EVEN, ODD), (ODD, EVEN))  # heights and widths, of each round
PASSES_AT_ONCE = 16  # a size that the handler warms up; 32 take ResNet-18 a quarter longer
# Probabilities nearer to 0 or 1 count as this: what changes beyond certainty explains nothing.
FLOOR = 1e-4


class ExplanationTooSlow(Exception):
    """Not even one round was done by the deadline."""


def explain(
    probabilities: Callable[[Tensor], Tensor],
    image: Tensor,
    label: int,
    enough: float,
    deadline: float,
) -> list[list[float]]:
    """Map how much each place speaks for a class.

    Args:
        probabilities: float (N, 3, S, S) -> calibrated (N, C), rows sum to 1.
        image: float (3, S, S), as the model takes it, S at least 8.
        label: index of the class, 0..C-1.
        enough: time.monotonic() after which one round is enough.
        deadline: time.monotonic() after which even that is too much.

    Returns:
        16 rows from top to bottom of 16 numbers from left to right: by how much showing that place
        instead of hiding it raises the log-odds (natural logarithm) of the class, on average over
        what else is hidden. Negative: the place speaks against the class. -18.4..18.4. Hidden
        means painted in the image's own mean colour. The same image gets the same map, unless time
        cuts rounds off.

    Raises:
        ExplanationTooSlow: the deadline came before the end of the first round.
        ValueError: a probability is not finite.
    """
    mean = image.mean(dim=(1, 2), keepdim=True)

    def log_odds(shown: Tensor) -> np.ndarray:
        """Float32 (N, 1, S, S), 1 for shown, 0 for hidden -> float64 (N,), finite."""
        values = probabilities(mean + shown * (image - mean))[:, label].double().numpy()
        if not np.isfinite(values).all():
            raise ValueError("the model answered with numbers that are not finite")
        values = values.clip(FLOOR, 1 - FLOOR)
        return np.log(values / (1 - values))

    rounds: list[np.ndarray] = []
    for number in range(len(GRIDS)):
        effects = _round(log_odds, number, image.shape[-1], enough if rounds else deadline)
        if effects is None:
            break
        rounds.append(effects)
    if not rounds:
        raise ExplanationTooSlow(
            "the explanation took too long, as the model server has much to do"
        )
    return np.mean(rounds, axis=0).tolist()


def _round(
    log_odds: Callable[[Tensor], np.ndarray], number: int, size: int, deadline: float
) -> np.ndarray | None:
    """The effect of showing each place, (16, 16); None if the deadline came before all is known."""
    design = _design(number)
    cells = torch.from_numpy(_to_cells(design > 0, number)[:, None].astype(np.float32))
    masks = interpolate(cells, size=(size, size), mode="nearest")  # (128, 1, S, S)
    odds = []
    for some in masks.split(PASSES_AT_ONCE):
        if time.monotonic() > deadline:
            return None
        odds.append(log_odds(some))
    # Each place is shown in half of the rows: the mean of these minus that of the others.
    return _to_cells(2 * (design * np.concatenate(odds)[:, None]).mean(axis=0), number)


def _design(number: int) -> np.ndarray:
    """What the round of that number shows: int64 (128, 64), 1 for shown, -1 for hidden.

    The columns are those of Sylvester's Hadamard matrix in an order of each round's own, as its
    rows would otherwise be stripes and chequers, which look like fields and streets.
    """
    matrix = reduce(np.kron, [np.array([[1, 1], [1, -1]])] * 6)
    random = np.random.default_rng(number)
    matrix = matrix[:, random.permutation(PLACES**2)] * random.choice((-1, 1), PLACES**2)
    return np.concatenate([matrix, -matrix])


def _to_cells(values: np.ndarray, number: int) -> np.ndarray:
    """One value for each place, (..., 64), onto the cells of the map, (..., 16, 16)."""
    heights, widths = GRIDS[number]
    grid = values.reshape(*values.shape[:-1], PLACES, PLACES)
    return grid.repeat(heights, axis=-2).repeat(widths, axis=-1)

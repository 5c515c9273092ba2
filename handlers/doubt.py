"""What makes an answer doubtful beside a low confidence: pictures unlike those learned from.

Softmax is sure of anything. Two scores, fitted on validation tiles, are not: the statistics of an
image's colours and textures (``colour_score``), and the distance of the network's pooled features
from those of every class, which exported models give beside the logits (``training.doubt``).
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from handlers.contract.spec import Doubt, ModelSpec

SIDE = 64  # px, of the images whose statistics are taken
BRIGHT = 0.1  # the largest share of white pixels; 0.18 % of EuroSAT's tiles have more
_WHITE = 254
_FOUR = 4  # pixels in a row of the products below: rows of one pixel take three times as long
_GREY = np.ones(3, np.float32)
_ALL = np.ones(SIDE * SIDE // _FOUR, np.float32)

COLOURS = (
    "Its colours and textures are unlike those of the tiles that the model learned from. Send a "
    "true-colour Sentinel-2 tile of 64 px at 10 m, or say with look= and scale= what it is."
)
CONTENT = (
    "What it shows is unlike any of the classes that the model learned. Do not rely on the class."
)
TOO_BRIGHT = (
    "More than a tenth of it is white: cloud, snow or bare rock, of which the model knows nothing."
)
NOT_JUDGED = (
    "This version cannot tell whether an image is like those that it learned from: it was made "
    "before that was measured."
)


def statistics(pixels: np.ndarray) -> tuple[float, ...]:
    """Sixteen figures of the colours and textures of an image.

    Means of the differences of channels, logarithms of spreads of channels, differences, gradients
    and second differences, correlations of channels, shares of black and of white.

    Args:
        pixels: uint8 (SIDE, SIDE, 3), contiguous.
    """
    fours = pixels.astype(np.float32).reshape(-1, 3 * _FOUR)
    count = SIDE * SIDE
    means = (_ALL @ fours).reshape(_FOUR, 3).sum(axis=0) / count
    fours -= np.concatenate((means,) * _FOUR)  # squares of large numbers would lose small ones
    products = (fours.T @ fours).reshape(_FOUR, 3, _FOUR, 3).trace(axis1=0, axis2=2)
    (var_r, cov_rg, cov_rb), (_, var_g, cov_gb), (_, _, var_b) = (products / count).tolist()
    grey = fours.reshape(-1, 3) @ _GREY
    across = grey[1:] - grey[:-1]
    across[SIDE - 1 :: SIDE] = 0  # from the end of a line to the next
    bends_across = across[1:] - across[:-1]
    bends_across[SIDE - 2 :: SIDE] = 0
    bends_across[SIDE - 1 :: SIDE] = 0
    down = grey[SIDE:] - grey[:-SIDE]
    bends_down = down[SIDE:] - down[:-SIDE]
    bends = _power(bends_across, SIDE - 2) + _power(bends_down, SIDE - 2)
    dev_r, dev_g, dev_b = math.sqrt(var_r), math.sqrt(var_g), math.sqrt(var_b)
    return (
        *means.tolist(),
        math.log(dev_r + 1),
        math.log(dev_g + 1),
        math.log(dev_b + 1),
        cov_rg / (dev_r * dev_g + 3),
        cov_rb / (dev_r * dev_b + 3),
        cov_gb / (dev_g * dev_b + 3),
        math.log(_power(across, SIDE - 1) + 1),
        math.log(_power(down, SIDE - 1) + 1),
        math.log(bends + 1),
        math.log(max(var_r + var_g - 2 * cov_rg, 0.0) + 0.5),
        math.log(max(var_g + var_b - 2 * cov_gb, 0.0) + 0.5),
        math.log1p(100 * np.count_nonzero(pixels <= 1) / pixels.size),
        math.log1p(100 * np.count_nonzero(pixels >= _WHITE) / pixels.size),
    )


def colour_score(figures: Sequence[float], doubt: Doubt) -> float:
    """How unlike training an image's ``statistics`` are: minus the log-density of a mixture."""
    factors, shifts, weights = _mixture(doubt)
    apart = factors @ np.array(figures) - shifts
    distances = np.square(apart).reshape(len(weights), -1).sum(axis=1)
    logs = (weights - 0.5 * distances).tolist()
    highest = max(logs)
    return -highest - math.log(sum(math.exp(log - highest) for log in logs))


@lru_cache(maxsize=8)
def _mixture(doubt: Doubt) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mixture for statistics as they are: (K * D, D), (K * D,), and log weights, (K,)."""
    whiten = np.array(doubt.factors)
    weights = np.array(doubt.log_weights) + np.log(np.abs(np.diagonal(whiten, 0, 1, 2))).sum(1)
    deviation = np.array(doubt.deviation)
    factors = (whiten / deviation).reshape(-1, len(deviation))
    means = np.array(doubt.mean) + np.array(doubt.means) * deviation
    return factors, (whiten / deviation @ means[..., None]).ravel(), weights


def too_bright(pixels: np.ndarray) -> bool:
    """Whether more than ``BRIGHT`` of an image's pixels are white; uint8 (H, W, 3)."""
    white = pixels >= _WHITE
    if np.count_nonzero(white) <= BRIGHT * white.size:
        return False
    return bool(np.count_nonzero(white.all(axis=2)) > BRIGHT * white.size / 3)


def warnings_of(pixels: np.ndarray, distance: float | None, spec: ModelSpec) -> dict[str, str]:
    """Code and sentence of whatever makes the answer to an image doubtful.

    Args:
        pixels: uint8 (SIDE, SIDE, 3), contiguous.
        distance: of its features, as the model gave it; None: it gives none.
    """
    found = {"too_bright": TOO_BRIGHT} if too_bright(pixels) else {}
    doubt = spec.doubt
    if doubt is None:
        return found | {"not_judged": NOT_JUDGED}
    if colour_score(statistics(pixels), doubt) > doubt.colours_limit:
        found["colours_unlike_training"] = COLOURS
    if distance is not None and distance > doubt.content_limit:
        found["content_unlike_training"] = CONTENT
    return found


def _power(differences: np.ndarray, lines: int) -> float:
    """The mean square of differences along or between ``lines`` lines."""
    return float(np.dot(differences, differences)) / (SIDE * lines)

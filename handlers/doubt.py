"""What makes an answer doubtful beside a low confidence: pictures unlike those learned from.

Softmax is sure of anything. Two scores, fitted on validation tiles, are not: the statistics of an
image's colours and textures (``colour_scores``), and the distance of the network's pooled features
from those of every class, which exported models give beside the logits (``training.doubt``).
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from handlers.contract.spec import Doubt, ModelSpec

SIDE = 64  # px, of the images whose statistics are taken
BRIGHT = 0.1  # the largest share of white pixels; 0.18 % of EuroSAT's tiles have more
_WHITE = 254
_PIXELS = SIDE * SIDE
_FOUR = 4  # pixels in a row of the products below: rows of one pixel take three times as long
_GREY = np.kron(np.eye(_FOUR, dtype=np.float32), np.ones((3, 1), np.float32))  # sums of channels
_TOGETHER = 8  # images: half as long as one by one, and of 16 the values leave the cache
_ALL = np.ones(_PIXELS // _FOUR, np.float32)

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


def statistics(tiles: np.ndarray) -> np.ndarray:
    """Sixteen figures of the colours and textures of each image.

    Means of channels, logarithms of spreads of channels, differences, gradients and second
    differences, correlations of channels, shares of black and of white. Sums of squares are exact:
    128 less than a pixel, squared, a thousand times, is below 2 ** 24. The figures of an image are
    therefore the same in whatever company it comes.

    Args:
        tiles: uint8 (N, SIDE, SIDE, 3), contiguous.

    Returns:
        float64 (N, 16).
    """
    parts = (tiles[start : start + _TOGETHER] for start in range(0, len(tiles), _TOGETHER))
    return np.array([figures for part in parts for figures in _some(part)])


def _some(tiles: np.ndarray) -> Iterator[tuple[float, ...]]:
    """``statistics`` of a few images, whose values stay in the CPU's cache.

    One product for each image: a larger one would start threads, which wait for those of the other
    workers (16 images: 3.3 ms of CPU each instead of 1.7, decoding and model included).
    """
    count = len(tiles)
    fours = (tiles ^ 128).view(np.int8).astype(np.float32).reshape(count, -1, 3 * _FOUR)
    sums = (_ALL @ fours).reshape(count, _FOUR, 3).sum(axis=1).tolist()
    products = (fours.transpose(0, 2, 1) @ fours).reshape(count, _FOUR, 3, _FOUR, 3)
    squares = products.trace(axis1=1, axis2=3, dtype=np.float64).tolist()
    grey = (fours @ _GREY).reshape(count, SIDE, SIDE)
    across, down = grey[:, :, 1:] - grey[:, :, :-1], grey[:, 1:] - grey[:, :-1]
    bends_across, bends_down = across[:, :, 1:] - across[:, :, :-1], down[:, 1:] - down[:, :-1]
    powers = zip(*map(_powers, (across, down, bends_across, bends_down)), strict=True)
    return map(_figures, tiles, sums, squares, powers)


def _figures(
    tile: np.ndarray,
    sums: Sequence[float],
    squares: Sequence[Sequence[float]],
    powers: Sequence[float],
) -> tuple[float, ...]:
    """Of one image: numbers so few that Python is faster with them than NumPy."""
    red, green, blue = (value / _PIXELS for value in sums)
    (rr, rg, rb), (_, gg, gb), (_, _, bb) = squares
    var_r, var_g, var_b = rr / _PIXELS - red**2, gg / _PIXELS - green**2, bb / _PIXELS - blue**2
    cov_rg, cov_rb = rg / _PIXELS - red * green, rb / _PIXELS - red * blue
    cov_gb = gb / _PIXELS - green * blue
    dev_r, dev_g, dev_b = math.sqrt(var_r), math.sqrt(var_g), math.sqrt(var_b)
    across, down, bends_across, bends_down = powers
    return (
        red + 128,
        green + 128,
        blue + 128,
        math.log(dev_r + 1),
        math.log(dev_g + 1),
        math.log(dev_b + 1),
        cov_rg / (dev_r * dev_g + 3),
        cov_rb / (dev_r * dev_b + 3),
        cov_gb / (dev_g * dev_b + 3),
        math.log(across + 1),
        math.log(down + 1),
        math.log(bends_across + bends_down + 1),
        math.log(max(var_r + var_g - 2 * cov_rg, 0.0) + 0.5),
        math.log(max(var_g + var_b - 2 * cov_gb, 0.0) + 0.5),
        math.log1p(100 * np.count_nonzero(tile <= 1) / tile.size),
        math.log1p(100 * np.count_nonzero(tile >= _WHITE) / tile.size),
    )


def colour_scores(tiles: np.ndarray, doubt: Doubt) -> np.ndarray:
    """How unlike training each image's ``statistics`` are: minus the log-density of a mixture.

    Args:
        tiles: uint8 (N, SIDE, SIDE, 3), contiguous.

    Returns:
        float64 (N,).
    """
    factors, shifts, weights = _mixture(doubt)
    apart = statistics(tiles) @ factors - shifts
    distances = np.square(apart).reshape(len(tiles), len(weights), -1).sum(axis=2)
    return np.asarray(-np.logaddexp.reduce(weights - 0.5 * distances, axis=1))


@lru_cache(maxsize=8)
def _mixture(doubt: Doubt) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mixture for statistics as they are: (D, K * D), (K * D,), and log weights, (K,)."""
    whiten = np.array(doubt.factors)
    weights = np.array(doubt.log_weights) + np.log(np.abs(np.diagonal(whiten, 0, 1, 2))).sum(1)
    deviation = np.array(doubt.deviation)
    factors = (whiten / deviation).reshape(-1, len(deviation))
    means = np.array(doubt.mean) + np.array(doubt.means) * deviation
    return factors.T, (whiten / deviation @ means[..., None]).ravel(), weights


def too_bright(pixels: np.ndarray) -> bool:
    """Whether more than ``BRIGHT`` of an image's pixels are white; uint8 (H, W, 3)."""
    white = pixels >= _WHITE
    if np.count_nonzero(white) <= BRIGHT * white.size:
        return False
    return bool(np.count_nonzero(white.all(axis=2)) > BRIGHT * white.size / 3)


def warnings_of(
    tiles: np.ndarray, distances: Sequence[float | None], spec: ModelSpec
) -> list[dict[str, str]]:
    """For each image, code and sentence of whatever makes the answer to it doubtful.

    Args:
        tiles: uint8 (N, SIDE, SIDE, 3), contiguous, at least one.
        distances: of their features, as the model gave them; None: it gives none.
    """
    warned = [{"too_bright": TOO_BRIGHT} if too_bright(tile) else {} for tile in tiles]
    doubt = spec.doubt
    if doubt is None:
        return [found | {"not_judged": NOT_JUDGED} for found in warned]
    scores = colour_scores(tiles, doubt).tolist()
    for found, score, distance in zip(warned, scores, distances, strict=True):
        if score > doubt.colours_limit:
            found["colours_unlike_training"] = COLOURS
        if distance is not None and distance > doubt.content_limit:
            found["content_unlike_training"] = CONTENT
    return warned


def _powers(differences: np.ndarray) -> list[float]:
    """The mean square of each image's differences, float32 (N, H, W)."""
    rows = differences.reshape(len(differences), 1, -1)
    return ((rows @ rows.transpose(0, 2, 1)).ravel() / rows.shape[2]).tolist()

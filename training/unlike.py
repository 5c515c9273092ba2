"""Whether a model notices pictures that are unlike its training, and how many test tiles it doubts.

Scores and limits are those of ``handlers.doubt``; the pictures are ``training.dataset.strangers``'.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from handlers.contract.spec import Doubt, ModelSpec
from handlers.doubt import SIDE, colour_scores, too_bright
from handlers.vision import resize
from training.dataset.strangers import FAR, NEAR, Pictures, draw
from training.inference import judge

NEAR_EACH = 1000  # pictures of a near kind, or a few more: of each so many-th test tile
FALSE_ALARMS = {"at_1": 0.01, "at_5": 0.05}  # shares of test tiles


@dataclass(frozen=True)
class Scores:
    """What speaks against pictures: two scores, float64 (N,), and too much white, bool (N,)."""

    colours: np.ndarray
    content: np.ndarray
    bright: np.ndarray

    def flags(self, doubt: Doubt) -> dict[str, np.ndarray]:
        """Which pictures get which of the handler's warnings, and which get any; bool (N,)."""
        flags = {
            "colours": self.colours > doubt.colours_limit,
            "content": self.content > doubt.content_limit,
            "bright": self.bright,
        }
        return flags | {"any": np.logical_or.reduce(list(flags.values()))}


def strangers(tiles: Pictures) -> Iterator[tuple[str, bool, Pictures]]:
    """Each kind of them: its name, whether it is far, its pictures; near ones are made of tiles."""
    some = tiles[:: max(1, len(tiles) // NEAR_EACH)]
    for kind in FAR:
        yield kind, True, draw(kind)
    for kind, change in NEAR.items():
        yield kind, False, change(some)


def unlike_training(
    model: nn.Module,
    spec: ModelSpec,
    tiles: Pictures,
    distances: Tensor,
    others: list[tuple[str, bool, Pictures]],
) -> dict[str, Any]:
    """Shares of test tiles and of strangers that are flagged.

    Args:
        model: that gives distances.
        spec: that has ``doubt``.
        tiles: the test tiles as they come, uint8 (N, 64, 64, 3).
        distances: the model's, of these tiles, float (N,).
        others: of ``strangers``.

    Returns:
        ``flagged``: shares of test tiles by warning; ``kinds``: for each kind ``flagged``, the
        share with any warning, and the shares that are found by ``joined`` scores with limits
        that 1 and 5 % of the test tiles are above.
    """
    assert spec.doubt is not None
    usual = _scores(spec.doubt, tiles, distances)
    strangeness = joined(usual, usual)
    limits = {key: np.quantile(strangeness, 1 - share) for key, share in FALSE_ALARMS.items()}
    kinds = []
    for kind, far, pixels in others:
        _, apart = judge(model, torch.from_numpy(resize(pixels, spec.image_size)), spec)
        assert apart is not None
        scores = _scores(spec.doubt, pixels, apart)
        found = joined(scores, usual)
        kinds.append(
            {
                "kind": kind,
                "far": far,
                "count": len(pixels),
                "flagged": float(scores.flags(spec.doubt)["any"].mean()),
                **{key: float((found > limit).mean()) for key, limit in limits.items()},
            }
        )
    flagged = {name: float(flags.mean()) for name, flags in usual.flags(spec.doubt).items()}
    return {"flagged": flagged, "kinds": kinds}


def _scores(doubt: Doubt, pixels: Pictures, distances: Tensor) -> Scores:
    bright = np.array([too_bright(picture) for picture in pixels])
    return Scores(colour_scores(resize(pixels, SIDE), doubt), distances.double().numpy(), bright)


def joined(scores: Scores, usual: Scores) -> np.ndarray:
    """One score of both: how seldom test tiles are as strange, float64 (N,), 0 and above.

    The sum over colours and content of minus the logarithm of the share of test tiles whose score
    is as high (Fisher's way of joining independent tests).

    Args:
        usual: of the test tiles.
    """
    total = np.zeros(len(scores.colours))
    for own, others in ((scores.colours, usual.colours), (scores.content, usual.content)):
        as_strange = len(others) - np.searchsorted(np.sort(others), own)
        total -= np.log((as_strange + 1) / (len(others) + 1))
    return total

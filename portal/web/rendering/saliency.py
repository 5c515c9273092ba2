"""An explanation as people see it: a map in colours over the tile, and a sentence."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from portal import png
from portal.serving.model_server import Explanation

# Orange and blue are told apart by colour-blind people, too, and are rare in imagery, which is
# shown grey below.
FOR, AGAINST = (255, 128, 0), (40, 130, 255)
# Changes of the log-odds. At the first, which multiplies the odds by 1.1, no place matters; a map
# whose strongest place is weaker than the second (1.65) stays pale, or noise would look like proof.
FAINT, FULL = 0.1, 0.5
EVEN = 1.4  # a ninth of the tile stands out when it has so many times the mean of all
ALSO = 0.8  # another one is named beside it from this share of its heat
_NINTHS = (
    ("upper left", "upper middle", "upper right"),
    ("left", "middle", "right"),
    ("lower left", "lower middle", "lower right"),
)


@dataclass(frozen=True)
class SaliencyMap:
    """What the page shows of one explanation.

    ``url`` is a data: URL of a PNG with one pixel per place: ``FOR`` where it speaks for the class,
    ``AGAINST`` where it speaks against it, the more opaque the more.
    """

    class_name: str
    url: str
    sentence: str
    odds: float  # by how much the strongest place for the class multiplies its odds, at least 1


def draw(explanation: Explanation) -> SaliencyMap:
    """The map and the sentence of an explanation."""
    heat = explanation.heat
    values = [value for row in heat for value in row]
    scale = max(FULL, *map(abs, values))
    rows = [b"".join(_pixel(value / scale) for value in row) for row in heat]
    picture = base64.b64encode(png.encode(rows, 4)).decode()
    return SaliencyMap(
        class_name=explanation.class_name,
        url=f"data:image/png;base64,{picture}",
        sentence=in_words(heat),
        odds=math.exp(max(0.0, *values)),
    )


def in_words(heat: Sequence[Sequence[float]]) -> str:
    """Where on the tile the heat is; the tile is told by its ninths."""
    strongest = max(value for row in heat for value in row)
    if strongest < FAINT:
        return "No single place decides: with any of them hidden, the answer stays."
    warm = _by_ninth([[max(value, 0.0) for value in row] for row in heat])
    cold = _by_ninth([[max(-value, 0.0) for value in row] for row in heat])
    hottest = max(warm.values())
    if hottest < EVEN * sum(warm.values()) / len(warm):
        words = "The answer rests on all of the tile about equally."
    else:
        ranked = sorted(warm, key=warm.__getitem__, reverse=True)
        names = [name for name in ranked if warm[name] >= ALSO * hottest][:3]
        places = " and the ".join([", the ".join(names[:-1]), names[-1]] if names[1:] else names)
        words = f"The answer rests most on the {places}."
    coldest = max(cold, key=cold.__getitem__)
    if cold[coldest] > hottest / 2:
        words += f" The {coldest} speaks against it."
    return words


def _by_ninth(heat: Sequence[Sequence[float]]) -> dict[str, float]:
    """The mean of each ninth of a square map, by its name."""
    edges = [round(len(heat) * i / 3) for i in range(4)]
    thirds = [slice(*pair) for pair in pairwise(edges)]
    return {
        name: fmean(value for line in heat[rows] for value in line[columns])
        for rows, names in zip(thirds, _NINTHS, strict=True)
        for columns, name in zip(thirds, names, strict=True)
    }


def _pixel(share: float) -> bytes:
    """Red, green, blue and opacity of a place; ``share`` of the strongest one, -1..1."""
    return bytes((*(FOR if share > 0 else AGAINST), round(230 * abs(share))))

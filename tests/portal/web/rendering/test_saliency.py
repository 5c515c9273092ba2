import base64
import io
import math

import pytest
from PIL import Image

from portal.serving.model_server import Explanation
from portal.web.rendering.saliency import AGAINST, FOR, draw, in_words

Map = list[list[float]]
THIRDS = (slice(0, 5), slice(5, 11), slice(11, 16))


def flat(value: float) -> Map:
    return [[value] * 16 for _ in range(16)]


def with_ninth(row: int, column: int, value: float = 1.0, *, on: Map | None = None) -> Map:
    heat = on or flat(0.0)
    for line in heat[THIRDS[row]]:
        line[THIRDS[column]] = [value] * len(line[THIRDS[column]])
    return heat


def explained(heat: Map) -> Explanation:
    rows = tuple(tuple(row) for row in heat)
    return Explanation("River", 0.9, rows, "baseline", "1.0", 0.5)


@pytest.mark.parametrize(
    ("heat", "sentence"),
    [
        (flat(0.0), "No single place decides: with any of them hidden, the answer stays."),
        (flat(-0.5), "No single place decides: with any of them hidden, the answer stays."),
        (flat(0.5), "The answer rests on all of the tile about equally."),
        (with_ninth(0, 0), "The answer rests most on the upper left."),
        (with_ninth(1, 2), "The answer rests most on the right."),
        (with_ninth(2, 1), "The answer rests most on the lower middle."),
        (
            with_ninth(2, 0, on=with_ninth(1, 1)),
            "The answer rests most on the middle and the lower left.",
        ),
        (
            with_ninth(2, 0, on=with_ninth(1, 1, on=with_ninth(0, 2))),
            "The answer rests most on the upper right, the middle and the lower left.",
        ),
        (
            with_ninth(0, 2, -0.8, on=with_ninth(0, 0)),
            "The answer rests most on the upper left. The upper right speaks against it.",
        ),
    ],
)
def test_the_map_in_words(heat: Map, sentence: str) -> None:
    assert in_words(heat) == draw(explained(heat)).sentence == sentence


def pixels(url: str) -> list[tuple[int, int, int, int]]:
    """The pixels of a data: URL, read by a real reader of images."""
    head, _, data = url.partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert (image.size, image.mode) == ((16, 16), "RGBA")
        raw = image.tobytes()
    return [tuple(raw[i : i + 4]) for i in range(0, len(raw), 4)]  # type: ignore[misc]


def test_the_picture_is_orange_for_and_blue_against() -> None:
    heat = with_ninth(0, 2, -1.0, on=with_ninth(0, 0, 2.0))
    found = pixels(draw(explained(heat)).url)
    assert found[0] == (*FOR, 230)
    assert found[15] == (*AGAINST, 115)
    assert found[16 * 15][3] == 0


def test_weak_heat_stays_pale() -> None:
    strongest = max(pixel[3] for pixel in pixels(draw(explained(with_ninth(0, 0, 0.05))).url))
    assert strongest == 23


def test_the_odds_are_those_of_the_strongest_place_for_the_class() -> None:
    heat = with_ninth(0, 2, -3.0, on=with_ninth(0, 0, math.log(2)))
    assert draw(explained(heat)).odds == pytest.approx(2)
    assert draw(explained(flat(-1.0))).odds == 1

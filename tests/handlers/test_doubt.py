import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from handlers.contract.spec import BadSpec, Doubt, ModelSpec
from handlers.doubt import SIDE, colour_scores, statistics, too_bright, warnings_of
from tests.support.paths import SAMPLES

TILES = {path.stem: np.array(Image.open(path)) for path in sorted(SAMPLES.glob("*.jpg"))}
DICE = np.random.default_rng(0)


def plain_statistics(pixels: np.ndarray) -> list[float]:
    """What ``statistics`` computes quickly, as its documentation says it."""
    values = pixels.astype(np.float64)
    flat = values.reshape(-1, 3)
    grey = values.sum(axis=2)
    spread, cov = flat.std(axis=0), np.cov(flat.T, bias=True)
    red_green, green_blue = flat[:, 0] - flat[:, 1], flat[:, 1] - flat[:, 2]
    bends = np.diff(grey, 2, axis=1), np.diff(grey, 2, axis=0)
    return [
        *flat.mean(axis=0),
        *np.log(spread + 1),
        *(cov[i, j] / (spread[i] * spread[j] + 3) for i, j in ((0, 1), (0, 2), (1, 2))),
        math.log((np.diff(grey, axis=1) ** 2).mean() + 1),
        math.log((np.diff(grey, axis=0) ** 2).mean() + 1),
        math.log(sum((bend**2).mean() for bend in bends) + 1),
        math.log(red_green.var() + 0.5),
        math.log(green_blue.var() + 0.5),
        math.log1p(100 * (pixels <= 1).mean()),
        math.log1p(100 * (pixels >= 254).mean()),
    ]


PICTURES = TILES | {
    "noise": DICE.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8),
    "white": np.full((SIDE, SIDE, 3), 255, np.uint8),
    "stripes": np.tile(np.array([0, 255], np.uint8), (SIDE, SIDE // 2))[..., None].repeat(3, 2),
    "ramp": np.linspace(0, 255, SIDE, dtype=np.uint8)[None, :, None].repeat(SIDE, 0).repeat(3, 2),
}


@pytest.mark.parametrize("name", PICTURES)
def test_statistics_are_what_they_are_said_to_be(name: str) -> None:
    pixels = PICTURES[name]
    turns = np.stack([pixels, pixels.transpose(1, 0, 2), pixels[::-1]])
    for turned, found in zip(turns, statistics(turns), strict=True):
        assert found == pytest.approx(plain_statistics(turned), abs=1e-5)


def test_statistics_are_the_same_in_any_company() -> None:
    pictures = np.stack([*PICTURES.values()] * 3)
    together = statistics(pictures)
    assert together.shape == (3 * len(PICTURES), 16)
    alone = np.concatenate([statistics(picture[None]) for picture in pictures])
    assert together == pytest.approx(alone, abs=1e-7)


@pytest.fixture
def doubt() -> Doubt:
    """Two Gaussians over the statistics of the sample tiles."""
    figures = statistics(np.stack([*TILES.values()]))
    mean, deviation = figures.mean(axis=0), figures.std(axis=0) + 0.05
    size = figures.shape[1]
    lower = np.tril(DICE.normal(0, 0.2, (2, size, size))) + np.eye(size)
    return Doubt(
        mean=tuple(mean.tolist()),
        deviation=tuple(deviation.tolist()),
        log_weights=(math.log(0.3), math.log(0.7)),
        means=tuple(tuple(row) for row in DICE.normal(0, 0.5, (2, size)).tolist()),
        factors=tuple(tuple(map(tuple, factor.T.tolist())) for factor in lower),
        colours_limit=1e6,
        content_limit=50.0,
        least=0.05,
    )


def test_the_colour_score_is_minus_the_log_density_of_the_mixture(doubt: Doubt) -> None:
    pictures = np.stack([*PICTURES.values()])
    scores = colour_scores(pictures, doubt)
    for figures, score in zip(statistics(pictures), scores, strict=True):
        standard = (figures - doubt.mean) / np.array(doubt.deviation)
        density = []
        for weight, mean, factor in zip(doubt.log_weights, doubt.means, doubt.factors, strict=True):
            apart = standard - mean
            precision = np.array(factor).T @ np.array(factor)
            log_det = np.linalg.slogdet(precision)[1]
            density.append(weight + (log_det - apart @ precision @ apart) / 2)
        expected = -np.logaddexp(*density)
        assert score == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_too_bright_is_more_than_a_tenth_of_white_pixels() -> None:
    tile = TILES["River"].clip(0, 200)
    white = SIDE * SIDE // 10
    for count, expected in ((white, False), (white + 1, True), (SIDE * SIDE, True)):
        bright = tile.reshape(-1, 3).copy()
        bright[:count] = 254
        assert too_bright(bright.reshape(tile.shape)) is expected
    red = tile.copy()
    red[..., 0] = 255
    assert not too_bright(red)


def spec_with(doubt: Doubt | None) -> ModelSpec:
    return ModelSpec(("a", "b"), 64, (0.5,) * 3, (0.2,) * 3, doubt=doubt)


def test_each_limit_warns_of_what_lies_beyond_it(doubt: Doubt) -> None:
    tiles = np.stack([TILES["River"], np.full_like(TILES["River"], 255)])
    score = colour_scores(tiles, doubt)[0]
    within = spec_with(replace(doubt, colours_limit=score + 1e-6))
    beyond = spec_with(replace(doubt, colours_limit=score - 1e-6))
    river = tiles[:1]
    assert warnings_of(river, [50.0], within) == [{}]
    assert [set(found) for found in warnings_of(river, [50.1], within)] == [
        {"content_unlike_training"}
    ]
    assert warnings_of(river, [None], within) == [{}]
    first, both = warnings_of(tiles, [0.0, 99.0], beyond)
    assert set(first) == {"colours_unlike_training"}
    assert set(both) == {"too_bright", "colours_unlike_training", "content_unlike_training"}
    assert all(sentence.endswith(".") for sentence in both.values())


def test_a_version_without_figures_says_that_it_cannot_judge() -> None:
    tiles = np.stack([TILES["River"], np.full_like(TILES["River"], 255)])
    river, white = warnings_of(tiles, [None, None], spec_with(None))
    assert set(river) == {"not_judged"}
    assert set(white) == {"not_judged", "too_bright"}


# --- the figures in a specification


def test_figures_travel_as_plain_lists_and_come_back(doubt: Doubt) -> None:
    spec = spec_with(doubt)
    plain = spec.to_dict()
    assert isinstance(plain["doubt"]["factors"][0][0], list)
    assert ModelSpec.from_dict(plain) == spec
    assert hash(ModelSpec.from_dict(plain)) == hash(spec)
    assert "doubt" not in spec_with(None).to_dict()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"means": [[0.0] * 15, [0.0] * 16]}, "2 Gaussians over 16"),
        ({"log_weights": [0.0]}, "1 Gaussians"),
        ({"deviation": [1.0] * 15}, "16 statistics"),
        ({"deviation": [0.0] * 16}, "above 0"),
        ({"colours_limit": math.nan}, "finite"),
        ({"least": None}, "expected numbers"),
        ({"mean": "many"}, "expected numbers"),
    ],
)
def test_figures_that_do_not_fit_together_are_refused(
    doubt: Doubt, change: dict[str, Any], words: str
) -> None:
    plain = spec_with(doubt).to_dict()
    plain["doubt"] |= change
    with pytest.raises(BadSpec, match=words):
        ModelSpec.from_dict(plain)
    del plain["doubt"]["factors"]
    with pytest.raises(BadSpec):
        ModelSpec.from_dict(plain)

"""What an export learns of a model's limits, on figures whose truth is known."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from handlers.doubt import colour_scores
from training.config import ModelConfig
from training.doubt import (
    COVERAGE,
    FALSE_ALARMS,
    Judged,
    fit_colours,
    fit_content,
    fit_doubt,
    split_head,
)
from training.export import to_torchscript
from training.models.registry import MODELS, build_model


def features_of(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes of three features: one spreads widely, two hardly."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % 2
    centres = torch.tensor([[0.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    spread = torch.randn(count, 3, generator=generator) * torch.tensor([10.0, 1.0, 1.0])
    return centres[targets] + spread, targets


def distances_of(features: torch.Tensor, judged: Judged) -> torch.Tensor:
    found: torch.Tensor = judged(features)[1]
    return found


def fitted(count: int) -> tuple[Judged, float]:
    centres, whitening, limit = fit_content(*features_of(count))
    return Judged(nn.Identity(), nn.Identity(), centres, whitening), limit


def test_distances_are_in_deviations_from_the_nearest_class() -> None:
    judged, _ = fitted(20_000)
    asked = torch.tensor([[0.0, 0, 0], [0, 5, 0], [30, 0, 0], [0, 0, 3], [0, 2.5, 0]])
    expected = torch.tensor([0, 0, 9, 9, 6.25])
    assert torch.allclose(distances_of(asked, judged), expected, atol=0.4)


def test_the_limit_is_right_for_tiles_that_nothing_was_fitted_on() -> None:
    judged, limit = fitted(2_000)
    others, _ = features_of(20_000, seed=1)
    share = (distances_of(others, judged) > limit).double().mean()
    assert share == pytest.approx(FALSE_ALARMS, abs=0.003)


def test_the_limit_does_not_depend_on_the_order_of_the_classes() -> None:
    """Every other tile of each class, not of all: else a half might lack a class."""
    features, targets = features_of(8)
    _, _, limit = fit_content(features, targets)
    assert np.isfinite(limit)


@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_can_be_split_and_scripted(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(ModelConfig(name=name, image_size=32, dropout=0.1), 4).eval()
    images = torch.randn(3, 3, 32, 32)
    before = model(images)
    trunk, head = split_head(model)
    features = trunk(images)
    assert torch.equal(model(images), before)  # it was not changed
    width = features.shape[1]
    judged = Judged(trunk, head, torch.randn(4, width), torch.eye(width)).eval()
    logits, distances = to_torchscript(judged)(images)
    assert torch.allclose(logits, before, atol=1e-4)
    assert distances.shape == (3,)


def test_a_model_without_a_classifier_is_refused() -> None:
    with pytest.raises(TypeError, match="Linear has no classifier named head, fc or classifier"):
        split_head(nn.Linear(1, 1))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Soft noise around greens: uint8 (400, 64, 64, 3)."""
    dice = np.random.default_rng(0)
    coarse = dice.normal(0, 20, (400, 3, 16, 16))
    soft = functional.interpolate(torch.from_numpy(coarse), 64, mode="bilinear").numpy()
    base = dice.normal((60, 90, 70), 12, (400, 1, 1, 3))
    return np.asarray((soft.transpose(0, 2, 3, 1) + base).clip(0, 255), dtype=np.uint8)


def test_other_colours_are_beyond_the_limit(images: np.ndarray) -> None:
    doubt = fit_colours(images[:300], images[300:])
    usual = colour_scores(images[300:], doubt)
    assert (usual > doubt.colours_limit).mean() <= 0.01
    assert (colour_scores(images[300:] + 60, doubt) > doubt.colours_limit).mean() > 0.9


def test_a_statistic_that_never_varies_is_no_division_by_zero(images: np.ndarray) -> None:
    doubt = fit_colours(images[:50], images[50:60])  # none has a white pixel
    assert min(doubt.deviation) > 0


@pytest.mark.parametrize(("count", "missed"), [(98, 0), (99, 0), (199, 1), (1000, 9)])
def test_sets_leave_out_as_many_as_they_may(images: np.ndarray, count: int, missed: int) -> None:
    """Of so many tiles: the quantile is that of one more, so that coverage holds for new ones."""
    right = torch.linspace(0.2, 0.9, count)
    probabilities = torch.stack([right, 1 - right], dim=1)
    colours = fit_colours(images[:50], images[50:60])
    doubt = fit_doubt(colours, 7.5, probabilities, torch.zeros(count, dtype=torch.int64))
    assert doubt.content_limit == 7.5
    assert int((right.double() < doubt.least).sum()) == missed
    assert missed <= (1 - COVERAGE) * (count + 1)

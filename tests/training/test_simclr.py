"""Views, and the loss that compares them."""

import math

import pytest
import torch
from torch import Generator, Tensor
from torch.nn import functional

from training.config import AugmentConfig, ModelConfig, SimclrConfig
from training.models.registry import build_model
from training.simclr import contrast, cut_head, make_view, projection_head

SILENT = AugmentConfig(flips=False, quarter_turns=False)


def ramps(n: int = 64, side: int = 16) -> Tensor:
    """Red grows to the right and green downwards, by 8 a pixel."""
    y, x = torch.meshgrid(8 * torch.arange(side), 8 * torch.arange(side), indexing="ij")
    pixels = torch.stack([x, y, torch.full_like(x, 200)], dim=2)
    return pixels.to(torch.uint8).repeat(n, 1, 1, 1)


def view(pixels: Tensor, seed: int = 0, **knobs: float) -> Tensor:
    config = SimclrConfig(**{"crop": 1.0, "grey": 0.0, **knobs})  # type: ignore[arg-type]
    return make_view(pixels, config, SILENT, Generator().manual_seed(seed))


def test_without_changes_a_view_is_the_image() -> None:
    assert torch.equal(view(ramps()), ramps().float())


def test_a_crop_is_a_part_of_the_image_as_large_as_asked_for() -> None:
    seen = view(ramps(400), crop=0.25)
    assert seen.shape == (400, 16, 16, 3)
    # How fast a ramp grows tells how large the part is.
    wide = (seen[:, 8, 12, 0] - seen[:, 8, 4, 0]) / 64
    high = (seen[:, 12, 8, 1] - seen[:, 4, 8, 1]) / 64
    area = wide * high
    assert 0.24 < area.min() < 0.35
    assert 0.8 < area.max() < 1.001
    assert 0.74 < (wide / high).min() < 0.85
    assert 1.15 < (wide / high).max() < 1.35
    middle = seen[:, 7:9, 7:9, :2].mean((1, 2))
    assert middle.min() < 45
    assert middle.max() > 75
    assert seen[..., :2].min() >= 0
    assert seen[..., :2].max() <= 120  # nothing of beyond the edges


def test_a_view_may_be_smaller() -> None:
    seen = view(ramps(), view_size=8)
    assert seen.shape == (64, 8, 8, 3)
    assert torch.allclose(seen[0, 4, :, 0].diff(), torch.tensor(16.0))


def test_some_views_are_grey() -> None:
    seen = view(ramps(400), grey=0.25)
    grey = (seen == seen[..., :1]).flatten(1).all(1)
    assert 70 < int(grey.sum()) < 130
    assert torch.equal(seen[grey][0, ..., 0], ramps(1).float().mean(3)[0])


def test_a_seed_draws_the_same() -> None:
    drawn = [view(ramps(), seed, crop=0.25, grey=0.5) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def by_hand(first: Tensor, second: Tensor, temperature: float) -> float:
    """NT-Xent as in the paper, a pair at a time."""
    views = [*first, *second]
    losses = []
    for number, one in enumerate(views):
        terms = [
            math.exp(functional.cosine_similarity(one, other, dim=0).item() / temperature)
            for other in views
        ]
        partner = (number + len(first)) % len(views)
        losses.append(-math.log(terms[partner] / (sum(terms) - terms[number])))
    return sum(losses) / len(losses)


def test_the_loss_is_that_of_the_paper() -> None:
    first, second = torch.randn(2, 5, 7, generator=Generator().manual_seed(0))
    for temperature in (0.1, 1.0):
        found = contrast(first, second, temperature).item()
        assert found == pytest.approx(by_hand(first, second, temperature), rel=1e-4)


def test_the_loss_is_small_where_images_are_told_apart() -> None:
    apart = torch.eye(6)
    assert contrast(apart, 3 * apart, 0.1) < 0.001
    alike = torch.ones(6, 6)
    assert contrast(alike, alike, 0.1).item() == pytest.approx(math.log(11), rel=1e-4)


@pytest.mark.parametrize(("name", "features"), [("baseline", 88), ("resnet18", 512)])
def test_without_its_head_a_model_gives_features(name: str, features: int) -> None:
    model = build_model(ModelConfig(name=name), 10)
    assert cut_head(model) == features
    given = model.eval()(torch.zeros(2, 3, 64, 64))
    assert given.shape == (2, features)
    assert projection_head(features, 16)(given + torch.randn(2, features)).shape == (2, 16)

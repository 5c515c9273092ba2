"""Slim ResNets: what stays of wider weights, and that nothing else changes."""

import pytest
import torch
from torch import nn
from torchvision.models import ResNet, resnet18

from training.config import BadConfig, TrainConfig
from training.models import build_model
from training.slim import blocks_of, cut

INNER = (8, 16, 24, 32, 40, 48, 56, 64)


@pytest.fixture
def wide() -> ResNet:
    """A ResNet-18 in which half of each block's inner channels, every other one, say nothing."""
    model: ResNet = resnet18(num_classes=10).eval()
    with torch.no_grad():
        for _, block in blocks_of(model):
            block.conv2.weight[:, ::2] = 0
            block.bn1.running_var.uniform_(0.5, 2)
            block.bn1.running_mean.normal_()
    return model


def slim_of(wide: ResNet, inner: tuple[int, ...]) -> nn.Module:
    model = build_model(TrainConfig(model="resnet18", inner=inner), 10)
    model.load_state_dict(cut(wide.state_dict(), model))
    return model.eval()


def test_only_the_inner_channels_are_fewer() -> None:
    model = build_model(TrainConfig(model="resnet18", inner=INNER), 10)
    widths = [(block.conv1.out_channels, block.conv2.in_channels) for _, block in blocks_of(model)]
    assert widths == [(width, width) for width in INNER]
    published = dict(resnet18(num_classes=10).named_parameters())
    for name, value in model.named_parameters():
        inner = any(part in name for part in ("conv1", "bn1", "conv2")) and "layer" in name
        assert inner or value.shape == published[name].shape


def test_cutting_off_what_says_nothing_changes_no_answer(wide: ResNet) -> None:
    slim = slim_of(wide, (32, 32, 64, 64, 128, 128, 256, 256))
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(slim(images), wide(images), atol=1e-4)


def test_what_cannot_be_cut_is_left_as_it_is(wide: ResNet) -> None:
    state = {k: v for k, v in wide.state_dict().items() if not k.startswith("layer1.0.conv1")}
    model = build_model(TrainConfig(model="resnet18", inner=(32, 65, *INNER[2:])), 10)
    found = cut(state, model)
    assert "layer1.0.conv1.weight" not in found
    assert found["layer1.0.conv2.weight"].shape == (64, 64, 3, 3)
    assert found["layer1.1.conv1.weight"].shape == (64, 64, 3, 3)
    assert found["layer2.0.conv1.weight"].shape == (24, 64, 3, 3)


def test_inner_takes_eight_widths() -> None:
    with pytest.raises(BadConfig, match=r"inner: expected eight numbers .* found \(8, 8\)"):
        TrainConfig(inner=(8, 8))

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from training.config import BadConfig, ModelConfig
from training.export import to_torchscript
from training.inference import refuse_differences
from training.models.registry import MODELS, build_model

TINY = ModelConfig(widths=(4, 6, 8), image_size=32)


@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_gives_logits_and_can_be_scripted(name: str, images: Tensor) -> None:
    torch.manual_seed(0)
    model = build_model(replace(TINY, name=name), classes=7).eval()
    with torch.inference_mode():
        assert model(images[:2]).shape == (2, 7)
    refuse_differences(model, to_torchscript(model), images[:4])


def test_an_unknown_architecture_is_answered_with_the_valid_ones() -> None:
    with pytest.raises(BadConfig, match="model: expected one of baseline, resnet18, vit_tiny, sw"):
        build_model(replace(TINY, name="resnet19"), 4)


def test_a_vit_refuses_a_side_that_patches_do_not_fill() -> None:
    with pytest.raises(BadConfig, match="image_size: expected a multiple of 16, found 40"):
        build_model(ModelConfig(name="vit_tiny", image_size=40), 4)


@pytest.mark.parametrize(("side", "window"), [(64, 8), (96, 8), (224, 7)])
def test_a_swin_has_windows_for_its_image(side: int, window: int) -> None:
    model = build_model(ModelConfig(name="swin_tiny", image_size=side), 4)
    tables = [p for name, p in model.named_parameters() if name.endswith("position_bias_table")]
    assert tables[0].shape == ((2 * window - 1) ** 2, 3)
    assert len(tables) == 2 + 2 + 6 + 2


def test_a_swin_refuses_a_side_that_its_stages_do_not_halve() -> None:
    with pytest.raises(BadConfig, match="image_size: expected a multiple of 32, found 80"):
        build_model(ModelConfig(name="swin_tiny", image_size=80), 4)


def test_dropout_of_an_efficientnet_is_in_training_alone(images: Tensor) -> None:
    torch.manual_seed(0)
    model = build_model(replace(TINY, name="efficientnet_lite2", dropout=0.5), 4).eval()
    assert torch.equal(model(images[:2]), model(images[:2]))
    features = model.forward_features(images[:2])  # type: ignore[operator]
    model.train()
    assert not torch.equal(model.forward_head(features), model.forward_head(features))  # type: ignore[operator]


def test_the_committed_baseline_fits_its_size() -> None:
    config = ModelConfig()
    parameters = sum(p.numel() for p in build_model(config, 10).parameters())
    assert 4 * parameters < 1_300_000

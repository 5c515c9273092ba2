from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from training.config import BadConfig, ModelConfig
from training.models.baseline import BaselineCNN
from training.models.registry import build_model
from training.models.weights import is_folded, load_pretrained, recalibrate_batch_norm

TINY = ModelConfig(widths=(4, 6, 8), image_size=32)


def fold(model: nn.Module) -> None:
    """As weights are shipped for inference: each norm's work done by the convolution before it."""
    layers = list(model.modules())
    for before, norm in pairwise(layers):
        if isinstance(before, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            with torch.no_grad():
                factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
                before.weight.mul_(factor.reshape(-1, 1, 1, 1))
                norm.bias.sub_(norm.running_mean * factor)
                norm.weight.fill_(1)
                norm.running_mean.zero_()
                norm.running_var.fill_(1 - norm.eps)


@pytest.fixture
def trained(images: Tensor) -> nn.Module:
    """A baseline whose norms have seen images, in evaluation mode."""
    torch.manual_seed(0)
    model = BaselineCNN(4, (4, 6, 8), (1, 1, 1), 0.0)
    with torch.no_grad():
        for _ in range(20):
            model(images)
    return model.eval()


def test_without_weights_nothing_is_filled() -> None:
    filled, origin = load_pretrained(build_model(TINY, 4), TINY, "random")
    assert filled == set()
    assert origin == "Random start, no pretrained weights."


@pytest.fixture
def npz(trained: nn.Module, tmp_path: Path) -> Path:
    """The trained baseline's weights, the classifier's left out, one of another shape."""
    arrays: dict[str, Any] = {
        name: value.numpy() for name, value in trained.state_dict().items() if "head" not in name
    }
    arrays["stages.0.0.0.weight"] = np.zeros((1, 1))
    np.savez(tmp_path / "some.npz", **arrays)
    return tmp_path / "some.npz"


def test_weights_fill_what_fits_and_the_card_learns_what_did_not(
    npz: Path, trained: nn.Module
) -> None:
    torch.manual_seed(1)
    model = build_model(TINY, 4)
    filled, origin = load_pretrained(model, replace(TINY, weights=str(npz)), "random")
    names = {name for name, _ in model.named_parameters()}
    assert names - filled == {"stages.0.0.0.weight", "head.weight", "head.bias"}
    for name in filled:
        assert torch.equal(model.get_parameter(name), trained.get_parameter(name))
    assert origin.startswith("some.npz (sha256 ")
    assert origin.endswith("Started at random: head.bias, head.weight, stages.0.0.0.weight.")
    assert str(npz.parent) not in origin


def save_checkpoint(model: nn.Module, path: Path, split: str = "random") -> None:
    content = {
        "weights": model.state_dict(),
        "config": {"split": split},
        "epoch": 7,
        "weights_origin": "Random start.",
    }
    torch.save(content, path)


def test_a_checkpoint_of_ours_fills_everything_and_tells_its_own_start(
    trained: nn.Module, tmp_path: Path
) -> None:
    path = tmp_path / "baseline-0.9" / "best.pt"
    path.parent.mkdir()
    save_checkpoint(trained, path)
    model = build_model(TINY, 4)
    filled, origin = load_pretrained(model, replace(TINY, weights=str(path)), "random")
    assert filled == {name for name, _ in model.named_parameters()}
    assert origin.startswith("Epoch 7 of an earlier training (baseline-0.9, sha256 ")
    assert origin.endswith("which started so: Random start.")
    assert str(tmp_path) not in origin


def test_a_checkpoint_of_another_split_is_refused(trained: nn.Module, tmp_path: Path) -> None:
    save_checkpoint(trained, tmp_path / "best.pt", split="spatial")
    with pytest.raises(BadConfig, match="learned on the spatial split"):
        load_pretrained(
            build_model(TINY, 4), replace(TINY, weights=str(tmp_path / "best.pt")), "random"
        )


def test_position_embeddings_of_another_size_are_interpolated(tmp_path: Path) -> None:
    large = build_model(ModelConfig(name="vit_tiny", image_size=128), 4)
    before = large.get_parameter("pos_embed")
    with torch.no_grad():
        before.fill_(0.5)
        before[:, 0] = 3.0  # the class token's
    save_checkpoint(large, tmp_path / "large.pt")
    config = ModelConfig(name="vit_tiny", weights=str(tmp_path / "large.pt"), image_size=64)
    small = build_model(config, 4)
    filled, _ = load_pretrained(small, config, "random")
    assert "pos_embed" in filled
    positions = small.get_parameter("pos_embed")
    assert positions.shape == (1, 17, 192)
    assert torch.equal(positions[:, 0], before[:, 0])
    assert torch.allclose(positions[:, 1:], torch.tensor(0.5), atol=1e-5)


def test_weights_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    def refuse(weights: object, message: str, model: str = "baseline") -> None:
        config = replace(TINY, name=model, weights=str(weights))
        with pytest.raises(BadConfig, match=message):
            load_pretrained(build_model(config, 4), config, "random")

    refuse(tmp_path / "no.npz", r"weights: expected imagenet, none or a file; .*no\.npz does not")
    refuse(
        "imagenet", "weights: imagenet is for resnet18 and efficientnet_lite2; for baseline give"
    )
    for name in ("noise.npz", "noise.pth", "noise.safetensors", "noise.pt"):
        (tmp_path / name).write_bytes(b"noise")
        refuse(tmp_path / name, rf"weights: .*{name} is neither .npz, .pth, .safetensors nor a che")
    np.savez(tmp_path / "other.npz", unknown=np.zeros(3))
    refuse(tmp_path / "other.npz", r"nothing in .*other\.npz fits the model baseline")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_of_other_trainers_are_read(
    suffix: str, trained: nn.Module, tmp_path: Path
) -> None:
    path = tmp_path / f"some.{suffix}"
    state = {name: value for name, value in trained.state_dict().items() if "head" not in name}
    if suffix == "pth":
        torch.save({"state_dict": state}, path)
    else:
        save_file(state, path)
    model = build_model(TINY, 4)
    filled, origin = load_pretrained(model, replace(TINY, weights=str(path)), "random")
    assert filled == {name for name, _ in trained.named_parameters() if "head" not in name}
    assert origin.startswith(f"some.{suffix} (sha256 ")
    assert torch.equal(model.state_dict()["stages.0.0.0.weight"], state["stages.0.0.0.weight"])


LITE2 = ModelConfig(name="efficientnet_lite2", weights="imagenet", image_size=64)


def test_an_installed_package_brings_the_weights_of_an_efficientnet() -> None:
    model = build_model(LITE2, 4)
    filled, origin = load_pretrained(model, LITE2, "random")
    new = {"classifier.weight", "classifier.bias"}
    assert filled == {name for name, _ in model.named_parameters()} - new
    assert origin.startswith("ImageNet-1k weights of EfficientNet-Lite2 (Google, 2020; Apache-2.0;")
    assert "(sha256 9656183eaeafe8cb)" in origin


def test_an_efficientnet_answers_as_the_network_that_its_weights_were_made_for() -> None:
    """Expected: what ``efficientnet_lite_pytorch`` 0.1.0 says of the same image."""
    model = build_model(LITE2, 1000).eval()
    load_pretrained(model, LITE2, "random")
    image = torch.linspace(-1, 1, 3 * 96 * 96).reshape(1, 3, 96, 96)
    with torch.inference_mode():
        logits = model(image)[0]
    expected = torch.tensor([0.5998, 0.9141, 0.2841, 1.0018, 1.0106])
    torch.testing.assert_close(logits[:5], expected, rtol=0, atol=1e-3)


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.models.weights._LITE2_PACKAGE", "nobody_installed_me")
    with pytest.raises(BadConfig, match="nobody_installed_me brings, which is not installed: `"):
        load_pretrained(build_model(LITE2, 4), LITE2, "random")


def test_windows_of_another_size_are_interpolated(tmp_path: Path) -> None:
    large = build_model(ModelConfig(name="swin_tiny", image_size=224), 4)
    table = "layers.0.blocks.0.attn.relative_position_bias_table"
    with torch.no_grad():
        rows = torch.arange(-6.0, 7.0)[:, None].expand(13, 13)  # biases by shift, up to down
        large.get_parameter(table).copy_(rows.reshape(-1, 1).expand(-1, 3))
    torch.save(large.state_dict(), tmp_path / "large.pth")
    config = ModelConfig(name="swin_tiny", weights=str(tmp_path / "large.pth"), image_size=64)
    small = build_model(config, 4)
    filled, _ = load_pretrained(small, config, "random")
    assert filled == {name for name, _ in small.named_parameters()}
    found = small.get_parameter(table)
    assert found.shape == (225, 3)
    square = found[:, 1].reshape(15, 15)
    assert torch.allclose(square[7], torch.zeros(15), atol=1e-5)
    assert torch.allclose(square[10], torch.full((15,), 3 * 13 / 15), atol=0.05)
    torch.save({"layers.2.blocks.17.attn.relative_position_bias_table": found}, tmp_path / "b.pth")
    base = replace(config, weights=str(tmp_path / "b.pth"))
    with pytest.raises(BadConfig, match=r"weights: .*b\.pth is of a larger Swin"):
        load_pretrained(small, base, "random")


# Batch norms that were folded into convolutions


def test_only_folded_norms_are_called_folded(trained: nn.Module) -> None:
    assert not is_folded(BaselineCNN(4, (4, 4, 4), (1, 1, 1), 0.0))
    assert not is_folded(trained)
    fold(trained)
    assert is_folded(trained)
    assert not is_folded(build_model(ModelConfig(name="vit_tiny", image_size=32), 4))


def test_recalibrated_norms_compute_the_same_function(trained: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        original = trained(images)
        fold(trained)
        folded = trained(images)
        assert (folded - original).abs().max() < 1e-4
        trained.train()
        batch_statistics = trained(images)
        # Without recalibration the first step of a training would meet another function.
        assert (batch_statistics - folded).abs().max() > 0.1

        trained.eval()
        fold(trained)  # the pass above moved the running statistics
        folded = trained(images)
        recalibrate_batch_norm(trained, images)
        assert not trained.training
        assert (trained(images) - folded).abs().max() < 1e-4
        assert (trained.train()(images) - folded).abs().max() < 1e-2
    assert not is_folded(trained)


def test_a_channel_that_never_varies_keeps_its_value(images: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2)).eval()
    fold(model)
    with torch.no_grad():
        model.get_parameter("0.weight")[0] = 0
        model.get_parameter("1.bias")[0] = 3.0
        before = model(images)
        recalibrate_batch_norm(model, images)
        assert (model(images) - before).abs().max() < 1e-4
    assert model.get_buffer("1.running_var")[0] == 1

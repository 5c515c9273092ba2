"""TorchScript as it lies in a run: loaded or refused, asked about many tiles."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from handlers.contract.spec import ModelSpec
from training.dataset.eurosat import Tiles
from training.dataset.examples import load_examples
from training.export import to_torchscript
from training.inference import LOGITS_TOLERANCE, load_exported, predict, refuse_differences
from training.models.baseline import BaselineCNN
from training.runs import BadExport, read_spec


class Shifted(nn.Module):
    """Another model's logits, all larger by a little."""

    def __init__(self, model: nn.Module, by: float) -> None:
        super().__init__()
        self.model, self.by = model, by

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.model(x)
        return y + self.by


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return BaselineCNN(4, (4, 4, 4), (1, 1, 1), 0.0).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_a_model_that_answers_otherwise_is_refused(model: nn.Module, images: Tensor) -> None:
    refuse_differences(model, to_torchscript(model), images)
    refuse_differences(model, Shifted(model, LOGITS_TOLERANCE / 2), images)
    with pytest.raises(BadExport, match=r"logits differ by 0\.0002, expected at most 1e-04; nothi"):
        refuse_differences(model, Shifted(model, 2 * LOGITS_TOLERANCE), images)
    with pytest.raises(BadExport, match="differ by nan"):
        refuse_differences(model, Shifted(model, float("nan")), images)


def test_an_export_that_is_not_whole_says_what_is_wrong(run: Path) -> None:
    (run / "model.pt").write_bytes((run / "model.pt").read_bytes()[:500])
    with pytest.raises(BadExport, match=r"model\.pt cannot be loaded as TorchScript"):
        load_exported(run)
    (run / "model.pt").unlink()
    with pytest.raises(BadExport, match=r"model\.pt does not exist: export first"):
        load_exported(run)
    (run / "model-config.yaml").write_text("spec: {labels: [a, b]}\n")
    with pytest.raises(BadExport, match=r"config\.yaml is not a model configuration: missing key"):
        read_spec(run)
    (run / "model-config.yaml").write_text("- spec\n")
    with pytest.raises(BadExport, match=r"model-config\.yaml is not a model configuration"):
        read_spec(run)
    shutil.rmtree(run)
    with pytest.raises(BadExport, match=r"model-config\.yaml does not exist: export first"):
        load_exported(run)


def test_logits_of_many_tiles_are_those_of_each(
    model: nn.Module, spec: ModelSpec, tiles: Tiles
) -> None:
    pixels = load_examples(tiles, tuple(tiles.names), spec).pixels  # 80: more than one batch
    together = predict(model, pixels, spec)
    assert together.shape == (80, 4)
    one_by_one = torch.cat([predict(model, pixel[None], spec) for pixel in pixels])
    assert torch.allclose(together, one_by_one, atol=1e-5)

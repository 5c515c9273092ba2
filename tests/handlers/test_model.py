"""Loading TorchScript for the CPU that is there."""

import io
import platform
from pathlib import Path

import pytest
import torch

from handlers.model import ask, fuse_layers, load_model


class Asks(torch.nn.Module):
    """Answers with the one thing that it wants to know."""

    matrix_units: bool

    def __init__(self) -> None:
        super().__init__()
        self.matrix_units = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + int(self.matrix_units)


class AsksNothing(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def frozen(model: torch.nn.Module, *kept: str) -> io.BytesIO:
    file = io.BytesIO()
    torch.jit.save(torch.jit.freeze(torch.jit.script(model.eval()), list(kept)), file)
    file.seek(0)
    return file


@pytest.mark.parametrize("there", [True, False])
def test_a_model_is_told_of_matrix_units(monkeypatch: pytest.MonkeyPatch, *, there: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_int8": there})
    model = load_model(frozen(Asks(), "matrix_units"))
    assert model(torch.zeros(1)).item() == there


@pytest.mark.parametrize("capabilities", [{}, {"architecture": "aarch64"}])
def test_where_the_cpu_says_nothing_of_them_there_are_none(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, object]
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert load_model(frozen(Asks(), "matrix_units"))(torch.zeros(1)).item() == 0


def test_a_model_that_does_not_ask_is_told_nothing(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    file.write_bytes(frozen(AsksNothing()).getvalue())
    model = load_model(file)
    assert model(torch.ones(1)).item() == 1
    assert not hasattr(model, "matrix_units")


class FirstRow(torch.nn.Module):
    """Logits are two corners of the image; the distance is the first."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x[:, 0, 0, 0:2], x[:, 0, 0, 0]


def test_the_mean_over_views_is_of_each_image_its_own() -> None:
    images = torch.arange(2.0 * 3 * 2 * 2).view(2, 2, 2, 3).permute(0, 3, 1, 2)
    logits, distances = ask(FirstRow(), images, 8, 5)
    means = images[:, 0].mean(dim=(1, 2))
    assert torch.allclose(logits, means[:, None].expand(-1, 2))
    assert distances is not None
    assert torch.equal(distances, images[:, 0, 0, 0])
    logits, distances = ask(FirstRow(), images, 1, 1)
    assert torch.equal(logits, images[:, 0, 0, 0:2])
    assert ask(AsksNothing(), images, 8, 16)[1] is None


@pytest.mark.skipif(platform.machine() != "x86_64", reason="torch has this for x86 alone")
def test_layers_are_fused_of_one_model_and_no_other() -> None:
    image = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    plain, fused = (load_model(frozen(layers)) for _ in range(2))
    fuse_layers(fused, image)
    with torch.inference_mode():
        for model, groups in ((fused, True), (plain, False)):
            answers = [model(image) for _ in range(3)]
            graph = str(torch._C._last_executed_optimized_graph())
            assert ("oneDNNFusionGroup" in graph) is groups
            assert torch.allclose(answers[-1], layers(image), atol=1e-6)

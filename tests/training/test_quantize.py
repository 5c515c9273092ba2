"""int8 files of the tiny run and of a small ResNet: real TorchScript, nearly the same answers."""

import json
import logging
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from handlers.contract.spec import ModelSpec
from handlers.model import load_model
from handlers.vision import normalize
from training import quantize as module
from training.config import ModelConfig, config_from_dict
from training.dataset.eurosat import Tiles
from training.dataset.examples import Examples, load_examples
from training.doubt import Judged, fit_content, give_distances, split_head
from training.export import export, to_torchscript
from training.inference import load_exported, predict
from training.models.baseline import BaselineCNN
from training.models.registry import build_model
from training.quantize import CannotQuantize, calibration_names, quantize
from training.runs import FILES, has_int8


@pytest.fixture
def pixels(tiles: Tiles, spec: ModelSpec) -> torch.Tensor:
    return load_examples(tiles, tuple(tiles.names), spec).pixels


def test_a_run_has_an_int8_file_that_answers_as_fp32(
    finished_run: Path, pixels: torch.Tensor
) -> None:
    assert has_int8(finished_run)
    model, spec = load_exported(finished_run, "int8")
    assert isinstance(model, torch.jit.ScriptModule)
    kinds = {node.kind() for node in model.graph.nodes()}
    assert {"quantized::conv2d_relu", "quantized::add_relu"} <= kinds
    assert "aten::conv2d" not in kinds
    fp32, _ = load_exported(finished_run)
    logits, expected = predict(model, pixels, spec), predict(fp32, pixels, spec)
    assert logits.dtype == torch.float32
    # a model that has hardly learnt hesitates between classes: there int8 may decide otherwise
    assert (logits.argmax(1) == expected.argmax(1)).float().mean() >= 0.9
    assert (logits - expected).abs().mean() < 0.1 * expected.std()


def test_it_has_its_own_temperature_and_is_described_in_the_report(finished_run: Path) -> None:
    report = json.loads((finished_run / "report.json").read_text())
    _, spec = load_exported(finished_run, "int8")
    assert report["int8"]["spec"] == spec.to_dict()
    assert report["spec"] == load_exported(finished_run)[1].to_dict()
    assert 0.9 <= report["int8"]["agreement"] <= 1
    assert [tile["file"] for tile in report["int8"]["probe"]] == [
        tile["file"] for tile in report["probe"]
    ]
    config = (finished_run / FILES["int8"][1]).read_text()
    assert "fuse_layers" not in config  # it has kernels of its own
    assert "fuse_layers: true" in (finished_run / FILES["fp32"][1]).read_text()


def test_a_batch_is_answered_as_its_tiles_are(finished_run: Path, pixels: torch.Tensor) -> None:
    model, spec = load_exported(finished_run, "int8")
    one_by_one = torch.cat([predict(model, tile[None], spec) for tile in pixels[:9]])
    assert torch.allclose(predict(model, pixels[:9], spec), one_by_one, atol=1e-5)


def test_a_resnet_is_quantised_whole(spec: ModelSpec, pixels: torch.Tensor) -> None:
    torch.manual_seed(0)
    model = build_model(ModelConfig(name="resnet18", dropout=0.1), 4)
    images = normalize(pixels, spec)
    with torch.no_grad():
        model.train()(images)  # batch norms that fit
    before = {name: value.clone() for name, value in model.eval().state_dict().items()}
    int8 = to_torchscript(quantize(model, spec, images.split(16)))
    after = model.state_dict()
    assert [name for name, value in before.items() if not torch.equal(after[name], value)] == []
    assert len(quantised_convolutions(int8)) == 20
    expected, found = to_torchscript(model)(images), int8(images)
    assert (found - expected).abs().mean() < 0.15 * expected.std()


def quantised_convolutions(model: torch.jit.ScriptModule) -> list[str]:
    return [line for line in str(model.graph).splitlines() if "= quantized::conv2d" in line]


@pytest.mark.parametrize("size", [16, 32, 40, 64, 96, 128])
@pytest.mark.parametrize("matrix_units", [False, True])
def test_images_in_pairs_get_the_same_answers(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch, size: int, *, matrix_units: bool
) -> None:
    """Alone, or with one left over; odd sizes too: 40 px become 10, 5, 3 and 2."""
    torch.manual_seed(1)
    spec = ModelSpec.from_dict(spec.to_dict() | {"image_size": size})
    model = build_model(ModelConfig(name="resnet18", dropout=0.1), 4).eval()
    images = torch.randn(9, 3, size, size)
    in_pairs = to_torchscript(quantize(model, spec, [images]))
    monkeypatch.setattr(module, "NARROW", 0)
    usual = to_torchscript(quantize(model, spec, [images]))
    assert len(quantised_convolutions(usual)) == len(quantised_convolutions(in_pairs)) == 20
    assert not hasattr(usual, "matrix_units")
    assert hasattr(in_pairs, "matrix_units")
    in_pairs.matrix_units = matrix_units
    for count in (1, 2, 8, 9):
        assert torch.equal(in_pairs(images[:count]), usual(images[:count])), count
    assert not torch.equal(in_pairs(images[:1]), in_pairs(images[1:2]))


def test_it_gives_distances_beside_the_same_logits(
    spec: ModelSpec, tiles: Tiles, tmp_path: Path
) -> None:
    """Those of its own features, and it still learns of matrix units when it is loaded."""
    torch.manual_seed(0)
    model = build_model(ModelConfig(name="resnet18"), 4).eval()
    val = load_examples(tiles, tuple(tiles.names), spec)
    images = normalize(val.pixels, spec)
    int8 = quantize(model, spec, [images])
    judged, _ = give_distances(int8, spec, val)
    torch.jit.save(to_torchscript(judged), str(tmp_path / "judged.pt"))
    loaded = load_model(tmp_path / "judged.pt")
    assert loaded.trunk.matrix_units == bool(torch.cpu.get_capabilities().get("amx_int8"))
    logits, distances = loaded(images)
    assert torch.equal(logits, to_torchscript(int8)(images))
    assert torch.equal(loaded(images[:3])[0], logits[:3])
    trunk, _ = split_head(int8)
    assert torch.allclose(
        distances,
        Judged(trunk, nn.Identity(), *content(trunk, val, spec))(images)[1],
        rtol=1e-3,
        atol=1e-3,
    )
    assert not torch.allclose(distances, give_distances(model, spec, val)[0](images)[1], rtol=0.01)


def content(trunk: nn.Module, val: Examples, spec: ModelSpec) -> tuple[torch.Tensor, torch.Tensor]:
    return fit_content(predict(trunk, val.pixels, spec), val.targets)[:2]


def test_lessons_bring_its_answers_nearer(finished_run: Path, pixels: torch.Tensor) -> None:
    checkpoint = torch.load(finished_run / "best.pt", weights_only=True)
    config = config_from_dict(checkpoint["config"])
    spec = ModelSpec.from_dict(checkpoint["spec"])
    model = build_model(config.model, len(spec.labels)).eval()
    model.load_state_dict(checkpoint["weights"])
    with torch.no_grad():
        # Its answers are so alike that rounding hardly shows in them.
        model.get_parameter("head.weight").mul_(20)
    images = normalize(pixels, spec)
    expected = functional.log_softmax(model(images).detach(), dim=1)

    def divergence(lessons: list[torch.Tensor]) -> float:
        int8 = quantize(model, spec, images.split(16), lessons)
        found = functional.log_softmax(int8(images), dim=1)
        return functional.kl_div(found, expected, reduction="batchmean", log_target=True).item()

    assert divergence([images] * 30) < 0.9 * divergence([])


def test_pixels_arrive_exactly_where_they_do_not_saturate(spec: ModelSpec) -> None:
    """Black, grey and bright tiles, so that nothing but the input's steps could differ."""
    model = BaselineCNN(4, (4, 4, 4), (0, 0, 0), 0.0).eval()
    twin = module._Quantizable(*module._parts(model), spec)
    levels = torch.arange(0, 230).reshape(-1, 1, 1, 1).expand(-1, 1, 1, 3)
    steps = (normalize(levels, spec) * twin.steps).round()
    assert torch.equal(steps[1:] - steps[:-1], torch.ones_like(steps[1:]))


def test_what_has_no_int8_form_is_refused_in_a_sentence(spec: ModelSpec) -> None:
    vit = build_model(ModelConfig(name="vit_tiny", image_size=32), 4)
    with pytest.raises(
        CannotQuantize, match=r"VisionTransformer has no int8 form: .* served in fp32"
    ):
        quantize(vit, spec, [])
    lite2 = build_model(ModelConfig(name="efficientnet_lite2", image_size=32), 4)
    with pytest.raises(CannotQuantize, match="EfficientNet has no int8 form"):
        quantize(lite2, spec, [])
    with pytest.raises(CannotQuantize, match="Linear has no int8 form"):
        quantize(nn.Linear(1, 1), spec, [])


def test_without_an_int8_form_fp32_is_exported_alone(
    run: Path, tiles: Tiles, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise CannotQuantize("Model has no int8 form")

    monkeypatch.setattr("training.export.quantize", refuse)
    with caplog.at_level(logging.INFO, "training.export"):
        export(run, tiles)
    assert "no int8 file: Model has no int8 form" in caplog.text
    assert not has_int8(run)
    assert not (run / FILES["int8"][1]).exists()
    assert (run / "model.pt").is_file()


def test_calibration_tiles_follow_from_the_seed() -> None:
    names = tuple(f"River_{number}.jpg" for number in range(5000))
    first = calibration_names(names, 0)
    assert len(set(first)) == module.CALIBRATION_TILES
    assert first == calibration_names(names, 0)
    assert first != calibration_names(names, 1)
    assert set(calibration_names(names[:10], 0)) == set(names[:10])

import shutil
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from handlers.spec import ModelSpec
from handlers.vision import normalize, to_probabilities
from training.calibration import choose_threshold, fit_temperature
from training.config import config_from_dict
from training.eurosat import Tiles, load_examples, load_split
from training.export import (
    SERVING,
    TOLERANCE,
    BadExport,
    export,
    load_exported,
    predict,
    read_spec,
    refuse_differences,
    to_torchscript,
)
from training.models import BaselineCNN, build_model


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


def test_the_exported_model_is_the_trained_one(finished_run: Path, tiles: Tiles) -> None:
    best = torch.load(finished_run / "best.pt", weights_only=True)
    eager = build_model(config_from_dict(best["config"]), 4)
    eager.load_state_dict(best["weights"])
    exported, spec = load_exported(finished_run)
    pixels = load_examples(tiles, tuple(tiles.names), spec).pixels
    refuse_differences(eager.eval(), exported, normalize(pixels, spec))


def test_temperature_and_threshold_are_fitted_on_validation_tiles(
    finished_run: Path, tiles: Tiles
) -> None:
    exported, spec = load_exported(finished_run)
    val = load_examples(tiles, load_split("random", tiles).val, spec)
    logits = predict(exported, val.pixels, spec)
    assert spec.temperature == pytest.approx(fit_temperature(logits, val.targets))
    threshold = choose_threshold(to_probabilities(logits, spec), val.targets)
    assert spec.threshold == pytest.approx(threshold)


def test_the_archive_is_told_how_to_serve(finished_run: Path, spec: ModelSpec) -> None:
    content = yaml.safe_load((finished_run / "model-config.yaml").read_text())
    assert {key: content[key] for key in SERVING} == SERVING
    written = ModelSpec.from_dict(content["spec"])
    assert (written.labels, written.image_size) == (spec.labels, 32)
    assert (written.mean, written.std) == (spec.mean, spec.std)


def test_the_exported_file_names_no_file_of_this_machine(finished_run: Path) -> None:
    with zipfile.ZipFile(finished_run / "model.pt") as archive:
        for name in archive.namelist():
            assert str(Path(__file__).parents[2]).encode() not in archive.read(name), name
    assert {path.suffix for path in finished_run.iterdir()}.isdisjoint({".part", ".slim"})


def test_exporting_again_gives_the_same_answers(run: Path, tiles: Tiles) -> None:
    model, spec = load_exported(run)
    pixels = load_examples(tiles, ("River_1.jpg", "Forest_1.jpg"), spec).pixels
    before = predict(model, pixels, spec)
    export(run, tiles)
    model, again = load_exported(run)
    assert again == spec
    assert torch.equal(predict(model, pixels, again), before)


def test_a_model_that_answers_otherwise_is_refused(model: nn.Module, images: Tensor) -> None:
    refuse_differences(model, to_torchscript(model), images)
    refuse_differences(model, Shifted(model, TOLERANCE / 2), images)
    with pytest.raises(BadExport, match=r"logits differ by 0\.0002, expected at most 1e-04; nothi"):
        refuse_differences(model, Shifted(model, 2 * TOLERANCE), images)
    with pytest.raises(BadExport, match="differ by nan"):
        refuse_differences(model, Shifted(model, float("nan")), images)


def test_a_refused_model_leaves_the_earlier_export(
    run: Path, tiles: Tiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (run / "model.pt").read_bytes()
    broken = torch.jit.script(Shifted(BaselineCNN(4, (4, 4, 4), (1, 1, 1), 0.0).eval(), 1.0))
    monkeypatch.setattr("training.export.to_torchscript", lambda _: broken)
    with pytest.raises(BadExport, match="nothing was exported"):
        export(run, tiles)
    assert (run / "model.pt").read_bytes() == before


def test_what_was_not_trained_cannot_be_exported(tmp_path: Path, tiles: Tiles) -> None:
    with pytest.raises(BadExport, match=r"best\.pt does not exist: train first \(`make train`\)"):
        export(tmp_path / "baseline-9.9", tiles)


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

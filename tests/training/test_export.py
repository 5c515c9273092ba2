import zipfile
from pathlib import Path

import pytest
import torch
import yaml

from handlers.contract.spec import ModelSpec
from handlers.vision import normalize, to_probabilities
from training.calibration import choose_threshold, fit_temperature
from training.config import config_from_dict
from training.dataset.eurosat import Tiles
from training.dataset.examples import load_examples
from training.dataset.splits import load_split
from training.export import SERVING, export
from training.inference import load_exported, predict, refuse_differences
from training.models.baseline import BaselineCNN
from training.models.registry import build_model
from training.runs import BadExport


def test_the_exported_model_is_the_trained_one(finished_run: Path, tiles: Tiles) -> None:
    best = torch.load(finished_run / "best.pt", weights_only=True)
    eager = build_model(config_from_dict(best["config"]).model, 4)
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


def test_a_refused_model_leaves_the_earlier_export(
    run: Path, tiles: Tiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (run / "model.pt").read_bytes()
    broken = torch.jit.script(BaselineCNN(4, (4, 4, 4), (1, 1, 1), 0.0).eval())
    monkeypatch.setattr("training.export.to_torchscript", lambda _: broken)
    with pytest.raises(BadExport, match="nothing was exported"):
        export(run, tiles)
    assert (run / "model.pt").read_bytes() == before


def test_what_was_not_trained_cannot_be_exported(tmp_path: Path, tiles: Tiles) -> None:
    with pytest.raises(BadExport, match=r"best\.pt does not exist: train first \(`make train`\)"):
        export(tmp_path / "baseline-9.9", tiles)

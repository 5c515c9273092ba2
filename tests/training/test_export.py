import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from handlers.contract.spec import ModelSpec
from handlers.doubt import colour_scores
from handlers.vision import normalize, to_probabilities
from training.calibration import choose_threshold, fit_temperature
from training.config import config_from_dict
from training.dataset.eurosat import Tiles
from training.dataset.examples import load_examples
from training.dataset.splits import load_split
from training.doubt import FALSE_ALARMS, fit_doubt
from training.export import SERVING, export
from training.inference import judge, load_exported, predict, refuse_differences
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


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_doubt_is_fitted_for_each_file(finished_run: Path, tiles: Tiles, precision: str) -> None:
    model, spec = load_exported(finished_run, precision)
    assert spec.doubt is not None
    split = load_split("random", tiles)
    val = load_examples(tiles, split.val, spec)
    logits, distances = judge(model, val.pixels, spec)
    assert distances is not None
    assert (distances >= 0).all()
    # Halves know less of the tiles than all of them together: the limit is that of halves.
    assert distances.max() < spec.doubt.content_limit
    colours = colour_scores(tiles.decode(split.val), spec.doubt)
    assert np.quantile(colours, 1 - FALSE_ALARMS) == pytest.approx(spec.doubt.colours_limit)
    fitted = fit_doubt(spec.doubt, 1.0, to_probabilities(logits, spec), val.targets)
    assert fitted.least == pytest.approx(spec.doubt.least)
    other = load_exported(finished_run, "int8" if precision == "fp32" else "fp32")[1].doubt
    assert other is not None
    assert other.colours_limit == spec.doubt.colours_limit
    assert other.content_limit != spec.doubt.content_limit


def test_the_configuration_stays_short(finished_run: Path) -> None:
    for name in ("model-config.yaml", "model-config-int8.yaml"):
        text = (finished_run / name).read_text()
        assert len(text) < 40_000
        assert max(map(len, text.splitlines())) < 120
        assert "  labels: [Forest, Industrial, River, SeaLake]\n" in text


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

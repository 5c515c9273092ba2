import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.knobs import changed
from training.config import BadConfig, TrainConfig
from training.dataset.eurosat import Tiles
from training.inference import load_exported, refuse_differences
from training.models.registry import build_model
from training.models.weights import is_folded, load_released
from training.train import train


def test_a_thawed_model_answers_as_the_released_one(
    finished_run: Path, config: TrainConfig
) -> None:
    model = build_model(config.model, 4)
    filled, origin = load_released(
        model, replace(config.model, weights=str(finished_run)), "random"
    )
    assert filled == {name for name, _ in model.named_parameters()}
    assert origin.startswith("Trained on from baseline-1.0 (sha256 ")
    assert "Random start" in origin
    assert is_folded(model)
    refuse_differences(model.eval(), load_exported(finished_run)[0], torch.randn(4, 3, 32, 32))


def test_training_goes_on_where_the_release_stood(
    finished_run: Path, config: TrainConfig, tiles: Tiles, tmp_path: Path
) -> None:
    before = json.loads((finished_run / "report.json").read_text())["training"]
    config = changed(config, version="1.1", weights=str(finished_run), epochs=1, lr=0.0)
    run = train(config, tiles, tmp_path)
    (line,) = json.loads((run / "history.json").read_text())
    assert line["val_accuracy"] >= before["val_accuracy"] - 0.1


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"widths": (4, 4, 6)}, "other layers"),
        ({"model": "resnet18"}, "other layers"),
        ({"split": "spatial"}, "learned on the random split"),
    ],
)
def test_what_does_not_fit_is_refused(
    finished_run: Path, config: TrainConfig, change: dict[str, object], complaint: str
) -> None:
    other = changed(config, weights=str(finished_run), **change)
    with pytest.raises(BadConfig, match=complaint):
        load_released(build_model(other.model, 4), other.model, other.data.split)


def test_a_folder_without_a_model_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"expected training\.json"):
        load_released(
            build_model(config.model, 4), replace(config.model, weights=str(tmp_path)), "random"
        )

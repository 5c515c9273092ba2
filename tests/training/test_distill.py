"""Learning from a stronger model's answers."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.knobs import changed
from training import distill as module
from training.config import BadConfig, TrainConfig
from training.dataset.eurosat import Tiles
from training.train import train


def history_of(run: Path) -> list[dict[str, Any]]:
    lines = json.loads((run / "history.json").read_text())
    clocks = {"seconds", "images_per_second"}
    return [{key: line[key] for key in line if key not in clocks} for line in lines]


def test_a_teacher_that_is_none_says_why(
    run: Path, config: TrainConfig, tiles: Tiles, tmp_path: Path
) -> None:
    with pytest.raises(BadConfig, match=r"teacher: .*nobody: expected training\.json"):
        train(changed(config, teacher=str(tmp_path / "nobody")), tiles, tmp_path)
    served = run / "model-config.yaml"
    served.write_text(served.read_text().replace("SeaLake", "Lagoon"))
    with pytest.raises(BadConfig, match=r"teacher: expected the labels .*SeaLake.*found .*Lagoon"):
        train(changed(config, teacher=str(run)), tiles, tmp_path)


def test_a_teacher_of_another_split_is_refused(
    run: Path, config: TrainConfig, tiles: Tiles, tmp_path: Path
) -> None:
    facts = run / "training.json"
    facts.write_text(facts.read_text().replace('"random"', '"spatial"'))
    with pytest.raises(BadConfig, match="learned on the spatial split"):
        train(changed(config, teacher=str(run)), tiles, tmp_path)


def test_a_teacher_is_asked_once(
    finished_run: Path,
    config: TrainConfig,
    tiles: Tiles,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taught = changed(config, teacher=str(finished_run), version="2.0", epochs=1)
    first = train(taught, tiles, tmp_path / "first")

    def ask(*arguments: object) -> None:
        raise AssertionError("the teacher was asked again")

    with monkeypatch.context() as patch:
        patch.setattr(module, "predict", ask)
        again = train(taught, tiles, tmp_path / "again")
    assert history_of(first) == history_of(again)
    alone = train(changed(taught, teacher=""), tiles, tmp_path / "alone")
    assert history_of(alone)[0]["loss"] != history_of(first)[0]["loss"]

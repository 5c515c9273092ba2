"""What is measured: a whole report of the tiny run."""

import base64
import csv
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from handlers.contract.names import BadName
from handlers.reading import read
from handlers.vision import stack_pixels, to_probabilities
from training.config import describe_config
from training.dataset.eurosat import BadData, Tiles, find_tiles
from training.dataset.shifts import SHIFTS
from training.dataset.splits import load_split
from training.evaluate import PROBES, evaluate
from training.inference import load_exported
from training.runs import BadExport


@pytest.fixture
def report(finished_run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((finished_run / "report.json").read_text())
    return content


def test_the_report_belongs_to_the_model_the_split_and_the_config(
    report: dict[str, Any], finished_run: Path, tiles: Tiles, config: Any
) -> None:
    model = (finished_run / "model.pt").read_bytes()
    assert report["schema_version"] == 1
    assert (report["model"], report["version"]) == ("baseline", "1.0")
    assert report["model_sha256"] == hashlib.sha256(model).hexdigest()
    assert report["size_bytes"] == len(model)
    assert report["spec"] == load_exported(finished_run)[1].to_dict()
    assert report["training"]["config"] == describe_config(config)
    assert len(report["training"]["history"]) == 3
    split = load_split("random", tiles)
    assert report["split"]["sha256"] == split.sha256
    assert report["split"]["counts"]["test"] == dict.fromkeys(tiles.labels, 4)


def test_the_figures_are_those_of_the_predictions(
    report: dict[str, Any], finished_run: Path, tiles: Tiles
) -> None:
    with (finished_run / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == list(load_split("random", tiles).test)
    right = [row["truth"] == row["predicted"] for row in rows]
    assert report["accuracy"] == sum(right) / 16
    wrong = {row["file"] for row in rows if row["truth"] != row["predicted"]}
    assert wrong  # else the tests below would say nothing
    assert {error["file"] for error in report["errors"]} == wrong
    certain = [error["confidence"] for error in report["errors"]]
    assert certain == sorted(certain, reverse=True)
    assert report["certain_and_wrong"] == report["errors"][:20]
    assert sum(pair["count"] for pair in report["confused_pairs"]) == len(wrong)
    labels = report["spec"]["labels"]
    indices = bytes(labels.index(row["predicted"]) for row in rows)
    assert report["labels_sha256"] == hashlib.sha256(indices).hexdigest()
    low, high = report["intervals"]["accuracy"]
    assert low <= report["accuracy"] <= high


def test_calibration_is_told_before_and_after(report: dict[str, Any]) -> None:
    calibration = report["calibration"]
    assert calibration["temperature"] == report["spec"]["temperature"]
    assert calibration["ece"] != calibration["ece_before"]
    assert sum(line["count"] for line in calibration["reliability"]) == 16
    assert report["uncertainty"]["threshold"] == report["spec"]["threshold"]


def test_a_full_report_has_every_shift_and_the_mean_of_eight_views(
    report: dict[str, Any],
) -> None:
    assert [row["shift"] for row in report["robustness"]] == list(SHIFTS)
    for row in report["robustness"]:
        assert 0 <= row["accuracy"] <= 1
    assert report["test_time_augmentation"]["views"] == 8


def test_the_probe_is_tiles_of_every_class_with_the_answers_to_expect(
    report: dict[str, Any], finished_run: Path, tiles: Tiles
) -> None:
    probe = report["probe"]
    assert len(probe) == 4 * min(4, PROBES // 4)
    model, spec = load_exported(finished_run)
    for tile in probe:
        data = base64.b64decode(tile["jpeg"])
        assert data == tiles.read(tile["file"])
        with torch.inference_mode():
            logits = model(stack_pixels([read(data).pixels], spec))
        expected = dict(zip(spec.labels, to_probabilities(logits, spec)[0].tolist(), strict=True))
        assert tile["probabilities"] == pytest.approx(expected, abs=1e-5)


def test_evaluating_again_gives_the_same_report(
    report: dict[str, Any], finished_run: Path, tiles: Tiles, tmp_path: Path
) -> None:
    again = json.loads(evaluate(finished_run, tiles, tmp_path / "again").read_text())
    moving = ("created", "latency", "git_commit")  # a clock's, and the checkout's

    def still(found: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in found.items() if key not in moving}

    assert still(again["int8"]) == still(report["int8"])
    assert still(again | {"int8": {}}) == still(report | {"int8": {}})
    for name in ("predictions.csv", "confusion.svg", "reliability.svg", "history.svg"):
        assert (tmp_path / "again" / name).read_bytes() == (finished_run / name).read_bytes()


def test_a_release_can_be_evaluated_without_its_checkpoint(
    report: dict[str, Any], run: Path, tiles: Tiles, tmp_path: Path
) -> None:
    for name in ("best.pt", "last.pt", "history.json"):
        (run / name).unlink()
    again = json.loads(evaluate(run, tiles, tmp_path / "again", full=False).read_text())
    assert again["training"] == report["training"]
    assert again["labels_sha256"] == report["labels_sha256"]
    assert "robustness" not in again
    assert "test_time_augmentation" not in again


def test_latency_is_of_one_tile_on_one_thread(report: dict[str, Any]) -> None:
    latency = report["latency"]
    assert (latency["batch"], latency["threads"]) == (1, 1)
    assert 0 < latency["median_ms"] <= latency["p95_ms"]


def test_what_cannot_be_evaluated_says_why(run: Path, tiles: Tiles, tmp_path: Path) -> None:
    with pytest.raises(BadName, match="expected <model>-<version>, such as baseline-1"):
        evaluate(Path(shutil.copytree(run, tmp_path / "mine")), tiles)
    bare = tmp_path / "baseline-3.0"
    bare.mkdir()
    with pytest.raises(BadExport, match=r"expected training\.json .* or report\.json"):
        evaluate(bare, tiles)
    (run / "model.pt").unlink()
    with pytest.raises(BadExport, match=r"model\.pt does not exist: export first"):
        evaluate(run, tiles)


def test_a_missing_class_stops_an_evaluation(own_eurosat: Path, run: Path) -> None:
    shutil.rmtree(own_eurosat / "2750" / "SeaLake")
    with pytest.raises(BadData, match=r"20 tiles are not in .*, SeaLake_1\.jpg first"):
        evaluate(run, find_tiles(own_eurosat))

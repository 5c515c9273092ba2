"""What is measured: synthetic answers with known figures, and a whole report of the tiny run."""

import base64
import csv
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handlers.spec import ModelSpec
from handlers.vision import decode, to_probabilities, to_tensor
from training.config import describe_config
from training.eurosat import BadData, Tiles, find_tiles, load_split
from training.evaluate import (
    PROBES,
    bootstrap_intervals,
    confused_pairs,
    doubt,
    evaluate,
    scores,
)
from training.export import BadExport, load_exported
from training.shifts import SHIFTS


@pytest.fixture
def report(finished_run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((finished_run / "report.json").read_text())
    return content


@pytest.fixture
def three() -> ModelSpec:
    return ModelSpec(("Highway", "Lake", "River"), 32, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


# Figures that can be worked out by hand


def test_figures_are_those_of_the_definitions(three: ModelSpec) -> None:
    targets = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    predicted = torch.tensor([0, 0, 0, 2, 1, 1, 0, 2])
    found = scores(targets, predicted, three)
    assert found["confusion"] == [[3, 0, 1], [0, 2, 0], [1, 0, 1]]
    assert found["accuracy"] == 6 / 8
    highway, lake, river = found["per_class"]
    assert highway == {
        "label": "Highway", "precision": 0.75, "recall": 0.75, "f1": 0.75, "support": 4,
    }  # fmt: skip
    assert (lake["f1"], river["f1"]) == (1.0, 0.5)
    assert found["macro_f1"] == pytest.approx((0.75 + 1 + 0.5) / 3)
    assert found["macro_precision"] == pytest.approx((0.75 + 1 + 0.5) / 3)


def test_a_class_that_is_never_answered_counts_as_zero(three: ModelSpec) -> None:
    found = scores(torch.tensor([0, 1]), torch.tensor([0, 0]), three)
    assert [line["f1"] for line in found["per_class"]] == [pytest.approx(2 / 3), 0.0, 0.0]


def test_intervals_contain_the_figure_and_narrow_with_more_tiles() -> None:
    confusion = np.array([[45, 3, 2], [4, 40, 6], [1, 2, 47]])

    def widths(scale: int) -> dict[str, float]:
        intervals = bootstrap_intervals(scale * confusion)
        right = np.diagonal(confusion)
        for name, figure in {
            "accuracy": right.sum() / confusion.sum(),
            "macro_precision": (right / confusion.sum(0)).mean(),
            "macro_recall": (right / confusion.sum(1)).mean(),
        }.items():
            low, high = intervals[name]
            assert low < figure < high
        return {name: high - low for name, (low, high) in intervals.items()}

    few, many = widths(1), widths(25)
    assert set(few) == {"accuracy", "macro_precision", "macro_recall", "macro_f1"}
    for name in few:
        assert many[name] == pytest.approx(few[name] / 5, rel=0.15)
    # The normal approximation: 2 * 1.96 * sqrt(p (1 - p) / n) at p = 0.88, n = 150.
    assert few["accuracy"] == pytest.approx(0.104, rel=0.1)


def test_answers_that_are_all_right_have_an_interval_of_one_point() -> None:
    assert bootstrap_intervals(np.diag([5, 5, 5]))["accuracy"] == [1.0, 1.0]


def test_intervals_of_macro_f1_are_over_all_classes(three: ModelSpec) -> None:
    found = scores(torch.tensor([0, 1, 2] * 30), torch.tensor([0, 1, 0] * 30), three)
    low, high = found["intervals"]["macro_f1"]
    assert low <= found["macro_f1"] <= high


def test_doubt_costs_and_gains_what_it_says(three: ModelSpec) -> None:
    sure = ModelSpec.from_dict(three.to_dict() | {"threshold": 0.6})
    confidence = torch.tensor([0.9, 0.6, 0.59, 0.5, 0.8])
    targets = torch.tensor([0, 1, 2, 0, 1])
    predicted = torch.tensor([0, 1, 2, 1, 2])
    assert doubt(confidence, predicted, targets, sure) == {
        "threshold": 0.6,
        "flagged": 0.4,
        "errors_caught": 0.5,
        "accuracy_of_the_rest": pytest.approx(2 / 3),
        "accuracy_of_flagged": 0.5,
    }


def test_without_a_threshold_or_errors_doubt_is_no_division_by_zero(three: ModelSpec) -> None:
    targets = torch.tensor([0, 1])
    found = doubt(torch.tensor([0.9, 0.9]), targets, targets, three)
    assert (found["flagged"], found["errors_caught"], found["accuracy_of_flagged"]) == (0, 0, 0)
    assert found["accuracy_of_the_rest"] == 1


def test_confused_pairs_count_both_directions_and_name_the_tiles(three: ModelSpec) -> None:
    confusion = np.array([[3, 0, 1], [1, 2, 0], [2, 0, 1]])
    errors = [
        {"file": "River_1.jpg", "truth": "River", "predicted": "Highway"},
        {"file": "River_2.jpg", "truth": "River", "predicted": "Highway"},
        {"file": "Highway_1.jpg", "truth": "Highway", "predicted": "River"},
        {"file": "Lake_1.jpg", "truth": "Lake", "predicted": "Highway"},
    ]
    assert confused_pairs(confusion, errors, three) == [
        {
            "classes": ["Highway", "River"],
            "count": 3,
            "files": ["River_1.jpg", "River_2.jpg", "Highway_1.jpg"],
        },
        {"classes": ["Highway", "Lake"], "count": 1, "files": ["Lake_1.jpg"]},
    ]


# The report of a real run


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
            logits = model(to_tensor(decode(data), spec)[None])
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
    with pytest.raises(BadExport, match="expected a folder <model>-<version>, such as baseline-1"):
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

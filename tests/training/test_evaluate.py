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
import yaml

from handlers.contract.names import BadName
from handlers.doubt import SIDE, warnings_of
from handlers.model import ask, logits_and_distances
from handlers.reading import read
from handlers.vision import normalize, stack_pixels, to_answer, to_probabilities
from training.calibration import expected_calibration_error, fit_temperature
from training.config import describe_config
from training.dataset.eurosat import BadData, Tiles, find_tiles, label_of
from training.dataset.examples import load_examples
from training.dataset.shifts import SHIFTS
from training.dataset.splits import load_split
from training.dataset.strangers import EACH, FAR, NEAR
from training.evaluate import PROBES, evaluate
from training.inference import load_exported, predict
from training.runs import FILES, BadExport


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


def test_classes_are_told_of_the_int8_file_too(report: dict[str, Any], finished_run: Path) -> None:
    with (finished_run / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    int8 = report["int8"]
    assert [line["label"] for line in int8["per_class"]] == report["spec"]["labels"]
    for line in int8["per_class"]:
        said = [row["truth"] for row in rows if row["predicted_int8"] == line["label"]]
        right = said.count(line["label"])
        assert line["recall"] == right / 4
        assert line["precision"] == (right / len(said) if said else 0)
    for figure in ("precision", "recall", "f1"):
        mean = sum(line[figure] for line in int8["per_class"]) / len(int8["per_class"])
        assert int8[f"macro_{figure}"] == pytest.approx(mean)


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
    for part in (report, report["int8"]):
        assert part["test_time_augmentation"]["views"] == 8


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_mean_over_views_is_measured_as_it_is_served(
    report: dict[str, Any], finished_run: Path, tiles: Tiles, precision: str
) -> None:
    part = report if precision == "fp32" else report["int8"]
    found = part["test_time_augmentation"]
    model, spec = load_exported(finished_run, precision)
    test, val = (
        load_examples(tiles, getattr(load_split("random", tiles), part), spec)
        for part in ("test", "val")
    )
    with torch.inference_mode():
        logits, of_val = (ask(model, normalize(of.pixels, spec), 8, 16)[0] for of in (test, val))
    served = to_probabilities(logits, spec)
    predicted = served.argmax(dim=1)
    assert found["accuracy"] == (predicted == test.targets).double().mean().item()
    assert found["ece"] == pytest.approx(expected_calibration_error(served, test.targets), abs=1e-4)
    assert found["own_temperature"] == pytest.approx(fit_temperature(of_val, val.targets), rel=1e-2)
    by_name = dict(zip(test.names, served.tolist(), strict=True))
    for line in found["probe"]:
        expected = dict(zip(spec.labels, by_name[line["file"]], strict=True))
        assert line["probabilities"] == pytest.approx(expected, abs=1e-4)
    assert [line["file"] for line in found["probe"]] == [line["file"] for line in part["probe"]]
    assert found["latency"]["median_ms"] > part["latency"]["median_ms"]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_flags_are_those_that_are_served(
    report: dict[str, Any], finished_run: Path, tiles: Tiles, precision: str
) -> None:
    found = (report if precision == "fp32" else report["int8"])["unlike_training"]
    model, spec = load_exported(finished_run, precision)
    names = load_split("random", tiles).test
    warned = []
    for name in names:
        pixels = read(tiles.read(name)).pixels
        assert pixels.shape == (SIDE, SIDE, 3)
        with torch.inference_mode():
            _, distances = logits_and_distances(model(stack_pixels([pixels], spec)))
        assert distances is not None
        warned += warnings_of(pixels[None], distances.tolist(), spec)
    for key, code in (
        ("colours", "colours_unlike_training"),
        ("content", "content_unlike_training"),
        ("bright", "too_bright"),
    ):
        assert found["flagged"][key] == sum(code in codes for codes in warned) / 16, key
    assert found["flagged"]["any"] == sum(map(bool, warned)) / 16
    kinds = {line["kind"]: line for line in found["kinds"]}
    assert list(kinds) == [*FAR, *NEAR]
    assert [kinds[kind]["far"] for kind in kinds] == [True] * len(FAR) + [False] * len(NEAR)
    assert {kinds[kind]["count"] for kind in FAR} == {EACH}
    assert kinds["noise"]["flagged"] == kinds["noise"]["at_5"] == 1


def test_prediction_sets_hold_the_share_that_they_hold(
    report: dict[str, Any], finished_run: Path, tiles: Tiles
) -> None:
    model, spec = load_exported(finished_run)
    test = load_examples(tiles, load_split("random", tiles).test, spec)
    rows = to_probabilities(predict(model, test.pixels, spec), spec).tolist()
    sets = [to_answer(row, spec)["prediction_set"] for row in rows]
    held = [label_of(name) in answer for name, answer in zip(test.names, sets, strict=True)]
    found = report["prediction_sets"]
    assert found["asked"] == 0.99
    assert found["coverage"] == sum(held) / 16
    assert found["mean_size"] == sum(map(len, sets)) / 16
    for line in found["per_class"]:
        of_class = [
            holds
            for name, holds in zip(test.names, held, strict=True)
            if label_of(name) == line["label"]
        ]
        assert line["coverage"] == sum(of_class) / 4


def test_reviewed_labels_are_counted_as_they_were_judged(
    report: dict[str, Any], finished_run: Path
) -> None:
    found = report["audited_labels"]
    assert {key: found[key] for key in ("reviewed", "wrong", "doubtful", "undecidable")} == {
        "reviewed": 4, "wrong": 1, "doubtful": 1, "undecidable": 1,
    }  # fmt: skip
    assert [line["file"] for line in found["lines"]][:2] == ["Forest_17.jpg", "River_18.jpg"]
    assert found["lines"][0]["reason"] == "water, no trees"
    assert found["tiles"] == 15
    accepted = {"Forest_17.jpg": {"River"}, "River_18.jpg": {"River", "SeaLake"}}
    with (finished_run / "predictions.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["file"] != "SeaLake_19.jpg"]
    for figure, answer in (("accuracy", "predicted"), ("int8_accuracy", "predicted_int8")):
        right = [row[answer] in accepted.get(row["file"], {row["truth"]}) for row in rows]
        assert found[figure] == sum(right) / 15


def test_a_model_from_before_doubt_was_measured_is_evaluated_without(
    run: Path, tiles: Tiles, tmp_path: Path
) -> None:
    for precision, (file, config) in FILES.items():
        model, _ = load_exported(run, precision)
        old = torch.jit.freeze(torch.jit.script(Old(model)).eval())
        torch.jit.save(old, str(run / file))
        content = yaml.safe_load((run / config).read_text())
        del content["spec"]["doubt"]
        (run / config).write_text(yaml.safe_dump(content))
    again = json.loads(evaluate(run, tiles, tmp_path / "again").read_text())
    before = json.loads((run / "report.json").read_text())
    assert again["labels_sha256"] == before["labels_sha256"]
    for part in (again, again["int8"]):
        assert part.keys().isdisjoint({"unlike_training", "prediction_sets"})
    assert again["audited_labels"] == before["audited_labels"]


class Old(torch.nn.Module):
    """A model that gives its logits alone, as they were exported once."""

    def __init__(self, model: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(x)[0]
        return logits


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
            logits, _ = logits_and_distances(model(stack_pixels([read(data).pixels], spec)))
        expected = dict(zip(spec.labels, to_probabilities(logits, spec)[0].tolist(), strict=True))
        assert tile["probabilities"] == pytest.approx(expected, abs=1e-5)


def test_evaluating_again_gives_the_same_report(
    report: dict[str, Any], finished_run: Path, tiles: Tiles, tmp_path: Path
) -> None:
    again = json.loads(evaluate(finished_run, tiles, tmp_path / "again").read_text())
    moving = ("created", "latency", "git_commit")  # a clock's, and the checkout's

    def still(found: dict[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in found.items() if key not in moving}
        views = kept.get("test_time_augmentation", {})
        return kept | {"test_time_augmentation": {**views, "latency": None}}

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

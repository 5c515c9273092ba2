import json
import re
from pathlib import Path
from typing import Any

import pytest

from training.card import comparison, model_card, percent, with_interval


@pytest.fixture
def report(finished_run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((finished_run / "report.json").read_text())
    return content | {
        "accuracy": 0.98765,
        "macro_f1": 0.98,
        "intervals": {
            "accuracy": [0.984, 0.9909],
            "macro_f1": [0.975, 0.985],
            "macro_precision": [0.97, 0.98],
            "macro_recall": [0.97, 0.98],
        },
        "size_bytes": 1_222_810,
    }


@pytest.fixture
def spatial(report: dict[str, Any]) -> dict[str, Any]:
    split = report["split"] | {"name": "spatial"}
    intervals = report["intervals"] | {"accuracy": [0.95, 0.96], "macro_f1": [0.9, 1.0]}
    return report | {"split": split, "accuracy": 0.9543, "intervals": intervals}


def test_figures_are_written_with_their_interval(report: dict[str, Any]) -> None:
    assert percent(0.98765) == "98.77 %"
    assert with_interval(report, "accuracy") == "98.77 % (98.40-99.09)"


def test_a_card_tells_what_an_expert_asks(report: dict[str, Any]) -> None:
    report["training"]["weights_origin"] = "Found on the moon."
    card = model_card(report, None)
    assert card.startswith("# baseline 1.0\n")
    for needed in (
        report["model_sha256"],
        *report["split"]["sha256"].values(),
        "stratified random 70/15/15",
        "Found on the moon.",
        "98.77 % (98.40-99.09)",
        "On 16 test tiles",
        "1.22 MB",
        "| L2A-like (darker, less blue) |",
        "lr: 0.03",
        "## Limits",
        "## Licence\n\nMIT",
        "Copernicus Sentinel data",
        *(f"| {label} |" for label in report["spec"]["labels"]),
    ):
        assert needed in card, needed
    assert "Of the training tiles only" not in card
    report["training"]["config"]["label_fraction"] = 0.1
    told = "Of the training tiles only 10.00 % were used, drawn class by class."
    assert told in model_card(report, None)
    for figure in ("confusion.svg", "reliability.svg", "history.svg"):
        assert f"]({figure})" in card


def test_a_card_tells_the_spatial_figures_when_there_are_some(
    report: dict[str, Any], spatial: dict[str, Any]
) -> None:
    assert "95.43 % (95.00-96.00)" in model_card(report, spatial)
    assert "95.43 %" not in model_card(report, None)


def test_a_card_tells_of_each_class_in_both_files(report: dict[str, Any]) -> None:
    report["int8"]["per_class"][1] |= {"f1": 0.1234}
    label = report["spec"]["labels"][1]
    assert "| class | precision | recall | F1 | F1, int8 | tiles |" in (
        card := model_card(report, None)
    )
    assert re.search(rf"^\| {label} \|.* %  ?\| 12\.34 % \| 4 \|$", card, re.MULTILINE)
    del report["int8"]["per_class"]
    assert "| class | precision | recall | F1 | tiles |" in model_card(report, None)


def test_a_fast_report_makes_a_card_too(report: dict[str, Any]) -> None:
    del report["robustness"], report["test_time_augmentation"]
    card = model_card(report, None)
    assert "Robustness" not in card
    assert "flips and turns" not in card


def test_a_card_tells_what_views_gain_and_cost(
    report: dict[str, Any], spatial: dict[str, Any]
) -> None:
    def measured(part: dict[str, Any], accuracy: float, **changes: Any) -> None:
        part["latency"] = part["latency"] | {"median_ms": 0.5}
        part["calibration"] = part["calibration"] | {"ece": 0.0123, "temperature": 0.7}
        part["test_time_augmentation"] = {
            "views": 8, "accuracy": accuracy, "macro_f1": 0.9, "ece": 0.0234,
            "own_temperature": 0.6, "own_ece": 0.0212, "latency": {"median_ms": 2.25},
        } | changes  # fmt: skip

    measured(report, 0.98965)
    measured(report["int8"], report["int8"]["accuracy"] - 0.01)
    measured(spatial, 0.9543, own_temperature=0.8)
    card = model_card(report, spatial)
    own = "1.23 % | 2.34 % | 2.12 % (0.600 instead of 0.700) | 2.25 ms (4.5 x) |"
    assert f"| fp32 | 98.97 % (+0.20) | {own}" in card
    assert f" (-1.00) | {own}" in card
    assert "| fp32, spatial | 95.43 % (+0.00) | 1.23 % | 2.34 % | 2.12 % (0.800 inst" in card
    assert "| accuracy, mean over 8 flips and turns | 98.97 % | 95.43 % |" in card
    for part in (report, report["int8"], spatial):  # as it was before they could be served
        del part["test_time_augmentation"]["ece"]
    card = model_card(report, spatial)
    assert "Mean over 8 views" not in card
    assert "flips and turns (not served) | 98.97 %" in card


def test_a_card_tells_what_maps_are_worth(report: dict[str, Any], spatial: dict[str, Any]) -> None:
    assert "Maps of scenes" not in model_card(report, spatial)
    report["scenes"] = {
        "precision": "int8",
        "mosaics": {
            "corners": 9, "cells": 1234, "between": 8, "shifted": 0.75,
            "strides": [{"stride": stride, "accuracy": 0.9 + stride / 1000} for stride in (64, 32)],
        },
        "demo": [
            {
                "stride": stride, "sea_cells": 1000 + stride, "sea_right": 0.95,
                "land_cells": 50, "land_as_water": 0.02,
            }
            for stride in (64, 32)
        ],
    }  # fmt: skip
    card = model_card(report, spatial)
    row = "| int8, random split, 32 px | 93.20 % of 1,234 | 95.00 % of 1,032 | 2.00 % of 50 |"
    assert row in card
    assert "is named rightly: 75.00 % of 8 on the random split." in card


def test_a_card_says_what_the_flags_find_and_miss(
    report: dict[str, Any], spatial: dict[str, Any]
) -> None:
    for part, flagged in ((report, 0.21), (report["int8"], 0.22)):
        part["unlike_training"] = {
            "flagged": {"colours": 0.1, "content": 0.12, "bright": 0.0, "any": flagged},
            "kinds": [
                {"kind": kind, "far": True, "count": 60, "flagged": share, "at_1": 0.3, "at_5": 0.4}
                for kind, share in (("noise", 0.99), ("fog", 0.125), ("roofs", 0.7))
            ],
        }
    part = report["unlike_training"]
    spatial["unlike_training"] = part | {"flagged": part["flagged"] | {"any": 0.0321}}
    card = model_card(report, spatial)
    assert "given 22.00 % in int8 (colours 10.00 %, content 12.00 %) and 21.00 % in fp32" in card
    assert (
        "Flagged nearly always: noise (99.00 %). In part: roofs (70.00 %). Mostly missed: "
        "fog (12.50 %)."
    ) in card
    assert "| fog | 60 | 12.50 % | 30.00 % | 40.00 % | 12.50 % | 30.00 % | 40.00 % |" in card
    assert "On the spatial split, of another training in fp32, it is 3.21 %" in card
    assert "3.21 %" not in model_card(report, None)


def test_a_card_tells_prediction_sets_and_reviewed_labels(report: dict[str, Any]) -> None:
    report["prediction_sets"]["coverage"] = 0.9876
    report["prediction_sets"]["per_class"][2]["coverage"] = 0.0123
    report["audited_labels"]["accuracy"] = 0.8642
    card = model_card(report, None)
    assert "classes of which one is right in 99.00 % of the cases" in card
    assert "fp32 98.76 % with" in card
    assert "least for River with 1.23 %" in card
    assert "Of 4 test tiles that were reviewed 1 had a wrong label and 1 a doubtful one" in card
    assert "the 15 tiles that count: fp32 86.42 %, int8 " in card


def test_a_card_of_an_older_model_leaves_doubt_out(report: dict[str, Any]) -> None:
    for part in (report, report["int8"]):
        del part["unlike_training"], part["prediction_sets"]
    del report["audited_labels"]
    card = model_card(report, None)
    for title in ("Prediction sets", "Reviewed labels", "Pictures unlike its training"):
        assert title not in card


def rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_the_comparison_has_a_row_for_each_release(
    report: dict[str, Any], spatial: dict[str, Any]
) -> None:
    other = {key: value for key, value in report.items() if key != "int8"}
    other |= {"model": "resnet18", "robustness": []}
    head, rule, first, int8, second = rows(comparison([(report, spatial), (other, None)]))
    assert len(head) == len(rule) == len(first) == len(int8) == len(second)
    assert int8[0] == "baseline 1.0, int8"
    assert first[0] == "baseline 1.0"
    assert first[1] == "98.77 % (98.40-99.09)"
    assert first[3] == "95.43 % (95.00-96.00)"
    assert "1.22 MB" in first
    l2a = head.index("accuracy, L2A-like")
    assert first[l2a] == percent(report["robustness"][0]["accuracy"])
    assert second[0] == "resnet18 1.0"
    assert (second[3], second[4], second[l2a]) == ("-", "-", "-")

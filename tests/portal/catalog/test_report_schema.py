import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from portal.catalog.report_schema import (
    BadReport,
    ClassScore,
    Figure,
    Mistake,
    PictureKind,
    Report,
    parse_report,
)
from tests.support.paths import ROOT
from tests.support.report_content import OPTIONAL, int8_content, report_content


def test_a_report_is_read_as_it_was_written() -> None:
    report = parse_report(report_content())
    assert (report.model, report.version) == ("baseline", "1.0")
    assert report.created.isoformat() == "2026-01-02T03:04:05+00:00"
    assert report.accuracy == Figure(0.75, 0.5, 1.0)
    assert report.confusion == ((4, 1, 0), (2, 3, 0), (0, 0, 2))
    assert report.per_class[1] == ClassScore("River", 0.7, 0.8, 0.75, 5)
    assert report.mistakes[0] == Mistake("AnnualCrop_7.jpg", "AnnualCrop", "River", 0.97)
    assert report.split.tiles == {"train": 42, "val": 9, "test": 12}
    assert [shift.name for shift in report.robustness] == ["haze"]
    assert report.augmented is not None
    assert (report.augmented.ece, report.augmented.own_temperature) == (0.0123, 0.876)
    assert report.augmented.latency is not None
    assert report.training.history[1].val_accuracy == 0.75


def test_classes_and_tiles_may_have_names_of_ones_own() -> None:
    text = json.dumps(report_content()).replace("AnnualCrop_7.jpg", "AnnualCrop/quay 3.tif")
    report = parse_report(json.loads(text.replace("AnnualCrop", "Dünen & Strand")))
    assert report.labels[0] == "Dünen & Strand"
    assert report.mistakes[0].file == "Dünen & Strand/quay 3.tif"


def test_what_views_gain_may_be_told_as_it_once_was() -> None:
    content = {**report_content(), "int8": int8_content()}
    int8 = parse_report(content).int8
    assert int8 is not None
    assert int8.augmented is not None
    assert int8.augmented.accuracy == 0.8234
    del content["int8"]["test_time_augmentation"]
    content["test_time_augmentation"] = {"views": 8, "accuracy": 0.8, "macro_f1": 0.79}
    older = parse_report(content)
    assert older.int8 is not None
    assert older.int8.augmented is None
    assert older.augmented is not None
    assert (older.augmented.ece, older.augmented.latency) == (None, None)
    content["test_time_augmentation"]["ece"] = None
    with pytest.raises(BadReport, match=r"ece: expected a number, found None"):
        parse_report(content)


def test_what_a_fast_evaluation_leaves_out_may_be_missing() -> None:
    content = report_content()
    for field in OPTIONAL:
        del content[field]
    report = parse_report(content)
    assert (report.robustness, report.augmented) == ((), None)
    found = (report.unlike_training, report.prediction_sets, report.audited_labels, report.scenes)
    assert found == (None, None, None, None)


def test_the_int8_file_is_read_and_checked() -> None:
    assert parse_report(report_content()).int8 is None
    int8 = parse_report({**report_content(), "int8": int8_content()}).int8
    assert int8 is not None
    assert int8.accuracy == Figure(0.8125, 0.5, 1.0)
    assert (int8.agreement, int8.ece, int8.size_bytes) == (0.9969, 0.0155, 331_795)
    assert int8.latency.median_ms == 0.42
    with pytest.raises(BadReport, match=r"int8\.agreement: expected a number from 0 to 1, found 3"):
        parse_report({**report_content(), "int8": {**int8_content(), "agreement": 3}})
    with pytest.raises(BadReport, match="int8: expected an object, found None"):
        parse_report({**report_content(), "int8": None})


def test_each_class_is_told_of_the_int8_file_too() -> None:
    content = {**report_content(), "int8": int8_content()}
    int8 = parse_report(content).int8
    assert int8 is not None
    assert (int8.macro_precision, int8.macro_recall) == (0.8111, 0.8222)
    assert int8.per_class[1] == ClassScore("River", 0.7, 0.8, 0.7522, 5)
    content["int8"]["per_class"].reverse()
    with pytest.raises(BadReport, match=r"int8\.per_class: expected one line for each"):
        parse_report(content)
    for field in ("macro_precision", "macro_recall", "per_class"):  # of a report before that
        del content["int8"][field]
    older = parse_report(content).int8
    assert older is not None
    assert (older.macro_precision, older.macro_recall, older.per_class) == (None, None, ())


def test_doubt_is_read_of_each_file() -> None:
    content = {**report_content(), "int8": int8_content()}
    content["int8"]["unlike_training"]["kinds"][0]["flagged"] = 0.5
    report = parse_report(content)
    assert report.unlike_training is not None
    assert report.unlike_training.flagged.any == 0.0112
    assert report.unlike_training.kinds[0] == PictureKind("photos", True, 60, 0.9833, 0.5, 0.75)
    assert report.int8 is not None
    assert report.int8.unlike_training is not None
    assert report.int8.unlike_training.kinds[0].flagged == 0.5
    assert report.prediction_sets is not None
    assert report.prediction_sets.per_class[1].coverage == 0.9723
    assert report.audited_labels is not None
    assert report.audited_labels.int8_accuracy == 0.9167
    assert report.audited_labels.lines[0].better == "AnnualCrop"
    del content["audited_labels"]["int8_accuracy"]
    assert parse_report(content).audited_labels is not None
    content["int8"]["prediction_sets"]["per_class"].pop()
    with pytest.raises(BadReport, match=r"prediction_sets\.per_class: expected one line"):
        parse_report(content)


def test_a_field_of_a_later_evaluation_is_ignored() -> None:
    assert parse_report({**report_content(), "more": {"a": 1}}) == parse_report(report_content())


def test_the_schema_of_the_file_is_that_of_the_releases() -> None:
    schema = Draft202012Validator(Report.model_json_schema())
    schema.check_schema(schema.schema)
    for path in (ROOT / "training" / "releases").glob("*/report*.json"):
        schema.validate(json.loads(path.read_text()))
    assert not schema.is_valid(changed("accuracy", 1.5))
    assert not schema.is_valid(changed("intervals.accuracy", [0.5]))


def test_the_api_tells_a_figure_with_its_interval_and_keeps_the_way_there_to_itself() -> None:
    told = parse_report(report_content()).model_dump()
    assert told["accuracy"] == {"value": 0.75, "low": 0.5, "high": 1.0}
    assert told["confused_pairs"][0] == {"first": "AnnualCrop", "second": "River", "count": 3}
    assert told["split"]["tiles"] == {"train": 42, "val": 9, "test": 12}
    assert told["training"]["best_epoch"] == 2
    assert told.keys().isdisjoint({"schema_version", "spec", "intervals", "errors"})


@pytest.mark.parametrize("content", [None, [], "report", 3, {}, {"schema_version": "1"}])
def test_something_else_is_no_report(content: Any) -> None:
    with pytest.raises(BadReport):
        parse_report(content)


def test_a_newer_report_is_refused_as_such() -> None:
    with pytest.raises(BadReport, match="expected 1, found 2; it is newer than this portal"):
        parse_report({"schema_version": 2})


def changed(place: str, value: Any) -> dict[str, Any]:
    content: Any = report_content()
    *way, last = [int(step) if step.isdigit() else step for step in place.split(".")]
    part = content
    for step in way:
        part = part[step]
    part[last] = value
    return dict(content)


@pytest.mark.parametrize(
    ("place", "value", "complaint"),
    [
        ("model", "../x", r"model: expected a model's name, found '../x'"),
        ("version", "1", "version: expected a version"),
        ("created", "yesterday", "created: expected a date"),
        ("created", "2026-01-02T03:04:05", "with its time zone"),
        ("accuracy", 1.5, "accuracy: expected a number from 0 to 1, found 1.5"),
        ("accuracy", float("nan"), "accuracy: expected a number"),
        ("accuracy", True, "accuracy: expected a number, found True"),
        ("accuracy", "0.75", "accuracy: expected a number"),
        ("accuracy", 0.8, "accuracy: the confusion matrix says 9 of 12"),
        ("size_bytes", -1, "size_bytes: expected"),
        ("size_bytes", 10**400, "size_bytes: expected"),
        ("size_bytes", 1.5, "size_bytes: expected a whole number"),
        ("git_commit", "\ud800", "git_commit: expected a text"),
        ("intervals.accuracy", [0.9, 0.1], "intervals.accuracy: expected a lower and an upper"),
        ("spec.labels", ["A", "A"], "spec.labels"),
        ("spec.labels", ["A", "../B"], "a class name"),
        ("confusion", [[1]], "confusion: expected 3 x 3"),
        ("confusion.0.0", 5, "do not sum to the support"),
        ("per_class.0.label", "SeaLake", "per_class: expected one line"),
        ("errors", [], "errors: expected 3 tiles"),
        ("errors.0.file", "../../secret.jpg", r"errors\[0\].file: expected the name of a tile"),
        ("errors.0.truth", "Moon", r"errors\[0\].truth: expected one of spec.labels"),
        (
            "confused_pairs.0.classes",
            ["River"],
            r"confused_pairs\[0\]\.classes\[1\]: expected a value, found none",
        ),
        (
            "confused_pairs.0.classes",
            ["River", "Moon"],
            r"confused_pairs\[0\]\.classes: expected one of spec.labels, found 'Moon'",
        ),
        ("macro_f1", -1, "macro_f1: expected a number of 0 or more, found -1"),
        ("latency.cpu", 3, "latency.cpu: expected a text, found 3"),
        ("calibration", None, "calibration: expected an object"),
        ("training.history", {}, "training.history: expected a list"),
        ("latency.median_ms", float("inf"), "latency.median_ms"),
        ("split.counts", [], "split.counts: expected an object"),
        ("unlike_training", None, "unlike_training: expected an object, found None"),
        ("unlike_training.flagged.any", 2, "flagged.any: expected a number from 0 to 1"),
        ("unlike_training.kinds.0.far", 1, r"kinds\[0\].far: expected true or false, found 1"),
        ("prediction_sets.per_class.0.label", "SeaLake", "per_class: expected one line for each"),
        ("prediction_sets.mean_size", "1", "mean_size: expected a number, found '1'"),
        ("audited_labels.int8_accuracy", None, "int8_accuracy: expected a number, found None"),
        ("audited_labels.wrong", 2, r"audited_labels.wrong: its lines say 1, found 2"),
        ("audited_labels.lines", [], "lines: expected 2 tiles as reviewed says, found 0"),
        ("audited_labels.lines.0.file", "../x", "expected the name of a tile"),
        ("audited_labels.lines.0.verdict", "maybe", "expected 'right', 'wrong', 'doubtful' or"),
        ("audited_labels.lines.0.better", "Moon", r"lines\[0\].better: expected one of spec.lab"),
    ],
)
def test_what_is_wrong_is_named(place: str, value: Any, complaint: str) -> None:
    with pytest.raises(BadReport, match=complaint):
        parse_report(changed(place, value))


@pytest.mark.parametrize("field", [key for key in report_content() if key != "schema_version"])
def test_every_used_field_must_be_there(field: str) -> None:
    content = report_content()
    del content[field]
    if field in OPTIONAL:
        parse_report(content)
        return
    with pytest.raises(BadReport, match=f"{field}.*: expected a value, found none"):
        parse_report(content)

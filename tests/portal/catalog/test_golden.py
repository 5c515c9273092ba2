from typing import Any

import pytest

from portal.catalog.golden import of_weights, parse_golden
from portal.catalog.report_schema import BadReport
from tests.support.report_content import golden_content as report


def test_each_file_has_its_promises() -> None:
    fp32, int8 = parse_golden(report())
    assert of_weights((fp32, int8), "b" * 64, 1) is int8
    assert of_weights((fp32, int8), "c" * 64, 1) is None
    assert of_weights((fp32, int8), "b" * 64, 8) is None
    assert [tile.jpeg for tile in int8.tiles] == [b"a tile"]
    del (only := report())["int8"]
    assert [golden.model_sha256 for golden in parse_golden(only)] == ["a" * 64]


def test_each_file_has_promises_of_its_own_over_views() -> None:
    content = report()
    tile = content["int8"]["probe"][0]
    moved = {**tile, "probabilities": {**tile["probabilities"], "River": 0.0}}
    content["int8"]["test_time_augmentation"] = {"views": 8, "probe": [moved]}
    content["test_time_augmentation"] = {"views": 8, "accuracy": 0.8}  # as it was once told
    found = parse_golden(content)
    assert [(golden.model_sha256[0], golden.views) for golden in found] == [
        ("a", 1), ("b", 1), ("b", 8),
    ]  # fmt: skip
    mean = of_weights(found, "b" * 64, 8)
    assert mean is found[2]
    assert mean.tolerance == 2e-2
    assert (mean.tiles[0].jpeg, mean.tiles[0].probabilities["River"]) == (b"a tile", 0.0)
    moved["file"] = "River_1.jpg"
    with pytest.raises(BadReport, match=r"int8\.test_time_augmentation\.probe: expected tiles of"):
        parse_golden(content)


def test_an_int8_tile_that_the_report_does_not_have() -> None:
    broken = report()
    broken["int8"]["probe"][0]["file"] = "River_1.jpg"
    with pytest.raises(
        BadReport, match=r"int8\.probe: expected tiles of probe, found 'River_1\.jpg'"
    ):
        parse_golden(broken)


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        (
            "jpeg",
            "no base64!",
            r"probe\[0\]\.jpeg: expected an image in base64, found 'no base64!'",
        ),
        ("jpeg", 3, r"probe\[0\]\.jpeg: expected an image in base64, found 3"),
        ("probabilities", [1], r"probe\[0\]\.probabilities: expected an object, found \[1\]"),
        ("probabilities", {"A": 2}, r"probabilities\.A: expected a number from 0 to 1, found 2"),
    ],
)
def test_what_is_wrong_with_a_tile_is_named(field: str, value: Any, complaint: str) -> None:
    broken = report()
    broken["probe"][0][field] = value
    with pytest.raises(BadReport, match=complaint):
        parse_golden(broken)

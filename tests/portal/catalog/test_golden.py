import base64
from typing import Any

import pytest

from handlers.contract.names import ModelVersion
from portal.catalog.golden import of_weights, parse_golden
from portal.catalog.report_schema import BadReport
from portal.deployments.acceptance import check
from portal.errors import ChangeFailed
from tests.support.fake_torchserve import PROBABILITIES, FakeTorchServe


def report(off: float = 0.0) -> dict[str, Any]:
    """What counts of a report; the answers are the fake's, ``off`` by so much."""
    probabilities = PROBABILITIES | {"AnnualCrop": PROBABILITIES["AnnualCrop"] - off}
    tile = {"file": "AnnualCrop_1.jpg", "probabilities": probabilities}
    return {
        "model_sha256": "a" * 64,
        "probe": [tile | {"jpeg": base64.b64encode(b"a tile").decode()}],
        "int8": {"model_sha256": "b" * 64, "probe": [tile]},
    }


def test_each_file_has_its_promises() -> None:
    fp32, int8 = parse_golden(report())
    assert of_weights((fp32, int8), "b" * 64) is int8
    assert of_weights((fp32, int8), "c" * 64) is None
    assert [tile.jpeg for tile in int8.tiles] == [b"a tile"]
    del (only := report())["int8"]
    assert [golden.model_sha256 for golden in parse_golden(only)] == ["a" * 64]


NAME = ModelVersion("baseline", "1.0")


def test_int8_may_round_otherwise_and_fp32_may_not() -> None:
    labels = tuple(PROBABILITIES)
    fp32, int8 = parse_golden(report(off=0.01))
    assert "answered as the report says" in check(FakeTorchServe(), NAME, int8, labels)
    with pytest.raises(ChangeFailed, match=r"differ from its report by up to 0\.01"):
        check(FakeTorchServe(), NAME, fp32, labels)
    with pytest.raises(ChangeFailed, match="differ"):
        check(FakeTorchServe(), NAME, parse_golden(report(off=0.03))[1], labels)


def test_an_int8_tile_that_the_report_does_not_have() -> None:
    broken = report()
    broken["int8"]["probe"][0]["file"] = "River_1.jpg"
    with pytest.raises(BadReport, match="probe is not a list"):
        parse_golden(broken)

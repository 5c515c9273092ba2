"""The arithmetic behind the benchmark's tables; nothing is timed here."""

import math

import pytest

from tests.bench.figures import (
    PROMISES,
    Promise,
    between,
    fastest,
    promise_table,
    ratios,
    spread,
    table,
    verdict,
)


def test_ratios_are_made_round_by_round() -> None:
    assert ratios([10.0, 30.0, 8.0], [5.0, 10.0, 8.0]) == [2.0, 3.0, 1.0]
    # A peer that did not answer in a round, or at all, gives no ratio rather than an infinite one.
    assert ratios([10.0, 30.0], [0.0, 10.0]) == [3.0]
    assert ratios([10.0, math.nan], [5.0, 10.0]) == [2.0]
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


def test_the_fastest_peer_is_that_of_the_round() -> None:
    assert fastest([1.0, 4.0], [2.0, 3.0]) == [1.0, 3.0]


@pytest.mark.parametrize(
    ("least", "median", "expected"),
    [
        (True, 2.5, "goal met"),
        (True, 1.8, "met"),
        (True, 1.79, "missed"),
        (False, 1.79, "goal met"),
        (False, 2.5, "met"),
        (False, 2.51, "missed"),
    ],
)
def test_a_verdict_knows_which_way_is_better(least: bool, median: float, expected: str) -> None:  # noqa: FBT001
    must, goal = (1.8, 2.5) if least else (2.5, 1.8)
    assert verdict(Promise("x", must, goal, least), median) == expected


def test_every_goal_is_harder_than_its_must() -> None:
    for promise in PROMISES.values():
        assert verdict(promise, promise.goal) == "goal met"
        assert verdict(promise, promise.must) == "met"


def test_the_table_has_all_promises_and_says_what_is_missing() -> None:
    one = {"batch-baseline": [3.0, 1.0, 2.5], "portal-adds": [2.4]}
    lines = promise_table({"CPU one": one, "CPU two": {"portal-adds": [0.5]}}).splitlines()
    assert len(lines) == 2 + len(PROMISES)
    assert lines[0] == "|  | must | goal | CPU one | CPU two |"
    (batch,) = (line for line in lines if line.startswith("| /api/predict/batch"))
    assert batch.endswith("| ≥ 2 x | ≥ 4 x | 2.50 (1.00-3.00) met | not measured |")
    (adds,) = (line for line in lines if "portal adds" in line)
    assert adds.endswith(
        "| ≤ 2 ms | ≤ 1 ms | 2.40 (2.40-2.40) missed | 0.50 (0.50-0.50) goal met |"
    )
    missing = sum(line.endswith("| not measured | not measured |") for line in lines)
    assert missing == len(PROMISES) - 2


def test_tables_are_markdown() -> None:
    assert table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
    assert spread([]) == "not measured"


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    assert between("a <1> old <2> z", "<1>", "<2>", "new\n") == "a <1>\nnew\n<2> z"
    with pytest.raises(ValueError, match="expected the marks"):
        between("a <1> old", "<1>", "<2>", "new")

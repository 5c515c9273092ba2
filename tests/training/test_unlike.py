"""Joined scores and flags, on scores whose truth is known."""

import numpy as np
import pytest

from training.unlike import Scores, joined


def scores(colours: list[float], content: list[float]) -> Scores:
    return Scores(np.array(colours), np.array(content), np.zeros(len(colours), bool))


USUAL = scores([float(i) for i in range(99)], [float(i * 7 % 99) for i in range(99)])


def test_what_both_scores_find_a_little_strange_is_strange() -> None:
    found = joined(scores([200, -1, 90, 90, 200], [-1, 200, -1, 90, 200]), USUAL)
    assert found[0] == pytest.approx(np.log(100))  # beyond all in one, below all in the other
    assert found[1] == pytest.approx(found[0])
    assert found[2] < found[3] < found[4] == pytest.approx(2 * np.log(100))


def test_a_score_that_a_test_tile_has_is_as_strange_as_it() -> None:
    assert joined(USUAL, USUAL)[98] == pytest.approx(
        -np.log(2 / 100) - np.log((99 - 98 * 7 % 99 + 1) / 100)
    )

"""Synthetic answers with figures that can be worked out by hand."""

import numpy as np
import pytest
import torch

from handlers.contract.spec import ModelSpec
from training.metrics import bootstrap_intervals, confused_pairs, doubt, scores


@pytest.fixture
def three() -> ModelSpec:
    return ModelSpec(("Highway", "Lake", "River"), 32, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


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

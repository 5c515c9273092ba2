"""On synthetic answers whose calibration is known."""

import pytest
import torch
from torch import Generator, Tensor

from training.calibration import (
    BINS,
    choose_threshold,
    expected_calibration_error,
    fit_temperature,
    reliability,
)


def drawn(n: int = 20_000, classes: int = 5) -> tuple[Tensor, Tensor]:
    """Logits, and targets drawn with exactly the probabilities that the logits say."""
    generator = Generator().manual_seed(0)
    logits = 2 * torch.randn(n, classes, generator=generator)
    targets = torch.multinomial(torch.softmax(logits, 1), 1, generator=generator).flatten()
    return logits, targets


def answers(confidences: list[float], right: list[bool]) -> tuple[Tensor, Tensor]:
    """Two classes; the answer is always class 0, with these confidences."""
    confidence = torch.tensor(confidences, dtype=torch.float64)
    targets = torch.tensor([0 if answer else 1 for answer in right])
    return torch.stack([confidence, 1 - confidence], dim=1), targets


def test_calibrated_answers_have_no_calibration_error() -> None:
    logits, targets = drawn()
    assert expected_calibration_error(torch.softmax(logits, 1), targets) < 0.01


def test_overconfident_answers_have_the_error_that_they_have() -> None:
    probabilities, targets = answers([0.9] * 10, [True] * 6 + [False] * 4)
    assert expected_calibration_error(probabilities, targets) == pytest.approx(0.3)
    # Two bins: |0.9 - 0.6| for 10 of the tiles, |0.7 - 1| for 5 of them.
    probabilities, targets = answers([0.9] * 10 + [0.7] * 5, [True] * 6 + [False] * 4 + [True] * 5)
    assert expected_calibration_error(probabilities, targets) == pytest.approx(0.3)
    probabilities, targets = answers([0.75] * 4, [True] * 3 + [False])
    assert expected_calibration_error(probabilities, targets) == pytest.approx(0)


def test_bins_count_every_tile_once() -> None:
    logits, targets = drawn(500)
    bins = reliability(torch.softmax(logits, 1), targets)
    assert sum(line["count"] for line in bins) == 500
    for line in bins:
        assert line["low"] <= line["confidence"] <= line["high"]
        assert line["high"] - line["low"] == pytest.approx(1 / BINS)
    assert [line["low"] for line in bins] == sorted(line["low"] for line in bins)


def test_full_confidence_lies_in_the_last_bin() -> None:
    (line,) = reliability(*answers([1.0, 1.0], [True, False]))
    assert (line["high"], line["count"], line["accuracy"]) == (1.0, 2, 0.5)


@pytest.mark.parametrize("scale", [0.4, 1.0, 2.5])
def test_a_known_scale_is_recovered(scale: float) -> None:
    logits, targets = drawn()
    assert fit_temperature(scale * logits, targets) == pytest.approx(scale, rel=0.03)


def test_the_temperature_repairs_the_calibration() -> None:
    logits, targets = drawn()
    overconfident = 3 * logits
    temperature = fit_temperature(overconfident, targets)
    before = expected_calibration_error(torch.softmax(overconfident, 1), targets)
    after = expected_calibration_error(torch.softmax(overconfident / temperature, 1), targets)
    assert before > 0.1
    assert after < 0.01


def test_the_temperature_stays_in_its_range() -> None:
    logits = torch.tensor([[5.0, 0.0]] * 4)
    for targets in ([0, 0, 0, 0], [1, 1, 1, 1]):
        assert 0.049 < fit_temperature(logits, torch.tensor(targets)) < 20.1


def test_the_threshold_is_the_lowest_that_keeps_the_promise() -> None:
    # From the top: 1/1, 2/2, 2/3, 3/4, 4/5 are right.
    probabilities, targets = answers([0.99, 0.9, 0.8, 0.7, 0.6], [True, True, False, True, True])
    assert choose_threshold(probabilities, targets, accuracy=1.0) == pytest.approx(0.9)
    assert choose_threshold(probabilities, targets, accuracy=0.7) == 0.0
    assert choose_threshold(probabilities[:4], targets[:4], accuracy=0.75) == 0.0
    assert choose_threshold(probabilities[:3], targets[:3], accuracy=0.75) == pytest.approx(0.9)


def test_good_answers_need_no_threshold_and_bad_ones_all_of_it() -> None:
    assert choose_threshold(*answers([0.9, 0.6], [True, True])) == 0.0
    assert choose_threshold(*answers([0.9, 0.6], [False, False])) == 1.0


def test_answers_of_one_confidence_are_kept_or_doubted_together() -> None:
    # With the tie cut in two, 0.8 would promise 100 % and keep 2 of 3.
    probabilities, targets = answers([0.9, 0.8, 0.8, 0.6], [True, True, False, False])
    assert choose_threshold(probabilities, targets, accuracy=1.0) == pytest.approx(0.9)


def test_what_lies_above_the_threshold_keeps_the_promise() -> None:
    logits, targets = drawn()
    probabilities = torch.softmax(logits, 1)
    threshold = choose_threshold(probabilities, targets, accuracy=0.9)
    confidence, predicted = probabilities.max(1)
    kept = confidence >= threshold
    assert 0 < int(kept.sum()) < len(targets)
    assert (predicted == targets)[kept].double().mean() >= 0.9

"""How far a confidence can be believed: temperature scaling, ECE, the threshold of doubt."""

import torch
from torch import Tensor
from torch.nn import functional

BINS = 15  # Guo et al., 2017


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """The temperature that minimises the cross entropy (Guo et al., 2017).

    Args:
        logits: float (N, C), of tiles that were not trained on and will not be tested on.
        targets: int64 (N,).

    Returns:
        0.05..20; by golden-section search, as cross entropy has one minimum in the temperature.
    """

    def loss(log_temperature: float) -> float:
        scaled = logits.double() / torch.tensor(log_temperature).exp()
        return functional.cross_entropy(scaled, targets).item()

    low, high = -3.0, 3.0  # exp: 0.05..20
    ratio = (5**0.5 - 1) / 2
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return float(torch.tensor((low + high) / 2).exp())


def reliability(probabilities: Tensor, targets: Tensor) -> list[dict[str, float]]:
    """Accuracy against confidence in ``BINS`` equal bins of confidence.

    Args:
        probabilities: float (N, C), rows sum to 1.
        targets: int64 (N,).

    Returns:
        For each bin that is not empty: ``low``, ``high`` (limits, 0..1), ``count``, ``confidence``
        and ``accuracy`` (means, 0..1).
    """
    confidence, predicted = probabilities.double().max(dim=1)
    right = (predicted == targets).double()
    index = (confidence * BINS).long().clamp_max(BINS - 1)
    return [
        {
            "low": number / BINS,
            "high": (number + 1) / BINS,
            "count": int(chosen.sum()),
            "confidence": confidence[chosen].mean().item(),
            "accuracy": right[chosen].mean().item(),
        }
        for number in range(BINS)
        if bool((chosen := index == number).any())
    ]


def expected_calibration_error(probabilities: Tensor, targets: Tensor) -> float:
    """ECE, 0..1: distance of accuracy and confidence in the bins, weighted by their tiles."""
    return sum(
        line["count"] * abs(line["accuracy"] - line["confidence"])
        for line in reliability(probabilities, targets)
    ) / len(targets)


def choose_threshold(probabilities: Tensor, targets: Tensor, accuracy: float = 0.995) -> float:
    """The lowest confidence above which at least ``accuracy`` of the answers are right.

    Returns:
        0..1; 0 when all answers together are good enough, 1 when no part of them is.
    """
    confidence, predicted = probabilities.double().max(dim=1)
    confidence, order = confidence.sort(descending=True)
    right = (predicted == targets).double()[order]
    kept = torch.arange(1, len(order) + 1)
    # A threshold keeps all answers of one confidence or none: only the last of them counts.
    ends = confidence.diff(append=confidence.new_tensor([-1])) < 0
    good = (ends & (right.cumsum(0) / kept >= accuracy)).nonzero().flatten()
    if not len(good):
        return 1.0
    last = int(good[-1])
    return 0.0 if last == len(order) - 1 else confidence[last].item()

"""The figures of a report: scores, their intervals, doubt, sets, what is confused with what."""

from itertools import combinations
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch import Tensor

from handlers.contract.spec import ModelSpec
from training.doubt import COVERAGE

RESAMPLES = 2000


def scores(targets: Tensor, predicted: Tensor, spec: ModelSpec) -> dict[str, Any]:
    """Accuracy, macro and per-class figures, the confusion matrix and 95 % intervals.

    Args:
        targets, predicted: int64 (N,), indices into the spec's labels.
    """
    indices = list(range(len(spec.labels)))
    precision, recall, f1, support = precision_recall_fscore_support(
        targets, predicted, labels=indices, zero_division=0.0
    )
    confusion = confusion_matrix(targets, predicted, labels=indices)
    columns = (spec.labels, *(column.tolist() for column in (precision, recall, f1, support)))
    return {
        "accuracy": float(np.trace(confusion) / confusion.sum()),
        "macro_precision": float(precision.mean()),
        "macro_recall": float(recall.mean()),
        "macro_f1": float(f1.mean()),
        "intervals": bootstrap_intervals(confusion),
        "per_class": [
            dict(zip(("label", "precision", "recall", "f1", "support"), row, strict=True))
            for row in zip(*columns, strict=True)
        ],
        "confusion": confusion.tolist(),  # rows are the truth
    }


def bootstrap_intervals(confusion: np.ndarray) -> dict[str, list[float]]:
    """95 % percentile intervals of accuracy and macro figures (Efron and Tibshirani, 1993).

    Drawing N tiles with replacement gives the cells of the confusion matrix a multinomial
    distribution, so that is what is drawn.

    Args:
        confusion: int (C, C), rows are the truth.
    """
    total = int(confusion.sum())
    draws = np.random.default_rng(0).multinomial(total, confusion.ravel() / total, RESAMPLES)
    matrices = draws.reshape(-1, *confusion.shape)  # (RESAMPLES, C, C)
    right = np.diagonal(matrices, axis1=1, axis2=2)
    predicted, true = matrices.sum(1), matrices.sum(2)
    figures = {
        "accuracy": right.sum(1) / total,
        # A class that a draw left out, or that was never predicted, counts 0, as in the figures.
        "macro_precision": (right / np.maximum(predicted, 1)).mean(1),
        "macro_recall": (right / np.maximum(true, 1)).mean(1),
        "macro_f1": (2 * right / np.maximum(predicted + true, 1)).mean(1),
    }
    return {name: np.quantile(values, (0.025, 0.975)).tolist() for name, values in figures.items()}


def doubt(
    confidence: Tensor, predicted: Tensor, targets: Tensor, spec: ModelSpec
) -> dict[str, float]:
    """What flagging answers below the spec's threshold costs and gains.

    Returns:
        ``threshold``; ``flagged``: share of answers marked uncertain; ``errors_caught``: share of
        the wrong answers among them; ``accuracy_of_the_rest`` and ``accuracy_of_flagged``.
    """
    flagged = confidence < spec.threshold
    right = predicted == targets
    return {
        "threshold": spec.threshold,
        "flagged": flagged.double().mean().item(),
        "errors_caught": (flagged & ~right).sum().item() / max(int((~right).sum()), 1),
        "accuracy_of_the_rest": _mean(right[~flagged]),
        "accuracy_of_flagged": _mean(right[flagged]),
    }


def prediction_sets(probabilities: Tensor, targets: Tensor, spec: ModelSpec) -> dict[str, Any]:
    """How often the classes named by ``handlers.vision.to_answer`` hold the right one.

    Args:
        probabilities: float (N, C), calibrated.
        targets: int64 (N,).
        spec: that has ``doubt``.

    Returns:
        ``asked`` and ``coverage``, shares of the tiles; ``mean_size``, in classes; ``per_class``,
        the coverage of each class.
    """
    assert spec.doubt is not None
    least = probabilities.amax(dim=1, keepdim=True).clamp_max(spec.doubt.least)
    sets = probabilities >= least
    held = sets.gather(1, targets[:, None]).flatten()
    return {
        "asked": COVERAGE,
        "coverage": _mean(held),
        "mean_size": _mean(sets.sum(dim=1)),
        "per_class": [
            {"label": label, "coverage": _mean(held[targets == number])}
            for number, label in enumerate(spec.labels)
        ],
    }


def confused_pairs(
    confusion: np.ndarray, errors: list[dict[str, Any]], spec: ModelSpec
) -> list[dict[str, Any]]:
    """The unordered pairs of classes that are confused, most frequent first, with their tiles."""
    pairs = []
    for (i, first), (j, second) in combinations(enumerate(spec.labels), 2):
        if count := int(confusion[i, j] + confusion[j, i]):
            both = {first, second}
            files = [
                error["file"] for error in errors if {error["truth"], error["predicted"]} == both
            ]
            pairs.append({"classes": [first, second], "count": count, "files": files})
    return sorted(pairs, key=lambda pair: -pair["count"])


def _mean(values: Tensor) -> float:
    return values.double().mean().item() if len(values) else 0.0

"""A small report as ``training/evaluate.py`` writes it: three classes, twelve test tiles."""

import base64
import json
from pathlib import Path
from typing import Any

from tests.support.fake_torchserve import PROBABILITIES

LABELS = ["AnnualCrop", "River", "SeaLake"]
CONFUSION = [[4, 1, 0], [2, 3, 0], [0, 0, 2]]
MISTAKES = [("AnnualCrop", "River", "AnnualCrop_7.jpg", 0.97)]
MISTAKES += [("River", "AnnualCrop", f"River_{i}.jpg", 0.8 - i / 10) for i in (1, 2)]
CARD = """# baseline 1.0

Ten classes, sha256 `abc<b>`. <script>alert(1)</script>

### Classes

| class | F1 |
| --- | --- |
| River | 66.67 % |

![Confusion matrix](confusion.svg)

```yaml
lr: 0.003

epochs: 2
```
"""


def report_content(model: str = "baseline", version: str = "1.0") -> dict[str, Any]:
    """The JSON of a report, to be changed by a test as it likes."""
    supports = [sum(row) for row in CONFUSION]
    return {
        "schema_version": 1,
        "model": model,
        "version": version,
        "created": "2026-01-02T03:04:05+00:00",
        "git_commit": "0123456789abcdef",
        "training": {
            "config": {"lr": 0.003},
            "epoch": 2,
            "val_accuracy": 0.75,
            "git_commit": "0123456789abcdef",
            "weights_origin": "Random start, no pretrained weights.",
            "teacher_origin": "Learned as well from the answers of big-1.0.",
            "history": [
                {"epoch": 1, "loss": 1.5, "accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.6},
                {"epoch": 2, "loss": 1.2, "accuracy": 0.6, "val_loss": 0.6, "val_accuracy": 0.75},
            ],
        },
        "spec": {"labels": list(LABELS), "image_size": 64},
        "split": {
            "name": "random",
            "sha256": {"train": "aa", "val": "bb", "test": "cc"},
            "counts": {
                "train": dict.fromkeys(LABELS, 14),
                "val": dict.fromkeys(LABELS, 3),
                "test": dict(zip(LABELS, supports, strict=True)),
            },
        },
        "size_bytes": 1_226_298,
        "model_sha256": "ff" * 32,
        "accuracy": 0.75,
        "macro_precision": 0.8055,
        "macro_recall": 0.8,
        "macro_f1": 0.798,
        "intervals": {"accuracy": [0.5, 1.0], "macro_f1": [0.48, 1.0]},
        "per_class": [
            {"label": label, "precision": 0.7, "recall": 0.8, "f1": 0.75, "support": support}
            for label, support in zip(LABELS, supports, strict=True)
        ],
        "confusion": [list(row) for row in CONFUSION],
        "calibration": {
            "temperature": 0.9,
            "ece_before": 0.11,
            "ece": 0.0154,
            "reliability": [
                {"low": 0.6, "high": 0.8, "count": 2, "confidence": 0.65, "accuracy": 0.5},
                {"low": 0.8, "high": 1.0, "count": 10, "confidence": 0.9, "accuracy": 0.8},
            ],
        },
        "uncertainty": {
            "threshold": 0.7,
            "flagged": 0.2,
            "errors_caught": 0.6667,
            "accuracy_of_the_rest": 0.9,
            "accuracy_of_flagged": 0.1,
        },
        "latency": {"batch": 1, "threads": 1, "median_ms": 1.31, "p95_ms": 2.2, "cpu": "A CPU"},
        "confused_pairs": [{"classes": ["AnnualCrop", "River"], "count": 3, "files": []}],
        "errors": [
            {"file": file, "truth": truth, "predicted": predicted, "confidence": confidence}
            for truth, predicted, file, confidence in MISTAKES
        ],
        "test_time_augmentation": augmented_content(0.8, 10.48),
        "robustness": [{"shift": "haze", "accuracy": 0.37, "macro_f1": 0.3, "ece": 0.38}],
        **doubt_content(),
        "scenes": scenes_content(),
        "audited_labels": {
            "method": "One reviewer looked at what models get wrong.",
            "reviewed": 2,
            "wrong": 1,
            "doubtful": 0,
            "undecidable": 0,
            "tiles": 12,
            "accuracy": 0.8333,
            "int8_accuracy": 0.9167,
            "lines": [
                {
                    "file": file,
                    "label": "River",
                    "verdict": verdict,
                    "better": better,
                    "reason": "bare ground",
                }
                for file, verdict, better in (
                    ("River_1.jpg", "wrong", "AnnualCrop"),
                    ("River_5.jpg", "right", ""),
                )
            ],
        },
    }


OPTIONAL = (
    "robustness",
    "test_time_augmentation",
    "unlike_training",
    "prediction_sets",
    "scenes",
    "audited_labels",
)


def augmented_content(accuracy: float, median_ms: float) -> dict[str, Any]:
    """What a report says of the mean over 8 views of one of its files."""
    return {
        "views": 8,
        "accuracy": accuracy,
        "macro_f1": 0.79,
        "ece": 0.0123,
        "own_temperature": 0.876,
        "own_ece": 0.0111,
        "latency": {"median_ms": median_ms, "p95_ms": 12.3, "threads": 1, "cpu": "A CPU"},
    }


def scenes_content() -> dict[str, Any]:
    """What a report says of maps of scenes."""
    return {
        "precision": "int8",
        "mosaics": {
            "corners": 1200,
            "cells": 1500,
            "strides": [
                {"stride": stride, "accuracy": accuracy}
                for stride, accuracy in ((64, 0.9801), (32, 0.9802), (16, 0.9803))
            ],
            "between": 1190,
            "shifted": 0.9704,
        },
        "demo": [
            {
                "stride": stride,
                "sea_cells": 4096 // stride,
                "sea_right": 0.9505,
                "land_cells": 5120 // stride,
                "land_as_water": 0.0106,
            }
            for stride in (64, 32, 16)
        ],
    }


def doubt_content() -> dict[str, Any]:
    """What a report says of each file of a model that knows where its knowledge ends."""
    return {
        "unlike_training": {
            "flagged": {"colours": 0.005, "content": 0.0061, "bright": 0.001, "any": 0.0112},
            "kinds": [
                {"kind": kind, "far": far, "count": 60, "flagged": share, "at_1": 0.5, "at_5": 0.75}
                for kind, far, share in (("photos", True, 0.9833), ("thin cloud", False, 0.2167))
            ],
        },
        "prediction_sets": {
            "asked": 0.99,
            "coverage": 0.9917,
            "mean_size": 1.04,
            "per_class": [
                {"label": label, "coverage": share}
                for label, share in zip(LABELS, (1.0, 0.9723, 0.995), strict=True)
            ],
        },
    }


def write_release(
    folder: Path,
    content: dict[str, Any],
    *,
    spatial: dict[str, Any] | None = None,
    card: str | None = None,
) -> Path:
    """Write a release into ``folder``, named as its report says; return its own folder."""
    release = folder / f"{content['model']}-{content['version']}"
    release.mkdir(parents=True)
    (release / "report.json").write_text(json.dumps(content))
    if spatial is not None:
        (release / "report-spatial.json").write_text(json.dumps(spatial))
    if card is not None:
        (release / "MODEL_CARD.md").write_text(card)
    return release


def int8_content() -> dict[str, Any]:
    """The section of a report about the int8 file."""
    return {
        "spec": {"labels": list(LABELS), "image_size": 64},
        "size_bytes": 331_795,
        "model_sha256": "ee" * 32,
        "accuracy": 0.8125,
        "macro_f1": 0.797,
        "intervals": {"accuracy": [0.5, 1.0], "macro_f1": [0.48, 1.0]},
        "agreement": 0.9969,
        "macro_precision": 0.8111,
        "macro_recall": 0.8222,
        "per_class": [
            {"label": label, "precision": 0.7, "recall": 0.8, "f1": f1, "support": sum(row)}
            for label, f1, row in zip(LABELS, (0.7511, 0.7522, 0.7533), CONFUSION, strict=True)
        ],
        "calibration": {"temperature": 0.91, "ece": 0.0155},
        "latency": {"median_ms": 0.42, "p95_ms": 0.5, "threads": 1, "cpu": "A CPU"},
        "test_time_augmentation": augmented_content(0.8234, 2.1),
        **doubt_content(),
    }


def golden_content(off: float = 0.0) -> dict[str, Any]:
    """What a report says of golden tiles; the answers are the fake's, ``off`` by so much."""
    probabilities = PROBABILITIES | {"AnnualCrop": PROBABILITIES["AnnualCrop"] - off}
    tile = {"file": "AnnualCrop_1.jpg", "probabilities": probabilities}
    return {
        "model_sha256": "a" * 64,
        "probe": [tile | {"jpeg": base64.b64encode(b"a tile").decode()}],
        "int8": {"model_sha256": "b" * 64, "probe": [tile]},
    }

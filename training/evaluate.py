"""Measure an exported model on its test split: report.json, predictions.csv, figures.

    python -m training.evaluate training/runs/baseline-1.0
    python -m training.evaluate training/releases/baseline-1.0 --out /tmp/again

What is measured are the TorchScript files with their configurations, the very files that are
served: the report is of that in fp32, with a section on that in int8, if there is one.
"""

import argparse
import base64
import csv
import hashlib
import io
import json
import logging
import re
import statistics
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch import Tensor

from handlers.model import fuse_layers, load_model
from handlers.spec import ModelSpec
from handlers.vision import normalize, to_probabilities
from training.augment import turn
from training.calibration import expected_calibration_error, reliability
from training.config import BadConfig
from training.eurosat import (
    PARTS,
    BadData,
    Examples,
    Split,
    Tiles,
    find_tiles,
    label_of,
    load_examples,
    load_split,
)
from training.export import BadExport, is_fused, load_exported, predict, training_facts
from training.figures import write_figures
from training.precision import FILES, has_int8
from training.shifts import SHIFTS
from training.train import git_commit

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
PROBES = 20  # tiles whose answers travel in the report, to check archives and deployments
RESAMPLES = 2000  # of the bootstrap
_RUN_NAME = re.compile(r"(?P<model>.+?)-(?P<version>\d+\.\d+(\.\d+)?)(-spatial)?")


def evaluate(folder: Path, tiles: Tiles, out: Path | None = None, *, full: bool = True) -> Path:
    """Measure the model of a run or release.

    Args:
        folder: holds ``model.pt``, ``model-config.yaml``, ``training.json`` or ``report.json``, and
            the same in int8, if the architecture has it.
        out: where the report goes; the folder itself if not given.
        full: also test-time augmentation and robustness, 16 more passes over the test split.

    Returns:
        The report's path.

    Raises:
        BadExport, BadData: with what is missing.
    """
    if not (name := _RUN_NAME.fullmatch(folder.name)):
        raise BadExport(f"{folder}: expected a folder <model>-<version>, such as baseline-1.0")
    out = out or folder
    out.mkdir(parents=True, exist_ok=True)
    training = training_facts(folder)
    model, spec = load_exported(folder)
    int8 = load_exported(folder, "int8") if has_int8(folder) else None
    split = load_split(training["config"]["split"], tiles)
    test = load_examples(tiles, split.test, spec, "test tiles")
    logits = predict(model, test.pixels, spec, "evaluate")
    probabilities = to_probabilities(logits, spec)
    confidence, predicted = probabilities.max(dim=1)

    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "model": name["model"],
        "version": name["version"],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit(),
        "training": training,
        "spec": spec.to_dict(),
        "split": _describe_split(split, tiles),
        **_describe_file(folder / FILES["fp32"][0], predicted),
        **scores(test.targets, predicted, spec),
        "calibration": {
            "temperature": spec.temperature,
            "ece_before": expected_calibration_error(torch.softmax(logits, 1), test.targets),
            "ece": expected_calibration_error(probabilities, test.targets),
            "reliability": reliability(probabilities, test.targets),
        },
        "uncertainty": doubt(confidence, predicted, test.targets, spec),
        "latency": measure_latency(model, spec, fuse=is_fused(folder)),
    }
    confusion = np.array(report["confusion"])
    errors = _errors(test, predicted, confidence, spec)
    report["confused_pairs"] = confused_pairs(confusion, errors, spec)
    report["certain_and_wrong"] = errors[:20]
    report["errors"] = errors
    if full:
        report["test_time_augmentation"] = _augmented(model, test, spec)
        report["robustness"] = _robustness(model, tiles, split, spec)
    report["probe"] = _probe(tiles, test, probabilities, spec)
    answers = {"": (predicted, confidence)}
    if int8:
        report["int8"], answers["_int8"] = _int8(folder, *int8, test, predicted)

    _write_predictions(out / "predictions.csv", test, answers, spec)
    write_figures(out, report)
    path = out / "report.json"
    path.write_text(json.dumps(report, indent=1, allow_nan=False))
    logger.info(
        "%s: accuracy %.2f %%, macro F1 %.2f %%, ECE %.2f %% on %d tiles",
        path, 100 * report["accuracy"], 100 * report["macro_f1"],
        100 * report["calibration"]["ece"], len(test),
    )  # fmt: skip
    if int8:
        logger.info(
            "int8: accuracy %.2f %%, ECE %.2f %%, as fp32 on %.2f %% of the tiles",
            100 * report["int8"]["accuracy"], 100 * report["int8"]["calibration"]["ece"],
            100 * report["int8"]["agreement"],
        )  # fmt: skip
    return path


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
    return {
        "accuracy": float(np.trace(confusion) / confusion.sum()),
        "macro_precision": float(precision.mean()),
        "macro_recall": float(recall.mean()),
        "macro_f1": float(f1.mean()),
        "intervals": bootstrap_intervals(confusion),
        "per_class": [
            {
                "label": label,
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": int(support[i]),
            }
            for i, label in enumerate(spec.labels)
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
    random = np.random.default_rng(0)
    draws = random.multinomial(total, confusion.ravel() / total, RESAMPLES)
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


def _describe_file(path: Path, predicted: Tensor) -> dict[str, Any]:
    """What tells a TorchScript file and its answers to the test tiles from all others."""
    return {
        "size_bytes": path.stat().st_size,
        "model_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "labels_sha256": hashlib.sha256(bytes(predicted.tolist())).hexdigest(),
    }


def _int8(
    folder: Path, model: torch.jit.ScriptModule, spec: ModelSpec, test: Examples, of_fp32: Tensor
) -> tuple[dict[str, Any], tuple[Tensor, Tensor]]:
    """The report's section on the int8 file, and its classes and confidences.

    The answers to the probe tiles stand in the order of the report's own, without their bytes.
    """
    probabilities = to_probabilities(predict(model, test.pixels, spec, "evaluate int8"), spec)
    confidence, predicted = probabilities.max(dim=1)
    found = scores(test.targets, predicted, spec)
    section = {
        "spec": spec.to_dict(),
        **_describe_file(folder / FILES["int8"][0], predicted),
        **{key: found[key] for key in ("accuracy", "macro_f1", "intervals", "confusion")},
        "agreement": (predicted == of_fp32).double().mean().item(),
        "calibration": {
            "temperature": spec.temperature,
            "ece": expected_calibration_error(probabilities, test.targets),
        },
        "uncertainty": doubt(confidence, predicted, test.targets, spec),
        "latency": measure_latency(model, spec, fuse=is_fused(folder, "int8")),
        "probe": [
            {
                "file": test.names[index],
                "probabilities": dict(zip(spec.labels, probabilities[index].tolist(), strict=True)),
            }
            for index in _probe_indices(test, spec)
        ],
    }
    return section, (predicted, confidence)


def confused_pairs(
    confusion: np.ndarray, errors: list[dict[str, Any]], spec: ModelSpec
) -> list[dict[str, Any]]:
    """The unordered pairs of classes that are confused, most frequent first, with their tiles."""
    pairs = []
    for i, first in enumerate(spec.labels):
        for j in range(i + 1, len(spec.labels)):
            second = spec.labels[j]
            if count := int(confusion[i, j] + confusion[j, i]):
                files = [
                    error["file"]
                    for error in errors
                    if {error["truth"], error["predicted"]} == {first, second}
                ]
                pairs.append({"classes": [first, second], "count": count, "files": files})
    return sorted(pairs, key=lambda pair: -pair["count"])


def measure_latency(
    model: torch.jit.ScriptModule, spec: ModelSpec, *, fuse: bool
) -> dict[str, Any]:
    """Milliseconds of the model alone for one tile on one thread, median and 95th percentile.

    Args:
        fuse: whether its layers are fused where it is served.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    shape = (1, spec.image_size, spec.image_size, 3)
    image = normalize(torch.zeros(shape, dtype=torch.uint8), spec)  # in memory as it is served
    # A copy that has seen nothing yet: a quantised convolution keeps what it prepared for the first
    # shape that it sees, in the handler one tile (the baseline takes 0.64 ms otherwise, not 0.44).
    file = io.BytesIO()
    torch.jit.save(model, file)
    file.seek(0)
    model = load_model(file)
    times = []
    try:
        if fuse:
            fuse_layers(model, image)
        with torch.inference_mode():
            for number in range(120):
                started = time.perf_counter()
                model(image)
                if number >= 20:
                    times.append(1000 * (time.perf_counter() - started))
    finally:
        torch.set_num_threads(threads)
    return {
        "batch": 1,
        "threads": 1,
        "median_ms": statistics.median(times),
        "p95_ms": float(np.quantile(times, 0.95)),
        "cpu": cpu_name(),
    }


def _describe_split(split: Split, tiles: Tiles) -> dict[str, Any]:
    counts = {part: Counter(label_of(name) for name in getattr(split, part)) for part in PARTS}
    return {
        "name": split.name,
        "sha256": split.sha256,
        "counts": {part: {label: counts[part][label] for label in tiles.labels} for part in PARTS},
    }


def _errors(
    test: Examples, predicted: Tensor, confidence: Tensor, spec: ModelSpec
) -> list[dict[str, Any]]:
    """Every wrong answer, the most certain first."""
    wrong = (predicted != test.targets).nonzero().flatten().tolist()
    wrong.sort(key=lambda index: -confidence[index].item())
    return [
        {
            "file": test.names[index],
            "truth": spec.labels[int(test.targets[index])],
            "predicted": spec.labels[int(predicted[index])],
            "confidence": confidence[index].item(),
        }
        for index in wrong
    ]


def _augmented(model: torch.jit.ScriptModule, test: Examples, spec: ModelSpec) -> dict[str, float]:
    """Mean of the probabilities over the 8 symmetries of the square."""
    total = torch.zeros(len(test), len(spec.labels), dtype=torch.float64)
    for symmetry in range(8):
        turned = turn(test.pixels, symmetry)
        total += to_probabilities(predict(model, turned, spec, f"view {symmetry + 1}/8"), spec)
    found = scores(test.targets, total.argmax(dim=1), spec)
    return {"views": 8, "accuracy": found["accuracy"], "macro_f1": found["macro_f1"]}


def _robustness(
    model: torch.jit.ScriptModule, tiles: Tiles, split: Split, spec: ModelSpec
) -> list[dict[str, Any]]:
    rows = []
    for name, shift in SHIFTS.items():
        examples = load_examples(tiles, split.test, spec, change=shift)
        probabilities = to_probabilities(predict(model, examples.pixels, spec, name), spec)
        found = scores(examples.targets, probabilities.argmax(dim=1), spec)
        rows.append(
            {
                "shift": name,
                "accuracy": found["accuracy"],
                "macro_f1": found["macro_f1"],
                "ece": expected_calibration_error(probabilities, examples.targets),
            }
        )
    return rows


def _probe(
    tiles: Tiles, test: Examples, probabilities: Tensor, spec: ModelSpec
) -> list[dict[str, Any]]:
    """Two test tiles a class, as bytes, with the answers that any deployment must give."""
    return [
        {
            "file": test.names[index],
            "jpeg": base64.b64encode(tiles.read(test.names[index])).decode(),
            "probabilities": dict(zip(spec.labels, probabilities[index].tolist(), strict=True)),
        }
        for index in _probe_indices(test, spec)
    ]


def _probe_indices(test: Examples, spec: ModelSpec) -> list[int]:
    each = PROBES // len(spec.labels)
    return [
        index
        for target in range(len(spec.labels))
        for index in (test.targets == target).nonzero().flatten()[:each].tolist()
    ]


def _write_predictions(
    path: Path, test: Examples, answers: dict[str, tuple[Tensor, Tensor]], spec: ModelSpec
) -> None:
    """One line a tile; each of ``answers`` gives two columns, named with its key at the end."""
    columns = [
        column
        for predicted, confidence in answers.values()
        for column in (
            [spec.labels[answer] for answer in predicted.tolist()],
            [f"{sure:.6f}" for sure in confidence.tolist()],
        )
    ]
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        head = [f"{name}{end}" for end in answers for name in ("predicted", "confidence")]
        writer.writerow(["file", "truth", *head])
        truths = [spec.labels[truth] for truth in test.targets.tolist()]
        writer.writerows(zip(test.names, truths, *columns, strict=True))


def _mean(values: Tensor) -> float:
    return values.double().mean().item() if len(values) else 0.0


def cpu_name() -> str:
    """The processor, as the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"


def main() -> None:
    """Evaluate the folder named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="run or release")
    parser.add_argument("--out", type=Path, help="where the report goes (default: the folder)")
    parser.add_argument("--fast", action="store_true", help="no augmentation, no robustness")
    arguments = parser.parse_args()
    print(evaluate(arguments.folder, find_tiles(), arguments.out, full=not arguments.fast))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        main()
    except (BadConfig, BadData, BadExport) as problem:
        sys.exit(str(problem))

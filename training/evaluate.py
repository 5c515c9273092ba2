"""Measure an exported model on its test split: report.json, predictions.csv, figures.

    python -m training.evaluate training/runs/baseline-1.0
    python -m training.evaluate training/releases/baseline-1.0 --out /tmp/again

What is measured are the TorchScript files with their configurations, the very files that are
served: the report is of that in fp32, with a section on that in int8, if there is one.
"""

import argparse
import base64
import csv
import dataclasses
import hashlib
import json
import logging
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from handlers.contract.names import BadName, ModelVersion
from handlers.contract.report import SCHEMA_VERSION
from handlers.contract.spec import VIEWS, ModelSpec
from handlers.vision import to_probabilities, turn
from training.calibration import expected_calibration_error, fit_temperature, reliability
from training.config import BadConfig
from training.dataset.audit import audited_labels
from training.dataset.eurosat import BadData, Tiles, find_tiles, label_of
from training.dataset.examples import Examples, load_examples
from training.dataset.shifts import SHIFTS
from training.dataset.splits import PARTS, Split, load_split
from training.figures import write_figures
from training.inference import judge, load_exported, predict
from training.latency import measure_latency
from training.metrics import confused_pairs, doubt, prediction_sets, scores
from training.runs import (
    FILES,
    SPATIAL,
    BadExport,
    git_commit,
    has_int8,
    run_command,
    sha256,
    training_facts,
)
from training.unlike import strangers, unlike_training

logger = logging.getLogger(__name__)

PROBES = 20  # tiles whose answers travel in the report, to check archives and deployments


def evaluate(folder: Path, tiles: Tiles, out: Path | None = None, *, full: bool = True) -> Path:
    """Measure the model of a run or release.

    Args:
        folder: with the ``FILES`` of fp32, those of int8 if the architecture has it, and
            ``training.json`` or ``report.json``.
        out: where the report goes; the folder itself if not given.
        full: also test-time augmentation, robustness and what is unlike training, 24 more passes
            over the test split and 16 over the validation split.

    Returns:
        The report's path.

    Raises:
        BadName, BadExport, BadData: with what is missing.
    """
    name = ModelVersion.parse(folder.name.removesuffix(SPATIAL))
    out = out or folder
    out.mkdir(parents=True, exist_ok=True)
    training = training_facts(folder)
    model, spec = load_exported(folder)
    int8 = load_exported(folder, "int8") if has_int8(folder) else None
    split = load_split(training["config"]["split"], tiles, folder)
    test = load_examples(tiles, split.test, spec, "test tiles")
    logits, distances = judge(model, test.pixels, spec, "evaluate")
    probabilities = to_probabilities(logits, spec)
    confidence, predicted = probabilities.max(dim=1)
    counts = {part: Counter(map(label_of, getattr(split, part))) for part in PARTS}

    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "model": name.model,
        "version": name.version,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit(),
        "training": training,
        "split": {
            "name": split.name,
            "sha256": split.sha256,
            "counts": {part: {each: counts[part][each] for each in spec.labels} for part in PARTS},
        },
        **_measure(folder, "fp32", spec, test, probabilities),
    }
    report["calibration"] |= {
        "ece_before": expected_calibration_error(torch.softmax(logits, 1), test.targets),
        "reliability": reliability(probabilities, test.targets),
    }
    # Every wrong answer, the most certain first.
    wrong = (predicted != test.targets).nonzero().flatten().tolist()
    errors = [
        {
            "file": test.names[index],
            "truth": spec.labels[int(test.targets[index])],
            "predicted": spec.labels[int(predicted[index])],
            "confidence": confidence[index].item(),
        }
        for index in sorted(wrong, key=lambda index: -confidence[index].item())
    ]
    report["confused_pairs"] = confused_pairs(np.array(report["confusion"]), errors, spec)
    report["certain_and_wrong"] = errors[:20]
    report["errors"] = errors
    usual = tiles.decode(test.names)
    others = list(strangers(usual)) if full else []
    if full:
        report |= _unlike(model, spec, usual, distances, others)
        report |= _augmented(folder, "fp32", test, logits, tiles, split)
        report["robustness"] = _robustness(model, tiles, split, spec)
    for line in report["probe"]:
        line["jpeg"] = base64.b64encode(tiles.read(line["file"])).decode()
    answers = {"": probabilities}
    if int8:
        int8_model, int8_spec = int8
        logits, apart = judge(int8_model, test.pixels, int8_spec, "evaluate int8")
        answers["_int8"] = to_probabilities(logits, int8_spec)
        section = _measure(folder, "int8", int8_spec, test, answers["_int8"])
        if full:
            section |= _unlike(int8_model, int8_spec, usual, apart, others)
            section |= _augmented(folder, "int8", test, logits, tiles, split)
        agreed = answers["_int8"].max(dim=1).indices == predicted
        report["int8"] = section | {"agreement": agreed.double().mean().item()}

    if split.name == "random":
        report |= _audited(test, answers, spec)
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


def _measure(
    folder: Path, precision: str, spec: ModelSpec, test: Examples, probabilities: Tensor
) -> dict[str, Any]:
    """What the report says of each of the two files."""
    confidence, predicted = probabilities.max(dim=1)
    path = folder / FILES[precision][0]
    sets = prediction_sets(probabilities, test.targets, spec) if spec.doubt else None
    return {
        "spec": spec.to_dict(),
        "size_bytes": path.stat().st_size,
        "model_sha256": sha256(path),
        "labels_sha256": hashlib.sha256(bytes(predicted.tolist())).hexdigest(),
        **scores(test.targets, predicted, spec),
        "calibration": {
            "temperature": spec.temperature,
            "ece": expected_calibration_error(probabilities, test.targets),
        },
        "uncertainty": doubt(confidence, predicted, test.targets, spec),
        **({"prediction_sets": sets} if sets else {}),
        "latency": measure_latency(folder, precision),
        "probe": _probe(test, probabilities, spec),
    }


def _unlike(
    model: torch.jit.ScriptModule,
    spec: ModelSpec,
    usual: np.ndarray,
    distances: Tensor | None,
    others: list[tuple[str, bool, np.ndarray]],
) -> dict[str, Any]:
    """What the report says of pictures unlike training; nothing of a model from before that."""
    if spec.doubt is None or distances is None:
        return {}
    return {"unlike_training": unlike_training(model, spec, usual, distances, others)}


def _audited(test: Examples, answers: dict[str, Tensor], spec: ModelSpec) -> dict[str, Any]:
    """What the report says of reviewed labels; nothing where none were reviewed."""
    named = {
        f"{end[1:]}_accuracy".lstrip("_"): tuple(spec.labels[i] for i in found.argmax(1).tolist())
        for end, found in answers.items()
    }
    found = audited_labels(named, test.names)
    return {"audited_labels": found} if found else {}


def _augmented(
    folder: Path, precision: str, test: Examples, logits: Tensor, tiles: Tiles, split: Split
) -> dict[str, Any]:
    """What the report says of the mean over 8 views, as served with ``tta: 8``.

    Args:
        logits: of the test tiles as they are, float32 (N, C).
        tiles, split: validation tiles tell which temperature the mean would want for itself.
    """
    model, spec = load_exported(folder, precision)
    val = load_examples(tiles, split.val, spec, "validation tiles")

    def mean(of: Examples, first: Tensor, title: str) -> Tensor:
        views = [
            predict(model, turn(of.pixels, number), spec, f"{title}, view {number + 1}/{VIEWS}")
            for number in range(1, VIEWS)
        ]
        return torch.stack([first, *views]).mean(dim=0)

    found = mean(test, logits, precision)
    probabilities = to_probabilities(found, spec)
    measured = scores(test.targets, probabilities.argmax(dim=1), spec)
    validated = mean(val, predict(model, val.pixels, spec), f"{precision}, validation")
    own = dataclasses.replace(spec, temperature=fit_temperature(validated, val.targets))
    return {
        "test_time_augmentation": {
            "views": VIEWS,
            **{key: measured[key] for key in ("accuracy", "macro_f1")},
            "ece": expected_calibration_error(probabilities, test.targets),
            "own_temperature": own.temperature,
            "own_ece": expected_calibration_error(to_probabilities(found, own), test.targets),
            "latency": measure_latency(folder, precision, VIEWS),
            "probe": _probe(test, probabilities, spec),
        }
    }


def _robustness(
    model: torch.jit.ScriptModule, tiles: Tiles, split: Split, spec: ModelSpec
) -> list[dict[str, Any]]:
    rows = []
    for name, shift in SHIFTS.items():
        examples = load_examples(tiles, split.test, spec, change=shift)
        probabilities = to_probabilities(predict(model, examples.pixels, spec, name), spec)
        found = scores(examples.targets, probabilities.argmax(dim=1), spec)
        ece = expected_calibration_error(probabilities, examples.targets)
        rows.append(
            {"shift": name, **{key: found[key] for key in ("accuracy", "macro_f1")}, "ece": ece}
        )
    return rows


def _probe(test: Examples, probabilities: Tensor, spec: ModelSpec) -> list[dict[str, Any]]:
    """Some test tiles of each class, with the answers that any deployment must give."""
    each = max(PROBES // len(spec.labels), 1)
    return [
        {
            "file": test.names[index],
            "probabilities": dict(zip(spec.labels, probabilities[index].tolist(), strict=True)),
        }
        for target in range(len(spec.labels))
        for index in (test.targets == target).nonzero().flatten()[:each].tolist()
    ]


def _write_predictions(
    path: Path, test: Examples, answers: dict[str, Tensor], spec: ModelSpec
) -> None:
    """One line a tile; of each of ``answers``, float (N, C), two columns that its key ends."""
    columns: list[list[str]] = []
    for probabilities in answers.values():
        confidence, predicted = probabilities.max(dim=1)
        columns.append([spec.labels[answer] for answer in predicted.tolist()])
        columns.append([f"{sure:.6f}" for sure in confidence.tolist()])
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        head = [f"{name}{end}" for end in answers for name in ("predicted", "confidence")]
        writer.writerow(["file", "truth", *head])
        truths = [spec.labels[truth] for truth in test.targets.tolist()]
        writer.writerows(zip(test.names, truths, *columns, strict=True))


def main() -> None:
    """Evaluate the folder named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="run or release")
    parser.add_argument("--out", type=Path, help="where the report goes (default: the folder)")
    parser.add_argument("--fast", action="store_true", help="no augmentation, no robustness")
    arguments = parser.parse_args()
    print(evaluate(arguments.folder, find_tiles(), arguments.out, full=not arguments.fast))


if __name__ == "__main__":
    run_command(main, BadConfig, BadData, BadExport, BadName)

"""Part 1: the model alone, in every runtime that could serve it."""

import json
import logging
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.bench.figures import Part, fastest, ratios, spread, table
from tests.bench.models import Subject, write_onnx
from training.eurosat import Tiles

ROOT = Path(__file__).resolve().parents[2]
logger = logging.getLogger(__name__)

OURS = "ours: int8 TorchScript"


def measure(subjects: list[Subject], tiles: Tiles, work: Path, rounds: int) -> Part:
    """Each model and each number of threads in a process of its own, runtimes interleaved.

    Args:
        work: where the peers' files go, in a folder for each subject.
    """
    for subject in subjects:
        logger.info("making the ONNX files of %s", subject.folder.name)
        write_onnx(subject, tiles, work / subject.name)
    promises: dict[str, list[float]] = {}
    raw: dict[str, Any] = {}
    tables = []
    for subject in subjects:
        for threads in (1, 2):
            found = _process(work / subject.name, threads, rounds)
            raw[f"{subject.name}, {threads} threads"] = found
            best = {
                batch: min(statistics.median(times[batch]) for times in found.values())
                for batch in found[OURS]
            }
            rows = [
                (
                    name,
                    *(
                        cell
                        for batch in best
                        for cell in (
                            spread(times[batch], 3),
                            f"{statistics.median(times[batch]) / best[batch]:.2f}",
                        )
                    ),
                )
                for name, times in found.items()
            ]
            head = ["runtime"]
            for batch in best:
                head += [f"batch {batch}, ms", "x best"]
            plural = "" if threads == 1 else "s"
            tables.append((f"{subject.name}, {threads} thread{plural}", table(head, rows)))
            if threads == 1:
                one = {name: times["1"] for name, times in found.items()}
                peers = fastest(one["ONNX Runtime int8"], one["OpenVINO int8"])
                promises[f"compute-{subject.name}"] = ratios(one[OURS], peers)
                promises[f"freeze-{subject.name}"] = ratios(
                    one["torch.jit.freeze(script)"], one[OURS]
                )
    remarks = [
        "OpenVINO int8 runs ONNX Runtime's quantised file (QDQ, per channel, calibrated on "
        "training tiles): its own quantiser, nncf, is not installed.",
        "Eager is the released weights with batch norms as identities.",
    ]
    return Part(promises, tables, raw, remarks)


def _process(folder: Path, threads: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.bench.compute_worker"]
    result = subprocess.run(
        [*command, str(folder), str(threads), str(rounds)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    # Runtimes may greet on stdout; the JSON is the last line.
    found: dict[str, dict[str, list[float]]] = json.loads(result.stdout.splitlines()[-1])
    return found

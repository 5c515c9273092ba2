"""Part 1: the model alone, in every runtime that could serve it."""

import json
import logging
import os
import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from deploy.allocator import preload
from tests.bench.figures import Part, fastest, ratios, spread, table
from tests.bench.models import Subject, write_onnx
from tests.support.paths import ROOT
from training.dataset.eurosat import Tiles

logger = logging.getLogger(__name__)

OURS = "ours: int8 TorchScript"
RUNTIMES = ("torch", "onnxruntime", "openvino")


def measure(subjects: list[Subject], tiles: Tiles, work: Path, rounds: int) -> Part:
    """Each model, number of threads and runtime in a process of its own; runtimes take turns.

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
            found = _take_turns(work / subject.name, threads, rounds)
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
        "Torch and ONNX Runtime run with the allocator that the product is served with (jemalloc, "
        "where it is installed); OpenVINO, which aborts with it, with the C library's.",
    ]
    return Part(promises, tables, raw, remarks)


def _take_turns(folder: Path, threads: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """How the model runs -> batch -> a median for each round, in ms."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.bench.compute_worker"]
    found: dict[str, dict[str, list[float]]] = {}
    with ExitStack() as stack:
        processes = []
        for runtime in RUNTIMES:
            # with the allocator that the product is served with; OpenVINO aborts with it
            own = {} if runtime == "openvino" else preload(os.environ)
            process = subprocess.Popen(
                [*command, str(folder), str(threads), runtime],
                cwd=ROOT,
                env={**os.environ, **own},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            processes.append(process)
            _read_line(process, "ready")
        for _ in range(rounds):
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("round\n")
                process.stdin.flush()
                for name, times in json.loads(_read_line(process, "{")).items():
                    for batch, value in times.items():
                        found.setdefault(name, {}).setdefault(batch, []).append(value)
    return found


def _read_line(process: "subprocess.Popen[str]", start: str) -> str:
    """The next line with such a start; runtimes may greet on stdout before it."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(start):
            return line
    raise RuntimeError(f"{process.args!r} ended with {process.wait()}")

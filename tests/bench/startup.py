"""Part 4: from nothing to the first answer, and what every process then holds in memory."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import psutil

from deploy.child import end, marked
from tests.bench.figures import Part, ratios, spread, table
from tests.bench.models import Subject
from tests.bench.servers import (
    ROOT,
    portal_of,
    settings_of,
    store_of,
    usual_torchserve,
)


def measure(subjects: list[Subject], work: Path, bodies: Path, rounds: int) -> Part:
    """Start the product as `make serve` does, once a round; beside it a usual TorchServe, once."""
    tile = next(iter(sorted(bodies.iterdir()))).read_bytes()
    store = store_of(subjects, work)
    seconds: list[float] = []
    memory: dict[str, list[float]] = {}
    workers: list[float] = []
    for _ in range(rounds):
        settings = settings_of(work, store)
        command = [sys.executable, "-m", "deploy.serve", "--port", str(settings.port)]
        command += ["--config", str(settings.config), "--run-dir", str(settings.run_dir)]
        started = time.perf_counter()
        with (work / "serve.log").open("ab") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        try:
            portal_of(settings, subjects[0]).wait(tile)
            seconds.append(time.perf_counter() - started)
            for subject in subjects:
                target = portal_of(settings, subject)
                target.wait(tile)
                target.load(bodies, 8, 1)
            mine = []
            for running in marked(f"{settings.run_dir}:"):
                name, held = _name(running), _megabytes(running)
                memory.setdefault(name, []).append(held)
                mine += [held] if name == "TorchServe worker" else []
            workers.append(max(mine))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
            end(f"{settings.run_dir}:", grace=0)
    with ExitStack() as stack:
        usual = usual_torchserve(stack, subjects[0], work, tile)
        usual.load(bodies, 8, 1)
        if usual.process is None:
            raise RuntimeError("the usual TorchServe was started by nobody")
        theirs = max(
            _megabytes(running)
            for running in psutil.Process(usual.process.pid).children(recursive=True)
            if _name(running) == "TorchServe worker"
        )
    rows = [("start to first answer, s", spread(seconds, 1))]
    rows += [(f"{name}, MB", spread(values, 0)) for name, values in sorted(memory.items())]
    rows.append(("worker with the usual handler, MB", f"{theirs:.0f}"))
    archives = ", ".join(path.name for path in sorted(store.iterdir()))
    return Part(
        {"worker-memory": ratios(workers, [theirs] * len(workers))},
        [("start and resident memory", table(("", "found"), rows))],
        {"seconds": seconds, "memory_mb": memory, "usual_worker_mb": theirs},
        [
            f"The start is of {archives}, with files that the system has in memory already.",
            "Resident memory counts torch's libraries in each process, though they share it.",
        ],
    )


def _name(process: psutil.Process) -> str:
    words = " ".join(process.cmdline())
    if "model_service_worker" in words:
        return "TorchServe worker"
    if os.path.basename(process.exe()) == "java":  # noqa: PTH119 - a string, not a path of ours
        return "TorchServe, Java"
    return "portal, gunicorn" if "gunicorn" in words else "TorchServe, launcher"


def _megabytes(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / 1e6

"""Part 4: from nothing to the first answer, and what every process then holds in memory."""

import json
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
    portal_of,
    settings_of,
    store_of,
    usual_torchserve,
)
from tests.support.paths import ROOT

WORKER = "TorchServe worker"


def measure(subjects: list[Subject], work: Path, bodies: Path, rounds: int) -> Part:
    """Start the product as `make serve` does, once a round; then a usual TorchServe for each model.

    A worker is compared with the usual one of the same model, and the worse of the ratios counts.
    """
    tile = next(iter(sorted(bodies.iterdir()))).read_bytes()
    store = store_of(subjects, work)
    seconds: list[float] = []
    memory: dict[str, list[float]] = {}
    workers: dict[str, list[float]] = {subject.name: [] for subject in subjects}
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
            mine: dict[str, list[float]] = {name: [] for name in workers}
            for running in marked(f"{settings.run_dir}:"):
                name, held = _name(running), _megabytes(running)
                if name == WORKER:
                    mine[_model_of(running)].append(held)
                else:
                    memory.setdefault(name, []).append(held)
            for name, several in mine.items():
                workers[name].append(max(several))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
            end(f"{settings.run_dir}:", grace=0)
    usual = {subject.name: _usual(subject, work, bodies) for subject in subjects}
    shares = [ratios(held, [usual[name]] * len(held)) for name, held in workers.items()]
    rows = [("start to first answer, s", spread(seconds, 1))]
    rows += [(f"{name}, MB", spread(values, 0)) for name, values in sorted(memory.items())]
    for name, several in workers.items():
        rows.append((f"worker of {name}, MB", spread(several, 0)))
        rows.append((f"worker of {name} with the usual handler, MB", f"{usual[name]:.0f}"))
    archives = ", ".join(path.name for path in sorted(store.iterdir()))
    return Part(
        {"worker-memory": [max(several) for several in zip(*shares, strict=True)]},
        [("start and resident memory", table(("", "found"), rows))],
        {"seconds": seconds, "memory_mb": memory, "workers_mb": workers, "usual_mb": usual},
        [
            f"The start is of {archives}, with files that the system has in memory already.",
            "Resident memory counts torch's libraries in each process, though they share it.",
        ],
    )


def _usual(subject: Subject, work: Path, bodies: Path) -> float:
    """Resident memory of a worker with the usual handler, MB: of two the larger."""
    tile = next(iter(sorted(bodies.iterdir()))).read_bytes()
    with ExitStack() as stack:
        usual = usual_torchserve(stack, subject, work, tile)
        usual.load(bodies, 8, 1)
        if usual.process is None:
            raise RuntimeError("the usual TorchServe was started by nobody")
        return max(
            _megabytes(running)
            for running in psutil.Process(usual.process.pid).children(recursive=True)
            if _name(running) == WORKER
        )


def _model_of(worker: psutil.Process) -> str:
    """A worker runs in the folder of its unpacked archive."""
    manifest = Path(worker.cwd()) / "MAR-INF" / "MANIFEST.json"
    name: str = json.loads(manifest.read_text())["model"]["modelName"]
    return name


def _name(process: psutil.Process) -> str:
    words = " ".join(process.cmdline())
    if "model_service_worker" in words:
        return WORKER
    if os.path.basename(process.exe()) == "java":  # noqa: PTH119 - a string, not a path of ours
        return "TorchServe, Java"
    return "portal, gunicorn" if "gunicorn" in words else "TorchServe, launcher"


def _megabytes(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / 1e6

"""Measure the product against other ways to do the same: ``make bench``.

    python -m tests.bench                          everything, about ten minutes
    python -m tests.bench --quick --only compute   one part, one round
    python -m tests.bench --write                  also into the READMEs

The figures are ratios of one run; everything is started here, on free ports, and ended again.
"""

import argparse
import importlib.metadata
import json
import logging
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import torch

from tests.bench import compute, serving, startup, training
from tests.bench.figures import Part, promise_table
from tests.bench.models import find_subjects
from tests.bench.published import kind_of_cpu, publish
from tests.support.paths import ROOT
from training.dataset.eurosat import find_tiles
from training.dataset.splits import load_split
from training.hardware import cpu_name
from training.runs import FILES

PAGE, FRONT = ROOT / "tests" / "bench" / "README.md", ROOT / "README.md"
PUBLISHED = ROOT / "tests" / "bench" / "results.json"
PARTS = ("compute", "serving", "batch", "startup", "training")
TILES = 256  # of the test list, spread over it
PACKAGES = (
    "torch", "torchserve", "onnxruntime", "openvino", "fastapi", "uvicorn", "litserve", "flask",
    "gunicorn", "waitress",
)  # fmt: skip

logger = logging.getLogger("bench")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, for a first look")
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {','.join(PARTS)}")
    parser.add_argument("--rounds", type=int, help="default: 3, quick: 1")
    parser.add_argument("--out", type=Path, help="folder for bench.json and bench.md")
    parser.add_argument("--write", action="store_true", help="the tables into the READMEs as well")
    parser.add_argument("models", type=Path, nargs="*", help="runs or releases (default: releases)")
    given = parser.parse_args()
    wanted = given.only.split(",")
    if unknown := sorted(set(wanted) - set(PARTS)):
        parser.error(f"--only: expected some of {','.join(PARTS)}, found {','.join(unknown)}")
    if given.write and (given.quick or set(wanted) != set(PARTS)):
        parser.error("--write: only a whole run goes into the READMEs, without --quick and --only")
    folders = given.models or sorted(
        path.parent for path in (ROOT / "training" / "releases").glob(f"*/{FILES['fp32'][0]}")
    )
    rounds = given.rounds or (1 if given.quick else 3)
    started = time.monotonic()
    found, remarks = _measure(wanted, folders, rounds, quick=given.quick)
    about = _about([folder.name for folder in folders])
    promises = {key: value for part in found.values() for key, value in part.promises.items()}
    text = _report(about, promises, found, remarks, rounds, time.monotonic() - started)
    sys.stdout.write(text)
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "bench.md").write_text(text)
        content = {name: {"promises": part.promises, "raw": part.raw, "remarks": part.remarks}
                   for name, part in found.items()}  # fmt: skip
        (given.out / "bench.json").write_text(json.dumps({"about": about, **content}, indent=1))
    if given.write:
        publish(PAGE, FRONT, PUBLISHED, _kind(), about, promises)


def _measure(
    wanted: list[str], folders: list[Path], rounds: int, *, quick: bool
) -> tuple[dict[str, Part], list[str]]:
    seconds = 1.0 if quick else 2.0
    found: dict[str, Part] = {}
    # Where sockets and model stores lie: their paths must be short.
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        work = Path(name)
        tiles = find_tiles()
        subjects, remarks = find_subjects(folders)
        subjects.sort(key=lambda subject: subject.name)  # the start is timed on the first
        test = load_split("random", tiles).test
        bodies = work / "tiles"
        bodies.mkdir()
        for index, tile in enumerate(test[:: len(test) // TILES][:TILES]):
            (bodies / f"{index:03}.jpg").write_bytes(tiles.read(tile))
        parts: dict[str, Callable[[], Part]] = {
            "compute": lambda: compute.measure(subjects, tiles, work, rounds),
            "serving": lambda: serving.measure(subjects, work, bodies, rounds, seconds),
            "batch": lambda: serving.measure_batches(subjects, work, bodies, rounds, seconds),
            "startup": lambda: startup.measure(subjects, work, bodies, min(rounds, 3)),
            "training": lambda: training.measure(rounds, 2 * seconds),
        }
        for part in PARTS:
            if part not in wanted:
                remarks.append(f"{part} was not measured.")
            elif not subjects and part != "training":
                remarks.append(f"{part} was not measured: no model with an int8 file.")
            else:
                logger.info("measuring: %s", part)
                found[part] = parts[part]()
    return found, remarks


def _about(models: list[str]) -> str:
    """Date, models, cores and versions, in one sentence."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {', '.join(models)}; {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, {versions}."
    )


def _kind() -> str:
    return kind_of_cpu(cpu_name(), torch.cpu.get_capabilities())


def _report(
    about: str,
    promises: Mapping[str, list[float]],
    found: Mapping[str, Part],
    remarks: list[str],
    rounds: int,
    seconds: float,
) -> str:
    lines = [
        "# Benchmark",
        "",
        f"{about} {rounds} round{'' if rounds == 1 else 's'}, {seconds / 60:.1f} minutes, load "
        f"of the machine at the end {os.getloadavg()[0]:.1f}. Medians of rounds (least-largest); "
        "each ratio is of one round.",
        "",
        promise_table({_kind(): promises}),
    ]
    for name, part in found.items():
        for title, table in part.tables:
            lines += [f"## {name}: {title}", "", table]
    lines += ["## Not comparable, or left out", ""]
    lines += [f"- {line}" for line in [*remarks, *(r for p in found.values() for r in p.remarks)]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    # The peers' exporters have much to say.
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for speaker in ("bench", "tests.bench", "training.archive"):
        logging.getLogger(speaker).setLevel(logging.INFO)
    main()

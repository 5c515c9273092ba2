"""What maps of scenes cost: ratios of one run, each against its peer.

    python -m tests.bench.scenes                         # all; ten minutes, on an idle machine
    python -m tests.bench.scenes --only demo,single      # some of them

The newest releases are served, in int8, by a product that is started for it. The pixels are those
of the sample scene, or of ``--scene``; larger scenes repeat them. TorchScript alone has its windows
in memory as the model takes them, 16 at a time, on one thread a process.
"""

import argparse
import io
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cached_property, partial
from math import isqrt
from pathlib import Path

import numpy as np
from PIL import Image

from portal.scenes.inspection import inspect
from portal.scenes.raster import open_raster
from portal.scenes.scene import SIDE, Options
from tests.bench import scene_work as made
from tests.bench.figures import Promise, verdict
from tests.bench.load import run as load
from tests.bench.scene_work import MODELS, SAMPLE
from tests.support.paths import ROOT
from training.archive import build
from training.hardware import cpu_name

AS_IT_IS = {"look": "eurosat"}
AS_L1C = {"look": "l1c", "scale": "10000"}
WHOLE = 10_980  # px of a Sentinel-2 product's side
CPU_OF = 2000  # windows of which the model's CPU time is taken
ROUNDS = 5  # of the demo scene, which takes a second


class Bench:
    """What the figures have in common: files, TorchScript alone, the running product."""

    def __init__(self, given: argparse.Namespace, work: Path, stack: ExitStack) -> None:
        self.given, self.work, self._stack = given, work, stack
        self.side = isqrt(given.windows) * SIDE
        seen = inspect(given.scene, Options("none", stride=SIDE))
        with open_raster(given.scene, seen) as raster:
            pixels, _ = raster.read(0, 0, raster.geo.height, raster.geo.width)
        self.pixels = np.maximum(pixels, 2)  # black has no data
        rows, columns = (length // SIDE for length in pixels.shape[:2])
        tiles = self.pixels[: rows * SIDE, : columns * SIDE].reshape(rows, SIDE, columns, SIDE, 3)
        self.windows = tiles.transpose(0, 2, 1, 3, 4).reshape(-1, SIDE, SIDE, 3)
        np.save(work / "windows.npy", self.windows)

    @cached_property
    def store(self) -> Path:
        """A model store with the newest release of each model."""
        for model in MODELS:
            build(made.newest(model), self.work / "store")
        return self.work / "store"

    @cached_property
    def large(self) -> Path:
        """The scene of ``--windows``."""
        return made.write_scene(
            self.work / "large.tif", self.pixels, self.side, profile=made.BLOCKS
        )

    @cached_property
    def portal(self) -> made.Portal:
        """The product, ready."""
        return self._stack.enter_context(made.running_portal(self.work, self.store))

    def alone(self, model: str, count: int, processes: int) -> tuple[float, float]:
        """Seconds and CPU seconds of TorchScript for so many windows."""
        share = -(-count // processes)
        spans = made.apart(
            made.alone, processes, made.newest(model), self.work / "windows.npy", share
        )
        begun, ended, cpu = zip(*spans, strict=True)
        return max(ended) - min(begun), sum(cpu)


def demo(bench: Bench) -> Iterator[str]:
    """From upload to the map."""
    times = []
    for _ in range(ROUNDS + 1):
        began = time.monotonic()
        scene = bench.portal.send(bench.given.scene, model="resnet18")
        bench.portal.finish(scene)
        times.append(time.monotonic() - began)
        bench.portal.forget(scene)
    ours = statistics.median(times[1:])
    count = len(bench.windows)
    peer = bench.alone("resnet18", ROUNDS * count, 1)[0] / ROUNDS
    limits = Promise("", 2 * peer + 1, 1.3 * peer + 0.5, least=False)
    yield (
        f"demo scene, {count} windows, ResNet-18: upload to map {ours:.2f} s, TorchScript alone "
        f"{peer:.2f} s: {ours / peer:.2f} x; ≤ {limits.must:.2f} s, goal ≤ {limits.goal:.2f} s: "
        f"{verdict(limits, ours)}"
    )


def rate(bench: Bench) -> Iterator[str]:
    """Tiles a second of a large scene."""
    for model, title in MODELS.items():
        scene = bench.portal.send(bench.large, model=model, **AS_IT_IS)
        began = time.monotonic()
        total = bench.portal.finish(scene, 0.2)["total"]
        ours = total / (time.monotonic() - began)
        bench.portal.forget(scene)
        peer = total / bench.alone(model, total, 2)[0]
        yield (
            f"scene of {total:,} windows, {title}: {ours:,.0f} tiles/s, TorchScript in two "
            f"processes {peer:,.0f}: {_ratio(ours / peer, 0.7, 0.9)}"
        )


def cutting(bench: Bench) -> Iterator[str]:
    """CPU seconds around the model."""
    ((ours, asked),) = made.apart(made.cut, 1, bench.large, bench.work / "strips")
    for model, title in MODELS.items():
        peer = bench.alone(model, CPU_OF, 1)[1] / CPU_OF * asked
        yield (
            f"{asked:,} windows read, cut, encoded: {ours:.1f} s of CPU, {title} {peer:.1f} s: "
            f"{_ratio(ours / peer, 0.15, 0.08, least=False)}"
        )


def memory(bench: Bench) -> Iterator[str]:
    """Peaks of portal and worker over what they had before the first scene."""
    for dtype, asked in (("uint8", AS_IT_IS), ("uint16", AS_L1C)):
        for layout, profile in (("tiled", made.BLOCKS), ("striped", {})):
            path = bench.work / f"{dtype}-{layout}.tif"
            side = bench.given.side
            made.write_scene(path, bench.pixels, side, dtype, sparse=True, profile=profile)
            with made.peak(bench.portal) as held:
                scene = bench.portal.send(path, model="baseline", **asked)
                bench.portal.finish(scene, 0.2)
            bench.portal.forget(scene)
            path.unlink()
            over = held[0] - bench.portal.idle
            yield (
                f"{side:,} px a side, {dtype}, {layout}: at most {over:.0f} MB over "
                f"{bench.portal.idle:.0f} MB when idle; must < 400, goal < 200: "
                f"{verdict(Promise('', 400, 200, least=False), over)}"
            )


def single(bench: Bench) -> Iterator[str]:
    """Single predictions, one after the other, with and without a scene."""
    bodies = bench.work / "tiles"
    bodies.mkdir()
    for number, window in enumerate(bench.windows[:100]):
        file = io.BytesIO()
        Image.fromarray(window).save(file, "JPEG", quality=95)
        (bodies / f"{number:03}.jpg").write_bytes(file.getvalue())
    for model, title in MODELS.items():
        job = {
            "host": "127.0.0.1", "port": bench.portal.port, "headers": {}, "form": False,
            "path": f"/api/predict?model={model}", "clients": 1, "bodies": str(bodies),
        }  # fmt: skip
        load(job | {"seconds": 2})
        idle = load(job | {"seconds": bench.given.seconds})
        scene = bench.portal.send(bench.large, model=model, **AS_IT_IS)
        while not bench.portal.get(scene)["done"]:
            time.sleep(0.05)
        busy = load(job | {"seconds": bench.given.seconds})
        note = " (the scene was done before)" if bench.portal.get(scene)["outputs"] else ""
        bench.portal.forget(scene)
        yield (
            f"single predictions, {title}: p95 {busy['p95_ms']:.1f} ms during a scene, "
            f"{idle['p95_ms']:.1f} ms without: "
            f"{_ratio(busy['p95_ms'] / idle['p95_ms'], 2, 1.3, least=False)}; medians "
            f"{busy['p50_ms']:.1f} and {idle['p50_ms']:.1f} ms{note}"
        )


def dask(bench: Bench) -> Iterator[str]:
    """Many scenes: two processes against one, start of the cluster included."""
    folder = bench.work / "scenes"
    folder.mkdir()
    for number in range(bench.given.scenes):
        rolled = np.roll(bench.pixels, 37 * number, axis=1)
        made.write_scene(folder / f"{number}.tif", rolled, 1000, profile=made.BLOCKS)
    command = [sys.executable, "-m", "portal.cli.scenes_many", str(folder)]
    archive = ["--archive", str(bench.store / f"{made.newest('baseline').name}.mar")]
    times = {}
    for workers in (1, 2):
        out = str(bench.work / f"maps-{workers}")
        words = [*command, out, *archive, "--look", "eurosat", "--workers", str(workers)]
        began = time.monotonic()
        subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
        times[workers] = time.monotonic() - began
    yield (
        f"Dask, {bench.given.scenes} scenes of 1,000 px, stride 32, baseline: 1 process "
        f"{times[1]:.1f} s, 2 processes {times[2]:.1f} s: {_ratio(times[1] / times[2], 1.6, 1.9)}"
    )


def _ratio(value: float, must: float, goal: float, *, least: bool = True) -> str:
    sign = "≥" if least else "≤"
    said = verdict(Promise("", must, goal, least), value)
    return f"{value:.2f} x; {sign} {must:g}, goal {sign} {goal:g}: {said}"


FIGURES = {figure.__name__: figure for figure in (demo, rate, cutting, memory, single, dask)}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scenes")
    whole = partial(parser.add_argument, type=int, help="default: %(default)s")
    parser.add_argument("--only", default=",".join(FIGURES), help=f"of {','.join(FIGURES)}")
    parser.add_argument("--scene", type=Path, default=SAMPLE, help="a file of 10 m")
    whole("--windows", default=171 * 171)
    whole("--side", default=WHOLE)
    whole("--scenes", default=20)
    whole("--seconds", default=8)
    given = parser.parse_args()
    wanted = given.only.split(",")
    if unknown := sorted(set(wanted) - set(FIGURES)):
        parser.error(f"--only: expected some of {','.join(FIGURES)}, found {','.join(unknown)}")
    # else what was started would stay
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Ended before the last figure."))
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-") as name, ExitStack() as stack:
        bench = Bench(given, Path(name), stack)
        for figure in wanted:
            for line in FIGURES[figure](bench):
                sys.stdout.write(f"{figure}: {line}\n")
                sys.stdout.flush()
    sys.stdout.write(
        f"{cpu_name()}, {os.cpu_count()} cores, load at the end {os.getloadavg()[0]:.1f}, "
        f"{(time.monotonic() - began) / 60:.1f} minutes\n"
    )


if __name__ == "__main__":
    main()

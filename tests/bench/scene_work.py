"""What ``tests.bench.scenes`` measures: scenes in files, TorchScript alone, the running product."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import rasterio
import requests

from deploy.allocator import preload
from deploy.child import marked
from handlers.contract.names import ModelVersion
from handlers.contract.tile_bundle import pack
from portal.scenes.inspection import inspect
from portal.scenes.scene import SIDE, Answers, Options
from tests.support.paths import ROOT
from tests.support.product import RunningProduct, own_settings, running_product
from tests.support.rasters import UTM, reflectance

SAMPLE = ROOT / "portal/web/static/samples/scenes/aberystwyth.tif"
MODELS = {"baseline": "baseline", "resnet18": "ResNet-18"}
BLOCKS = {"tiled": True, "blockxsize": 512, "blockysize": 512}
ROWS = 1024  # that are written at a time; of a sparse scene every third time


def newest(model: str) -> Path:
    """The folder of a model's newest release."""
    folders = (ROOT / "training/releases").glob(f"{model}-*")
    return max(folders, key=lambda folder: ModelVersion.parse(folder.name))


def write_scene(
    path: Path,
    pixels: np.ndarray,
    side: int,
    dtype: str = "uint8",
    *,
    profile: Mapping[str, Any],
    sparse: bool = False,
) -> Path:
    """Repeat uint8 (H, W, 3) in EuroSAT's look over ``side`` px both ways; uint16: as L1C."""
    values = pixels if dtype == "uint8" else (1e4 * reflectance(pixels)).round().astype(dtype)
    across = -(-side // values.shape[1])
    size = {"height": side, "width": side, "count": 3, "dtype": dtype}
    packed = {"driver": "GTiff", "compress": "deflate", "zlevel": 1, "sparse_ok": True, **UTM}
    with rasterio.open(path, "w", **size, **packed, **profile) as target:
        for top in range(0, side, ROWS):
            if sparse and top // ROWS % 3:
                continue
            rows = np.arange(top, min(top + ROWS, side)) % len(values)
            part = np.tile(values[rows], (1, across, 1))[:, :side]
            target.write(part.transpose(2, 0, 1), window=((top, top + len(rows)), (0, side)))
    return path


def alone(release: Path, file: Path, count: int, start: Any, found: Any) -> None:
    """One process of TorchScript alone: when it began and ended, and its CPU seconds."""
    import torch

    from handlers.vision import normalize, resize
    from training.inference import load_exported

    torch.set_num_threads(1)
    model, spec = load_exported(release, "int8")
    parts = torch.from_numpy(resize(np.load(file), spec.image_size)).split(16)
    with torch.inference_mode():
        for part in parts:  # shapes that were not seen before take longer
            model(normalize(part, spec))
        start.wait(300)
        began, cpu, done = time.monotonic(), time.process_time(), 0
        turns = cycle(parts)
        while done < count:
            part = next(turns)
            model(normalize(part, spec))
            done += len(part)
        took, cpu = time.monotonic() - began, time.process_time() - cpu
    found.put((began, began + took * count / done, cpu * count / done))


def cut(path: Path, folder: Path, found: Any) -> None:
    """CPU seconds of a map whose model answers at once, and how many windows it was asked about."""
    from portal.scenes.classifier import encode
    from portal.scenes.mapping import map_scene
    from portal.scenes.raster import open_raster

    asked = 0

    def classify(windows: np.ndarray) -> Answers:
        nonlocal asked
        asked += len(windows)
        for first in range(0, len(windows), SIDE):
            pack(encode(windows[first : first + SIDE]))
        no = np.zeros(len(windows), bool)
        probabilities = np.full((len(windows), 10), 0.1, np.float32)
        return Answers(tuple("abcdefghij"), probabilities, no, no, no)

    seen = inspect(path, Options("none", stride=SIDE, look="eurosat"))
    with open_raster(path, seen) as raster:
        cpu = time.process_time()  # GDAL is loaded by now
        map_scene(raster, SIDE, classify, folder=folder, progress=lambda _done, _total: None)
    found.put((time.process_time() - cpu, asked))


def apart(work: Callable[..., None], processes: int, *what: Any) -> list[Any]:
    """What processes found that did the same side by side, with the allocator as served."""
    context = get_context("spawn")
    found = context.Queue()
    more = (context.Barrier(processes), found) if work is alone else (found,)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in preload(os.environ).items():
            patch.setenv(name, value)
        for _ in range(processes):
            context.Process(target=work, args=(*what, *more), daemon=True).start()
    return [found.get(timeout=300) for _ in range(processes)]


class Portal:
    """The running product, as a program asks it for maps."""

    def __init__(self, running: RunningProduct, port: int, run_dir: Path) -> None:
        self.port = port
        self._url = f"{running.url}/api/scenes"
        self._session = requests.Session()
        self._roots = [*marked(f"{run_dir}:portal"), *marked(f"{run_dir}:scenes")]
        self.idle = self.memory()

    def memory(self) -> float:
        """Resident MB of the portal, the worker of scenes and whatever they have started."""
        held = {}
        for root in self._roots:
            with suppress(psutil.NoSuchProcess):
                for process in (root, *root.children(recursive=True)):
                    with suppress(psutil.NoSuchProcess):
                        held[process.pid] = process.memory_info().rss
        return sum(held.values()) / 1e6

    def send(self, path: Path, **fields: str) -> str:
        """Ask for a map; its scene."""
        with path.open("rb") as file:
            fields = {"stride": str(SIDE), **fields}
            answer = self._session.post(self._url, data=fields, files={"file": file}, timeout=600)
        if answer.status_code != 202:
            raise RuntimeError(f"{path.name}: {answer.status_code} {answer.text[:300]}")
        return str(answer.json()["id"])

    def get(self, scene: str) -> dict[str, Any]:
        """As the API tells of a scene; RuntimeError if it failed."""
        found: dict[str, Any] = self._session.get(f"{self._url}/{scene}", timeout=60).json()
        if found["state"] == "failed":
            raise RuntimeError(f"{found['name']}: {found['reason']}")
        return found

    def finish(self, scene: str, pause: float = 0.02) -> dict[str, Any]:
        """The scene when it is done."""
        while (found := self.get(scene))["state"] != "done":
            time.sleep(pause)
        return found

    def forget(self, scene: str) -> None:
        """Cancel a scene if it is under way, and remove it."""
        while self._session.delete(f"{self._url}/{scene}", timeout=60).status_code == 200:
            time.sleep(0.2)


@contextmanager
def running_portal(work: Path, store: Path) -> Iterator[Portal]:
    """The product on free ports; all of it ends at the end."""
    settings = own_settings(work, store)
    with running_product(settings) as product:
        running = RunningProduct(product)
        running.wait_until_ready()
        time.sleep(3)
        yield Portal(running, settings.port, settings.run_dir)


@contextmanager
def peak(portal: Portal) -> Iterator[list[float]]:
    """What is held at most meanwhile, MB; looked at twenty times a second."""
    held, ended = [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            held[0] = max(held[0], portal.memory())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield held
    finally:
        ended.set()
        thread.join()

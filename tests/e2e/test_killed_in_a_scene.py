"""Portal, worker of scenes and TorchServe are killed while a scene is mapped, and start again."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import requests

from tests.support.paths import ROOT
from tests.support.product import RunningProduct
from tests.support.rasters import UTM

SAMPLE = ROOT / "portal/web/static/samples/scenes/aberystwyth.tif"
OPTIONS = {"stride": "16", "look": "eurosat", "model": "baseline"}


class Maps:
    """Asks a product for maps, as one browser."""

    def __init__(self, url: str) -> None:
        self._session = requests.Session()
        self._url = f"{url}/api/scenes"

    def send(self, path: Path) -> str:
        with path.open("rb") as file:
            answer = self._session.post(self._url, data=OPTIONS, files={"file": file}, timeout=60)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def wait(self, scene: str, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + 120
        while True:
            found: dict[str, Any] = self._session.get(f"{self._url}/{scene}", timeout=10).json()
            if reached(found):
                return found
            assert found["state"] in ("queued", "running"), found
            assert time.monotonic() < deadline, found
            time.sleep(0.05)

    def classes(self, scene: str) -> bytes:
        self.wait(scene, lambda found: found["state"] == "done")
        answer = self._session.get(f"{self._url}/{scene}/class.tif", timeout=10)
        assert answer.status_code == 200
        return answer.content


def test_a_map_is_finished_after_all_were_killed(product: RunningProduct, tmp_path: Path) -> None:
    with rasterio.open(SAMPLE) as source:
        pixels = np.tile(source.read()[:3, :, :320], (1, 2, 1))  # three strips
    path = tmp_path / "scene.tif"
    size = {"count": 3, "height": pixels.shape[1], "width": pixels.shape[2], "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", **size, **UTM) as target:
        target.write(pixels)
    maps = Maps(product.url)
    expected = maps.classes(maps.send(path))
    scene = maps.send(path)
    folder = product.scenes / scene
    maps.wait(scene, lambda _found: any(folder.glob("out.part/strips/*.npz")))
    product.restart_after_a_crash()
    strips = list(folder.glob("out.part/strips/*.npz"))
    assert strips
    assert not (folder / "out").exists()
    product.wait_until_ready()
    assert maps.classes(scene) == expected

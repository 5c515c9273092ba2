"""A scene by way of TorchServe and by way of a cluster whose workers have the archive: one map."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image

from portal.scenes.classifier import ThroughPredictor
from portal.scenes.cluster import map_scenes
from portal.scenes.collection import write_run
from portal.scenes.pipeline import map_one
from portal.scenes.scene import Options
from portal.serving.predictor import Predictor
from portal.serving.torchserve.client import TorchServe
from portal.settings import Settings
from tests.support.paths import SAMPLES
from tests.support.product import RunningProduct
from tests.support.real_archives import RELEASE

MODEL, VERSION = RELEASE.name.rsplit("-", 1)
OPTIONS = Options(MODEL, VERSION, stride=32, look="eurosat")


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """Sample tiles side by side, turned and mirrored: 448 x 384 px."""
    tiles = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(SAMPLES.glob("*.jpg"))]
    turned = [np.rot90(tile, turns) for turns in range(4) for tile in tiles] + tiles[:2]
    rows = [np.concatenate(turned[start : start + 7], axis=1) for start in range(0, 42, 7)]
    pixels = np.concatenate(rows).transpose(2, 0, 1)
    path = tmp_path / "scenes" / "mosaic.tif"
    path.parent.mkdir()
    with rasterio.open(
        path, "w", driver="GTiff", width=448, height=384, count=3, dtype="uint8",
        crs="EPSG:32630", transform=Affine(10, 0, 400000, 0, -10, 5800000),
    ) as file:  # fmt: skip
        file.write(pixels)
    return path


def test_a_cluster_maps_as_the_portal_does_with_and_without_torchserve(
    product: RunningProduct, model_store: Path, scene: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    told = {
        "PORTAL_TORCHSERVE_INFERENCE": product.inference_url,
        "PORTAL_TORCHSERVE_MANAGEMENT": product.management_url,
        "PORTAL_TORCHSERVE_KEY_FILE": str(product.key_file),
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    settings = Settings.from_environment(os.environ)
    server = TorchServe(settings)
    through = ThroughPredictor(Predictor(server, settings), MODEL, VERSION)
    map_one(scene, OPTIONS, through, tmp_path / "portal")
    server.close()
    expected = (tmp_path / "portal" / "class.tif").read_bytes()
    scenes, results = {scene.name: scene}, tmp_path / "maps"
    archive = model_store / f"{RELEASE.name}.mar"
    (alone,) = map_scenes(scenes, results, OPTIONS, archive=archive, workers=1)
    (asked,) = map_scenes(scenes, results, OPTIONS, servers=(product.inference_url,), workers=1)
    assert (alone.reason, asked.reason) == ("", "")
    assert alone.folder != asked.folder
    for outcome in (alone, asked):
        assert (results / outcome.folder / "class.tif").read_bytes() == expected
    write_run(results, [alone])
    item = json.loads((results / alone.folder / "item.json").read_text())
    assert item["collection"] == "land-use-maps"
    assert (results / "scenes.csv").read_text().startswith("scene,folder,AnnualCrop_ha,")

"""A scene on the command line, through the running TorchServe."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import requests
from PIL import Image
from rasterio import Affine

from handlers.reading import read
from tests.support.paths import ROOT, SAMPLES
from tests.support.product import RunningProduct

ACROSS = 5  # tiles in a row of the scene


def test_a_scene_of_tiles_gets_the_answers_of_its_tiles(
    product: RunningProduct, tmp_path: Path
) -> None:
    tiles = [read(path.read_bytes()).pixels for path in sorted(SAMPLES.glob("*.jpg"))]
    rows = [np.concatenate(tiles[at : at + ACROSS], axis=1) for at in range(0, 10, ACROSS)]
    pixels = np.concatenate(rows)
    with rasterio.open(
        tmp_path / "tiles.tif",
        "w",
        driver="GTiff",
        width=pixels.shape[1],
        height=pixels.shape[0],
        count=3,
        dtype="uint8",
        crs="EPSG:32632",
        transform=Affine(10, 0, 500_000, 0, -10, 5_400_000),
    ) as file:
        file.write(pixels.transpose(2, 0, 1))
    words = ["--model", "baseline", "--stride", "64", "--look", "eurosat"]
    ended = subprocess.run(
        [sys.executable, "-m", "portal.cli.scenes", "tiles.tif", "map", *words],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PORTAL_TORCHSERVE_INFERENCE": product.inference_url,
            "PORTAL_TORCHSERVE_MANAGEMENT": product.management_url,
            "PORTAL_TORCHSERVE_KEY_FILE": str(product.key_file),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    with rasterio.open(tmp_path / "map/probabilities.tif") as file:
        labels = [name.rpartition("=")[2].strip() for name in file.descriptions]
        found = file.read()
    assert found.shape == (10, 2, ACROSS)
    for number, tile in enumerate(tiles):
        sent = io.BytesIO()
        Image.fromarray(tile).save(sent, "PNG")
        answer = requests.post(
            f"{product.url}/api/predict?model=baseline", data=sent.getvalue(), timeout=30
        ).json()
        cell = dict(zip(labels, found[:, *divmod(number, ACROSS)].tolist(), strict=True))
        assert cell == pytest.approx(answer["probabilities"], abs=1e-6)

"""Tiles on the command line get the answers of the running TorchServe."""

import csv
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

from tests.support.paths import ROOT, SAMPLES
from tests.support.product import RunningProduct
from tests.support.rasters import mosaic, reflectance, write


def saved(pixels: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of each kind one, by name, and the samples."""
    folder = tmp_path_factory.mktemp("tiles")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    seen = np.full((64, 64, 1), 255, np.uint8)
    seen[:9] = 0
    contents = {
        "broken.jpg": (SAMPLES / "River.jpg").read_bytes()[:700],
        "black.png": saved(np.zeros((64, 64, 3), np.uint8), "PNG"),
        "large.png": saved(mosaic(1100, 1000), "PNG"),
        "noise.webp": saved(noise, "WEBP"),
        "none.jpg": b"<html>no image",
        "portrait.png": saved(mosaic(150, 90), "PNG"),
        "rgba.png": saved(np.dstack([mosaic(64, 64), seen]), "PNG"),
        "small.bmp": saved(mosaic(40, 40, seed=1), "BMP"),
    } | {path.name: path.read_bytes() for path in SAMPLES.glob("*.jpg")}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    values = (reflectance(mosaic(64, 64, seed=3)) * 10_000).astype(np.uint16)
    write(folder / "reflectance.tif", values)
    write(
        folder / "bands.tif", np.dstack([values, values[..., :1]]), names=("B4", "B3", "B2", "B8")
    )
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize("model", ["baseline", "resnet18"])
def test_the_answers_are_those_of_the_server(
    product: RunningProduct, model_store: Path, files: dict[str, Path], tmp_path: Path, model: str
) -> None:
    out = tmp_path / "answers.csv"
    (folder,) = {path.parent for path in files.values()}
    command = ["-m", "portal.cli.predict", "--workers", "2", "--model"]
    words = [sys.executable, *command, model, "--model-store", model_store, "--out", out, folder]
    ended = subprocess.run(list(map(str, words)), cwd=ROOT, check=False)
    assert ended.returncode == 1
    with out.open(newline="", encoding="utf-8") as file:
        rows = {row["file"]: row for row in csv.DictReader(file, strict=True)}
    assert list(rows) == sorted(files)
    wrong = []
    for name, row in rows.items():
        served, version = row["model"].rsplit("-", 1)
        answer = requests.post(
            f"{product.url}/api/predict",
            params={"model": served, "version": version},
            data=files[name].read_bytes(),
            timeout=30,
        ).json()
        if "error" in answer:
            wrong.append(name)
            assert row["error"] == f"{answer['error']['code']}: {answer['error']['message']}"
            assert row["class_name"] == row["confidence"] == ""
            continue
        assert row["class_name"] == answer["class_name"]
        assert float(row["confidence"]) == pytest.approx(answer["confidence"], abs=1e-6)
        assert row["uncertain"] == str(answer["uncertain"]).lower()
        assert row["prediction_set"].split("|") == (answer["prediction_set"] or [""])
        warnings = [warning["code"] for warning in answer["warnings"]]
        assert row["warnings"] == "|".join(warnings)
        assumed = [f"{topic}={words}" for topic, words in answer["assumed"].items()]
        assert row["assumed"] == "|".join(assumed)
        for label, share in answer["probabilities"].items():
            assert float(row[f"p_{label}"]) == pytest.approx(share, abs=1e-6)
    assert wrong == ["black.png", "broken.jpg", "none.jpg"]
    assert "scale=10000" in rows["reflectance.tif"]["assumed"]
    assert rows["noise.webp"]["uncertain"] == "true"
    assert "squeezed" in rows["large.png"]["warnings"]

"""The command line of scenes: real files, on a model server without a server."""

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio import Affine

from handlers.contract.names import ModelVersion
from handlers.contract.window import pixels_of
from portal.cli import scenes
from portal.errors import ModelServerDown, PortalError, UnknownModel
from portal.serving.model_server import Prediction
from portal.settings import Settings
from tests.support.fake_torchserve import FakeTorchServe, answered


class Server(FakeTorchServe):
    """Knows land and sea by how blue a window is; ``left``: bundles that it still answers."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 10**9
        self.windows = 0
        self.served_by: set[str] = set()

    def __call__(self, settings: Settings) -> "Server":
        """In the place of the client's class."""
        assert settings.default_model == "baseline"
        return self

    def close(self) -> None:
        """Keep no connection."""

    def predict_bundle(
        self, images: list[bytes], served: ModelVersion, timeout: float | None = None
    ) -> list[Prediction | PortalError]:
        assert timeout is None or timeout > 0
        if self.left <= 0:
            raise ModelServerDown("The model server does not answer.")
        self.left -= 1
        self.windows += len(images)
        self.served_by.add(str(served))
        return [self._answer(image, served) for image in images]

    def _answer(self, image: bytes, served: ModelVersion) -> Prediction:
        pixels = pixels_of(image)
        assert pixels is not None
        red, _, blue = np.frombuffer(pixels, np.uint8).reshape(-1, 3).mean(axis=0)
        ranked = [("SeaLake", 0.97), ("AnnualCrop", 0.02), ("River", 0.01)]
        if red > blue:
            ranked = [("AnnualCrop", 0.97), ("SeaLake", 0.02), ("River", 0.01)]
        return answered(
            class_name=ranked[0][0],
            confidence=0.97,
            probabilities=dict(ranked),
            version=served.version,
        )


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Server:
    server = Server()
    monkeypatch.setattr(scenes, "TorchServe", server)
    monkeypatch.setattr(scenes, "PATIENCE", 0.3)
    monkeypatch.setenv("PORTAL_MODEL_STORE", str(tmp_path / "model_store"))
    return server


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A coast: sea on the left, fields on the right, 640 x 200 px in EuroSAT's look."""
    random = np.random.default_rng(0)
    pixels = random.integers(40, 60, (3, 640, 200), np.uint8)
    pixels[2, :, :96] += 60
    pixels[0, :, 96:] += 60
    path = tmp_path / "coast.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=200,
        height=640,
        count=3,
        dtype="uint8",
        crs="EPSG:32630",
        transform=Affine(10, 0, 400_000, 0, -10, 5_800_000),
    ) as file:
        file.write(pixels)
    return path


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object
) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["scenes", *map(str, words)])
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    try:
        status = scenes.main()
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.getLogger("portal").setLevel(logging.NOTSET)
    return status, capsys.readouterr().out


def test_a_scene_becomes_a_folder(
    server: Server,
    scene: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = (scene, tmp_path / "map", "--stride", "32", "--look", "eurosat")
    status, said = run(monkeypatch, capsys, *words)
    assert status == 0, said
    assert "found     crs: EPSG:32630" in said
    with rasterio.open(tmp_path / "map/class.tif") as file:
        assert file.shape == (20, 7)
        assert file.res == (320, 320)
        classes = file.read(1)
    labels = ["AnnualCrop", "River", "SeaLake"]
    assert set(classes[:, 0]) == {labels.index("SeaLake")}
    assert set(classes[:, -1]) == {labels.index("AnnualCrop")}
    areas = {
        area["class_name"]: area for area in json.loads((tmp_path / "map/areas.json").read_text())
    }
    total = sum(areas[label]["hectares"] for label in labels)
    assert total == pytest.approx(640 * 200 / 100)
    lines = [line.split() for line in said.splitlines()]
    assert ["SeaLake", f"{areas['SeaLake']['hectares']:.1f}", "ha"] in [line[:3] for line in lines]
    assert server.served_by == {"baseline 1.0"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["coast.tif", "map"]


def test_the_same_command_goes_on_where_it_was(
    server: Server,
    scene: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = (scene, tmp_path / "whole", "--stride", "16", "--version", "1.0")
    assert run(monkeypatch, capsys, *whole)[0] == 0
    windows, server.windows = server.windows, 0
    original = server.predict_bundle

    def until_late(
        images: list[bytes], served: ModelVersion, timeout: float | None = None
    ) -> list[Prediction | PortalError]:
        if server.windows > 0.75 * windows:  # in the second strip
            server.left = 0
        return original(images, served, timeout)

    monkeypatch.setattr(server, "predict_bundle", until_late)
    words = (scene, tmp_path / "map", "--stride", "16", "--version", "1.0")
    status, said = run(monkeypatch, capsys, *words)
    assert status == 1
    assert said.endswith("The model server does not answer.\n")
    assert not (tmp_path / "map").exists()
    monkeypatch.setattr(server, "predict_bundle", original)
    server.left, server.windows = 10**9, 0
    status, said = run(monkeypatch, capsys, *words)
    assert status == 0, said
    assert 0 < server.windows < 0.5 * windows
    one, other = ((tmp_path / name / "class.tif").read_bytes() for name in ("whole", "map"))
    assert one == other


@pytest.mark.parametrize(
    ("name", "extra", "reason"),
    [
        ("nowhere.tif", (), "nowhere.tif"),
        ("notes.txt", (), ""),
        ("coast.tif", ("--bands", "1,2,9"), "9"),
        ("coast.tif", ("--model", "unknown"), "unknown is not served"),
    ],
)
def test_what_cannot_be_mapped_is_one_sentence(
    name: str,
    extra: tuple[str, ...],
    reason: str,
    server: Server,
    scene: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(model: str, _timeout: float | None = None) -> ModelVersion:
        raise UnknownModel(f"{model} is not served.")

    monkeypatch.setattr(server, "default_version", refuse)
    (tmp_path / "notes.txt").write_text("no raster")
    status, said = run(monkeypatch, capsys, scene.with_name(name), tmp_path / "map", *extra)
    assert status == 1
    assert reason in said.splitlines()[-1]
    assert "Traceback" not in said
    assert not (tmp_path / "map").exists()


def test_a_folder_that_is_there_is_left_alone(
    server: Server,
    scene: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "map").mkdir()
    status, said = run(monkeypatch, capsys, scene, tmp_path / "map")
    assert status == 1
    assert "is there already" in said
    assert server.windows == 0
    assert list((tmp_path / "map").iterdir()) == []


@pytest.mark.parametrize(
    "wrong", [("--bands", "1,2"), ("--bands", "0,1,2"), ("--stride", "48"), ("--look", "pretty")]
)
def test_words_that_are_none_are_refused(
    wrong: tuple[str, str], scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["scenes", str(scene), str(tmp_path / "map"), *wrong])
    with pytest.raises(SystemExit) as ended:
        scenes.main()
    assert ended.value.code == 2


def test_a_setting_that_is_none_is_named(
    scene: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PORTAL_PREDICT_TIMEOUT", "soon")
    status, said = run(monkeypatch, capsys, scene, tmp_path / "map")
    assert status == 1
    assert said.startswith("PORTAL_PREDICT_TIMEOUT: expected seconds")

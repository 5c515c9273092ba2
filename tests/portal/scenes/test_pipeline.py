"""The folder of a map: whole or not at all, gone on with, made once; its rooms are stand-ins."""

import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import portal.scenes
from portal.errors import DamagedScene
from portal.scenes.pipeline import SOFTWARE, digest, identify, map_one
from portal.scenes.scene import Answers, Options
from tests.support.paths import ROOT

OPTIONS = Options("baseline", "2.0")
STRIPS = 3


class Rooms:
    """Maps strip by strip, each a file; ``stop`` is called before a strip, ``asked`` has them."""

    def __init__(self, stop: Callable[[int], None]) -> None:
        self.asked: list[int] = []
        self.written: list[dict[str, Any]] = []
        self.stop = stop
        self.inspection = SimpleNamespace(stride=32, geo="geo")

    def inspect(self, _path: Path, _options: Options) -> SimpleNamespace:
        return self.inspection

    @contextmanager
    def open_raster(self, _path: Path, inspection: Any) -> Iterator[str]:
        assert inspection is self.inspection
        yield "raster"

    def map_scene(
        self, raster: str, stride: int, _classify: Any, *, folder: Path, progress: Any
    ) -> str:
        assert (raster, stride) == ("raster", 32)
        for strip in range(STRIPS):
            path = folder / f"strip-{strip}"
            if path.exists():
                continue
            self.stop(strip)
            self.asked.append(strip)
            path.touch()
            progress(strip + 1, STRIPS)
        return "cells"

    def preview(self, _raster: str) -> tuple[str, float]:
        return "preview", 0.5

    def write_outputs(
        self, folder: Path, cells: str, geo: str, _found: Any, provenance: Any, preview: str
    ) -> None:
        assert (cells, geo, preview) == ("cells", "geo", "preview")
        assert list(folder.iterdir()) == []
        self.written.append(provenance.__dict__)
        (folder / "class.tif").write_text("map")


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> Rooms:
    found = Rooms(lambda _strip: None)
    for name in ("inspection", "mapping", "outputs", "raster"):
        monkeypatch.setitem(sys.modules, f"portal.scenes.{name}", found)
        monkeypatch.setattr(portal.scenes, name, found, raising=False)
    return found


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    path = tmp_path / "scene"
    path.write_bytes(b"pixels")
    return path


def no_model(windows: np.ndarray) -> Answers:
    raise AssertionError


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_software_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"{project['name']} {project['version']}" == SOFTWARE


def test_a_map_is_written_with_how_it_came_about(rooms: Rooms, scene: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "maps" / "one"
    told: list[tuple[int, int]] = []
    map_one(
        scene, OPTIONS, no_model, out,
        name="of the sender.tif", archive_sha256="ab",
        progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert entries(out.parent) == ["one"]
    assert entries(out) == ["class.tif"]
    assert told == [(1, 3), (2, 3), (3, 3)]
    (provenance,) = rooms.written
    assert provenance["scene"] == "of the sender.tif"
    assert provenance["scene_sha256"] == digest(scene)
    assert provenance["archive_sha256"] == "ab"
    assert (provenance["model"], provenance["version"]) == ("baseline", "2.0")
    assert provenance["created"].endswith("+00:00")


def test_a_map_that_is_there_is_not_made_again(rooms: Rooms, scene: Path, tmp_path: Path) -> None:
    for _ in range(2):
        map_one(scene, OPTIONS, no_model, tmp_path / "map")
    assert rooms.asked == [0, 1, 2]


class Cancelled(Exception):
    pass


def test_an_interrupted_map_is_gone_on_with(rooms: Rooms, scene: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        map_one(scene, OPTIONS, no_model, tmp_path / "map", progress=stop)
    assert not (tmp_path / "map").exists()
    map_one(scene, OPTIONS, no_model, tmp_path / "map")
    assert rooms.asked == [0, 1, 2]
    assert entries(tmp_path) == ["map", "scene"]


def test_strips_of_another_model_are_not_used(rooms: Rooms, scene: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        map_one(scene, OPTIONS, no_model, tmp_path / "map", archive_sha256="ab", progress=stop)
    map_one(scene, OPTIONS, no_model, tmp_path / "map", archive_sha256="cd")
    assert rooms.asked == [0, 0, 1, 2]


def test_a_half_written_map_is_written_anew(
    rooms: Rooms, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, *_rest: object) -> None:
        (folder / "half").touch()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(rooms, "write_outputs", full)
        with pytest.raises(OSError, match="No space"):
            map_one(scene, OPTIONS, no_model, tmp_path / "map")
    assert not (tmp_path / "map").exists()
    map_one(scene, OPTIONS, no_model, tmp_path / "map")
    assert rooms.asked == [0, 1, 2]
    assert entries(tmp_path / "map") == ["class.tif"]


def test_of_a_damaged_scene_nothing_is_kept(rooms: Rooms, scene: Path, tmp_path: Path) -> None:
    def stop(strip: int) -> None:
        if strip == 1:
            raise DamagedScene("It ends at row 70, column 80.")

    rooms.stop = stop
    with pytest.raises(DamagedScene):
        map_one(scene, OPTIONS, no_model, tmp_path / "map")
    assert entries(tmp_path) == ["scene"]


def test_of_two_at_once_one_maps(rooms: Rooms, scene: Path, tmp_path: Path) -> None:
    rooms.stop = lambda _strip: time.sleep(0.1)
    both = [
        threading.Thread(target=map_one, args=(scene, OPTIONS, no_model, tmp_path / "map"))
        for _ in range(2)
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert rooms.asked == [0, 1, 2]
    assert entries(tmp_path) == ["map", "scene"]


def test_whatever_could_change_a_map_changes_its_name() -> None:
    names = {
        identify("scene", "archive", OPTIONS),
        identify("other", "archive", OPTIONS),
        identify("scene", "other", OPTIONS),
        identify("scene", "archive", Options("resnet18", "2.0")),
        identify("scene", "archive", Options("baseline", "2.0", bands=(3, 2, 1))),
        identify("scene", "archive", Options("baseline", "2.0", stride=16)),
    }
    assert len(names) == 6
    assert identify("scene", "archive", OPTIONS) in names
    assert all(len(name) == 64 for name in names)

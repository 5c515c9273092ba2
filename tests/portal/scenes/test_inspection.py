"""What is found in a file before it is mapped, and what is refused then."""

import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rasterio.transform import Affine

from portal import errors
from portal.scenes import inspection, inspector
from portal.scenes.inspection import inspect
from portal.scenes.terms import Inspection, Options
from tests.support.paths import ROOT
from tests.support.rasters import (
    NOWHERE,
    look,
    mosaic,
    reflectance,
    surface,
    write,
    write_empty,
)

PIXELS = mosaic(640, 704)
DN = np.rint(surface(PIXELS) * 10_000).astype(np.uint16)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("scene") / "scene.tif", DN)


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(errors.UnusableScene) as problem:
        look(path, **options)
    assert problem.value.status == 422
    assert type(problem.value) is errors.UnusableScene
    return str(problem.value)


# --- the child


def test_what_is_found_comes_from_the_child(scene: Path, tmp_path: Path) -> None:
    found = inspect(scene, Options("model"), previews=tmp_path / "previews")
    assert found == look(scene)
    assert found.found == {
        "format": "TIFF", "width": 704, "height": 640, "bands": 3, "dtype": "uint16",
        "crs": "EPSG:32632", "pixel": 10.0, "minimum": DN.min(), "maximum": found.found["maximum"],
        "valid": 1.0, "bytes": scene.stat().st_size,
    }  # fmt: skip
    assert found.assumed == {
        "scale": "reflectance x 10000",
        "look": "reflectance at the surface (L2A)",
    }
    assert found.warnings == {}
    assert (found.bands, found.scale, found.look) == ((1, 2, 3), "10000", "l2a")
    assert (found.stride, found.windows) == (32, 19 * 21)
    assert Inspection.from_dict(found.to_dict()) == found
    seen = np.asarray(Image.open(tmp_path / "previews" / "as-the-model-sees.png"))
    assert np.abs(seen.astype(int) - PIXELS[64:576, 96:608]).mean() < 0.5
    as_it_is = np.asarray(Image.open(tmp_path / "previews" / "as-it-is.png"))
    assert as_it_is.shape == seen.shape == (512, 512, 3)
    assert np.corrcoef(as_it_is.ravel(), DN[64:576, 96:608].ravel())[0, 1] > 0.9


def test_the_web_needs_neither_numpy_nor_gdal_to_ask() -> None:
    code = "import sys, portal.scenes.inspection\nprint({'numpy', 'rasterio'} & set(sys.modules))"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_an_error_of_the_child_is_the_callers(tmp_path: Path) -> None:
    path = tmp_path / "scene.tif"
    path.write_text("<VRTDataset/>")
    with pytest.raises(errors.UnsupportedScene, match="XML"):
        inspect(path, Options("model"))
    write(path, DN[..., :1])
    with pytest.raises(errors.UnusableScene, match="single-band"):
        inspect(path, Options("model"))
    os.truncate(path, 30)
    with pytest.raises(errors.DamagedScene, match="cannot be opened"):
        inspect(path, Options("model"))


def test_relative_paths_and_a_folder_of_ones_own(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(scene.parent)
    assert inspect(Path("scene.tif"), Options("model")).found["width"] == 704


@pytest.fixture
def anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """No inspector waits yet; those that do in the end."""
    waiting: list[Any] = []
    monkeypatch.setattr(inspection, "_waiting", waiting)
    yield waiting
    for inspector_ in waiting:
        inspector_.end()


def stand_in(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """An inspector whose children do something else than to look into a file."""
    words = [
        *("import json, os, sys, time", "from portal.scenes import inspector"),
        *("def other(path, *_):", f"    {code}", "inspector.look_into = other"),
        "inspector.main()",
    ]
    monkeypatch.setattr(inspection, "_COMMAND", [sys.executable, "-c", "\n".join(words), "600"])


def test_a_child_that_takes_too_long_is_ended(
    anew: list[Any], scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = tmp_path / "pid"
    code = f"open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    stand_in(monkeypatch, code)
    monkeypatch.setattr(inspection, "SECONDS", 1)
    with pytest.raises(errors.UnusableScene, match="within 1 seconds"):
        inspect(scene, Options("model"))
    assert not Path("/proc", pid.read_text()).exists()
    assert len(anew) == 1  # its parent is there for the next file


def test_an_inspector_that_does_not_answer_is_ended(
    anew: list[Any], scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "_COMMAND", ["sleep", "60"])
    monkeypatch.setattr(inspection, "SECONDS", 0)
    monkeypatch.setattr(inspection, "LATE", 1)
    with pytest.raises(errors.UnusableScene, match="within 0 seconds"):
        inspect(scene, Options("model"))
    assert anew == []


@pytest.mark.parametrize(
    "code",
    [
        "os.abort()",
        "os.write(1, b'{'); os._exit(0)",
        "raise SystemExit(3)",
        "raise ValueError",
        "os.kill(os.getppid(), 9)",
    ],
)
def test_a_child_that_breaks_is_an_answer_about_the_file(
    anew: list[Any], scene: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    stand_in(monkeypatch, code)
    killed = "kill" in code
    with pytest.raises(errors.UnusableScene, match="export it again") as told:
        inspect(scene, Options("model"))
    assert isinstance(told.value, errors.DamagedScene) is not killed
    assert len(anew) == (0 if killed else 1)


def test_each_file_has_a_child_of_its_own(
    anew: list[Any], scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "raise inspector.errors.UnusableScene(f'{os.getpid()} {os.getppid()} {sys.argv}')"
    stand_in(monkeypatch, code + "; sys.argv = []")
    told = []
    for _ in range(3):
        with pytest.raises(errors.UnusableScene) as error:
            inspect(scene, Options("model"))
        told.append(str(error.value).split(maxsplit=2))
    own, parents, seen = map(set, zip(*told, strict=True))
    assert (len(own), len(parents), len(seen)) == (3, 1, 1)


def test_files_at_the_same_time_do_not_wait_for_each_other(
    anew: list[Any], scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = f"os.path.join({str(tmp_path)!r}, str(os.getpid()))"
    meet = f"while len(os.listdir({str(tmp_path)!r})) < 3: time.sleep(0.05)"
    stand_in(monkeypatch, f"open({own}, 'x')\n    {meet}\n    raise ValueError")

    def ask(_number: int) -> None:
        with pytest.raises(errors.DamagedScene):
            inspect(scene, Options("model"))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(ask, range(3)))
    assert len(anew) == 1  # the others have ended


def test_an_inspector_that_nobody_asks_ends(
    anew: list[Any], scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "_COMMAND", [*inspection._COMMAND[:-1], "1"])
    assert inspect(scene, Options("model")) == look(scene)
    ended = anew[0]._process
    deadline = time.monotonic() + 10
    while Path("/proc", str(ended.pid)).exists():  # as nothing at all, not as a zombie
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert ended.wait(10) == -signal.SIGALRM
    assert inspect(scene, Options("model")) == look(scene)  # by another one


def test_the_child_knows_none_of_the_portals_secrets(
    anew: list[Any], scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTAL_PASSWORD_HASH", "a secret")
    stand_in(monkeypatch, "raise inspector.errors.UnusableScene(str(os.environ))")
    with pytest.raises(errors.UnusableScene) as told:
        inspect(scene, Options("model"))
    assert "PATH" in str(told.value)
    assert "secret" not in str(told.value)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_the_child_has_little_memory(
    anew: list[Any], scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, "bytes(2 * inspector.MEMORY)")
    with pytest.raises(errors.UnusableScene, match="too much memory"):
        inspect(scene, Options("model"))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_the_child_has_little_room(
    anew: list[Any], scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = tmp_path / "large"
    code = f"open({str(large)!r}, 'wb').write(bytes(2 * inspector.MOST_WRITTEN))"
    stand_in(monkeypatch, code)
    with pytest.raises(errors.DamagedScene):
        inspect(scene, Options("model"))
    assert large.stat().st_size == inspector.MOST_WRITTEN


def test_what_is_not_told_is_as_it_was_asked(scene: Path) -> None:
    found = look(scene, scale="10000", look="l2a", bands=(3, 2, 1), stride=64)
    assert found.assumed == {}
    assert (found.bands, found.stride, found.windows) == ((3, 2, 1), 64, 110)


# --- what is refused, and in which words


def test_too_many_pixels(tmp_path: Path) -> None:
    words = refused(write_empty(tmp_path / "wide.tif", 300, 12_001))
    assert "12,001 x 300" in words
    assert "12,000" in words
    coarse = {"transform": Affine(20, 0, 600_000, 0, -20, 5_300_000)}
    words = refused(write_empty(tmp_path / "coarse.tif", 300, 6100, **coarse))
    assert "12,200 x 600 px of 10 m" in words


def test_too_many_windows_name_the_strides_that_fit(tmp_path: Path) -> None:
    path = write_empty(tmp_path / "scene.tif", 10_980, 10_980)
    words = refused(path, stride=16)
    assert "467,856 windows" in words
    assert "stride=64 (29,584) or 32 (117,649)" in words
    assert "A stride of 17" in refused(path, stride=17)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((100, 100, 1), "single-band"),
        ((100, 100, 2), "2 bands"),
        ((50, 300, 3), "too small: found 300 x 50"),
        ((63, 63, 3), "too small"),
    ],
)
def test_too_little_of_it(tmp_path: Path, shape: tuple[int, int, int], words: str) -> None:
    bands = np.resize(DN, shape)
    assert words in refused(write(tmp_path / "s.tif", bands))


def test_bands_of_other_types(tmp_path: Path) -> None:
    assert "complex" in refused(write(tmp_path / "s.tif", DN.astype(np.complex64)))


@pytest.mark.parametrize("bands", [(1, 2, 4), (0, 1, 2), (1, 1, 2)])
def test_bands_that_are_not_there(scene: Path, bands: tuple[int, int, int]) -> None:
    words = refused(scene, bands=bands)
    assert ", ".join(map(str, bands)) in words
    assert "found 3 bands" in words


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_scene_without_data(tmp_path: Path, dtype: str) -> None:
    words = refused(write_empty(tmp_path / "s.tif", 700, 900, dtype))
    assert "all 900 x 700 px are 0 or no data" in words
    values = np.full((200, 300, 3), 7, dtype)
    assert "empty" in refused(write(tmp_path / "declared.tif", values, nodata=7))


def test_a_scene_nearly_without_data(tmp_path: Path) -> None:
    values = np.zeros((1500, 1500, 3), np.uint16)
    values[70:133, 70:133] = DN[:63, :63]
    assert "found 3,969 px" in refused(write(tmp_path / "few.tif", values))
    values[70:134, 70:134] = DN[:64, :64]  # not in any square of the sample
    assert look(write(tmp_path / "enough.tif", values)).look == "l2a"


def test_a_scene_of_one_colour(tmp_path: Path) -> None:
    assert "one colour" in refused(write(tmp_path / "s.tif", np.full_like(DN, 900)))


def test_two_scales_that_fit_equally(tmp_path: Path) -> None:
    # as bright as a wood's surface with an offset, as a field under its air without
    pixels = np.random.default_rng(1).normal((1240, 1140, 1040), 30, (64, 64, 3))
    path = write(tmp_path / "s.tif", np.rint(pixels).astype(np.uint16))
    words = refused(path)
    assert "may as well be in scale" in words
    assert "uint16 values from" in words
    assert look(path, scale="10000").scale == "10000"


def test_values_that_mean_nothing(tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(1, 1e6, (128, 128, 3)).astype(np.float32)
    words = refused(write(tmp_path / "s.tif", values))
    assert "float32 values from" in words
    assert "scale=" in words


def test_a_scale_that_the_values_cannot_have(scene: Path) -> None:
    assert "look=eurosat" in refused(scene, scale="10000", look="eurosat")


def test_blocks_that_are_too_large(tmp_path: Path) -> None:
    large = {"blockxsize": 4096, "blockysize": 4096}
    words = refused(write_empty(tmp_path / "s.tif", 4096, 4096, "uint16", **large))
    assert "blocks of 4,096 x 4,096 px" in words
    assert "tiles of 512 px" in words


def test_pictures_that_are_unpacked_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspector, "MOST_AT_ONCE", 10_000)
    plain = write(tmp_path / "plain.jpg", PIXELS, driver="JPEG", **NOWHERE)
    assert look(plain).found["format"] == "JPEG"
    progressive = tmp_path / "progressive.jpg"
    Image.fromarray(PIXELS).save(progressive, progressive=True)
    assert "progressive JPEG" in refused(progressive)
    path = write(tmp_path / "plain.png", PIXELS, driver="PNG", **NOWHERE)
    assert look(path).found["format"] == "PNG"
    content = bytearray(path.read_bytes())
    content[28] = 1
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4)
    path.write_bytes(content)
    assert "interlaced" in refused(path)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_large_scene_of_zeros_is_refused_soon(tmp_path: Path, dtype: str) -> None:
    path = write_empty(
        tmp_path / "s.tif", 10_980, 10_980, dtype, sparse_ok=False, compress="deflate", zlevel=1
    )
    start = time.process_time(), os.times().children_user
    with pytest.raises(errors.UnusableScene, match="is empty: all 10,980 x 10,980"):
        inspect(path, Options("model"))
    assert time.process_time() - start[0] + os.times().children_user - start[1] < 10


def test_what_is_taken_for_no_data_is_told(tmp_path: Path) -> None:
    values = DN.copy()
    values[:200] = 0
    assert "no data" in look(write(tmp_path / "s.tif", values)).assumed
    assert "no data" not in look(write(tmp_path / "told.tif", values, nodata=0)).assumed


def test_a_large_scene_has_a_larger_stride(tmp_path: Path) -> None:
    values = np.tile(mosaic(128, 128), (1, 16, 1))
    assert look(write(tmp_path / "s.tif", values)).stride == 64
    assert look(write(tmp_path / "s.tif", values[:, :2000])).stride == 32


def test_pictures_of_a_warped_scene_show_the_same_part(tmp_path: Path) -> None:
    turned = {"transform": Affine(20, 0, 6e5, 0, -20, 53e5)}
    values = np.rint(reflectance(PIXELS) * 10_000).astype(np.uint16)
    look(write(tmp_path / "s.tif", values, **turned), previews=tmp_path)
    seen = np.asarray(Image.open(tmp_path / "as-the-model-sees.png"))
    as_it_is = np.asarray(Image.open(tmp_path / "as-it-is.png"))
    assert seen.shape == (512, 512, 3)
    assert abs(as_it_is.shape[0] - 256) <= 6
    alike = Image.fromarray(as_it_is).resize((512, 512))
    assert np.corrcoef(np.asarray(alike).ravel(), seen.ravel())[0, 1] > 0.7

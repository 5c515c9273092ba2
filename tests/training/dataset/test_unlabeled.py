"""Images without labels: folders, zips, scenes, and what is left out of them."""

import io
import logging
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image

from tests.support.own_tiles import picture
from training.dataset.eurosat import BadData
from training.dataset.unlabeled import load_images

RANDOM = np.random.default_rng(0)


def write_scene(path: Path, values: np.ndarray, crs: str | None = "EPSG:32630") -> Path:
    """A GeoTIFF of (H, W, bands)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width, bands = values.shape
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=bands, dtype=values.dtype,
        crs=crs, transform=Affine(10, 0, 400_000, 0, -10, 5_800_000),
    ) as target:  # fmt: skip
        target.write(values.transpose(2, 0, 1))
    return path


def noise(height: int, width: int) -> np.ndarray:
    return RANDOM.integers(40, 200, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def pile(tmp_path: Path) -> Path:
    """Six images in folders of several depths and a zip, and things that are none."""
    root = tmp_path / "pile"
    deep = root / "a" / "b" / "c" / "d" / "e" / "f"
    deep.mkdir(parents=True)
    (root / "one.jpg").write_bytes(picture("Reben", 1))
    (deep / "two.PNG").write_bytes(picture("Reben", 2, kind="PNG"))
    (deep / "three.tif").write_bytes(picture("Reben", 3, side=96, kind="TIFF"))
    with zipfile.ZipFile(root / "a" / "more.zip", "w") as archive:
        for number in (4, 5, 6):
            archive.writestr(f"x/y/{number}.jpeg", picture("hafen 2", number))
        archive.writestr("__MACOSX/x/y/._4.jpeg", b"none")
        archive.writestr("x/notes.txt", b"none")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "seven.jpg").write_bytes(picture("Reben", 7))
    (root / "notes.txt").write_text("none")
    return root


def test_images_are_found_however_deep_and_in_zips(pile: Path, tmp_path: Path) -> None:
    found = load_images(pile, 32)
    assert found.shape == (6, 32, 32, 3)
    assert found.dtype == np.uint8
    moved = Path(shutil.copytree(pile, tmp_path / "elsewhere"))
    assert np.array_equal(found, load_images(moved, 32))
    assert len(load_images(pile / "a" / "more.zip", 64)) == 3
    assert len(load_images(pile / "one.jpg", 64)) == 1


def test_what_cannot_be_read_is_left_out_and_named(
    pile: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (pile / "broken.jpg").write_bytes(picture("Reben", 8)[:-600])
    (pile / "empty.png").write_bytes(b"")
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (9, 9, 9)).save(buffer, "PNG")
    (pile / "black.png").write_bytes(buffer.getvalue())
    with caplog.at_level(logging.INFO):
        assert len(load_images(pile, 32)) == 6
    assert f"{pile / 'broken.jpg'} is left out: damaged or truncated image" in caplog.text
    assert "9 files; left out: " in caplog.text
    assert "2 unreadable" in caplog.text
    assert "1 of one colour or without data" in caplog.text


def test_a_folder_without_images_says_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(BadData, match=r"expected \.jpg, .* images, found 0 files of that kind"):
        load_images(tmp_path, 32)
    (tmp_path / "a.jpg").write_bytes(b"none")
    with pytest.raises(BadData, match=r"found 1 files of that kind; left out: 1 unreadable"):
        load_images(tmp_path, 32)
    with pytest.raises(BadData, match=r"expected a folder, a zip or an image; .* does not exist"):
        load_images(tmp_path / "nowhere", 32)
    (tmp_path / "some.zip").write_bytes(b"PK none")
    with pytest.raises(BadData, match=r"some\.zip is not a complete zip .*: copy or download"):
        load_images(tmp_path, 32)


def test_eurosat_s_own_tiles_are_sent_where_splits_are_kept(tiny_eurosat: Path) -> None:
    with pytest.raises(BadData, match=r"has 80 files called as EuroSAT's tiles are, Forest_1\.jpg"):
        load_images(tiny_eurosat, 32)


def test_a_scene_is_cut_into_windows_that_have_data(tmp_path: Path) -> None:
    pixels = noise(200, 140)  # 3 x 2 windows of 64 px
    pixels[150, 10] = 0  # one pixel of one of them without data
    scene = write_scene(tmp_path / "scenes" / "one.tif", pixels)
    found = load_images(tmp_path / "scenes", 64)
    assert len(found) == 5
    assert np.array_equal(found[1], pixels[:64, 64:128])
    assert len(load_images(scene, 64, stride=32)) == 5 * 3 - 2
    with zipfile.ZipFile(tmp_path / "scenes.zip", "w") as archive:
        archive.write(scene, "scenes/one.tif")
    assert np.array_equal(load_images(tmp_path / "scenes.zip", 64), found)


def test_reflectances_come_in_the_look_of_the_tiles(tmp_path: Path) -> None:
    reflectance = RANDOM.normal([900, 950, 1100], [150, 120, 90], (128, 192, 3))
    scene = write_scene(tmp_path / "l1c.tif", reflectance.clip(300, 2500).astype(np.uint16))
    found = load_images(scene, 64)
    assert found.shape == (6, 64, 64, 3)
    assert found.mean((0, 1, 2)) == pytest.approx([84, 89, 103], abs=15)


def test_a_large_picture_that_lies_nowhere_is_one_image(tmp_path: Path) -> None:
    write_scene(tmp_path / "photo.tif", noise(200, 140), crs=None)
    assert load_images(tmp_path, 64).shape == (1, 64, 64, 3)


def test_a_scene_without_data_or_of_one_band_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_scene(tmp_path / "a.tif", np.zeros((128, 128, 3), np.uint8))
    write_scene(tmp_path / "b.tif", noise(128, 128)[..., :1])
    with pytest.raises(BadData, match=r"left out: 1 of one colour or without data, 1 unreadable"):
        load_images(tmp_path, 64)
    assert "b.tif is left out: single-band image (TIFF, uint8)" in caplog.text

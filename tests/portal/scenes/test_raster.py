"""The pixels of real files, in EuroSAT's look, as their maps have them."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.transform import Affine
from rasterio.warp import transform

from handlers.reading import read as read_tile
from portal import errors
from portal.scenes.raster import Scene, open_raster, preview, reduce_pixels
from portal.scenes.terms import Geo, Inspection
from tests.support.paths import ROOT
from tests.support.rasters import (
    NOWHERE,
    look,
    mosaic,
    reflectance,
    surface,
    write,
)

PIXELS = mosaic(256, 320)


def placed(left: float, top: float, width: float, height: float) -> Affine:
    return Affine(width, 0, left, 0, -height, top)


def read_all(path: Path, inspection: Inspection) -> tuple[np.ndarray, np.ndarray]:
    with open_raster(path, inspection) as scene:
        return scene.read(0, 0, scene.geo.height, scene.geo.width)


def whole(values: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.rint(values).clip(0, 65_535).astype(np.uint16)
    return found


def farthest(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


# --- look and scale


VALUES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "1": lambda found: found.astype(np.float32),
    "10000": lambda found: whole(found * 10_000),
    "10000-offset": lambda found: whole(found * 10_000 + 1000),
    "65535": lambda found: whole(found * 65_535),
}


@pytest.mark.parametrize("scale", VALUES)
@pytest.mark.parametrize(("level", "made"), [("l1c", reflectance), ("l2a", surface)])
def test_a_scene_in_any_scale_is_seen_as_eurosat_has_it(
    tmp_path: Path, scale: str, level: str, made: Callable[[np.ndarray], np.ndarray]
) -> None:
    path = write(tmp_path / "scene.tif", VALUES[scale](made(PIXELS)))
    found = look(path)
    assert (found.scale, found.look) == (scale, level)
    assert set(found.assumed) == {"scale", "look"}
    pixels, valid = read_all(path, found)
    assert valid.all()
    clear = (surface(PIXELS) > 2e-4).all(axis=2)  # what the air alone explains is lost in L2A
    assert farthest(pixels[clear], PIXELS[clear]) <= 1


def test_clouds_do_not_change_what_the_values_mean(tmp_path: Path) -> None:
    values = reflectance(PIXELS)
    values[:64] = np.random.default_rng(0).normal(0.8, 0.05, values[:64].shape)
    found = look(write(tmp_path / "scene.tif", whole(values * 10_000)))
    assert (found.scale, found.look) == ("10000", "l1c")


def test_a_thousandth_is_told_from_ten_thousandths(tmp_path: Path) -> None:
    found = look(write(tmp_path / "scene.tif", whole(surface(mosaic(640, 640)) * 1000)))
    assert (found.scale, found.look) == ("1000", "l2a")


@pytest.mark.parametrize(("asked", "white"), [("auto", 0.3558), ("tci", 0.3558), ("gain25", 0.4)])
def test_eight_bits_are_a_true_colour_image_unless_it_is_said(
    tmp_path: Path, asked: str, white: float
) -> None:
    path = write(tmp_path / "scene.tif", whole(reflectance(PIXELS) / white * 255).astype(np.uint8))
    found = look(path, look=asked)
    assert (found.scale, found.look) == ("255", "l1c")
    assert f"white is {white:.3g}" in found.assumed["look"]
    pixels, _ = read_all(path, found)
    assert farthest(pixels, PIXELS) <= 1


def test_eurosats_own_pixels_stay_as_they_are(tmp_path: Path) -> None:
    path = write(tmp_path / "scene.tif", PIXELS)
    found = look(path, look="eurosat")
    assert (found.scale, found.look, found.slope, found.intercept) == ("255", "eurosat", None, None)
    assert "look" not in found.assumed
    pixels, _ = read_all(path, found)
    assert (pixels == PIXELS).all()


@pytest.mark.parametrize(
    "dtype", ["uint8", "uint16", "int16", "uint32", "int32", "float32", "float64"]
)
def test_every_type_of_values_is_read_alike(tmp_path: Path, dtype: str) -> None:
    values = whole(reflectance(PIXELS) * (400 if dtype == "uint8" else 10_000)).astype(dtype)
    path = write(tmp_path / "scene.tif", values)
    known: dict[str, Any] = (
        {"look": "gain25"} if dtype == "uint8" else {"scale": "10000", "look": "l1c"}
    )
    found = look(path, **known)
    assert found.slope is not None
    assert found.intercept is not None
    pixels, _ = read_all(path, found)
    expected = 1 + 254 / 0.275 * (values * np.array(found.slope) + np.array(found.intercept))
    assert (pixels == np.rint(expected).clip(1, 255)).all()


def test_a_tile_of_a_scene_is_that_tile_alone(tmp_path: Path) -> None:
    """What is known of a scene's values makes the same pixels as the handler makes of a tile."""
    values = whole(surface(PIXELS) * 10_000)
    path = write(tmp_path / "scene.tif", values)
    pixels, _ = read_all(path, look(path))
    alone = write(tmp_path / "tile.tif", values[64:128, 128:192])
    picture = read_tile(alone.read_bytes(), scale="10000", look="l2a")
    assert (picture.pixels == pixels[64:128, 128:192]).all()


def test_the_same_pixels_give_the_same_tile_whatever_surrounds_them(tmp_path: Path) -> None:
    tile = whole(surface(PIXELS[:64, :64]) * 10_000)
    seen = []
    for seed, brightness in ((1, 1.0), (2, 0.7), (3, 1.4)):
        around = whole(surface(mosaic(640, 640, seed)) * brightness * 10_000)
        around[320:384, 256:320] = tile
        path = write(tmp_path / f"{seed}.tif", around)
        found = look(path)
        assert (found.scale, found.look) == ("10000", "l2a")
        with open_raster(path, found) as scene:
            pixels, valid = scene.read(320, 256, 64, 64)
            larger, _ = scene.read(300, 200, 200, 300)
        assert valid.all()
        assert (larger[20:84, 56:120] == pixels).all()
        seen.append(pixels)
    assert (seen[0] == seen[1]).all()
    assert (seen[0] == seen[2]).all()


# --- which pixels have data


HOLE = np.s_[64:128, 64:192]


def holed(values: np.ndarray, fill: float) -> np.ndarray:
    values = values.copy()
    values[HOLE] = fill
    return values


NEAR_INFRARED = np.random.default_rng(0).integers(1000, 4000, PIXELS.shape[:2]).astype(np.uint16)
MASK = holed(np.full(PIXELS.shape[:2], 255, np.uint8), 0)
DN = whole(reflectance(PIXELS) * 10_000)


@pytest.mark.parametrize(
    ("bands", "profile"),
    [
        (holed(DN, 0), {}),
        (holed(DN, 0), {"nodata": 0}),
        (holed(DN, 65_535), {"nodata": 65_535}),
        (holed(DN.astype(np.int16), -9999), {}),
        (holed(DN.astype(np.float32), np.nan), {"nodata": np.nan}),
        (DN, {"mask": MASK}),
        (np.dstack([DN, MASK]), {}),
        (np.dstack([DN, MASK.astype(np.uint16) * 257]), {"alpha": "yes", "photometric": "rgb"}),
        (holed(PIXELS, 0), {}),
        (np.dstack([PIXELS, MASK]), {"photometric": "rgb", "alpha": "yes"}),
        (PIXELS, {"mask": MASK, "photometric": "rgb"}),
        (np.dstack([PIXELS, MASK]), {"driver": "PNG"} | NOWHERE),
    ],
    ids=[
        "0", "0 declared", "65535", "negative", "nan", "mask", "fourth band", "alpha16", "black",
        "alpha", "mask8", "png",
    ],
)  # fmt: skip
def test_no_data_is_seen_however_it_is_said(
    tmp_path: Path, bands: np.ndarray, profile: dict[str, Any]
) -> None:
    path = write(tmp_path / "scene", bands, **profile)
    found = look(path)
    pixels, valid = read_all(path, found)
    assert (valid == (MASK > 0)).all()
    assert not pixels[~valid].any()
    assert pixels[valid].any(axis=1).all()
    assert 0.7 < found.found["valid"] < 1
    if "driver" not in profile:
        assert found.found["minimum"] >= 0


def test_a_fourth_band_that_is_no_mask_is_left_out_and_told(tmp_path: Path) -> None:
    path = write(tmp_path / "scene.tif", np.dstack([DN, NEAR_INFRARED]))
    found = look(path)
    assert found.mask == (0, 0)
    assert "left out" in found.assumed["fourth band"]
    assert read_all(path, found)[1].all()


def test_a_mask_of_which_a_sample_saw_no_hole_still_counts(tmp_path: Path) -> None:
    big = mosaic(1300, 1300)
    mask = np.full(big.shape[:2], 255, np.uint8)
    mask[64:74, 64:74] = 0  # between the squares that are looked at
    path = write(tmp_path / "scene.tif", np.dstack([big, mask]), photometric="rgb", alpha="yes")
    pixels, valid = read_all(path, look(path))
    assert (valid == (mask > 0)).all()
    assert not pixels[64:74, 64:74].any()


def test_beyond_the_scene_there_is_no_data(tmp_path: Path) -> None:
    path = write(tmp_path / "scene.tif", DN)
    found = look(path)
    inside, _ = read_all(path, found)
    with open_raster(path, found) as scene:
        pixels, valid = scene.read(-10, 300, 100, 64)
        nothing = scene.read(5000, 5000, 64, 64)
    assert valid[10:, :20].all()
    assert valid.sum() == 90 * 20
    assert (pixels[10:, :20] == inside[:90, 300:]).all()
    assert not pixels[~valid].any()
    assert not nothing[0].any()
    assert not nothing[1].any()


# --- bands


def test_bands_by_their_names_and_by_number(tmp_path: Path) -> None:
    bands = np.dstack([NEAR_INFRARED, DN[..., ::-1], NEAR_INFRARED])
    names = ("B08", "B02", "B03", "B04", "<script>alert(1)</script>")
    path = write(tmp_path / "scene.tif", bands, names=names)
    found = look(path, look="l1c")
    assert found.bands == (4, 3, 2)
    assert found.assumed["bands"] == "4, 3, 2 by their names"
    assert "script" not in str(found.to_dict())
    chosen = look(path, look="l1c", bands=(2, 3, 4))
    assert chosen.bands == (2, 3, 4)
    assert "bands" not in chosen.assumed
    assert (read_all(path, found)[0] == read_all(path, chosen)[0][..., ::-1]).all()


def test_colours_say_which_bands(tmp_path: Path) -> None:
    colours = [ColorInterp.blue, ColorInterp.green, ColorInterp.red]
    path = write(tmp_path / "scene.tif", DN[..., ::-1], colours=colours, photometric="minisblack")
    assert look(path).bands == (3, 2, 1)


# --- where the pixels lie


def check_places(path: Path, found: Inspection, within: float) -> None:
    """Every place of the map has the colour that the file has there."""
    pixels, valid = read_all(path, found)
    geo = found.geo
    assert valid.mean() > 0.4
    rows, columns = np.nonzero(valid)
    some = np.random.default_rng(0).choice(len(rows), 500, replace=False)
    rows, columns = rows[some], columns[some]
    xs = geo.origin[0] + (columns + 0.5) * 10
    ys = geo.origin[1] - (rows + 0.5) * 10
    with rasterio.open(path) as source:
        there = transform(geo.crs, source.crs, xs, ys)
        at = np.floor([~source.transform @ place for place in zip(*there, strict=True)]).astype(int)
        values = source.read().transpose(1, 2, 0)
    inside = ((at >= 1) & (at < np.array(values.shape[1::-1]) - 1)).all(axis=1)
    assert inside.mean() > 0.9
    expected = values[at[inside, 1], at[inside, 0]].astype(int)
    off = np.abs(expected - pixels[rows[inside], columns[inside]]).max(axis=1)
    assert np.percentile(off, 90) <= within


SMOOTH = np.stack(  # so that a place is told by its colour
    np.broadcast_arrays(
        np.linspace(20, 240, 200)[:, None], np.linspace(240, 20, 260)[None], np.full((1, 1), 128)
    ),
    axis=2,
).astype(np.uint8)


@pytest.mark.parametrize(
    ("profile", "warned", "crs"),
    [
        ({"transform": placed(600_000, 5_300_000, 20, 20)}, {"resampled"}, "EPSG:32632"),
        ({"transform": placed(600_003, 5_300_007, 5, 5)}, {"resampled"}, "EPSG:32632"),
        ({"transform": Affine(10, 0, 6e5, 0, 10, 53e5)}, {"warped"}, "EPSG:32632"),
        (
            {
                "transform": Affine.translation(6e5, 53e5)
                @ Affine.rotation(30)
                @ Affine.scale(10, -10)
            },
            {"warped"},
            "EPSG:32632",
        ),
        (
            {"crs": "EPSG:4326", "transform": placed(10.5, 47.5, 1.3e-4, 0.9e-4)},
            {"warped"},
            "EPSG:32632",
        ),
        (
            {"crs": "EPSG:4326", "transform": placed(-70.2, -33, 1.05e-4, 0.9e-4)},
            {"warped"},
            "EPSG:32719",
        ),
        (
            {"crs": "EPSG:3857", "transform": placed(1_200_000, 6_000_000, 15, 15)},
            {"warped"},
            "EPSG:32632",
        ),
        (
            {"crs": "EPSG:2263", "transform": placed(980_000, 200_000, 32.8, 32.8)},
            {"warped"},
            "EPSG:32618",
        ),
    ],
    ids=["20 m", "5 m", "south up", "rotated", "lon/lat", "south", "web mercator", "feet"],
)
def test_pixels_that_are_not_the_maps_are_brought_to_it_and_it_is_told(
    tmp_path: Path, profile: dict[str, Any], warned: set[str], crs: str
) -> None:
    path = write(tmp_path / "scene.tif", SMOOTH, **profile)
    found = look(path, look="eurosat")
    assert found.resampled
    assert warned <= set(found.warnings) <= warned | {"resampled"}
    assert rasterio.CRS.from_wkt(found.geo.crs).to_epsg() == int(crs.removeprefix("EPSG:"))
    check_places(path, found, within=4)


def test_a_scene_of_20_m_has_twice_the_pixels_and_the_same_corner(tmp_path: Path) -> None:
    path = write(tmp_path / "s.tif", DN, transform=placed(600_005, 5_300_005, 20, 20))
    found = look(path)
    assert found.geo == Geo(640, 512, found.geo.crs, (600_005, 5_300_005))
    assert "20 m" in found.warnings["resampled"]
    assert found.found["pixel"] == 20


def test_what_is_warped_takes_nothing_from_no_data(tmp_path: Path) -> None:
    values = holed(whole(np.full(PIXELS.shape, 1500)), 0)
    values[::2] += 20
    values[HOLE] = 0
    turned = Affine.translation(6e5, 53e5) @ Affine.rotation(20) @ Affine.scale(10, -10)
    path = write(tmp_path / "scene.tif", values, transform=turned)
    pixels, valid = read_all(path, look(path, scale="10000", look="l1c"))
    assert 0.3 < valid.mean() < 0.7
    assert pixels[valid].min() >= 139  # 1500 alone
    assert not pixels[~valid].any()


def test_what_is_warped_keeps_its_texture(tmp_path: Path) -> None:
    """Here by half a pixel each way, which takes away the most."""
    tiles = mosaic(256, 256)
    on_its_side = Affine.translation(600_005, 5_300_005) @ Affine(0, 10, 0, 10, 0, 0)
    path = write(tmp_path / "scene.tif", tiles, transform=on_its_side)
    pixels, valid = read_all(path, look(path, look="eurosat"))
    inner = np.s_[8:-8, 8:-8]
    assert valid[inner].all()
    before, after = (
        np.hypot(np.diff(part, axis=0)[:, 1:], np.diff(part, axis=1)[1:]).mean()
        for part in (tiles.astype(float), pixels[inner].astype(float))
    )
    assert after > 0.87 * before  # bilinear leaves 0.81


def test_a_warped_scene_is_the_same_however_it_is_cut(tmp_path: Path) -> None:
    turned = Affine.translation(6e5, 53e5) @ Affine.rotation(25) @ Affine.scale(8, -8)
    path = write(
        tmp_path / "scene.tif", whole(surface(mosaic(700, 800)) * 10_000), transform=turned
    )
    found = look(path)
    pixels, valid = read_all(path, found)
    with open_raster(path, found) as scene:
        for row, column, rows, columns in ((0, 0, 64, 64), (250, 500, 40, 40), (301, 17, 300, 600)):
            part, seen = scene.read(row, column, rows, columns)
            assert (part == pixels[row : row + rows, column : column + columns]).all()
            assert (seen == valid[row : row + rows, column : column + columns]).all()


def test_a_national_grid_of_10_m_is_read_as_it_is(tmp_path: Path) -> None:
    grid = {"crs": "EPSG:27700", "transform": placed(260_000, 280_000, 10, 10)}
    path = write(tmp_path / "scene.tif", DN, **grid)
    found = look(path)
    assert not found.resampled
    assert found.warnings == {}
    assert found.geo.origin == (260_000, 280_000)
    assert found.found["crs"] == "EPSG:27700"


def test_without_a_place_pixels_are_10_m_and_it_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "scene.png", PIXELS, driver="PNG", **NOWHERE)
    found = look(path)
    assert found.geo == Geo(320, 256, None, (0, 0))
    assert found.found["crs"] is found.found["pixel"] is None
    assert "10 m" in found.assumed["pixel"]
    assert "no hectares" in found.warnings["not_located"]
    assert read_all(path, found)[1].all()


# --- formats


@pytest.mark.parametrize(
    ("driver", "profile", "within"),
    [
        ("GTiff", {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "lzw"}, 0),
        ("GTiff", {"interleave": "band", "blockysize": 7}, 0),
        ("GTiff", {"blockysize": 256, "compress": "deflate"}, 0),
        ("GTiff", {"BIGTIFF": "YES", "ENDIANNESS": "BIG"}, 0),
        (
            "JP2OpenJPEG",
            {"QUALITY": 100, "REVERSIBLE": "YES", "blockxsize": 64, "blockysize": 64},
            0,
        ),
        ("PNG", NOWHERE, 0),
        ("JPEG", NOWHERE | {"QUALITY": 98}, 40),
    ],
    ids=["tiles", "bands", "one strip", "bigtiff", "jpeg2000", "png", "jpeg"],
)
def test_every_format_that_is_read(
    tmp_path: Path, driver: str, profile: dict[str, Any], within: int
) -> None:
    path = write(tmp_path / "scene", PIXELS, driver=driver, **profile)
    found = look(path, look="eurosat")
    pixels, _ = read_all(path, found)
    assert farthest(pixels, PIXELS) <= within


@pytest.mark.parametrize(
    "name", ["a b.tif", "x#y?z=1.tif", "100%.tif", "ü&<b>.tif", "-o", "a:b.tif"]
)
def test_odd_names(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "plain", DN).rename(tmp_path / name)
    assert look(path).found["width"] == 320


def test_a_name_that_gdal_would_take_for_more_than_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "plain", DN)
    folder = tmp_path / "zip:" / "vsizip"
    folder.mkdir(parents=True)
    path = path.rename(folder / "GTIFF_DIR:1:x")
    monkeypatch.chdir(folder)
    assert look(Path("GTIFF_DIR:1:x")).found["width"] == 320


@pytest.mark.parametrize(
    ("name", "driver", "world"),
    [
        ("scene.tif", "GTiff", "scene.tfw"),
        ("scene.png", "PNG", "scene.pgw"),
        ("scene.jpg", "JPEG", "scene.jgw"),
        ("scene.jp2", "JP2OpenJPEG", "scene.j2w"),
        ("scene", "JP2OpenJPEG", "scene.wld"),
    ],
)
def test_files_beside_it_are_not_read(tmp_path: Path, name: str, driver: str, world: str) -> None:
    path = write(tmp_path / name, PIXELS, driver=driver, **NOWHERE)
    (tmp_path / world).write_text("10\n0\n0\n-10\n600005\n5299995\n")
    mask = Image.fromarray(np.zeros(PIXELS.shape[:2], np.uint8))
    mask.save(tmp_path / f"{name}.msk", "TIFF")
    (tmp_path / f"{name}.aux.xml").write_text(
        "<PAMDataset><SRS>EPSG:32632</SRS><GeoTransform>600000,10,0,5300000,0,-10</GeoTransform>"
        "</PAMDataset>"
    )
    found = look(path)
    assert found.geo.crs is None
    assert read_all(path, found)[1].all()
    kept = {found.name for found in tmp_path.iterdir()}
    assert kept == {name, world, f"{name}.msk", f"{name}.aux.xml"}


@pytest.fixture
def overheard() -> Iterator[tuple[str, list[str]]]:
    """An address of this machine, and what was asked for there."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()
    thread.join()


def vrt(source: str) -> str:
    bands = "".join(
        f'<VRTRasterBand dataType="UInt16" band="{band}"><SimpleSource><SourceFilename>{source}'
        f"</SourceFilename><SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>"
        for band in (1, 2, 3)
    )
    place = "<GeoTransform>600000, 10, 0, 5300000, 0, -10</GeoTransform>"
    return f'<VRTDataset rasterXSize="320" rasterYSize="256">{place}{bands}</VRTDataset>'


def test_a_vrt_named_tif_opens_no_other_file(
    tmp_path: Path, overheard: tuple[str, list[str]]
) -> None:
    address, asked = overheard
    secret = write(tmp_path / "secret", DN)
    for source in (str(secret), f"/vsicurl/{address}/secret.tif"):
        path = tmp_path / "scene.tif"
        path.write_text(vrt(source))
        if source == str(secret):
            with rasterio.open(path) as opened:  # what it would do if it were let
                assert (opened.read(1) == DN[..., 0]).all()
        with pytest.raises(errors.UnsupportedScene, match="HTML or XML") as refused:
            look(path)
        assert refused.value.status == 415
        assert str(secret) not in str(refused.value)
    assert asked == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0 bytes"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"PK\x03\x04rest", "a ZIP archive"),
        (b'<?xml version="1.0"?><GDAL_WMS/>', "XML"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b'{"type": "FeatureCollection"}', "JSON"),
        (b"GIF89a", "something else"),
        (b"BM" + bytes(60), "something else"),
    ],
)
def test_what_is_no_scene_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "scene.tif"
    path.write_bytes(content)
    with pytest.raises(errors.UnsupportedScene, match="expected GeoTIFF") as refused:
        look(path)
    assert refused.value.status == 415
    assert words in str(refused.value)


# --- damage


def cut(path: Path, share: float) -> None:
    os.truncate(path, int(path.stat().st_size * share))


@pytest.mark.parametrize(
    ("driver", "profile", "unit"),
    [
        (
            "GTiff",
            {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate"},
            128,
        ),
        ("GTiff", {"blockysize": 4}, 4),
        ("GTiff", {"compress": "jpeg", "tiled": True, "blockxsize": 64, "blockysize": 64}, 64),
        ("PNG", NOWHERE, 1),
        ("JPEG", NOWHERE, 1),
        ("JP2OpenJPEG", {"blockxsize": 64, "blockysize": 64}, 64),
    ],
    ids=["tiles", "strips", "jpeg in tiff", "png", "jpeg", "jpeg2000"],
)
def test_a_file_that_was_cut_off_is_refused_with_row_and_column(
    tmp_path: Path, driver: str, profile: dict[str, Any], unit: int
) -> None:
    path = write(tmp_path / "scene", mosaic(512, 512), driver=driver, **profile)
    found = look(path)
    cut(path, 0.6)
    with open_raster(path, found) as scene:
        first, valid = scene.read(0, 0, 64, 64)
        assert first.any()
        assert valid.all()
        with pytest.raises(errors.DamagedScene, match=r"row .*, column .* of 512 x 512") as refused:
            scene.read(0, 0, 512, 512)
    assert refused.value.status == 422
    words = str(refused.value).replace(",", "").split()
    row, column = int(words[words.index("row") + 1]), int(words[words.index("column") + 1])
    assert row % unit == column % unit == 0
    assert 100 < row < 450
    with pytest.raises(errors.DamagedScene):
        look(path)


def test_a_file_without_its_header_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "scene.tif", DN)
    os.truncate(path, 20)
    with pytest.raises(errors.DamagedScene, match="cannot be opened") as refused:
        look(path)
    assert refused.value.status == 422


# --- the picture of a whole scene


def test_a_picture_of_the_whole_scene_has_means(tmp_path: Path) -> None:
    big = mosaic(900, 1301)
    big[:300, :300] = 0
    path = write(tmp_path / "scene.tif", big)
    found = look(path, look="eurosat")
    with open_raster(path, found) as scene:
        picture, scale = preview(scene, 400)
        plain = preview(scene)
    assert picture.shape == (225, 326, 3)
    assert scale == 0.25
    assert not picture[:75, :75].any()
    assert farthest(picture[100, 200], big[400:404, 800:804].mean(axis=(0, 1))) <= 1
    assert (plain[0] == big).all()
    assert plain[1] == 1


def test_no_data_does_not_darken_the_means() -> None:
    pixels = np.full((5, 5, 3), 200, np.uint8)
    valid = np.ones((5, 5), bool)
    pixels[0, 0], valid[0, 0] = 0, False
    pixels[4, 4], valid[4, 4] = 0, False
    found = reduce_pixels(pixels, valid, 2)
    assert found.shape == (3, 3, 3)
    assert (found.reshape(9, 3)[:8] == 200).all()
    assert not found[2, 2].any()


def test_smaller_copies_in_the_file_make_the_same_picture(tmp_path: Path) -> None:
    big = mosaic(1024, 1024)
    path = write(tmp_path / "plain.tif", big)
    copied = write(tmp_path / "copies.tif", big, tiled=True, blockxsize=256, blockysize=256)
    with rasterio.open(copied, "r+") as target:
        target.build_overviews([2, 4], rasterio.enums.Resampling.average)
    found = look(path, look="eurosat")
    pictures = []
    for one in (path, copied):
        with open_raster(one, found) as scene:
            pictures.append(preview(scene, 256)[0])
            assert (scene.reduced is not None) == (one is copied)
    assert pictures[0].shape == pictures[1].shape == (256, 256, 3)
    assert np.abs(pictures[0].astype(int) - pictures[1]).mean() < 1


def test_the_picture_of_a_warped_scene_is_that_of_its_map(tmp_path: Path) -> None:
    turned = Affine.translation(6e5, 53e5) @ Affine.rotation(10) @ Affine.scale(10, -10)
    path = write(tmp_path / "scene.tif", np.tile(SMOOTH, (4, 4, 1)), transform=turned)
    with open_raster(path, look(path, look="eurosat")) as scene:
        pixels, valid = scene.read(0, 0, scene.geo.height, scene.geo.width)
        picture, scale = preview(scene, 300)
    means = reduce_pixels(pixels, valid, round(1 / scale))
    assert picture.shape == means.shape
    assert np.abs(picture.astype(int) - means).mean() < 6


def test_a_raster_of_another_kind_has_a_picture_too() -> None:
    pixels = mosaic(256, 256)
    scene = Scene(
        Geo(256, 256, None, (0, 0)),
        lambda row, column, rows, columns: (
            pixels[row : row + rows, column : column + columns],
            np.ones((rows, columns), bool),
        ),
    )
    assert preview(scene, 128)[0].shape == (128, 128, 3)


# --- memory


MEASURE = """
import sys, threading, time
from pathlib import Path
from portal.scenes.raster import open_raster, preview
from tests.support.rasters import look
import rasterio._io, rasterio.warp
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
path = Path(sys.argv[1])
found = look(path, scale=sys.argv[2], look="l1c")
idle, most, done = resident(), 0, False
def watch():
    global most
    while not done:
        most = max(most, resident())
        time.sleep(0.005)
watcher = threading.Thread(target=watch)
watcher.start()
with open_raster(path, found) as scene:
    for row in range(0, scene.geo.height, 480):
        scene.read(row, 0, 512, scene.geo.width)
    preview(scene)
done = True
watcher.join()
print((most - idle) // 1_000_000)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize(
    "profile", [{"tiled": True, "blockxsize": 512, "blockysize": 512}, {"blockysize": 1}]
)
def test_a_wide_scene_is_read_in_little_memory(
    tmp_path: Path, dtype: str, profile: dict[str, Any]
) -> None:
    """What is kept depends on the width and not on the height of a scene."""
    values = np.tile(PIXELS, (8, 35, 1))[:2048, :10_980].astype(dtype)
    path = write(tmp_path / "scene.tif", values, compress="lzw", **profile)
    scale = "255" if dtype == "uint8" else "10000"
    words = [sys.executable, "-c", MEASURE, str(path), scale]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200


def test_a_file_that_was_changed_since_is_refused(tmp_path: Path) -> None:
    found = look(write(tmp_path / "one.tif", DN))
    other = write(tmp_path / "other.tif", DN[:100, :100])
    with pytest.raises(errors.DamagedScene, match="found 100 x 100"), open_raster(other, found):
        pass

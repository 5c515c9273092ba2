"""The files of a map, as those read them for whom they are made."""

import base64
import csv
import io
import json
import re
import struct
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from PIL import Image
from rasterio.features import rasterize
from rasterio.warp import transform_geom

from portal.scenes.outputs import LOCATED, OUTPUTS, write_outputs
from portal.scenes.palette import palette, rgb
from portal.scenes.scene import CellMap, Geo, Inspection, Provenance, State
from tests.support.paths import ROOT

LABELS = (
    "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial",
    "Pasture", "PermanentCrop", "Residential", "River", "SeaLake",
)  # fmt: skip
UTM = rasterio.CRS.from_epsg(32630).to_wkt()
GEO = Geo(943, 960, UTM, (424929.61945950024, 5811877.873489065))
PROVENANCE = Provenance(
    model="resnet18",
    version="1.2",
    archive_sha256="a" * 64,
    scene="T30UVD_20210507T112121_TCI.tif",
    scene_sha256="b" * 64,
    software="eurosat-landuse 1.0",
    created="2026-11-01T10:20:30Z",
    options={"look": "auto"},
)
Item = dict[str, Any]


def blobs(geo: Geo, stride: int, labels: tuple[str, ...] = LABELS, seed: int = 3) -> CellMap:
    """A map of patches, with cells in every state; all px but those of no data are valid."""
    chance = np.random.default_rng(seed)
    rows, columns = -(-geo.height // stride), -(-geo.width // stride)
    coarse = chance.dirichlet(
        np.full(len(labels), 0.3), (rows // 3 + 1, columns // 3 + 1)
    )  # patches of 3 x 3 cells
    fine = chance.dirichlet(np.full(len(labels), 0.3), (rows, columns))
    mixed = 0.7 * np.repeat(np.repeat(coarse, 3, 0), 3, 1)[:rows, :columns] + 0.3 * fine
    probabilities = mixed.astype(np.float32)
    state = np.where(probabilities.max(axis=2) < 0.5, State.UNSURE, State.SURE).astype(np.uint8)
    state[-1] = State.EDGE
    if min(rows, columns) > 5:
        state[1:3, 2:4] = State.BRIGHT
        state[0, 4:] = State.NO_DATA
    probabilities[np.isin(state, (State.BRIGHT, State.NO_DATA))] = 0
    high, wide = (
        np.minimum(stride, side - stride * np.arange(count))
        for side, count in ((geo.height, rows), (geo.width, columns))
    )
    valid = np.outer(high, wide).astype(np.uint16)
    valid[state == State.NO_DATA] = 0
    return CellMap(labels, stride, probabilities, state, valid)


def written(
    folder: Path, cells: CellMap, geo: Geo = GEO, provenance: Provenance = PROVENANCE
) -> Path:
    inspection = Inspection(
        found={},
        assumed={"look": "8 bits: taken for a true-colour image"},
        warnings={"resampled": "Pixels of 20 m were brought to 10 m."},
        geo=geo,
        bands=(1, 2, 3),
        scale="255",
        look="tci",
        slope=(1.29, 1.29, 1.29),
        intercept=(0.0, 0.0, 0.0),
        stride=cells.stride,
        windows=cells.state.size,
    )
    longer = max(geo.width, geo.height)
    shape = (max(1, geo.height * 300 // longer), max(1, geo.width * 300 // longer), 3)
    preview = np.random.default_rng(1).integers(1, 120, shape).astype(np.uint8)
    folder.mkdir()
    write_outputs(folder, cells, geo, inspection, provenance, preview)
    return folder


@pytest.fixture(scope="module", params=[64, 32])
def cells(request: pytest.FixtureRequest) -> CellMap:
    return blobs(GEO, request.param)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, cells: CellMap) -> Path:
    return written(tmp_path_factory.mktemp("outputs") / "out", cells)


def load(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def test_all_files_are_there_and_no_other(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == OUTPUTS.keys()
    assert all("/" in kind and sentence for kind, sentence in OUTPUTS.values())


# --- rasters


def directories(data: bytes) -> list[tuple[int, dict[int, int]]]:
    """Where each directory of a TIFF begins, and the first number of each of its tags."""
    assert data[:4] == b"II*\0"
    found = []
    at = struct.unpack_from("<I", data, 4)[0]
    while at:
        count = struct.unpack_from("<H", data, at)[0]
        tags = {}
        for number in range(count):
            tag, kind, length, value = struct.unpack_from("<HHII", data, at + 2 + 12 * number)
            if kind == 3 and length == 1:
                value &= 0xFFFF
            elif kind == 4 and length > 1:
                value = struct.unpack_from("<I", data, value)[0]
            tags[tag] = value
        found.append((at, tags))
        at = struct.unpack_from("<I", data, at + 2 + 12 * count)[0]
    return found


@pytest.mark.parametrize("name", ["class.tif", "confidence.tif", "probabilities.tif"])
def test_rasters_are_cloud_optimized(folder: Path, cells: CellMap, name: str) -> None:
    data = (folder / name).read_bytes()
    assert b"LAYOUT=IFDS_BEFORE_DATA" in data[:400]
    found = directories(data)
    width = cells.state.shape[1]
    assert [tags[256] for _, tags in found] == [width, width // 2]
    assert found[1][1][254] == 1  # a reduced picture
    last_directory = max(at for at, _ in found)
    tiles = [tags[324] for _, tags in found]
    assert min(tiles) > last_directory
    assert tiles == sorted(tiles, reverse=True)  # overviews first
    with rasterio.open(folder / name) as raster:
        assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert raster.overviews(1)
        assert set(raster.block_shapes) == {(256, 256)}


@pytest.mark.parametrize("name", ["class.tif", "confidence.tif", "probabilities.tif"])
def test_rasters_lie_where_the_scene_does(folder: Path, cells: CellMap, name: str) -> None:
    side = cells.stride * 10
    with rasterio.open(folder / name) as raster:
        assert raster.crs.to_epsg() == 32630
        assert tuple(raster.transform)[:6] == (side, 0, GEO.origin[0], 0, -side, GEO.origin[1])
        assert raster.shape == cells.state.shape


def test_classes_have_palette_and_no_data(folder: Path, cells: CellMap) -> None:
    with rasterio.open(folder / "class.tif") as raster:
        assert raster.dtypes == ("uint8",)
        assert raster.nodata == 255
        assert np.array_equal(raster.read(1), cells.classes)
        colormap = raster.colormap(1)
        half = raster.read(1, out_shape=tuple(side // 2 for side in raster.shape))
    assert [colormap[n] for n in range(10)] == [
        (*rgb(color), 255) for color in palette(LABELS).values()
    ]
    assert colormap[255][3] == 0
    assert set(np.unique(half)) <= {*range(10), 255}


def test_gdal_finds_the_names_of_the_classes(folder: Path, tmp_path: Path) -> None:
    """GDAL copies what it knows of a raster into a VRT, which can be read."""
    rasterio.shutil.copy(folder / "class.tif", tmp_path / "copy.vrt", driver="VRT")
    band = ET.parse(tmp_path / "copy.vrt").getroot().find("VRTRasterBand")
    assert band is not None
    assert [name.text for name in band.findall("CategoryNames/Category")] == list(LABELS)
    table = band.find("GDALRasterAttributeTable")
    assert table is not None
    assert [name.text for name in table.findall("FieldDefn/Name")] == [
        "Value", "Class", "Red", "Green", "Blue", "Alpha",
    ]  # fmt: skip
    rows = [[cell.text for cell in row] for row in table.findall("Row")]
    assert rows[9] == ["9", "SeaLake", *map(str, rgb(palette(LABELS)["SeaLake"])), "255"]


def test_confidence_and_probabilities_are_those_of_the_map(folder: Path, cells: CellMap) -> None:
    with rasterio.open(folder / "confidence.tif") as raster:
        assert raster.dtypes == ("float32",)
        assert np.isnan(raster.nodata)
        confidence = raster.read(1)
    assert np.array_equal(np.isnan(confidence), cells.classless)
    assert np.array_equal(np.nan_to_num(confidence), cells.confidence)
    with rasterio.open(folder / "probabilities.tif") as raster:
        assert raster.descriptions == LABELS
        assert raster.dtypes == ("float32",) * 10
        probabilities = raster.read().transpose(1, 2, 0)
    assert np.array_equal(np.nan_to_num(probabilities), cells.probabilities)
    assert np.isnan(probabilities[cells.classless]).all()


@pytest.mark.parametrize("sides", [(64, 64), (64, 300), (700, 64)])
def test_small_maps(tmp_path: Path, sides: tuple[int, int]) -> None:
    geo = replace(GEO, width=sides[0], height=sides[1])
    cells = blobs(geo, 64)
    folder = written(tmp_path / "out", cells, geo)
    with rasterio.open(folder / "class.tif") as raster:
        assert np.array_equal(raster.read(1), cells.classes)
        assert bool(raster.overviews(1)) is (cells.state.size > 1)
    with Image.open(folder / "map.png") as image:
        image.load()


def test_large_maps_have_overviews_until_one_fits_a_block(tmp_path: Path) -> None:
    geo = replace(GEO, width=9600, height=600)
    folder = written(tmp_path / "out", blobs(geo, 16), geo)
    with rasterio.open(folder / "class.tif") as raster:
        assert raster.shape == (38, 600)
        assert raster.overviews(1) == [2, 4]


def test_the_same_cells_give_the_same_bytes(folder: Path, cells: CellMap, tmp_path: Path) -> None:
    again = written(tmp_path / "again", cells)
    for name in OUTPUTS:
        assert (again / name).read_bytes() == (folder / name).read_bytes(), name
    other = replace(PROVENANCE, scene="b.tif", model="baseline", created="2027-01-01T00:00:00Z")
    elsewhere = written(tmp_path / "other", cells, provenance=other)
    assert (elsewhere / "class.tif").read_bytes() == (folder / "class.tif").read_bytes()


def test_qgis_finds_names_and_colours(folder: Path) -> None:
    text = (folder / "class.qml").read_text()
    assert text.startswith("<!DOCTYPE qgis ")
    root = ET.fromstring(text)
    assert root.tag == "qgis"
    renderer = root.find("pipe/rasterrenderer")
    assert renderer is not None
    assert (renderer.get("type"), renderer.get("band")) == ("paletted", "1")
    assert (renderer.get("opacity"), renderer.get("alphaBand")) == ("1", "-1")
    entries = [dict(entry.attrib) for entry in renderer.findall("colorPalette/paletteEntry")]
    assert entries == [
        {"value": str(number), "label": label, "color": color, "alpha": "255"}
        for number, (label, color) in enumerate(palette(LABELS).items())
    ]


# --- areas and polygons


def test_areas_are_those_of_the_valid_pixels(folder: Path, cells: CellMap) -> None:
    areas = {area["class_name"]: area for area in load(folder, "areas.json")}
    assert list(areas) == [*LABELS, "water"]
    classless = int(cells.valid[cells.classless].sum()) * 0.01
    valid = int(cells.valid.sum()) * 0.01
    told = sum(areas[label]["hectares"] for label in LABELS)
    assert told + classless == pytest.approx(valid, rel=0.001)
    assert areas["water"]["hectares"] == pytest.approx(
        areas["River"]["hectares"] + areas["SeaLake"]["hectares"], abs=0.02
    )
    for number, label in enumerate(LABELS):
        assert areas[label]["color"] == palette(LABELS)[label]
        pixels = int(cells.valid[cells.classes == number].sum())
        assert areas[label]["hectares"] == pytest.approx(pixels * 0.01, abs=0.01)
        assert areas[label]["share"] == pytest.approx(pixels * 0.01 / valid, abs=1e-6)


def rings(geometry: dict[str, Any]) -> Iterator[tuple[bool, np.ndarray]]:
    """Whether it is an outer one, and its points."""
    for polygon in geometry["coordinates"]:
        for number, ring in enumerate(polygon):
            assert ring[0] == ring[-1]
            yield number == 0, np.array(ring)


def area(ring: np.ndarray) -> float:
    """Positive where it runs anticlockwise."""
    x, y = (ring - ring[0]).T
    return float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) / 2)


def check_polygons(folder: Path, cells: CellMap, geo: Geo) -> None:
    collection = load(folder, "classes.geojson")
    assert collection["type"] == "FeatureCollection"
    told = {area["class_name"]: area["hectares"] for area in load(folder, "areas.json")}
    features = {f["properties"]["class_name"]: f for f in collection["features"]}
    assert len(features) == len(collection["features"])
    assert features.keys() == {cells.labels[n] for n in np.unique(cells.classes) if n != 255}
    west, north = geo.origin
    east, south = west + geo.width * 10, north - geo.height * 10
    side = cells.stride * 10
    grid = rasterio.Affine(side, 0, west, 0, -side, north)
    for label, feature in features.items():
        properties = feature["properties"]
        for outer, ring in rings(feature["geometry"]):
            assert (area(ring) > 0) is outer
            assert np.all(np.abs(ring) <= (180, 90))
        on_ground = transform_geom("EPSG:4326", geo.crs, feature["geometry"])
        corners = np.concatenate([ring for _, ring in rings(on_ground)])
        assert np.all(corners.min(axis=0) > (west - 0.1, south - 0.1))
        assert np.all(corners.max(axis=0) < (east + 0.1, north + 0.1))
        covered = sum(area(ring) for _, ring in rings(on_ground)) / 10_000
        number = cells.labels.index(label)
        assert covered == pytest.approx(told[label], rel=0.001)
        assert properties["area_ha"] == told[label]
        assert properties["color"] == palette(cells.labels)[label]
        here = cells.classes == number
        mean = np.average(cells.confidence[here], weights=cells.valid[here])
        assert properties["mean_confidence"] == pytest.approx(mean, abs=1e-4)
        painted = rasterize([on_ground], cells.state.shape, transform=grid, dtype="uint8")
        whole = cells.valid == cells.stride**2  # the middle of one that is cut may lie outside
        assert np.array_equal(painted[whole], here[whole])


def test_polygons_lie_on_the_scene_and_have_its_areas(folder: Path, cells: CellMap) -> None:
    check_polygons(folder, cells, GEO)


@pytest.mark.parametrize(
    ("epsg", "origin", "sides"),
    [
        (27700, (253000.0, 290000.0), (2000, 1300)),  # Great Britain's national grid
        (32756, (300000.0, 6300000.0), (10980, 700)),  # in the south, as wide as a whole scene
        (5514, (-750000.0, -1040000.0), (800, 900)),  # Czechia's
    ],
)
def test_polygons_on_other_grounds(
    tmp_path: Path, epsg: int, origin: tuple[float, float], sides: tuple[int, int]
) -> None:
    geo = Geo(*sides, rasterio.CRS.from_epsg(epsg).to_wkt(), origin)
    cells = blobs(geo, 64)
    check_polygons(written(tmp_path / "out", cells, geo), cells, geo)


def test_long_sides_follow_the_grid(tmp_path: Path) -> None:
    """What is straight in degrees leaves what is straight in metres by half a kilometre."""
    geo = Geo(10980, 640, UTM, (300000.0, 7000000.0))
    cells = blobs(geo, 64)
    cells.probabilities[:] = np.eye(10, dtype=np.float32)[1]
    cells.state[:] = State.SURE
    cells.valid[:] = np.outer(np.full(10, 64), np.minimum(64, 10980 - 64 * np.arange(172)))
    folder = written(tmp_path / "out", cells, geo)
    (feature,) = load(folder, "classes.geojson")["features"]
    ((_, ring),) = rings(feature["geometry"])
    middles = (ring[1:] + ring[:-1]) / 2
    there = transform_geom(
        "EPSG:4326", geo.crs, {"type": "LineString", "coordinates": middles.tolist()}
    )
    x, y = np.array(there["coordinates"]).T
    apart = np.minimum.reduce([
        np.abs(x - 300000), np.abs(x - 409800), np.abs(y - 7000000), np.abs(y - 6993600),
    ])  # fmt: skip
    assert apart.max() < 1.5  # metres


def test_a_map_across_the_180th_meridian_is_cut_there(tmp_path: Path) -> None:
    geo = Geo(3000, 640, rasterio.CRS.from_epsg(32601).to_wkt(), (290000.0, 6000000.0))
    folder = written(tmp_path / "out", blobs(geo, 64), geo)
    item = load(folder, "item.json")
    west, south, east, north = item["bbox"]
    assert 179 < west < 180
    assert -180 < east < -179
    assert south < north
    features = load(folder, "classes.geojson")["features"]
    shapes = [item["geometry"], *(feature["geometry"] for feature in features)]
    for geometry in shapes:
        for _, ring in rings(geometry):
            assert np.ptp(ring[:, 0]) < 1
    with (folder / "cells.csv").open(newline="") as file:
        lon = [float(line["lon"]) for line in csv.DictReader(file)]
    assert min(lon) < -179
    assert max(lon) > 179


# --- tables


def test_the_table_has_a_line_for_each_cell(folder: Path, cells: CellMap) -> None:
    with (folder / "cells.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    rows, columns = cells.state.shape
    assert len(lines) == rows * columns
    assert list(lines[0]) == ["row", "col", "lon", "lat", "class", "confidence", "state"]
    assert {line["state"] for line in lines} == {"sure", "unsure", "bright", "no data", "edge"}
    for line in lines:
        at = int(line["row"]), int(line["col"])
        if cells.classless[at]:
            assert (line["class"], line["confidence"]) == ("", "")
        else:
            assert line["class"] == LABELS[cells.classes[at]]
            assert float(line["confidence"]) == pytest.approx(cells.confidence[at], abs=1e-4)
    last = lines[-1]
    (point,) = [
        transform_geom(
            "EPSG:4326",
            UTM,
            {"type": "Point", "coordinates": [float(last["lon"]), float(last["lat"])]},
        )["coordinates"]
    ]
    x = ((columns - 1) * cells.stride + 943) / 2
    y = ((rows - 1) * cells.stride + 960) / 2
    assert point == pytest.approx((GEO.origin[0] + 10 * x, GEO.origin[1] - 10 * y), abs=0.2)


def test_the_page_gets_every_cell(folder: Path, cells: CellMap) -> None:
    told = load(folder, "cells.json")
    rows, columns = cells.state.shape
    arrays = {
        name: np.frombuffer(base64.b64decode(told.pop(name), validate=True), np.uint8)
        for name in ("classes", "confidence", "state", "probabilities")
    }
    assert told == {
        "labels": list(LABELS),
        "colors": palette(LABELS),
        "rows": rows,
        "columns": columns,
        "stride": cells.stride,
        "width": 943,
        "height": 960,
        "gsd": 10,
        "located": True,
        "states": ["sure", "unsure", "bright", "no data", "edge"],
    }
    assert np.array_equal(arrays["classes"].reshape(rows, columns), cells.classes)
    assert np.array_equal(arrays["state"].reshape(rows, columns), cells.state)
    confidence = arrays["confidence"].reshape(rows, columns) / 255
    assert np.abs(confidence - cells.confidence).max() < 0.002
    probabilities = arrays["probabilities"].reshape(rows, columns, 10) / 255
    assert np.abs(probabilities - cells.probabilities).max() < 0.002


# --- metadata


def check_item(item: Item) -> None:
    """What STAC 1.1 and the three extensions ask for."""
    assert item["type"] == "Feature"
    assert item["stac_version"] == "1.1.0"
    assert re.fullmatch(r"[A-Za-z0-9._-]+", item["id"])
    assert {"geometry", "properties", "links", "assets"} < item.keys()
    assert item["links"] == []
    properties = item["properties"]
    moment = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    assert re.fullmatch(moment, properties["datetime"])
    assert re.fullmatch(moment, properties["created"])
    extensions = [
        re.fullmatch(r"https://stac-extensions\.github\.io/(\w+)/v(\d\.\d\.\d)/schema\.json", found)
        for found in item["stac_extensions"]
    ]
    assert [found.groups() for found in extensions if found] == [
        ("projection", "2.0.0"),
        ("classification", "2.0.0"),
        ("processing", "1.2.0"),
    ]
    prefixed = {
        name.partition(":")[0]
        for holder in (properties, *item["assets"].values())
        for name in holder
        if ":" in name
    }
    assert prefixed == {"proj", "classification", "processing"}
    for name, asset in item["assets"].items():
        assert asset["href"] == f"./{name}"
        assert (asset["type"], asset["title"]) == OUTPUTS[name]
        assert asset["roles"]
        if name.endswith(".png"):
            assert asset["proj:code"] is None
    (described,) = [a for a in item["assets"].values() if "classification:classes" in a]
    for known in described["classification:classes"]:
        assert isinstance(known["value"], int)
        assert re.fullmatch(r"[0-9A-Za-z_-]+", known["name"])
        assert re.fullmatch(r"[0-9A-F]{6}", known.get("color_hint", "000000"))
    software = properties["processing:software"]
    assert software
    assert all(isinstance(version, str) for version in software.values())
    assert properties["processing:expression"].keys() == {"format", "expression"}


def test_the_item_is_stac(folder: Path, cells: CellMap) -> None:
    item = load(folder, "item.json")
    check_item(item)
    assert item["assets"].keys() == OUTPUTS.keys() - {"item.json"}
    properties = item["properties"]
    assert properties["datetime"] == "2021-05-07T11:21:21Z"  # as the scene's name says
    assert properties["created"] == "2026-11-01T10:20:30Z"
    assert properties["proj:code"] == "EPSG:32630"
    assert properties["proj:wkt2"].startswith("PROJCRS[")
    assert rasterio.CRS.from_wkt(properties["proj:wkt2"]).to_epsg() == 32630
    assert properties["processing:software"] == {"eurosat-landuse": "1.0"}
    asked = properties["processing:expression"]["expression"]
    assert asked["model"] == "resnet18"
    assert asked["version"] == "1.2"
    assert asked["archive_sha256"] == "a" * 64
    assert asked["scene_sha256"] == "b" * 64
    assert (asked["scale"], asked["look"], asked["stride"]) == ("255", "tci", cells.stride)
    for name in ("class.tif", "confidence.tif", "probabilities.tif"):
        asset = item["assets"][name]
        with rasterio.open(folder / name) as raster:
            assert asset["proj:shape"] == list(raster.shape)
            assert asset["proj:transform"] == list(raster.transform)[:6]
            assert asset["data_type"] == raster.dtypes[0]
    known = item["assets"]["class.tif"]["classification:classes"]
    assert {entry["value"]: entry["title"] for entry in known if not entry.get("nodata")} == dict(
        enumerate(LABELS)
    )
    assert [entry["value"] for entry in known if entry.get("nodata")] == [255]


def test_the_item_lies_around_the_scene(folder: Path) -> None:
    item = load(folder, "item.json")
    ((_, outline),) = rings(item["geometry"])
    assert area(outline) > 0
    box = [*outline.min(axis=0), *outline.max(axis=0)]
    assert item["bbox"] == pytest.approx(box)
    with rasterio.open(folder / "class.tif") as raster:
        west, north = raster.bounds.left, raster.bounds.top
    on_ground = transform_geom("EPSG:4326", UTM, item["geometry"])
    ((_, corners),) = rings(on_ground)
    assert corners.min(axis=0) == pytest.approx((west, north - 9600), abs=0.1)
    assert corners.max(axis=0) == pytest.approx((west + 9430, north), abs=0.1)


@pytest.mark.parametrize(
    "name", ["fields.tif", "20219907T112121.tif", "a_20210507.tif", "120210507T112121.tif"]
)
def test_a_scene_without_a_date_is_not_given_one(tmp_path: Path, name: str) -> None:
    provenance = replace(PROVENANCE, scene=name)
    item = load(written(tmp_path / "out", blobs(GEO, 64), provenance=provenance), "item.json")
    check_item(item)
    assert item["properties"]["datetime"] == PROVENANCE.created
    assert "not known" in item["properties"]["description"]


def test_a_crs_without_a_number_is_told_in_full(tmp_path: Path) -> None:
    crs = rasterio.CRS.from_string("+proj=tmerc +lat_0=52 +lon_0=-4.1 +ellps=GRS80 +units=m")
    geo = replace(GEO, crs=crs.to_wkt(), origin=(-1000.0, 1000.0))
    item = load(written(tmp_path / "out", blobs(geo, 64), geo), "item.json")
    check_item(item)
    assert item["properties"]["proj:code"] is None
    assert rasterio.CRS.from_wkt(item["properties"]["proj:wkt2"]) == crs


# --- without knowing where


def test_nothing_is_said_of_a_place_that_is_not_known(tmp_path: Path) -> None:
    geo = Geo(943, 960, None, (0.0, 0.0))
    cells = blobs(geo, 64)
    folder = written(tmp_path / "out", cells, geo)
    assert {path.name for path in folder.iterdir()} == OUTPUTS.keys() - LOCATED
    with rasterio.open(folder / "class.tif") as raster:
        assert raster.crs is None
        assert raster.bounds == (0, -960, 960, 0)  # in px, where QGIS shows the scene itself
        assert np.array_equal(raster.read(1), cells.classes)
        assert raster.colormap(1)[1][:3] == rgb(palette(LABELS)["Forest"])
    areas = load(folder, "areas.json")
    assert {area["hectares"] for area in areas} == {None}
    assert sum(area["share"] for area in areas[:10]) > 0.9
    header = (folder / "cells.csv").read_text().partition("\n")[0]
    assert header == "row,col,class,confidence,state"
    assert load(folder, "cells.json")["located"] is False
    item = load(folder, "item.json")
    check_item(item)
    assert item["geometry"] is None
    assert "bbox" not in item
    assert item["properties"]["proj:code"] is None
    assert "classes.geojson" not in item["assets"]
    assert "proj:transform" not in item["assets"]["class.tif"]


# --- pictures


def test_the_picture_shows_classes_and_legend(tmp_path: Path) -> None:
    cells = blobs(GEO, 64)
    cells.probabilities[:] = np.eye(10, dtype=np.float32)[9]
    cells.state[:] = State.SURE
    cells.state[:, :7] = State.UNSURE
    with Image.open(written(tmp_path / "out", cells) / "map.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    sea = np.array(rgb(palette(LABELS)["SeaLake"]))
    near = np.abs(pixels - sea).sum(axis=2) < 150
    assert near.mean() > 0.3  # the map, through which the scene is seen
    legend = pixels[:, 28 + 900 :]
    for color in palette(LABELS).values():
        assert (np.abs(legend - rgb(color)).sum(axis=2) == 0).sum() > 300, color
    light = pixels.sum(axis=2) > 500
    hatched, plain = light[130:900, 50:400].mean(), light[130:900, 520:850].mean()
    assert hatched > 0.1
    assert plain < 0.01


def test_the_preview_is_kept_as_it_is(folder: Path) -> None:
    with Image.open(folder / "scene.png") as image:
        assert image.mode == "RGB"
        assert image.size == (294, 300)
        found = np.asarray(image)
    assert np.array_equal(found, np.random.default_rng(1).integers(1, 120, (300, 294, 3)))


# --- what may go wrong


def test_names_with_markup_stay_names(tmp_path: Path) -> None:
    labels = ('<b>Moor</b> & "heath"', "=1+1,2", *LABELS[2:])
    provenance = replace(PROVENANCE, scene="<script>alert(1)</script>\n.tif" + "é" * 300)
    folder = written(tmp_path / "out", blobs(GEO, 64, labels), provenance=provenance)
    root = ET.fromstring((folder / "class.tif.aux.xml").read_text())
    assert [name.text for name in root.findall(".//Category")] == list(labels)
    style = ET.fromstring((folder / "class.qml").read_text())
    entries = style.findall(".//paletteEntry")
    assert [entry.get("label") for entry in entries] == list(labels)
    with rasterio.open(folder / "probabilities.tif") as raster:
        assert raster.descriptions == labels
    text = io.StringIO((folder / "cells.csv").read_text(), newline="")
    assert {line["class"] for line in csv.DictReader(text)} <= {*labels, ""}
    item = load(folder, "item.json")
    check_item(item)
    assert item["properties"]["title"].endswith(provenance.scene)


def test_a_full_disk_is_told(tmp_path: Path, folder: Path) -> None:
    full = tmp_path / "out"
    full.mkdir()
    (full / "probabilities.tif").symlink_to("/dev/full")
    full.rename(tmp_path / "full")
    cells = blobs(GEO, 64)
    inspection = Inspection({}, {}, {}, GEO, (1, 2, 3), "255", "tci", None, None, 64, 225)
    preview = np.ones((96, 94, 3), np.uint8)
    with pytest.raises(OSError, match="No space left"):
        write_outputs(tmp_path / "full", cells, GEO, inspection, PROVENANCE, preview)


def test_more_classes_than_a_byte_tells_apart_are_refused(tmp_path: Path) -> None:
    cells = blobs(replace(GEO, width=64, height=64), 64, tuple(f"c{n}" for n in range(256)))
    with pytest.raises(ValueError, match=r"256 classes; its raster has room for 255"):
        written(tmp_path / "out", cells)


def test_the_names_of_the_files_are_known_without_numpy() -> None:
    code = "import sys, portal.scenes.outputs\nprint({'numpy', 'rasterio', 'PIL'} & {*sys.modules})"
    words = [sys.executable, "-c", code]
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_the_readme_tells_what_each_file_is() -> None:
    text = (ROOT / "portal/README.md").read_text()
    table = text.partition("## Files of a map")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+`) \|", table, flags=re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`([^`]+)`", row)} == OUTPUTS.keys()

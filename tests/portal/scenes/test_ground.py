"""Where scenes lie, and georeferences that cannot be right."""

from pathlib import Path
from typing import Any

import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.transform import Affine

from portal import errors
from tests.support.rasters import look, mosaic, write

DN = mosaic(128, 128).astype("uint16") * 10


def placed(left: float, top: float, width: float, height: float) -> Affine:
    return Affine(width, 0, left, 0, -height, top)


def looked_at(path: Path, **options: Any) -> Any:
    return look(path, scale="10000", look="l1c", **options)


@pytest.mark.parametrize("size", [5, 6.4, 9.96, 15, 20])
def test_pixels_of_5_to_20_m_are_resampled(tmp_path: Path, size: float) -> None:
    transform = placed(600_000, 5_300_000, size, size)
    found = looked_at(write(tmp_path / "s.tif", mosaic(256, 256), transform=transform))
    assert found.resampled
    assert found.geo.width == pytest.approx(25.6 * size, abs=1)
    assert ("resampled" in found.warnings) == (size != 9.96)


@pytest.mark.parametrize("size", [2, 3, 25, 60])
def test_pixels_of_2_to_60_m_are_resampled_if_they_must(tmp_path: Path, size: float) -> None:
    bands = mosaic(350, 350)
    path = write(tmp_path / "s.tif", bands, transform=placed(600_000, 5_300_000, size, size))
    with pytest.raises(errors.UnusableScene, match=f"pixels of {size} m, expected 10 m") as refused:
        looked_at(path)
    assert "force=true" in str(refused.value)
    assert refused.value.status == 422
    assert looked_at(path, force=True).geo.width == 35 * size


@pytest.mark.parametrize("size", [0.5, 1.9, 61, 1000])
def test_other_pixels_are_refused(tmp_path: Path, size: float) -> None:
    path = write(tmp_path / "s.tif", DN, transform=placed(600_000, 5_300_000, size, size))
    for force in (False, True):
        with pytest.raises(errors.UnusableScene, match="expected 10 m"):
            looked_at(path, force=force)


def test_pixels_are_measured_on_the_ground(tmp_path: Path) -> None:
    """10 m of Web Mercator are 5 m in the north."""
    mercator = {"crs": "EPSG:3857", "transform": placed(1_200_000, 8_400_000, 10, 10)}
    found = looked_at(write(tmp_path / "s.tif", mosaic(256, 256), **mercator))
    assert found.found["pixel"] == pytest.approx(5, abs=0.2)
    mercator["transform"] = placed(1_200_000, 9_500_000, 10, 10)
    with pytest.raises(errors.UnusableScene, match=r"pixels of 4\.\d"):
        looked_at(write(tmp_path / "s.tif", mosaic(256, 256), **mercator))


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    path = write(tmp_path / "s.tif", DN, transform=placed(600_000, 5_300_000, 10, 20))
    found = looked_at(path)
    assert (found.geo.width, found.geo.height) == (128, 256)
    assert "10 x 20 m" in found.warnings["resampled"]


BROKEN: dict[str, tuple[dict[str, Any], str | None]] = {
    "no corner": ({"transform": Affine.identity()}, "not where"),
    "latitude 400": ({"crs": "EPSG:4326", "transform": placed(10, 400, 1e-4, 1e-4)}, "latitude"),
    "metres as degrees": (
        {"crs": "EPSG:4326", "transform": placed(600_000, 5_300_000, 10, 10)},
        "latitude",
    ),
    "degrees as metres": ({"transform": placed(10.5, 47.5, 1e-4, 1e-4)}, None),
    "far away": ({"transform": placed(1e12, 1e12, 10, 10)}, None),
    "sizes of nothing": ({"crs": None, "transform": placed(5, 5, 20, 20)}, "20 x 20"),
    "turned nowhere": (
        {"crs": None, "transform": Affine.rotation(20) @ Affine.scale(10, -10)},
        "reference system",
    ),
    "a drawing": (
        {"crs": 'LOCAL_CS["a drawing",UNIT["metre",1]]', "transform": placed(0, 0, 20, 20)},
        "20 x 20",
    ),
    "no size": ({"transform": Affine(0, 0, 600_000, 0, 0, 5_300_000)}, None),
    "nan": ({"transform": placed(float("nan"), 5_300_000, 10, 10)}, None),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_georeference_is_refused(tmp_path: Path, name: str) -> None:
    profile, words = BROKEN[name]
    path = write(tmp_path / "s.tif", DN, **profile)
    with pytest.raises(errors.UnusableScene, match=words) as refused:
        looked_at(path)
    assert refused.value.status == 422
    assert type(refused.value) is errors.UnusableScene


def test_control_points_alone_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.tif"
    points = [
        GroundControlPoint(row, column, 6e5 + 10 * column, 53e5 - 10 * row)
        for row, column in ((0, 0), (0, 128), (128, 0), (128, 128))
    ]
    profile = {"driver": "GTiff", "width": 128, "height": 128, "count": 3, "dtype": "uint16"}
    with rasterio.open(path, "w", gcps=points, crs="EPSG:32632", **profile) as target:
        target.write(DN.transpose(2, 0, 1))
    with pytest.raises(errors.UnusableScene, match="control points"):
        looked_at(path)


def test_the_pole_is_refused(tmp_path: Path) -> None:
    polar = {"crs": "EPSG:3413", "transform": placed(0, 0, 10, 10)}
    with pytest.raises(errors.UnusableScene, match="latitude"):
        looked_at(write(tmp_path / "s.tif", DN, **polar))


def test_a_scene_across_the_date_line(tmp_path: Path) -> None:
    line = {"crs": "EPSG:4326", "transform": placed(179.99, -17, 1e-4, 1e-4)}
    found = looked_at(write(tmp_path / "s.tif", mosaic(256, 256), **line))
    assert found.geo.width < 400
    assert found.geo.height < 400


def test_the_name_of_a_reference_system_without_number(tmp_path: Path) -> None:
    own = "+proj=laea +lat_0=52 +lon_0=10 +x_0=0 +y_0=0 +ellps=GRS80 +units=m"
    path = write(tmp_path / "s.tif", DN, crs=own, transform=placed(0, 0, 10, 10))
    found = looked_at(path)
    assert found.found["crs"]
    assert not found.resampled

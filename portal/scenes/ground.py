"""Where a raster lies on the ground, and where its map will: north up, in pixels of ``GSD`` metres.

rasterio is imported where it is used: it is the worker's and the inspector's, not the web's.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from portal import errors
from portal.scenes.terms import GSD, Geo

USUAL_PIXELS = (5.0, 20.0)  # metres; those of Sentinel-2's bands and a little finer
FORCED_PIXELS = (2.0, 60.0)
_NEARLY = 0.005  # a share; pixels and limits that differ by less are the same
_TRUE = 0.02  # a share; a projection whose metres are farther from those on the ground is left
_OUTLINE = 32  # points on each side of the scene whose place is looked up
_NO_SIZES = ((0, 0), (1, 1), (GSD, GSD))  # of pixels in a file that does not say of what
_POLAR = 84  # degrees; UTM ends there
_RADIUS, _ECCENTRICITY2 = 6_378_137.0, 0.006694380  # of WGS 84


@dataclass(frozen=True)
class Ground:
    """Where a scene lies.

    Attributes:
        geo: of its map.
        crs: the name of the file's own reference system, None: it has none.
        pixel: metres on the ground, along rows and columns of the file; None: not known.
        resampled: the map's pixels are not the file's.
        assumed, warnings: as of ``Inspection``.
    """

    geo: Geo
    crs: str | None
    pixel: tuple[float, float] | None
    resampled: bool
    assumed: dict[str, str] = field(default_factory=dict)
    warnings: dict[str, str] = field(default_factory=dict)


def find_ground(source: Any, *, force: bool) -> Ground:
    """Where an open raster (rasterio's ``DatasetReader``) lies.

    Args:
        force: take pixels of ``FORCED_PIXELS`` instead of ``USUAL_PIXELS``.

    Raises:
        UnusableScene: a georeference that is broken, or pixels that are too small or too large.
    """
    crs, transform = _crs(source), source.transform
    if crs is None:
        return _not_located(source)
    if not all(map(math.isfinite, transform)) or transform.determinant == 0:
        raise _broken("its pixels have no size")
    if transform == transform.identity():
        raise _broken(f"it names {_name(crs)}, but not where in it the pixels lie")
    (longitude, latitude), pixel, true = _measure(source, crs)
    _check_pixel(pixel, force=force)
    straight = transform.b == transform.d == 0
    north_up = straight and transform.a > 0 > transform.e
    # half a pixel at the far edge
    drift = max(abs(pixel[0] - GSD) * source.width, abs(pixel[1] - GSD) * source.height)
    if true and north_up and drift < GSD / 2:
        geo = Geo(source.width, source.height, crs.to_wkt(), (transform.c, transform.f))
        return Ground(geo, _name(crs), pixel, resampled=False)
    target = crs if true else _utm(longitude, latitude)
    geo = _frame(source, crs, target, snapped=not (true and straight))
    warnings = {}
    if max(abs(size - GSD) for size in pixel) > GSD * _NEARLY:
        warnings["resampled"] = f"Pixels of {_size(pixel)} m were resampled to {GSD:g} m."
    if not (true and north_up):
        warnings["warped"] = (
            f"The scene lies in {_name(crs)}"
            + ("" if north_up else ", and north is not up in it")
            + f"; it was warped to {_name(target)}, with north up."
        )
    return Ground(geo, _name(crs), pixel, resampled=True, warnings=warnings)


def outline(width: float, height: float) -> tuple[list[float], list[float]]:
    """Columns and rows of points all around a rectangle whose first corner is 0, 0."""
    steps = [step / _OUTLINE for step in range(_OUTLINE)]
    columns = [
        *(width * step for step in steps), *(width for _ in steps),
        *(width * (1 - step) for step in steps), *(0.0 for _ in steps),
    ]  # fmt: skip
    rows = [
        *(0.0 for _ in steps), *(height * step for step in steps),
        *(height for _ in steps), *(height * (1 - step) for step in steps),
    ]  # fmt: skip
    return columns, rows


def _crs(source: Any) -> Any:
    """Its reference system as rasterio has it; None: it has none on the Earth."""
    from rasterio.errors import CRSError  # noqa: PLC0415

    try:
        crs = source.crs
        return crs if crs and (crs.is_projected or crs.is_geographic) else None
    except CRSError as error:
        raise _broken("its reference system cannot be read") from error


def _not_located(source: Any) -> Ground:
    transform = source.transform
    if source.gcps[0]:
        raise _broken("it has ground control points alone; warp it with them first (gdalwarp)")
    sizes = (abs(transform.a), abs(transform.e))
    if (transform.b, transform.d) != (0, 0) or sizes not in _NO_SIZES:
        raise _broken(
            f"its pixels have a size, {sizes[0]:g} x {sizes[1]:g}, but no reference system says of "
            "what"
        )
    return Ground(
        Geo(source.width, source.height, None, (0.0, 0.0)),
        None,
        None,
        resampled=False,
        assumed={"pixel": f"{GSD:g} m, as nothing says where the scene lies"},
        warnings={
            "not_located": (
                f"Nothing in the file says where it lies: pixels are taken as {GSD:g} m, and there "
                "are no hectares, no coordinates and no GeoJSON."
            )
        },
    )


def _measure(source: Any, crs: Any) -> tuple[tuple[float, float], tuple[float, float], bool]:
    """Longitude and latitude of the centre, the size of a pixel in metres, and whether the metres
    of the reference system are those on the ground.
    """
    from rasterio.warp import transform as reproject  # noqa: PLC0415

    middle = (source.width / 2, source.height / 2)
    points = [
        source.transform @ (middle[0] + right, middle[1] + down)
        for right, down in ((0, 0), (1, 0), (0, 1))
    ]
    if crs.is_geographic and not (abs(points[0][0]) <= 360 and abs(points[0][1]) <= 90):
        raise _broken(f"its centre lies at longitude {points[0][0]:g}, latitude {points[0][1]:g}")
    try:
        longitudes, latitudes = reproject(crs, "EPSG:4326", *zip(*points, strict=True))
    except Exception as error:  # PROJ's errors have many types
        raise _broken(f"its place in {_name(crs)} is none on the Earth") from error
    if not all(map(math.isfinite, (*longitudes, *latitudes))) or abs(latitudes[0]) > 90:
        raise _broken(f"its place in {_name(crs)} is none on the Earth")
    if abs(latitudes[0]) > _POLAR:
        raise errors.UnusableScene(
            f"The scene lies at latitude {latitudes[0]:.1f}, where there is no land use: expected "
            f"at most {_POLAR} degrees."
        )
    centre = longitudes[0], latitudes[0]
    on_ground = (
        _metres(longitudes[0], latitudes[0], longitudes[1], latitudes[1]),
        _metres(longitudes[0], latitudes[0], longitudes[2], latitudes[2]),
    )
    if crs.is_geographic or abs(crs.linear_units_factor[1] - 1) > 1e-9:
        return centre, on_ground, False
    found = source.transform
    nominal = (math.hypot(found.a, found.d), math.hypot(found.b, found.e))
    true = all(abs(a / b - 1) < _TRUE for a, b in zip(on_ground, nominal, strict=True))
    return centre, nominal if true else on_ground, true


def _metres(longitude: float, latitude: float, longitude2: float, latitude2: float) -> float:
    """Between two places that are near each other."""
    east = (longitude2 - longitude + 540) % 360 - 180
    bulge = 1 - _ECCENTRICITY2 * math.sin(math.radians(latitude)) ** 2
    across = _RADIUS / math.sqrt(bulge) * math.cos(math.radians(latitude))
    along = _RADIUS * (1 - _ECCENTRICITY2) / bulge**1.5
    return math.hypot(math.radians(east) * across, math.radians(latitude2 - latitude) * along)


def _check_pixel(pixel: tuple[float, float], *, force: bool) -> None:
    least, most = FORCED_PIXELS if force else USUAL_PIXELS
    if min(pixel) >= least * (1 - _NEARLY) and max(pixel) <= most * (1 + _NEARLY):
        return
    sentence = (
        f"found pixels of {_size(pixel)} m, expected {GSD:g} m; {least:g}..{most:g} m are resampled"
    )
    if not force:
        sentence += ", {:g}..{:g} m with force=true".format(*FORCED_PIXELS)
    raise errors.UnusableScene(f"The scene cannot be mapped: {sentence}.")


def _frame(source: Any, crs: Any, target: Any, *, snapped: bool) -> Geo:
    """The rectangle of a reference system that a raster lies in, in pixels of ``GSD`` metres.

    Args:
        snapped: its corners lie at multiples of ``GSD``.
    """
    from rasterio.warp import transform as reproject  # noqa: PLC0415

    points = [
        source.transform @ point
        for point in zip(*outline(source.width, source.height), strict=True)
    ]
    xs, ys = reproject(crs, target, *zip(*points, strict=True))
    if not all(map(math.isfinite, (*xs, *ys))):
        raise _broken(f"a part of it lies outside of {_name(target)}")
    left, top = min(xs), max(ys)
    if snapped:
        left, top = math.floor(left / GSD) * GSD, math.ceil(top / GSD) * GSD
    width = math.ceil((max(xs) - left) / GSD - 0.01)
    height = math.ceil((top - min(ys)) / GSD - 0.01)
    return Geo(width, height, target.to_wkt(), (left, top))


def _utm(longitude: float, latitude: float) -> Any:
    from rasterio.crs import CRS  # noqa: PLC0415

    zone = int((longitude + 180) % 360 // 6) + 1
    return CRS.from_epsg((32600 if latitude >= 0 else 32700) + zone)


def _name(crs: Any) -> str:
    """Of a reference system: EPSG:32630, or as it calls itself."""
    if code := crs.to_epsg():
        return f"EPSG:{code}"
    wkt = crs.to_wkt()
    return wkt.partition('"')[2].partition('"')[0] or "a reference system without name"


def _size(pixel: tuple[float, float]) -> str:
    return " x ".join(dict.fromkeys(f"{size:.3g}" for size in pixel))


def _broken(why: str) -> errors.UnusableScene:
    return errors.UnusableScene(
        f"The georeference is broken: {why}. Save the scene with a right one, or with none, if its "
        f"pixels are {GSD:g} m."
    )

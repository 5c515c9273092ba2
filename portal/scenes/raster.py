"""The pixels of a scene, in EuroSAT's look, as they lie on its map.

A file is opened by what it begins with, as a format that holds its own pixels: GDAL has others that
lead to any file of this machine. rasterio is imported when one is opened.
"""

import contextlib
import functools
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from handlers import rasters
from handlers.radiometry import Reading
from portal import errors
from portal.scenes.ground import outline
from portal.scenes.scene import GSD, Geo, Inspection, Raster

CACHE = 64_000_000  # bytes of blocks that GDAL keeps unpacked
PIECE = 12_000_000  # bytes of values that are read at a time, if a block has no more
PREVIEW = 2048  # px, the longer side of a picture of a whole scene
_DRIVERS = (
    (b"II*\0", "GTiff"),
    (b"MM\0*", "GTiff"),
    (b"II+\0", "GTiff"),  # BigTIFF
    (b"MM\0+", "GTiff"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x00\x00\x00\x0cjP  ", "JP2OpenJPEG"),
    (b"\xff\x4f\xff\x51", "JP2OpenJPEG"),
)
_GDAL = {
    "GDAL_CACHEMAX": CACHE,
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no masks, overviews or places from other files
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_ERROR_ON_LIBJPEG_WARNING": "YES",  # else a JPEG that was cut off ends in grey
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",  # it takes a PNG that was cut off for a whole one
    "GDAL_NUM_THREADS": "1",
}
# The side of the blocks of a map that are warped at once, and kept: always the same ones, so that
# it does not matter which part is read.
_BLOCK = 512  # px; GDAL takes 8 ms to begin with one, and 90 ns for each pixel
# px of the file around a block: cubic looks two px of the map farther, ten of the smallest of 2 m.
_REACH = 12
_HALF = 128  # opacity, of 255, above which a warped pixel has data

Window = tuple[int, int, int, int]  # row, column, rows, columns


@contextlib.contextmanager
def open_raster(path: Path, inspection: Inspection) -> Iterator["Scene"]:
    """A scene, open for reading as its inspection says; used in one thread.

    It takes about 64 MB for GDAL's blocks, and 30 MB on top for what is being read.

    Raises:
        UnsupportedScene, DamagedScene: when it is opened, if the file is another one since.
        DamagedScene: when it is read, with the row and column from which pixels cannot be.
    """
    with open_source(path) as (source, _):
        found = inspection.found
        if (source.width, source.height) != (found["width"], found["height"]):
            raise errors.DamagedScene(
                f"The file was changed since it was looked at: found {source.width:,} x "
                f"{source.height:,} px, expected {found['width']:,} x {found['height']:,}."
            )
        file = _File(source, inspection)
        if inspection.resampled:
            warped = functools.cache(lambda factor: _Warped(file, inspection.geo, factor))
            yield Scene(
                inspection.geo,
                warped(1).read,
                lambda row, rows, factor: warped(factor).read_all(
                    row // factor, -(-rows // factor)
                ),
            )
        else:
            yield Scene(inspection.geo, file.read, file.reduced if file.has_overviews else None)


@contextlib.contextmanager
def open_source(path: Path) -> Iterator[tuple[Any, str]]:
    """A file as rasterio's ``DatasetReader``, and GDAL's name of its format.

    Raises:
        UnsupportedScene: it does not begin as a format that is read.
        DamagedScene: it cannot be opened.
    """
    import rasterio  # noqa: PLC0415, web and supervisor have no use for it

    with path.open("rb") as file:
        start = file.read(16)
    driver = next((name for magic, name in _DRIVERS if start.startswith(magic)), None)
    if driver is None:
        from handlers.reading import kind_of  # noqa: PLC0415, with Pillow, for this alone

        raise errors.UnsupportedScene(
            "The file is no scene that can be read: expected GeoTIFF, JPEG 2000, PNG or JPEG, "
            f"found {path.stat().st_size} bytes of {kind_of(start)}."
        )
    with rasterio.Env(**_GDAL):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a missing georeference
                source = rasterio.open(path.absolute(), driver=driver)
        except Exception as error:  # GDAL's errors have many types
            raise errors.DamagedScene(
                f"The {rasters.called(driver)} cannot be opened: it is cut off or damaged; send "
                "the whole file."
            ) from error
        with source:
            yield source, driver


class Scene:
    """An open scene; a ``Raster``.

    Args:
        read_inside: row, column, rows, columns, all within the scene -> as ``Raster.read``.
        reduced: row (a multiple of factor), rows, factor -> that part of the scene over all
            columns, about as ``reduce_pixels`` would give it, where that costs less.
    """

    def __init__(
        self,
        geo: Geo,
        read_inside: Callable[[int, int, int, int], tuple[np.ndarray, np.ndarray]],
        reduced: Callable[[int, int, int], np.ndarray] | None = None,
    ) -> None:
        self.geo = geo
        self.reduced = reduced
        self._read_inside = read_inside

    def read(self, row: int, column: int, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
        """As ``Raster.read`` says."""
        top, left = max(row, 0), max(column, 0)
        bottom, right = min(row + rows, self.geo.height), min(column + columns, self.geo.width)
        if (top, left, bottom, right) == (row, column, row + rows, column + columns):
            return self._read_inside(row, column, rows, columns)
        pixels = np.zeros((rows, columns, 3), np.uint8)
        valid = np.zeros((rows, columns), bool)
        if top < bottom and left < right:
            part = np.s_[top - row : bottom - row, left - column : right - column]
            pixels[part], valid[part] = self._read_inside(top, left, bottom - top, right - left)
        return pixels, valid


def preview(raster: Raster, most: int = PREVIEW) -> tuple[np.ndarray, float]:
    """A picture of the whole scene, and how many of its pixels one of the scene takes (up to 1).

    Returns:
        uint8 (h, w, 3) in EuroSAT's look, no side longer than ``most``, 0 where there is no data.
    """
    width, height = raster.geo.width, raster.geo.height
    factor = -(-max(width, height) // most)
    reduced = raster.reduced if isinstance(raster, Scene) else None
    lines = factor * max(2**20 // (factor * width), 1)
    parts = []
    for top in range(0, height, lines):
        rows = min(lines, height - top)
        if reduced is not None and factor > 1:
            parts.append(reduced(top, rows, factor))
        else:
            parts.append(reduce_pixels(*raster.read(top, 0, rows, width), factor))
    return np.concatenate(parts), 1 / factor


def reduce_pixels(pixels: np.ndarray, valid: np.ndarray, factor: int) -> np.ndarray:
    """The means of squares of pixels that have data; 0 where none has.

    Args:
        pixels, valid: as ``Raster.read`` gives them; the last squares may be incomplete.
    """
    if factor == 1:
        return pixels

    def total(values: np.ndarray) -> np.ndarray:
        """Sums of squares: those of rows, then of columns; a third of the time of ``reduceat``."""
        for axis in (0, 1):
            values = np.moveaxis(values, axis, 0)
            found = np.zeros((-(-len(values) // factor), *values.shape[1:]), np.uint32)
            for part in (values[first::factor] for first in range(factor)):
                found[: len(part)] += part
            values = np.moveaxis(found, 0, axis)
        return values

    count = np.maximum(total(valid), 1)[..., None]
    means: np.ndarray = (total(pixels) + count // 2) // count
    return means.astype(np.uint8)


def read_bands(
    source: Any, bands: Sequence[int], window: Window, shape: tuple[int, int] | None = None
) -> np.ndarray:
    """Values as they stand in an open file, (rows, columns, bands).

    Args:
        shape: what they are reduced to, by their means or as the file's own smaller copies are.

    Raises:
        DamagedScene: with the row and column from which they cannot be read.
    """
    from rasterio.enums import Resampling  # noqa: PLC0415

    with _damage_told(source, bands, window):
        values: np.ndarray = source.read(
            list(bands),
            window=_window(window),
            out_shape=shape and (len(bands), *shape),
            resampling=Resampling.average if shape else Resampling.nearest,
        )
    return values.transpose(1, 2, 0)


def read_part(
    source: Any,
    bands: Sequence[int],
    mask: tuple[int, int],
    window: Window,
    shape: tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Values as of ``read_bands``, and bool (rows, columns): has data.

    Pixels that are 0 in all three bands have none: so it is in Sentinel-2's products and in
    EuroSAT, and most that is written of them keeps it without saying so.

    Args:
        mask: as of ``Inspection``.
    """
    values = read_bands(source, bands, window, shape)
    seen = None
    if mask[0]:
        seen = read_bands(source, [mask[0]], window, shape)[..., 0] > mask[1]
    with _damage_told(source, bands, window):
        valid = rasters.valid_pixels(source, values, seen, _window(window))
    if values.dtype == np.uint8:
        given = np.asarray(values.any(axis=2))
        valid = given if valid is None else valid & given
    assert valid is not None  # 0 counts in every other type
    return values, valid


def pieces(source: Any, window: Window) -> Iterator[Window]:
    """Cuts a part of an open file along its blocks, so that no piece is much larger than
    ``PIECE`` and GDAL need not keep many blocks at once.
    """
    row, column, rows, columns = window
    block_rows, block_columns = source.block_shapes[0]
    pixel = 3 * np.dtype(source.dtypes[0]).itemsize
    most = max(PIECE // pixel, 1)  # px
    lines = max(most // (block_rows * columns), 1) * block_rows
    wide = columns
    if block_rows * columns > most:
        wide = max(most // (block_rows * block_columns), 1) * block_columns
    for top, bottom in _cuts(row, row + rows, lines):
        for left, right in _cuts(column, column + columns, wide):
            yield top, left, bottom - top, right - left


class _File:
    """The pixels of an open file as they lie in it, in EuroSAT's look."""

    def __init__(self, source: Any, inspection: Inspection) -> None:
        self.source = source
        self._bands, self._mask = inspection.bands, inspection.mask
        self._look = look_of(inspection, np.dtype(source.dtypes[0]))

    @property
    def has_overviews(self) -> bool:
        """Whether the file holds smaller copies of itself."""
        return bool(self.source.overviews(self._bands[0]))

    def read(self, row: int, column: int, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
        """As ``Raster.read``, within the file."""
        pixels = np.empty((rows, columns, 3), np.uint8)
        valid = np.empty((rows, columns), bool)
        for piece in pieces(self.source, (row, column, rows, columns)):
            top, left = piece[0] - row, piece[1] - column
            part = np.s_[top : top + piece[2], left : left + piece[3]]
            values, valid[part] = read_part(self.source, self._bands, self._mask, piece)
            self._look(values, valid[part], pixels[part])
        return pixels, valid

    def reduced(self, row: int, rows: int, factor: int) -> np.ndarray:
        """As ``Scene`` says of it."""
        width = self.source.width
        shape = (-(-rows // factor), -(-width // factor))
        window = (row, 0, rows, width)
        values, valid = read_part(self.source, self._bands, self._mask, window, shape)
        pixels = np.empty((*shape, 3), np.uint8)
        self._look(values, valid, pixels)
        return pixels


Look = Callable[[np.ndarray, np.ndarray, np.ndarray], None]


def look_of(inspection: Inspection, dtype: np.dtype) -> Look:
    """What brings values (H, W, 3) of a type, where valid (H, W), to EuroSAT's look.

    The third argument takes it, uint8 (H, W, 3); 0 where not valid.
    """
    reading = None
    if inspection.slope is not None and inspection.intercept is not None:
        reading = Reading(
            inspection.scale,
            inspection.look,
            np.array(inspection.slope),
            np.array(inspection.intercept),
        )
    if reading is None or dtype.itemsize <= 2:
        whole = np.dtype(f"u{dtype.itemsize}")
        table = np.arange(2 ** (8 * dtype.itemsize)).astype(whole).view(dtype)
        tables = np.repeat(table[:, None], 3, axis=1)
        if reading is not None:
            tables = reading.apply(tables)
        return _by_table(np.ascontiguousarray(tables.T), whole)
    return _by_arithmetic(reading)


def _by_table(tables: np.ndarray, whole: np.dtype) -> Look:
    """Each value looked up: a tenth of the time of the arithmetic, and the same."""

    def look(values: np.ndarray, valid: np.ndarray, pixels: np.ndarray) -> None:
        lines = max(2**15 // values.shape[1], 1)  # what a CPU keeps near takes half the time
        for part in (slice(top, top + lines) for top in range(0, len(values), lines)):
            for band, table in enumerate(tables):
                pixels[part, :, band] = np.take(table, values[part, :, band].view(whole))
            if not valid[part].all():
                pixels[part][~valid[part]] = 0

    return look


def _by_arithmetic(reading: Reading) -> Look:
    def look(values: np.ndarray, valid: np.ndarray, pixels: np.ndarray) -> None:
        lines = max(2**18 // values.shape[1], 1)
        for part in (slice(top, top + lines) for top in range(0, len(values), lines)):
            seen = valid[part][..., None]
            pixels[part] = np.where(seen, reading.apply(np.where(seen, values[part], 0)), 0)

    return look


class _Warped:
    """The pixels of a file as they lie on a map that has others.

    They are warped in EuroSAT's look, with what has data as their opacity: no pixel takes anything
    from one without data.

    Args:
        factor: how many pixels of the map, down and across, are one here.
    """

    def __init__(self, file: _File, geo: Geo, factor: int) -> None:
        from rasterio.crs import CRS  # noqa: PLC0415
        from rasterio.transform import Affine  # noqa: PLC0415

        self._file = file
        self._geo = geo
        self._factor = factor
        self._side = _BLOCK if factor == 1 else max(2 * _BLOCK // factor, 64)
        self._height, self._width = -(-geo.height // factor), -(-geo.width // factor)
        self._crs = CRS.from_wkt(geo.crs)
        pixel = GSD * factor
        self._transform = Affine(pixel, 0, geo.origin[0], 0, -pixel, geo.origin[1])
        self._kept: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._most_kept = 2 * (self._width // self._side + 1)

    def read(self, row: int, column: int, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
        """As ``Raster.read``, within the map."""
        pixels = np.empty((rows, columns, 3), np.uint8)
        valid = np.empty((rows, columns), bool)
        for top, bottom in _cuts(row, row + rows, self._side):
            for left, right in _cuts(column, column + columns, self._side):
                first, start = top // self._side * self._side, left // self._side * self._side
                block = self._block(first, start)
                block = block[:, top - first : bottom - first, left - start : right - start]
                part = np.s_[top - row : bottom - row, left - column : right - column]
                seen = valid[part] = block[3] >= _HALF
                pixels[part] = np.where(seen, block[:3], 0).transpose(1, 2, 0)
        return pixels, valid

    def read_all(self, row: int, rows: int) -> np.ndarray:
        """Pixels of all columns."""
        return self.read(row, 0, rows, self._width)[0]

    def _block(self, top: int, left: int) -> np.ndarray:
        """Red, green, blue and opacity of a block, uint8 (4, rows, columns)."""
        if (top, left) in self._kept:
            self._kept.move_to_end((top, left))
            return self._kept[top, left]
        if len(self._kept) >= self._most_kept:
            self._kept.popitem(last=False)
        self._kept[top, left] = found = self._warp(top, left)
        return found

    def _warp(self, top: int, left: int) -> np.ndarray:
        from rasterio.enums import Resampling  # noqa: PLC0415
        from rasterio.warp import reproject  # noqa: PLC0415

        rows = min(self._side, self._height - top)
        columns = min(self._side, self._width - left)
        found = np.zeros((4, rows, columns), np.uint8)
        factor, source = self._factor, self._file.source
        part = (top * factor, left * factor, rows * factor, columns * factor)
        window = window_in_file(source, self._geo, part, _REACH * factor)
        if window is None:
            return found
        pixels, valid = self._file.read(*window)
        place = source.transform @ source.transform.translation(window[1], window[0])
        if factor > 1:
            pixels = reduce_pixels(pixels, valid, factor)
            valid = np.asarray(pixels.any(axis=2))
            place @= place.scale(factor)
        reproject(
            np.stack([*pixels.transpose(2, 0, 1), valid * np.uint8(255)]),
            found,
            src_transform=place,
            src_crs=source.crs,
            dst_transform=self._transform @ self._transform.translation(left, top),
            dst_crs=self._crs,
            # bilinear blurs what tells crops apart: of tiles that were warped to lon/lat and are
            # warped back baseline 2.0 names 2.4 points fewer rightly, with cubic 1.7
            resampling=Resampling.cubic,
            src_alpha=4,
            dst_alpha=4,
            warp_mem_limit=32,
        )
        return found


def window_in_file(source: Any, geo: Geo, window: Window, margin: int = 0) -> Window | None:
    """The part of an open file that a part of its map is made from; None: it has none.

    Args:
        margin: px of the file around it.
    """
    from rasterio.crs import CRS  # noqa: PLC0415
    from rasterio.warp import transform  # noqa: PLC0415

    top, left, rows, columns = window
    x, y = geo.origin
    outer = zip(*outline(columns, rows), strict=True)
    points = [(x + (left + right) * GSD, y - (top + down) * GSD) for right, down in outer]
    xs, ys = transform(CRS.from_wkt(geo.crs), source.crs, *zip(*points, strict=True))
    inside = np.array([~source.transform @ place for place in zip(xs, ys, strict=True)])
    inside = inside[np.isfinite(inside).all(axis=1)]
    if not len(inside):
        return None
    first = (np.floor(inside.min(axis=0)).astype(int) - margin).clip(0)
    last = np.ceil(inside.max(axis=0)).astype(int) + margin
    last = np.minimum(last, (source.width, source.height))
    if (first >= last).any():
        return None
    return int(first[1]), int(first[0]), int(last[1] - first[1]), int(last[0] - first[0])


def _window(window: Window) -> Any:
    from rasterio.windows import Window as RasterioWindow  # noqa: PLC0415

    row, column, rows, columns = window
    return RasterioWindow(column, row, columns, rows)


def _cuts(start: int, end: int, step: int) -> Iterator[tuple[int, int]]:
    """``start`` to ``end``, cut at all multiples of ``step``."""
    while start < end:
        next_cut = min((start // step + 1) * step, end)
        yield start, next_cut
        start = next_cut


@contextlib.contextmanager
def _damage_told(source: Any, bands: Sequence[int], window: Window) -> Iterator[None]:
    """Makes a DamagedScene of what GDAL raises while a part of a file is read."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # GDAL's errors have many types
        row, column = _first_damaged(source, bands, window)
        raise errors.DamagedScene(
            f"The file is cut off or damaged at row {row:,}, column {column:,} of {source.height:,}"
            f" x {source.width:,}; send the whole file."
        ) from error


def _first_damaged(source: Any, bands: Sequence[int], window: Window) -> tuple[int, int]:
    """Row and column where the first block of a part begins that cannot be read."""
    row, column, rows, columns = window
    block_rows, block_columns = source.block_shapes[0]
    for top, bottom in _cuts(row, row + rows, block_rows):
        for left, right in _cuts(column, column + columns, block_columns):
            try:
                source.read(list(bands), window=_window((top, left, bottom - top, right - left)))
            except Exception:  # noqa: BLE001, GDAL's errors have many types
                return top, left
    return row, column

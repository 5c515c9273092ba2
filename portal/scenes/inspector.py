"""The process in which ``portal.scenes.inspection`` looks into files: lines of JSON in and out.

    python -m portal.scenes.inspector 600

It ends when it is asked nothing for so many seconds. Decoders are fed with what anybody sends: each
file has a child of its own, forked from this process, which itself never opens one. The child gets
little memory and little time, and a crash is an answer about this file alone.
"""

import json
import logging
import os
import signal
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, NoReturn

import numpy as np

from handlers import rasters
from handlers.contract.image_body import AUTO
from handlers.radiometry import GAIN25_WHITE, TCI_WHITE, Reading, UnknownScale, find_common_reading
from portal import errors
from portal.scenes import raster
from portal.scenes.grid import Grid
from portal.scenes.ground import find_ground
from portal.scenes.picture import png
from portal.scenes.scene import GSD, SIDE, SMALL_SCENE, STRIDES, Geo, Inspection, Options

logger = logging.getLogger(__name__)

MEMORY = 400_000_000  # bytes of addresses, on top of Python, NumPy and GDAL themselves
CPU_SECONDS = 45  # a large JPEG 2000 takes five
MOST_WRITTEN = 16_000_000  # bytes of a file: a picture, an answer, a log
MOST_SAID = 1_000_000  # bytes of an answer or a log that are read
MOST_SIDE = 12_000  # px
MOST_WINDOWS = 200_000
LEAST_VALID = SIDE * SIDE  # px
MOST_BANDS = 1000
MOST_BLOCK = 100_000_000  # bytes that GDAL takes to unpack a block of the file
MOST_AT_ONCE = 16_000_000  # px of pictures that can be unpacked only as a whole
MOST_TILES = 100  # that a sample is made of
SPOTS, JPEG2000_SPOTS = 10, 4  # along each side of the scene; those of JPEG 2000 take long
FLAT = 2  # the largest range of 8 bits that counts as one colour
SHOWN = 512  # px, a side of the part that is shown
_SCALES = {
    "1": "reflectance, 0 to 1",
    "1000": "reflectance x 1000",
    "10000": "reflectance x 10000",
    "10000-offset": "reflectance x 10000 + 1000",
    "65535": "reflectance x 65535",
    "unit": "a picture, 0 to 1",
    "255": "a picture, 0 to 255",
    "high-byte": "a picture, 0 to 65535",
}
_LEVELS = {
    "l1c": "reflectance at the top of the atmosphere (L1C)",
    "l2a": "reflectance at the surface (L2A)",
    "eurosat": "EuroSAT's own colours",
}
_PICTURES = {
    "tci": f"a true-colour image (tci, white is {TCI_WHITE:.3g})",
    "gain25": f"a true-colour image (gain25, white is {GAIN25_WHITE:.3g})",
}


@dataclass
class Sample:
    """What was seen of a file's pixels.

    Attributes:
        tiles: values with data, (N, 3) each.
        valid: share of px with data.
        zeros: whether 0 in all bands was seen.
        mask: as of ``Inspection``; and what it was taken for, "" where that is plain.
    """

    tiles: list[np.ndarray]
    valid: float
    zeros: bool
    mask: tuple[int, int]
    taken_for: str

    @property
    def pixels(self) -> int:
        """The number of px with data."""
        return sum(map(len, self.tiles))

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest value."""
        return (
            float(min(tile.min() for tile in self.tiles)),
            float(max(tile.max() for tile in self.tiles)),
        )

    @property
    def flat(self) -> bool:
        """Whether all that has data is of one colour."""
        least = np.min([tile.min(axis=0) for tile in self.tiles], axis=0).astype(float)
        most = np.max([tile.max(axis=0) for tile in self.tiles], axis=0).astype(float)
        limit = FLAT if self.tiles[0].dtype == np.uint8 else 0
        return bool((most - least).max() <= limit)

    @property
    def enough(self) -> bool:
        """Whether there is something to see."""
        return self.pixels >= LEAST_VALID and not self.flat


def main() -> int:
    """Answer questions of ``portal.scenes.inspection``, until there are no more."""
    logging.basicConfig(level=logging.INFO)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # without a word: Ctrl-C is answered by the parent
    _load()
    while True:
        signal.alarm(int(sys.argv[1]))
        question = sys.stdin.readline()
        signal.alarm(0)
        if not question:
            return 0
        with TemporaryFile() as said, TemporaryFile() as log:
            child = os.fork()
            if child == 0:
                _answer(json.loads(question), said, log)
            _, status = os.waitpid(child, 0)
            found = [os.waitstatus_to_exitcode(status), *map(_read, (said, log))]
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


def _load() -> None:
    """What takes a child the longest: code that is imported when it is first used."""
    import numpy.ma  # noqa: F401, PLC0415
    import rasterio.warp  # noqa: PLC0415

    png(np.zeros((1, 1, 3), np.uint8))
    with rasterio.Env():  # GDAL's formats
        pass


def _answer(asked: dict[str, Any], said: IO[bytes], log: IO[bytes]) -> NoReturn:
    """Look into a file, in a child; this ends it."""
    code = 1
    try:
        with Path(os.devnull).open("rb") as nothing:
            for number, file in enumerate((nothing, said, log)):
                os.dup2(file.fileno(), number)
        sys.stdout.write(json.dumps(_look(asked)))
        sys.stdout.flush()
        code = 0
    except Exception:
        logger.exception("a file cannot be looked into")
    finally:
        os._exit(code)  # never back to where the next file is waited for


def _look(asked: dict[str, Any]) -> dict[str, Any]:
    """What was found, or what is wrong, for JSON."""
    previews = asked["previews"]
    _limit(asked["seconds"])
    try:
        return look_into(
            Path(asked["path"]),
            Options.from_dict(asked["options"]),
            None if previews is None else Path(previews),
        ).to_dict()
    except (errors.UnsupportedScene, errors.UnusableScene) as problem:
        return {"error": type(problem).__name__, "message": str(problem)}
    except MemoryError:
        sentence = (
            "The file takes too much memory to unpack; export it again, as a GeoTIFF in tiles."
        )
        return {"error": errors.UnusableScene.__name__, "message": sentence}


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(MOST_SAID).decode(errors="replace")


def look_into(path: Path, options: Options, previews: Path | None = None) -> Inspection:
    """As ``portal.scenes.inspection.inspect``, in this process."""
    with raster.open_source(path) as (source, driver):
        _check_file(path, source, driver)
        bands, why = _bands(source, options)
        ground = find_ground(source, force=options.force)
        stride, windows = _stride(ground.geo, options.stride)
        sample = _sample(source, driver, bands)
        if not sample.enough:
            sample = _whole(source, bands, sample)
        found = {
            "format": rasters.called(driver),
            "width": source.width,
            "height": source.height,
            "bands": source.count,
            "dtype": source.dtypes[0],
            "crs": ground.crs,
            "pixel": None if ground.pixel is None else round(float(np.mean(ground.pixel)), 3),
            "minimum": sample.range[0],
            "maximum": sample.range[1],
            "valid": sample.valid,
            "bytes": path.stat().st_size,
        }
        scale, look, reading, guessed = _reading(sample, options)
        assumed = {**why, **_no_data(source, sample), **ground.assumed, **guessed}
    inspection = Inspection(
        found=found,
        assumed=assumed,
        warnings=ground.warnings,
        geo=ground.geo,
        bands=bands,
        scale=scale,
        look=look,
        slope=None if reading is None else _three(reading.slope),
        intercept=None if reading is None else _three(reading.intercept),
        stride=stride,
        windows=windows,
        mask=sample.mask,
        resampled=ground.resampled,
    )
    if previews is not None:
        _show(path, inspection, previews)
    return inspection


def _limit(seconds: int) -> None:
    """Bound what this process takes from now on, where the system can."""
    signal.alarm(seconds)
    try:
        import resource  # noqa: PLC0415, not in Windows

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        return
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_WRITTEN, MOST_WRITTEN))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _check_file(path: Path, source: Any, driver: str) -> None:
    """Refuse what cannot be mapped whatever its pixels are, or takes too much to unpack."""
    size = f"{source.width:,} x {source.height:,} px"
    if max(source.width, source.height) > MOST_SIDE:
        raise errors.UnusableScene(
            f"The scene is too large: found {size}, expected at most {MOST_SIDE:,} px a side; cut "
            "it into parts."
        )
    if problem := rasters.unusable(source, driver):
        raise errors.UnusableScene(f"The scene cannot be mapped: {problem}.")
    if source.count > MOST_BANDS or rasters.bytes_of_block(source, driver) > MOST_BLOCK:
        rows, columns = source.block_shapes[0]
        raise errors.UnusableScene(
            f"The scene takes too much memory to unpack: found blocks of {columns:,} x {rows:,} px "
            f"in {source.count} bands; save it in tiles of 512 px, with the bands that are needed."
        )
    if source.width * source.height > MOST_AT_ONCE and _interlaced(path, driver):
        raise errors.UnusableScene(
            f"The scene takes too much memory to unpack: found {size} in an interlaced or "
            f"progressive {driver}; save it as a GeoTIFF in tiles, or as a plain {driver}."
        )


def _interlaced(path: Path, driver: str) -> bool:
    """Whether a PNG or JPEG can be unpacked only as a whole."""
    with path.open("rb") as file:
        if driver == "PNG":
            file.seek(28)
            return file.read(1) == b"\1"
        at = 2 if driver == "JPEG" else path.stat().st_size
        while True:
            file.seek(at)
            head = file.read(4)
            if len(head) < 4 or head[0] != 0xFF or 0xD8 <= head[1] <= 0xDA:
                return False
            if head[1] in (0xC2, 0xC6, 0xCA, 0xCE):
                return True
            at += 1 if head[1] == 0xFF else 2 + int.from_bytes(head[2:])


def _bands(source: Any, options: Options) -> tuple[tuple[int, int, int], dict[str, str]]:
    if options.bands is None:
        (red, green, blue), why = rasters.find_bands(source)
        return (red, green, blue), {"bands": why} if why else {}
    known = all(1 <= band <= source.count for band in options.bands)
    if not known or len(set(options.bands)) < 3:
        raise errors.UnusableScene(
            f"The scene cannot be mapped with bands {', '.join(map(str, options.bands))}: found "
            f"{source.count} bands, expected the numbers of red, green and blue, from 1."
        )
    return options.bands, {}


def _stride(geo: Geo, asked: int | None) -> tuple[int, int]:
    """The stride, and the number of windows that it makes."""
    size = f"{geo.width:,} x {geo.height:,} px of {GSD:g} m"
    if min(geo.width, geo.height) < SIDE:
        raise errors.UnusableScene(
            f"The scene is too small: found {size}, expected at least {SIDE} x {SIDE}."
        )
    if max(geo.width, geo.height) > MOST_SIDE:
        raise errors.UnusableScene(
            f"The scene is too large: found {size}, expected at most {MOST_SIDE:,} px a side; cut "
            "it into parts."
        )
    stride = asked or (32 if max(geo.width, geo.height) <= SMALL_SCENE else 64)
    if stride not in STRIDES:
        raise errors.UnusableScene(
            f"A stride of {stride} is not possible: expected one of {', '.join(map(str, STRIDES))}."
        )
    windows = {one: Grid(geo.height, geo.width, one).windows for one in STRIDES}
    if windows[stride] > MOST_WINDOWS:
        fitting = [f"{one} ({windows[one]:,})" for one in STRIDES if windows[one] <= MOST_WINDOWS]
        raise errors.UnusableScene(
            f"A stride of {stride} is too small for {size}: it makes {windows[stride]:,} windows, "
            f"expected at most {MOST_WINDOWS:,}; send it with stride={' or '.join(fitting)}."
        )
    return stride, windows[stride]


def _sample(source: Any, driver: str, bands: tuple[int, int, int]) -> Sample:
    """What stands in squares that are spread over the scene."""
    most = JPEG2000_SPOTS if driver == "JP2OpenJPEG" else SPOTS
    side = min(SIDE, source.width, source.height)
    windows = [
        (row, column, side, side)
        for row in _spread(source.height, side, most)
        for column in _spread(source.width, side, most)
    ]
    mask, taken_for = (0, 0), ""
    if extra := rasters.extra_band(source, bands):
        seen = np.stack([raster.read_bands(source, [extra], window) for window in windows])
        above, taken_for = rasters.judge_extra(
            seen, soft=driver == "PNG" and source.dtypes[0] == "uint8"
        )
        if above is not None:
            mask = (extra, above)
        elif not taken_for:
            mask = (extra, 0)  # one value here may be another elsewhere
    return _gather(source, bands, windows, mask, taken_for)


def _whole(source: Any, bands: tuple[int, int, int], sample: Sample) -> Sample:
    """What stands in a scene of which a sample has too little to see; all of it, if need be."""
    windows = raster.pieces(source, (0, 0, source.height, source.width))
    sample = _gather(source, bands, windows, sample.mask, sample.taken_for, stop=True)
    if not sample.pixels:
        raise errors.UnusableScene(
            f"The scene is empty: all {source.width:,} x {source.height:,} px are 0 or no data."
        )
    if sample.pixels < LEAST_VALID:
        raise errors.UnusableScene(
            f"The scene is nearly empty: found {sample.pixels:,} px with data, expected at least "
            f"{LEAST_VALID:,} ({SIDE} x {SIDE})."
        )
    if sample.flat:
        raise errors.UnusableScene("There is nothing to see: the whole scene has one colour.")
    return sample


def _gather(
    source: Any,
    bands: tuple[int, int, int],
    windows: Iterable[raster.Window],
    mask: tuple[int, int],
    taken_for: str,
    *,
    stop: bool = False,
) -> Sample:
    """What stands in parts of a file.

    Args:
        stop: once there is something to see.
    """
    sample = Sample([], 0.0, zeros=False, mask=mask, taken_for=taken_for)
    pixels = 0
    for window in windows:
        values, valid = raster.read_part(source, bands, mask, window)
        pixels += valid.size
        seen = int(np.count_nonzero(valid))
        sample.valid += seen
        sample.zeros = sample.zeros or (seen < valid.size and not values.any(axis=2).all())
        if seen and not stop:
            sample.tiles.append(values[valid])
        elif seen:
            # of what was not enough, the first stand for all
            loose = np.concatenate([*sample.tiles, values[valid]])
            sample.tiles = [loose[: MOST_TILES * LEAST_VALID]]
            if sample.enough:
                break
            sample.tiles = [loose[:LEAST_VALID]]
    sample.valid /= pixels
    if stop and sample.tiles:
        (loose,) = sample.tiles
        sample.tiles = np.array_split(loose, max(len(loose) // LEAST_VALID, 1))
    return sample


def _spread(length: int, side: int, most: int) -> list[int]:
    """Where squares begin that are spread evenly over a length, without overlap."""
    count = min(length // side, most)
    if count == 1:
        return [(length - side) // 2]
    return [step * (length - side) // (count - 1) for step in range(count)]


def _reading(sample: Sample, options: Options) -> tuple[str, str, Reading | None, dict[str, str]]:
    """Scale, look, and how values are read (None: as they are); and what of it is a guess."""
    scale, look = options.scale, options.look
    bits8 = sample.tiles[0].dtype == np.uint8
    if bits8 and scale in (AUTO, "255"):
        if look == "eurosat":
            return "255", look, None, {}
        scale, look = "255", "tci" if look == AUTO else look
    fullest = max(map(len, sample.tiles))
    tiles = [tile for tile in sample.tiles if 2 * len(tile) >= fullest]
    try:
        reading = find_common_reading(tiles, scale, look)
    except UnknownScale as problem:
        raise errors.UnusableScene(f"It is not clear what the values mean: {problem}.") from problem
    guessed = {}
    if options.scale == AUTO and not bits8:
        guessed["scale"] = _SCALES[reading.scale]
    picture = reading.scale in ("unit", "255", "high-byte") and reading.look != "eurosat"
    if picture:
        kind = _PICTURES.get(look, _PICTURES["tci"])
        guessed["look"] = f"{kind} of {_LEVELS[reading.look]}"
        if options.look == AUTO:
            guessed["look"] += "; its values alone do not tell, choose another look if it is none"
    elif options.look == AUTO:
        guessed["look"] = _LEVELS[reading.look]
    return reading.scale, reading.look, reading, guessed


def _no_data(source: Any, sample: Sample) -> dict[str, str]:
    """What was taken for no data that nothing in the file calls so."""
    assumed = {"fourth band": sample.taken_for} if sample.taken_for else {}
    if sample.zeros and source.nodata != 0:
        assumed["no data"] = "pixels of 0 in red, green and blue"
    return assumed


def _three(numbers: np.ndarray) -> tuple[float, float, float]:
    red, green, blue = map(float, numbers)
    return red, green, blue


def _show(path: Path, inspection: Inspection, folder: Path) -> None:
    """Write pictures of one part of the scene, as the file has it and as the model sees it."""
    geo = inspection.geo
    rows, columns = min(SHOWN, geo.height), min(SHOWN, geo.width)
    best, top, left, pixels = -1.0, 0, 0, np.empty(0, np.uint8)
    with raster.open_raster(path, inspection) as scene:
        for down, right in ((2, 2), (1, 1), (1, 3), (3, 1), (3, 3)):  # quarters of the way
            window = ((geo.height - rows) * down // 4, (geo.width - columns) * right // 4)
            seen, valid = scene.read(*window, rows, columns)
            if valid.mean() > best:
                best, (top, left), pixels = float(valid.mean()), window, seen
            if best > 0.9:
                break
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "as-the-model-sees.png").write_bytes(png(pixels))
    part: raster.Window | None = (top, left, rows, columns)
    with raster.open_source(path) as (source, _):
        if inspection.resampled:
            part = raster.window_in_file(source, geo, (top, left, rows, columns))
        if part is not None:
            larger = max(max(part[2:]) / SHOWN, 1)
            shape = (max(int(part[2] / larger), 1), max(int(part[3] / larger), 1))
            values, valid = raster.read_part(
                source, inspection.bands, inspection.mask, part, shape if larger > 1 else None
            )
            (folder / "as-it-is.png").write_bytes(png(_as_it_is(values, valid)))


def _as_it_is(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """8 bits as they are; others from the darkest to the brightest but for 2 %, as viewers do."""
    if values.dtype != np.uint8 and valid.any():
        least, most = np.percentile(values[valid], (2, 98))
        spread = max(most - least, 1e-9)
        values = ((np.where(valid[..., None], values, least) - least) * (255 / spread)).clip(0, 255)
    return np.where(valid[..., None], values, 0).astype(np.uint8)


if __name__ == "__main__":
    sys.exit(main())

"""Images without labels: of any folder or zip, and windows of scenes."""

import io
import logging
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from handlers import rasters
from handlers.radiometry import UnknownScale, find_common_reading
from handlers.reading import BadImage, NothingToSee, read
from handlers.vision import resize
from training.dataset.eurosat import CLASS_COUNTS, TILE_SIZE, BadData, open_zip
from training.dataset.folders import SUFFIXES

logger = logging.getLogger(__name__)
_TIFFS = (".tif", ".tiff")
_WITNESSES = 60  # windows of a scene by which is told what its values mean
_File = Path | zipfile.Path


def load_images(location: Path, size: int, stride: int = TILE_SIZE) -> np.ndarray:
    """All images in a folder of any depth, in a zip, or in one file.

    A TIFF that says where it lies and is larger than a tile is a scene: its windows are images,
    as far as all of their pixels have data. Everything else is one image, resized as the handler
    does it. What cannot be read, and what has one colour, is left out, counted and logged.

    Args:
        size: side of what is returned, px.
        stride: px from one window of a scene to the next.

    Returns:
        uint8 (N, size, size, 3), RGB; 8 bits as they are, others in EuroSAT's look.

    Raises:
        BadData: there is nothing, nothing that can be read, or tiles of EuroSAT, among which would
            be those that are kept for tests.
    """
    files = list(_files(location))
    if known := [file.name for file in files if _is_published(file.name)]:
        raise BadData(
            f"{location} has {len(known)} files called as EuroSAT's tiles are, {known[0]} first, "
            "some of which are kept for tests: leave `images` empty, set EUROSAT_DIR to the folder "
            "and name a `split`, whose training tiles are taken then"
        )
    found: list[np.ndarray] = []
    left_out: Counter[str] = Counter()
    for file in tqdm(files, "images", unit="file"):
        try:
            found.extend(resize(pixels[None], size)[0] for pixels in _images(file, stride))
        except NothingToSee:
            left_out["of one colour or without data"] += 1
        except (BadImage, OSError, RuntimeError, zipfile.BadZipFile) as problem:
            logger.warning("%s is left out: %s", file, problem)
            left_out["unreadable"] += 1
    told = ", ".join(f"{count:,} {why}" for why, count in left_out.items()) or "none"
    if not found:
        raise BadData(
            f"{location}: expected {', '.join(SUFFIXES)} images, found {len(files)} files of that "
            f"kind; left out: {told}"
        )
    logger.info("%s: %d images of %d files; left out: %s", location, len(found), len(files), told)
    return np.stack(found)


def _files(location: Path) -> Iterator[_File]:
    """Files of images by their suffix, zips opened; nothing hidden."""
    if location.is_dir():
        # by path, so that a batch is the same wherever the folder was copied
        for path in sorted(location.rglob("*")):
            if _is_hidden(path.relative_to(location).parts) or not path.is_file():
                continue
            if path.suffix.lower() == ".zip":
                yield from _in_zip(path)
            elif path.suffix.lower() in SUFFIXES:
                yield path
    elif not location.exists():
        raise BadData(f"images: expected a folder, a zip or an image; {location} does not exist")
    elif location.suffix.lower() == ".zip":
        yield from _in_zip(location)
    else:
        yield location


def _in_zip(path: Path) -> Iterator[_File]:
    archive = open_zip(path)
    for name in sorted(archive.namelist()):
        parts = name.replace("\\", "/").split("/")
        if name.lower().endswith(SUFFIXES) and not _is_hidden(parts):
            yield zipfile.Path(archive, name)


def _is_hidden(parts: Iterable[str]) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _is_published(name: str) -> bool:
    """Whether EuroSAT has a tile that is called so."""
    label, _, number = name.rpartition("_")
    digits = number.removesuffix(".jpg")
    published = number.endswith(".jpg") and digits.isdecimal()
    return published and 0 < int(digits) <= CLASS_COUNTS.get(label, 0)


def _images(file: _File, stride: int) -> list[np.ndarray]:
    """The images of a file, uint8 (H, W, 3) each."""
    if file.suffix.lower() not in _TIFFS:
        return [read(file.read_bytes()).pixels]
    import rasterio  # noqa: PLC0415 - 0.2 s, and not needed for JPEGs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a missing georeference
        opened = file if isinstance(file, Path) else io.BytesIO(file.read_bytes())
        with rasterio.open(opened) as source:
            if rasters.located(source) and min(source.shape) > TILE_SIZE:
                return _windows(source, stride)
    return [read(file.read_bytes()).pixels]


def _windows(source: Any, stride: int) -> list[np.ndarray]:
    """Those of an open scene whose pixels all have data, uint8 (64, 64, 3) each."""
    from rasterio.windows import Window  # noqa: PLC0415

    if why := rasters.unusable(source, source.driver):
        raise BadImage(why)
    bands, _ = rasters.find_bands(source)
    extra = rasters.extra_band(source, bands)
    found = []
    for top in range(0, source.height - TILE_SIZE + 1, stride):
        for left in range(0, source.width - TILE_SIZE + 1, stride):
            window = Window(left, top, TILE_SIZE, TILE_SIZE)
            values = source.read(bands, window=window).transpose(1, 2, 0)
            seen = None
            if extra:
                alpha = source.read(extra, window=window)
                above, _ = rasters.judge_extra(alpha, soft=False)
                seen = None if above is None else alpha > above
            valid = rasters.valid_pixels(source, values, seen, window)
            # 0 is no data in true-colour images, too
            if (valid is None or valid.all()) and values.any(axis=2).all():
                found.append(values)
    if not found:
        raise NothingToSee("no window of the scene has data in all of its pixels")
    if found[0].dtype == np.uint8:
        return found
    some = found[:: -(-len(found) // _WITNESSES)]
    try:
        reading = find_common_reading([values.reshape(-1, 3) for values in some])
    except UnknownScale as problem:
        raise BadImage(str(problem)) from problem
    return [reading.apply(values) for values in found]

"""What an open raster says of its bands, and where it has data: for tiles and for scenes.

``source`` is rasterio's ``DatasetReader``; rasterio itself is not imported here.
"""

import contextlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

TYPES = {"uint8", "uint16", "int16", "uint32", "int32", "float32", "float64"}
# Bands of EuroSAT's multispectral tiles, in their order; the first three of this are the picture.
_SENTINEL2_RGB = (4, 3, 2)
# As programs name the bands: "B04", "B4", "B04_10m", "SR_B4", "Red".
_NAMES = tuple(
    re.compile(rf"(.*[^a-z0-9])?({names})([^a-z0-9].*)?")
    for names in ("b0?4|red", "b0?3|green", "b0?2|blue")
)


def called(kind: str) -> str:
    """A format's name for people, of GDAL's."""
    return {"GTiff": "TIFF", "JP2OpenJPEG": "JPEG 2000"}.get(kind, kind)


def unusable(source: Any, kind: str) -> str:
    """Why no picture can be made of a raster's bands; "" if it can."""
    types = sorted(set(source.dtypes))
    if source.count < 3:
        return too_few_bands(called(kind), source.count, ", ".join(types))
    if len(types) > 1 or types[0] not in TYPES:
        return f"found bands of {', '.join(types)}, expected one of {', '.join(sorted(TYPES))}"
    return ""


def too_few_bands(form: str, count: int, kind: str) -> str:
    """The sentence about a format, a number of bands, and their type."""
    bands = "single-band image" if count == 1 else f"{count} bands"
    return f"{bands} ({form}, {kind}): expected red, green and blue; send a true-colour composite"


def find_bands(source: Any) -> tuple[list[int], str]:
    """Numbers of the red, green and blue band, and how they are known, where that is a guess."""
    names = [(name or "").strip().lower() for name in source.descriptions]
    names = ["" if "edge" in name else name for name in names]  # red edge is another band
    named = [next((i for i, n in enumerate(names, 1) if form.fullmatch(n)), 0) for form in _NAMES]
    if all(named):
        return named, f"{', '.join(map(str, named))} by their names"
    found = colours(source)
    if all(colour in found for colour in ("red", "green", "blue")):
        return [found.index(colour) + 1 for colour in ("red", "green", "blue")], ""
    if source.count in (12, 13):  # L2A lacks the tenth
        why = f"4, 3, 2 of {source.count}, as EuroSAT's multispectral tiles have them"
        return list(_SENTINEL2_RGB), why
    return [1, 2, 3], "" if source.count == 3 else f"the first three of {source.count}"


def colours(source: Any) -> list[str]:
    """What each band is said to be; nothing where broken metadata keep GDAL from telling."""
    with contextlib.suppress(Exception):
        return [colour.name for colour in source.colorinterp]
    return []


def located(source: Any) -> bool:
    """Whether it is known where the raster lies."""
    with contextlib.suppress(Exception):
        return source.crs is not None
    return False


def bytes_of_block(source: Any, kind: str) -> int:
    """How much memory GDAL takes to unpack one block."""
    rows, columns = source.block_shapes[0]
    return int(rows * columns * bytes_of_pixel(source, kind))


def bytes_of_pixel(source: Any, kind: str) -> int:
    """How much memory GDAL takes to unpack one pixel of a block."""
    together = source.count if source.interleaving.name == "pixel" or kind != "GTiff" else 1
    # OpenJPEG's values are int32; blocks of a TIFF are there twice
    each = 4 if kind == "JP2OpenJPEG" else 2 * np.dtype(source.dtypes[0]).itemsize
    return int(together * each)


def extra_band(source: Any, bands: Sequence[int]) -> int:
    """The number of the band that may be a mask; 0: there is none."""
    found = colours(source)
    if "alpha" in found:
        return found.index("alpha") + 1
    left = [number for number in range(1, source.count + 1) if number not in bands]
    return left[0] if len(left) == 1 else 0


def judge_extra(extra: np.ndarray, *, soft: bool) -> tuple[int | None, str]:
    """What a fourth band, of any shape, says.

    Args:
        soft: whether many values are a transparency; else they are another band.

    Returns:
        Above which value a pixel has data, None if the band does not tell; and what it was taken
        for, "" if it has one value all over.
    """
    lowest, highest = extra.min(), extra.max()
    if lowest == highest and lowest != 0:
        return None, ""
    two_valued = bool(((extra == lowest) | (extra == highest)).all())
    if not soft and not (two_valued and lowest == 0):
        return None, "another band than red, green and blue, left out"
    return (0, "a mask: 0 is no data") if two_valued else (127, "transparency")


def valid_pixels(
    source: Any, values: np.ndarray, seen: np.ndarray | None = None, window: Any = None
) -> np.ndarray | None:
    """Which pixels have data.

    Args:
        values: (H, W, 3), red, green, blue, as ``source`` has them in ``window``, if reduced then
            as its mask is reduced.
        seen: bool (H, W), as a fourth band says; None: there is none.
        window: rasterio's; None: the whole raster.

    Returns:
        bool (H, W); None: all of them.
    """
    valid: np.ndarray | None = None
    if source.nodata is not None and not np.isnan(source.nodata):
        valid = ~(values == source.nodata).all(axis=2)
    elif source.mask_flag_enums[0][0].name == "per_dataset" and "alpha" not in colours(source):
        valid = source.dataset_mask(window=window, out_shape=values.shape[:2]) > 0
    if seen is not None:
        valid = seen if valid is None else valid & seen
    if values.dtype.kind == "f":
        finite = np.isfinite(values).all(axis=2)
        valid = finite if valid is None else valid & finite
    if values.dtype != np.uint8:  # Sentinel-2's own sign of no data, and what no reflectance is
        given = (values != 0).any(axis=2)
        if values.dtype.kind != "u":
            given &= (values > -1000).all(axis=2)
        valid = given if valid is None else valid & given
    return valid

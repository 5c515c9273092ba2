"""From bytes to a picture in EuroSAT's look: the one definition of what an image is.

Training and handler call ``read``, and each archive carries its own copy. Pillow reads what it can.
More than 8 bits or more than three bands are rasterio's (GDAL), loaded when the first such file
comes: about 40 MB in that worker.
"""

import contextlib
import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import AvifImagePlugin, Image, ImageOps, UnidentifiedImageError

from handlers import rasters
from handlers.contract.image_body import undo_base64
from handlers.contract.window import SIDE, pixels_of
from handlers.radiometry import UnknownScale, read_values

AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # each takes memory of its own

FORMATS = ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "AVIF")  # Pillow's; JPEG2000 is rasterio's
# A tile of which each pixel is looked at; the decoded picture and the copies on the way to it stay
# below 64 MB.
MAX_PIXELS = 4_000_000
MAX_JPEG_PIXELS = 25_000_000  # libjpeg leaves out what a smaller picture does not need
# px; with several scans, libjpeg keeps all coefficients: 6 bytes each
MAX_BUFFERED_JPEG = 6_000_000
# Pixels times scans of a JPEG. Usual progressive ones have 10 scans; a scan of 1 million pixels
# takes 15 ms even if it is empty.
MAX_JPEG_SCANS = 50_000_000
MAX_UNENDED = 1_000_000  # px of a JPEG without its end marker, which is decoded thrice
MAX_VALUES = 12_000_000  # bytes of the values of three bands
MAX_WEBP_PIXELS = 3_000_000  # Pillow keeps it three times
MAX_AVIF_MEMORY = 64_000_000  # bytes of addresses; its header may say less than its picture takes
MAX_BLOCK = 12_600_000  # bytes that GDAL must unpack at a time: one block of a file
MAX_UNPACKED = 200_000_000  # bytes that it must unpack altogether to find three bands
MAX_BANDS = 1000
MAX_PARTS = 20_000  # chunks, segments, blocks: Pillow takes 2 us for each
LARGE_FILE = 100_000  # bytes; below that no file has so many parts that they matter
MAX_TAGS = 500  # of a TIFF
MAX_TAG_NUMBERS = 100_000  # in one of them; each takes 40 bytes once Pillow has read it
MIN_SIDE = 8  # px; below this there is nothing to classify
LARGE_SIDE = 512  # px; more is no tile, whatever it is
TILE_SIDE = 64  # px; more, where the ground is known, is more than a tile
FLAT = 2  # the largest range of a channel that counts as one colour; EuroSAT's flattest tile has 5
_COLOUR_MODES = {"RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV"}
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS")
_PNG_END = b"\0\0\0\0IEND\xae\x42\x60\x82"
_MISREAD = "cut a scene into tiles of 64 px, 640 m, or send it where maps are made"
_KINDS = (  # what is often sent instead of an image, by how it begins
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x89HDF", "HDF5 or NetCDF"),
    (b"CDF", "NetCDF"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "XML"),
    (b"<", "HTML or XML"),
    (b"{", "JSON"),
)
# How a TIFF begins; its byte order, and the types of its offsets and of its number of tags.
_TIFF = {
    b"II*\0": ("<", "I", "H"),
    b"MM\0*": (">", "I", "H"),
    b"II+\0": ("<", "Q", "Q"),  # BigTIFF
    b"MM\0+": (">", "Q", "Q"),
}
_TAG_TYPES = {
    3: "H", 4: "I", 5: "Q", 8: "h", 9: "i", 10: "Q", 11: "f", 12: "d", 13: "I",
    16: "Q", 17: "q", 18: "Q",
}  # fmt: skip
_WIDTH, _HEIGHT, _BITS, _PACKING, _COLOURS, _BANDS = 256, 257, 258, 259, 262, 277  # tags of TIFF
_ROWS, _TILE_WIDTH, _TILE_HEIGHT, _FORMAT, _GEO_KEYS, _NODATA = 278, 322, 323, 339, 34735, 42113
_NEXT = 0  # no tag: where the next picture is, such as a mask, which is GDAL's
_ASKED = {
    _WIDTH, _HEIGHT, _BITS, _PACKING, _COLOURS, _BANDS, _ROWS, _TILE_WIDTH, _TILE_HEIGHT, _FORMAT,
    _GEO_KEYS, _NODATA,
}  # fmt: skip
_RGB, _PILLOWS_COLOURS = 2, {3, 5, 6, 8}  # palette, CMYK, YCbCr and LAB are Pillow's
_JPEG_PACKING = {6, 7}
_PILLOWS_PACKING = {1, 2, 3, 4, 5, 7, 8, 32773, 32946, 34925, 50000}
# A JPEG's marker, but those that stand within its pixels' data; and those without a length.
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])", re.DOTALL)
_BARE = (b"\x01", b"\xd8")
_JPEGS = ("JPEG", "MPO")  # telephones put several pictures into one file
_TOO_MANY_PARTS = "damaged image: it consists of too many parts; export it again"
_TURNED = ("exif", "xmp")  # where Pillow has a JPEG's orientation from
_HEIF = {b"heic", b"heix", b"hevc", b"mif1", b"msf1"}


class BadImage(Exception):
    """An image that cannot be classified; ``status`` and ``code`` are what the client gets."""

    status = 422
    code = "unusable_image"


class UnsupportedImage(BadImage):
    """Bytes that are no image in a format we read."""

    status = 415
    code = "unsupported_image"


class TooManyPixels(BadImage):
    """An image that takes more pixels, or more work, than it may where it was sent."""

    code = "too_many_pixels"


class NothingToSee(BadImage):
    """An image of one colour, or without data in more than half of it."""

    code = "nothing_to_see"


class BadScale(BadImage):
    """Values whose meaning cannot be told."""

    code = "unknown_scale"


@dataclass
class Picture:
    """An image as it was read.

    Attributes:
        pixels: uint8 (H, W, 3), red, green, blue in EuroSAT's look, 0 where there is no data.
        assumed: what was read into the file and could be otherwise, by topic; empty for a picture
            of 8 bits.
        warnings: code and sentence of what makes an answer doubtful.
    """

    pixels: np.ndarray
    assumed: dict[str, str] = field(default_factory=dict)
    warnings: dict[str, str] = field(default_factory=dict)


def read(
    data: bytes, most_pixels: int = MAX_PIXELS, scale: str = "auto", look: str = "auto"
) -> Picture:
    """Read an encoded image, which may be in base64 or a data URL.

    CMYK and palette images are converted, the EXIF orientation is applied, of an animation the
    first frame counts. Metadata that cannot be read are left out. Transparency and a fourth band
    of two values are a mask of no data, any other fourth band is left out.

    Args:
        most_pixels: width times height; a larger JPEG is decoded smaller.
        scale, look: what is known of the values, see ``handlers.radiometry``.

    Raises:
        UnsupportedImage: no format that is read.
        TooManyPixels: too many pixels, or too much work or memory to decode.
        NothingToSee: one colour, or no data in more than half of it.
        BadScale: values of more than 8 bits that fit no scale, or two.
        BadImage: truncated or damaged, a side below ``MIN_SIDE``, or one or two bands.
    """
    if (window := pixels_of(data)) is not None:  # Pillow would take 0.15 ms
        values = np.frombuffer(bytearray(window), np.uint8).reshape(SIDE, SIDE, 3)
        picture = Picture(values)
        _finish(picture, values, None, scale, look)
        return picture
    data = undo_base64(data)
    tags = _tiff_tags(data)
    if tags:
        _budget_tiff(data, tags)
    kind = _raster_kind(data, tags)
    if kind:
        return _read_raster(data, kind, most_pixels, scale, look)
    image = _open(data)
    size = image.size
    jpeg = image.format in _JPEGS
    most = min(most_pixels, MAX_WEBP_PIXELS) if image.format == "WEBP" else most_pixels
    _check_size(*size, MAX_JPEG_PIXELS if jpeg else most)
    if jpeg:
        _budget_jpeg(image, data, most_pixels)
    if image.mode not in _COLOUR_MODES:
        bands = len(image.getbands())
        raise BadImage(rasters.too_few_bands(image.format or "", bands, image.mode))
    try:
        values, alpha = _pixels(image, data)
    except Exception as error:  # Pillow's format readers raise many types on damaged pixel data
        raise BadImage("damaged or truncated image: send the whole file") from error
    picture = Picture(values)
    valid: np.ndarray | None = None
    if _NODATA in tags:
        with contextlib.suppress(ValueError, TypeError):
            nodata = float(bytes(tags[_NODATA]).rstrip(b"\0"))
            valid = ~(values == nodata).all(axis=2)
    if alpha is not None:
        seen = _seen(alpha, picture, soft=not tags)
        if seen is not None:
            valid = seen if valid is None else valid & seen
    _finish(picture, values, valid, scale, look)
    _note_size(picture, size, located=_GEO_KEYS in tags)
    return picture


def _open(data: bytes) -> Image.Image:
    if data.startswith(b"\x89PNG"):
        data = _essential_png(data)
    elif len(data) > LARGE_FILE:
        _count_parts(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, which are checked here, and of metadata
            return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise _unsupported(data) from error
    except Image.DecompressionBombError as error:
        raise TooManyPixels(f"too many pixels: {_MISREAD}") from error
    except Exception as error:  # Pillow's format readers raise many types on damaged headers
        raise BadImage("damaged image: its header cannot be read; export it again") from error


def _pixels(image: Image.Image, data: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    """The picture, uint8 (H, W, 3), and its transparency, uint8 (H, W), if it has one."""
    try:
        with _bounded_memory() if image.format == "AVIF" else contextlib.nullcontext():
            image.load()
    except OSError:
        if image.format not in _JPEGS or (whole := _without_end(data)) is None:
            raise
        image = whole
    if image.format not in _JPEGS or not image.info.keys().isdisjoint(_TURNED):
        with contextlib.suppress(Exception):  # broken EXIF is no reason to refuse a picture
            ImageOps.exif_transpose(image, in_place=True)  # a copy would take 15 us
    if image.mode in ("RGBA", "PA") or "transparency" in image.info:
        alpha = image if image.mode in ("RGBA", "PA") else image.convert("RGBA")
        return _to_array(alpha), np.asarray(alpha.getchannel("A"))
    return _to_array(image), None


@contextlib.contextmanager
def _bounded_memory() -> Iterator[None]:
    """Let this process take no more than ``MAX_AVIF_MEMORY`` in addition, where the system can."""
    try:
        import resource  # noqa: PLC0415, not in Windows

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = pages * resource.getpagesize() + MAX_AVIF_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _to_array(image: Image.Image) -> np.ndarray:
    """Uint8 (H, W, 3), writable; a large image is converted piece by piece, not kept twice."""
    width, height = image.size
    rows = max(2**18 // width, 1)
    if height <= rows:
        if image.mode != "RGB":
            image = image.convert("RGB")
        values = np.frombuffer(bytearray(image.tobytes()), np.uint8)  # np.array(image): 10 us more
        return values.reshape(height, width, 3)
    values = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        part = image.crop((0, top, width, min(top + rows, height)))
        values[top : top + rows] = np.asarray(part.convert("RGB"))
    return values


def _without_end(data: bytes) -> Image.Image | None:
    """A JPEG that lacks nothing but its end marker; None if it lacks more.

    What lies behind the last pixel is not looked at: with and without it, the picture is the same.
    """
    found = []
    for tail in (b"", b"\x5a" * 64):
        image = Image.open(io.BytesIO(data + tail + b"\xff\xd9"), formats=("JPEG",))
        if image.width * image.height > MAX_UNENDED:
            return None
        image.load()
        found.append(image)
    return found[0] if found[0].tobytes() == found[1].tobytes() else None


def _budget_jpeg(image: Image.Image, data: bytes, most_pixels: int) -> None:
    """Decode no more than is allowed: smaller, or not at all."""
    pixels = image.width * image.height
    # No scan is shorter than that: tiles need no counting.
    scans = _count_parts(data) if len(data) // 10 * pixels > MAX_JPEG_SCANS else 1
    if scans * pixels > MAX_JPEG_SCANS or (scans > 1 and pixels > MAX_BUFFERED_JPEG):
        raise TooManyPixels(
            f"too much to decode: found {image.width} x {image.height} px in {scans} scans; "
            "export the picture as a plain JPEG or PNG"
        )
    if pixels > most_pixels:
        # Pillow takes one such wish alone; sides are rounded up
        part = next((part for part in (2, 4) if 0.99 * most_pixels > pixels / part**2), 8)
        image.draft("RGB", (image.width // part, image.height // part))
        if image.width * image.height > most_pixels:
            raise TooManyPixels(_too_many(image.width, image.height, most_pixels))


def _count_parts(data: bytes) -> int:
    """The number of scans of a JPEG, 0 of others; refuses a JPEG or GIF of too many parts."""
    if data.startswith(b"GIF8"):
        _walk_gif(data)
    if not data.startswith(b"\xff\xd8"):
        return 0
    scans, at = 0, 2
    for _ in range(MAX_PARTS):
        found = _MARKER.search(data, at)
        if found is None or found[1] == b"\xd9":
            return scans
        if scans == 0 and found.start() - at > MAX_PARTS:  # Pillow goes through them one by one
            break
        scans += found[1] == b"\xda"
        at = found.end()
        if found[1] not in _BARE:
            at += int.from_bytes(data[at : at + 2])
    raise BadImage(_TOO_MANY_PARTS)


def _walk_gif(data: bytes) -> None:
    """Refuse a GIF of too many parts before its first picture."""
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    inside = False
    for _ in range(MAX_PARTS):
        if at >= len(data) or (data[at] == ord(",") and not inside):
            return
        if inside:
            inside, at = data[at] > 0, at + 1 + data[at]
        else:
            inside = data[at] == ord("!")
            at += 2 if inside else 1
    raise BadImage(_TOO_MANY_PARTS)


def _essential_png(data: bytes) -> bytes:
    """A PNG without what its picture does not need, which may be large or damaged."""
    parts, pixels, at = [data[:8]], [], 8
    for _ in range(MAX_PARTS):
        if at + 12 > len(data):
            break
        (length,) = struct.unpack_from("!I", data, at)
        kind, chunk = data[at + 4 : at + 8], data[at : at + 12 + length]
        whole_exif = (
            kind == b"eXIf"
            and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:])
            and len(chunk) < 2**16
        )
        if kind == b"IDAT":
            pixels.append(chunk)
        elif kind in _PNG_KEPT or whole_exif:
            parts.append(chunk)
        at += 12 + length
    else:
        raise BadImage(_TOO_MANY_PARTS)
    if len(pixels) > 1:  # Pillow takes its time for each
        whole = b"IDAT" + b"".join(chunk[8:-4] for chunk in pixels)
        pixels = [struct.pack("!I", len(whole) - 4), whole, struct.pack("!I", zlib.crc32(whole))]
    return b"".join((*parts, *pixels, _PNG_END))


def _tiff_tags(data: bytes) -> Mapping[int, tuple[Any, ...]]:
    """Those tags of a TIFF's first picture that decide how it is read; of other files none.

    Pillow would read all of them, however large they say that they are.
    """
    if data[:4] not in _TIFF:
        return {}
    order, wide, half = _TIFF[data[:4]]
    size = struct.calcsize(order + wide)
    tags: dict[int, tuple[Any, ...]] = {}
    left = len(data)  # no two tags share their bytes
    try:
        (at,) = struct.unpack_from(order + wide, data, size)
        (count,) = struct.unpack_from(order + half, data, at)
        at += struct.calcsize(order + half)
        for _ in range(min(count, MAX_TAGS)):
            tag, kind, many = struct.unpack_from(f"{order}HH{wide}", data, at)
            form = _TAG_TYPES.get(kind, "B")
            length = many * struct.calcsize(order + form)
            left -= length
            if left < 0 or (form != "B" and many > MAX_TAG_NUMBERS):
                raise BadImage(_TOO_MANY_PARTS)
            if tag in _ASKED:
                values_at = at + 4 + size
                if length > size:
                    (values_at,) = struct.unpack_from(order + wide, data, values_at)
                tags[tag] = struct.unpack_from(f"{order}{min(many, 256)}{form}", data, values_at)
            at += 4 + 2 * size
        tags[_NEXT] = struct.unpack_from(order + wide, data, at) if at + size <= len(data) else (0,)
    except struct.error as error:
        raise BadImage("damaged image: its header cannot be read; export it again") from error
    if count > MAX_TAGS:
        raise BadImage(_TOO_MANY_PARTS)
    return tags


def _first(tags: Mapping[int, tuple[Any, ...]], tag: int, default: int) -> int:
    return int(tags[tag][0]) if tags.get(tag) else default


def _budget_tiff(data: bytes, tags: Mapping[int, tuple[Any, ...]]) -> None:
    """Refuse what would take too much work or memory to unpack, before anything is."""
    width, height = _first(tags, _WIDTH, 1), _first(tags, _HEIGHT, 1)
    strip = width * min(_first(tags, _ROWS, height), height)
    block = strip
    if _TILE_WIDTH in tags:
        block = _first(tags, _TILE_WIDTH, 1) * _first(tags, _TILE_HEIGHT, 1)
    scans = data.count(b"\xff\xda") if _first(tags, _PACKING, 1) in _JPEG_PACKING else 1
    bands = _first(tags, _BANDS, 1)
    if block > MAX_PIXELS or scans * block > MAX_JPEG_SCANS or bands > MAX_BANDS:
        raise TooManyPixels(
            f"too much to decode: found blocks of {block:,} px in {bands} bands; save it in tiles"
        )


def _raster_kind(data: bytes, tags: Mapping[int, tuple[Any, ...]]) -> str:
    """GDAL's name of a format that Pillow cannot read, or reads with 8 bits alone; or ""."""
    if data.startswith(b"\x89PNG") and data[24:25] == b"\x10" and data[25:26] in (b"\x02", b"\x06"):
        return "PNG"
    if data.startswith((b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51")):
        return "JP2OpenJPEG"
    if not tags:
        return "GTiff" if data[:4] in _TIFF else ""
    colours = _first(tags, _COLOURS, 0)
    plain = (
        (
            colours in _PILLOWS_COLOURS
            or (colours == _RGB and _first(tags, _BANDS, 1) == 3 and not _first(tags, _NEXT, 0))
        )
        and set(tags.get(_BITS, (1,))) <= {1, 2, 4, 8}
        and _first(tags, _FORMAT, 1) == 1
        and _first(tags, _PACKING, 1) in _PILLOWS_PACKING
        and _TIFF[data[:4]][1] == "I"
    )
    return "" if plain else "GTiff"


def _read_raster(data: bytes, kind: str, most_pixels: int, scale: str, look: str) -> Picture:
    """Read with GDAL what Pillow cannot."""
    try:
        # memory and 0.2 s, which no JPEG should pay for
        import rasterio  # noqa: PLC0415
    except ImportError as error:
        raise BadImage(
            f"{rasters.called(kind)} of this kind is read with rasterio, which this server does "
            "not have; send 8 bits, red, green and blue"
        ) from error
    options = {"GDAL_CACHEMAX": 8_000_000, "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}
    if kind == "PNG":
        data = _essential_png(data)
    try:
        with (
            warnings.catch_warnings(),
            rasterio.Env(**options),
            rasterio.MemoryFile(data) as file,
        ):
            warnings.simplefilter("ignore")  # of a missing georeference
            with file.open(driver=kind) as source:
                return _from_source(source, kind, most_pixels, scale, look)
    except BadImage:
        raise
    except Exception as error:  # GDAL's errors have many types
        raise BadImage(
            f"damaged or truncated {rasters.called(kind)}, or packed in a way that is not read: "
            "export it again, with deflate for example"
        ) from error


def _from_source(source: Any, kind: str, most_pixels: int, scale: str, look: str) -> Picture:
    """An open raster as a picture; ``source`` is rasterio's ``DatasetReader``."""
    size = (source.width, source.height)
    _check_size(*size, most_pixels)
    _check_raster(source, kind, most_pixels)
    bands, why = rasters.find_bands(source)
    picture = Picture(np.empty(0))
    if why:
        picture.assumed["bands"] = why
    values = source.read(bands).transpose(1, 2, 0)
    extra = rasters.extra_band(source, bands)
    seen = _seen(source.read(extra), picture, soft=False) if extra else None
    valid = rasters.valid_pixels(source, values, seen)
    _finish(picture, values, valid, scale, look)
    _note_size(picture, size, located=rasters.located(source))
    return picture


def _check_raster(source: Any, kind: str, most_pixels: int) -> None:
    """Refuse a raster of too few bands, of values that are none, or that is too much to unpack."""
    if problem := rasters.unusable(source, kind):
        raise BadImage(problem)
    pixels, item = source.width * source.height, np.dtype(source.dtypes[0]).itemsize
    most = min(most_pixels, MAX_VALUES // (3 * item))
    if pixels > most:
        raise TooManyPixels(_too_many(source.width, source.height, most))
    rows, columns = source.block_shapes[0]
    unpacked = pixels * rasters.bytes_of_pixel(source, kind)
    if rasters.bytes_of_block(source, kind) > MAX_BLOCK or unpacked > MAX_UNPACKED:
        raise TooManyPixels(
            f"too much to decode: found blocks of {columns} x {rows} px in {source.count} bands; "
            "save it in tiles, with the bands that are needed"
        )


def _seen(extra: np.ndarray, picture: Picture, *, soft: bool) -> np.ndarray | None:
    """Which pixels have data, as a fourth band, (H, W), says; None: it does not tell."""
    above, taken_for = rasters.judge_extra(extra, soft=soft)
    if taken_for:
        picture.assumed["fourth band"] = taken_for
    return None if above is None else extra > above


def _finish(
    picture: Picture, values: np.ndarray, valid: np.ndarray | None, scale: str, look: str
) -> None:
    """Bring values to EuroSAT's look, if there is something to see in them."""
    _check_content(values, valid)
    try:
        picture.pixels, reading = read_values(values, valid, scale, look)
    except UnknownScale as problem:
        raise BadScale(str(problem)) from problem
    if reading is not None:
        told = {"type": str(values.dtype), "scale": reading.scale, "look": reading.look}
        picture.assumed |= told


def _check_content(values: np.ndarray, valid: np.ndarray | None) -> None:
    """Refuse what no class can be told from."""
    # Bytes of zeros are three times as many as pixels of no data at least; counting them is fast.
    if valid is None and np.count_nonzero(values) * 2 < values.size:
        valid = np.asarray(values.any(axis=2))
    if valid is not None:
        share = 1 - np.count_nonzero(valid) / valid.size
        if share > 0.5:
            raise NothingToSee(f"nothing to see: {share:.0%} of the image is no data or black")
    if valid is None:  # nearly every image is done with after two pixels
        ends = zip(values[0, 0].tolist(), values[len(values) // 2, -1].tolist(), strict=True)
        if any(abs(one - other) > FLAT for one, other in ends):
            return
    limit = FLAT if values.dtype == np.uint8 else 0
    lines = len(values)
    seen = np.empty((0, 3), values.dtype)
    few = slice(None, None, max(lines // TILE_SIDE, 1))  # nearly always enough
    for part in (few, *(slice(top, top + TILE_SIDE) for top in range(0, lines, TILE_SIDE))):
        some = values[part].reshape(-1, 3) if valid is None else values[part][valid[part]]
        if len(some):
            seen = np.stack([*seen, some.min(axis=0), some.max(axis=0)])
            seen = np.stack([seen.min(axis=0), seen.max(axis=0)])
            if (seen[1].astype(float) - seen[0]).max() > limit:
                return
    raise NothingToSee("nothing to see: the whole image has one colour")


def _note_size(picture: Picture, size: tuple[int, int], *, located: bool) -> None:
    if max(size) > (TILE_SIDE if located else LARGE_SIDE):
        picture.warnings["squeezed"] = (
            f"{size[0]} x {size[1]} px were squeezed into one tile of {TILE_SIDE}: the answer is "
            "about all of it at once. Cut it into tiles of 64 px, 640 m, to see what is where."
        )


def _check_size(width: int, height: int, most_pixels: int) -> None:
    if width * height > most_pixels:
        raise TooManyPixels(_too_many(width, height, most_pixels))
    if min(width, height) < MIN_SIDE:
        raise BadImage(f"too small: found {width} x {height} px, expected at least {MIN_SIDE}")


def _too_many(width: int, height: int, most: int) -> str:
    return f"too many pixels: found {width} x {height}, expected at most {most:,}; {_MISREAD}"


def _unsupported(data: bytes) -> UnsupportedImage:
    return UnsupportedImage(
        f"not an image we read: expected {', '.join(FORMATS)} or JPEG2000, found {len(data)} bytes "
        f"of {kind_of(data)}"
    )


def kind_of(data: bytes) -> str:
    """What bytes that are no image seem to be."""
    start = data.lstrip()[:16]
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF:
        return "HEIC, which is not read: convert it to JPEG or PNG"
    return next((name for magic, name in _KINDS if start.startswith(magic)), "something else")

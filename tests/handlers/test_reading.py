"""What users have instead of EuroSAT's own JPEGs: each kind is read as the tile that it is, or
refused with what was found.
"""

import base64
import io
import itertools
import struct
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.transform import Affine

from handlers.reading import (
    BadImage,
    BadScale,
    NothingToSee,
    Picture,
    TooManyPixels,
    UnsupportedImage,
    read,
)
from tests.support.paths import SAMPLES

JPEG = (SAMPLES / "River.jpg").read_bytes()
PIXELS = np.asarray(Image.open(io.BytesIO(JPEG)))
NEAR_INFRARED = np.random.default_rng(0).integers(40, 200, (64, 64), dtype=np.uint8)
REFLECTANCE = np.rint((PIXELS - 1.0) / 254 * 2750).astype(np.uint16)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def raster(bands: np.ndarray, **profile: Any) -> bytes:
    """(H, W, bands) as rasterio writes it; ``colours``, ``names`` as the bands have them."""
    colours, names = profile.pop("colours", None), profile.pop("names", ())
    profile = {"driver": "GTiff", "crs": "EPSG:32632"} | profile
    with rasterio.MemoryFile() as file:
        with file.open(
            height=bands.shape[0], width=bands.shape[1], count=bands.shape[2], dtype=bands.dtype,
            transform=Affine(10, 0, 600_000, 0, -10, 5_300_000), **profile,
        ) as target:  # fmt: skip
            target.write(bands.transpose(2, 0, 1))
            if colours:
                target.colorinterp = colours
            for number, name in enumerate(names, 1):
                target.set_band_description(number, name)
        content: bytes = file.read()
    return content


def is_the_tile(picture: Picture, within: int = 1) -> bool:
    return bool(np.abs(picture.pixels.astype(int) - PIXELS).max() <= within)


def with_band(extra: np.ndarray) -> np.ndarray:
    return np.dstack([PIXELS, extra])


# --- pictures of 8 bits


def test_a_tile_is_its_pixels_and_nothing_is_assumed() -> None:
    picture = read(JPEG)
    assert (picture.pixels == PIXELS).all()
    assert picture.pixels.flags.writeable
    assert picture == Picture(picture.pixels, {}, {})


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(JPEG),
        b"data:image/jpeg;base64," + base64.b64encode(JPEG),
        base64.encodebytes(JPEG),
        base64.b64encode(encoded(Image.fromarray(PIXELS))),
    ],
    ids=["base64", "data URL", "lines", "PNG"],
)
def test_base64_is_undone(text: bytes) -> None:
    assert is_the_tile(read(text))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "WEBP", "AVIF"])
def test_pillows_formats(kind: str) -> None:
    known: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100}}
    options = known.get(kind, {})
    assert is_the_tile(read(encoded(Image.fromarray(PIXELS), kind, **options)), within=8)


@pytest.mark.parametrize(
    "convert",
    [
        lambda image: encoded(image.convert("CMYK"), "TIFF"),
        lambda image: encoded(image.quantize(256), "PNG"),
        lambda image: encoded(image.quantize(256), "TIFF"),
        lambda image: encoded(image.convert("RGBA"), "PNG"),
        lambda image: encoded(image, "GIF", save_all=True, append_images=[image.rotate(90)]),
    ],
    ids=["CMYK", "palette", "palette TIFF", "RGBA", "animated GIF"],
)
def test_other_kinds_of_colour_become_rgb(convert: Callable[[Image.Image], bytes]) -> None:
    assert np.abs(read(convert(Image.fromarray(PIXELS))).pixels.astype(int) - PIXELS).mean() < 12


def test_the_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = read(encoded(Image.fromarray(PIXELS), "PNG", exif=exif))
    assert (turned.pixels == np.rot90(PIXELS, -1)).all()


# --- metadata never costs the picture


def chunk(kind: bytes, content: bytes, crc: int | None = None) -> bytes:
    crc = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack("!I", len(content)) + kind + content + struct.pack("!I", crc)


@pytest.mark.parametrize(
    "more",
    [
        chunk(b"eXIf", b"garbage" * 20),
        chunk(b"tEXt", b"Comment\0" + b"x" * 3_000_000),
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 80_000_000)),
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(40_000_000))),
        chunk(b"tIME", b"1234567", crc=1),
        chunk(b"eXIf", b"MM\0*\0\0\0\x08", crc=1),
    ],
    ids=["EXIF", "text", "packed text", "ICC", "CRC", "EXIF with a CRC"],
)
def test_metadata_of_a_png_never_cost_the_picture(more: bytes) -> None:
    png = encoded(Image.fromarray(PIXELS))
    started = time.process_time()
    assert is_the_tile(read(png[:33] + more + png[33:]))
    assert time.process_time() - started < 1


@pytest.mark.parametrize("marker", [0xE1, 0xE2, 0xED, 0xFE])
def test_metadata_of_a_jpeg_never_cost_the_picture(marker: int) -> None:
    heads = {0xE1: b"Exif\0\0MM\0*\xff\xff\xff\xff", 0xE2: b"ICC_PROFILE\0\x01\xff"}
    content = heads.get(marker, b"") + b"\xee" * 60_000
    segment = bytes((0xFF, marker)) + struct.pack("!H", len(content) + 2) + content
    assert is_the_tile(read(JPEG[:2] + segment * 5 + JPEG[2:]))


def test_a_jpeg_may_lack_its_end_marker_but_no_more() -> None:
    assert JPEG.endswith(b"\xff\xd9")
    assert is_the_tile(read(JPEG[:-2]))
    for missing in (40, len(JPEG) // 2):
        with pytest.raises(BadImage, match="truncated"):
            read(JPEG[:-missing])


# --- no data


@pytest.mark.parametrize("full", [1, 255])
@pytest.mark.parametrize("colours", [None, (3, 4, 5, 6), (3, 4, 5, 0)])
def test_a_mask_of_ones_changes_nothing(full: int, colours: tuple[int, ...] | None) -> None:
    mask = np.full((64, 64), full, np.uint8)
    named = [ColorInterp(colour) for colour in colours] if colours else None
    assert is_the_tile(read(raster(with_band(mask), colours=named)), within=0)


@pytest.mark.parametrize("full", [1, 255])
@pytest.mark.parametrize("kind", ["TIFF", "raster", "PNG"])
def test_a_mask_means_no_data(kind: str, full: int) -> None:
    mask = np.full((64, 64), full, np.uint8)
    mask[:20] = 0
    if kind == "raster":
        content = raster(with_band(mask))
    else:
        content = encoded(Image.fromarray(with_band(mask), "RGBA"), kind)
    picture = read(content)
    assert not picture.pixels[:20].any()
    assert (picture.pixels[20:] == PIXELS[20:]).all()
    assert "mask" in picture.assumed["fourth band"]


@pytest.mark.parametrize("colours", [None, (3, 4, 5, 6), (3, 4, 5, 0)])
@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_near_infrared_is_left_out_however_it_is_tagged(
    colours: tuple[int, ...] | None, interleave: str
) -> None:
    named = [ColorInterp(colour) for colour in colours] if colours else None
    content = raster(with_band(NEAR_INFRARED), colours=named, interleave=interleave)
    picture = read(content)
    assert is_the_tile(picture, within=0)
    assert "left out" in picture.assumed["fourth band"]


def test_near_infrared_that_pillow_takes_for_alpha() -> None:
    image = Image.fromarray(with_band(NEAR_INFRARED), "RGBA")
    assert is_the_tile(read(encoded(image, "TIFF")), within=0)


def test_a_nodata_tag_is_a_mask() -> None:
    values = PIXELS.copy()
    values[:20] = 7
    for content in (raster(values, nodata=7), raster(values, nodata=7, photometric="rgb")):
        picture = read(content)
        assert not picture.pixels[:20].any()
        assert (picture.pixels[20:] == PIXELS[20:]).all()
    assert is_the_tile(read(raster(PIXELS, nodata=0)), within=0)


@pytest.mark.parametrize(
    "content",
    [
        encoded(Image.new("RGB", (64, 64))),
        encoded(Image.new("RGB", (64, 64), "white")),
        encoded(Image.new("RGB", (300, 200), "#4a7040"), "JPEG"),
        encoded(Image.fromarray(with_band(np.zeros((64, 64), np.uint8)), "RGBA")),
        encoded(Image.fromarray(np.where(np.arange(64)[:, None, None] < 6, PIXELS, 0))),
        raster(np.where(np.arange(64)[:, None, None] < 30, REFLECTANCE, 0).astype(np.uint16)),
        raster(np.full((64, 64, 3), np.nan, np.float32)),
        raster(np.full((64, 64, 3), 1200, np.uint16)),
    ],
    ids=["black", "white", "green", "hidden", "ninety", "reflectance", "nan", "flat reflectance"],
)
def test_nothing_to_see(content: bytes) -> None:
    with pytest.raises(NothingToSee, match="nothing to see"):
        read(content)


def test_the_flattest_sea_is_something() -> None:
    sea = np.random.default_rng(0).integers(-2, 3, (64, 64, 3)) + np.array((30, 60, 80))
    assert read(encoded(Image.fromarray(sea.astype(np.uint8)))).pixels.std() > 0


# --- rasters


COMPRESSIONS = ["deflate", "lzw", "zstd", "packbits", "lerc", "none"]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize("tiled", [True, False])
@pytest.mark.parametrize("compress", COMPRESSIONS)
def test_tiffs_as_gdal_writes_them(kind: type, tiled: bool, compress: str) -> None:  # noqa: FBT001
    values = PIXELS if kind is np.uint8 else REFLECTANCE.astype(kind)
    if kind is np.float32:
        values = (REFLECTANCE / 10_000).astype(np.float32)
    blocks = {"tiled": True, "blockxsize": 16, "blockysize": 16} if tiled else {}
    for photometric, interleave, big in (
        ("minisblack", "pixel", "NO"), ("rgb", "pixel", "YES"), ("minisblack", "band", "YES"),
    ):  # fmt: skip
        content = raster(
            values, compress=compress, photometric=photometric, interleave=interleave,
            BIGTIFF=big, **blocks,
        )  # fmt: skip
        picture = read(content)
        assert is_the_tile(picture), (photometric, interleave, big)
        if kind is not np.uint8:
            assert picture.assumed["scale"] in ("10000", "1")
            assert picture.assumed["look"] == "l1c"
            assert picture.assumed["type"] == np.dtype(kind).name


@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_thirteen_bands_are_eurosats(interleave: str) -> None:
    others = np.random.default_rng(0).integers(300, 4000, (64, 64, 13)).astype(np.uint16)
    for band, colour in zip((3, 2, 1), range(3), strict=True):
        others[..., band] = REFLECTANCE[..., colour]
    picture = read(raster(others, interleave=interleave))
    assert is_the_tile(picture)
    assert picture.assumed["bands"].startswith("4, 3, 2")


@pytest.mark.parametrize(
    "names",
    [
        ("B02", "B03", "B04", "B08", "B11"),
        ("B2", "B3", "B4", "B8", "B8A"),
        ("B02_10m", "B03_10m", "B04_10m", "B08_10m", ""),
        ("SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B6"),
        ("Blue", "Green", "Red", "Red Edge 1", "NIR"),
    ],
)
def test_named_bands_are_found(names: tuple[str, ...]) -> None:
    bands = np.dstack([REFLECTANCE[..., 2], REFLECTANCE[..., 1], REFLECTANCE[..., 0], REFLECTANCE])
    picture = read(raster(bands[..., :5], names=names))
    assert is_the_tile(picture)
    assert picture.assumed["bands"] == "3, 2, 1 by their names"


def test_a_mask_of_its_own_in_the_file_means_no_data() -> None:
    mask = np.full((64, 64), 255, np.uint8)
    mask[:20] = 0
    for values in (PIXELS, REFLECTANCE):
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.MemoryFile() as file:
            with file.open(
                driver="GTiff", height=64, width=64, count=3, dtype=values.dtype,
                transform=Affine(10, 0, 600_000, 0, -10, 5_300_000),
            ) as target:  # fmt: skip
                target.write(values.transpose(2, 0, 1))
                target.write_mask(mask)
            picture = read(file.read())
        assert not picture.pixels[:20].any()
        assert np.abs(picture.pixels[20:].astype(int) - PIXELS[20:]).max() <= 1


def test_a_png_of_16_bits_is_read_by_its_values() -> None:
    picture = read(raster(REFLECTANCE, driver="PNG", crs=None))
    assert is_the_tile(picture)
    assert picture.assumed == {"type": "uint16", "scale": "10000", "look": "l1c"}


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_jpeg_2000(kind: type) -> None:
    values = PIXELS if kind is np.uint8 else REFLECTANCE
    content = raster(values.astype(kind), driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES")
    assert is_the_tile(read(content))


def test_values_that_are_named_are_not_guessed() -> None:
    content = raster(REFLECTANCE)
    assert (read(content, scale="10000", look="l1c").pixels == read(content).pixels).all()
    darker = read(content, scale="65535", look="l1c")
    assert darker.pixels.mean() < read(content).pixels.mean() / 3
    with pytest.raises(BadScale, match="look=tci"):
        read(content, scale="10000", look="tci")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (raster(PIXELS[..., :1]), ["single-band", "TIFF", "uint8"]),
        (raster(REFLECTANCE[..., :2]), ["2 bands", "TIFF", "uint16"]),
        (encoded(Image.fromarray(PIXELS[..., 0])), ["single-band", "PNG", "L"]),
        (encoded(Image.fromarray(PIXELS[..., 0].astype(np.uint16))), ["single-band", "I;16"]),
        (raster(REFLECTANCE.astype(np.complex64)), ["complex64", "expected"]),
    ],
    ids=["one", "two", "grey", "grey 16", "complex"],
)
def test_what_is_no_picture_of_three_bands_says_what_it_is(
    content: bytes, words: list[str]
) -> None:
    with pytest.raises(BadImage) as refused:
        read(content)
    assert all(word in str(refused.value) for word in words), str(refused.value)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "something else"), (b"hello", "something else"), (b"<svg/>", "SVG"),
        (b"%PDF-1.7", "PDF"), (b"PK\x03\x04aaaa", "ZIP"), (b"\x89HDF\r\n", "HDF5"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"), (b"<VRTDataset/>", "XML"),
        (b"/9j/not base64 at all", "something else"),
    ],
)  # fmt: skip
def test_what_is_no_image_is_named(content: bytes, word: str) -> None:
    with pytest.raises(UnsupportedImage, match=word):
        read(content)


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")


def test_a_huge_image_is_refused_before_it_is_decoded() -> None:
    for side in (2_001, 12_000, 100_000):
        with pytest.raises(TooManyPixels, match="too many pixels"):
            read(png_header(side, side))


def test_crumbs_are_refused() -> None:
    with pytest.raises(BadImage, match="too small"):
        read(encoded(Image.fromarray(PIXELS[:7])))


@pytest.mark.parametrize("kind", ["GTiff", "PNG", "JP2OpenJPEG"])
def test_damaged_rasters_are_refused(kind: str) -> None:
    content = raster(REFLECTANCE, driver=kind, **({} if kind == "GTiff" else {"crs": None}))
    for end in (30, len(content) // 2):
        with pytest.raises(BadImage):
            read(content[:end])


# --- budgets


def test_a_large_picture_is_told_to_be_squeezed() -> None:
    large = encoded(Image.fromarray(np.tile(PIXELS, (9, 9, 1))), "JPEG")
    assert "576 x 576" in read(large).warnings["squeezed"]
    assert read(encoded(Image.fromarray(np.tile(PIXELS, (8, 8, 1))))).warnings == {}
    located = read(raster(np.tile(PIXELS, (2, 2, 1))))
    assert "128 x 128" in located.warnings["squeezed"]
    assert read(raster(PIXELS)).warnings == {}


def test_a_large_jpeg_is_decoded_smaller_and_others_are_refused() -> None:
    large = Image.fromarray(np.tile(PIXELS, (40, 40, 1)))  # 6.5 million pixels
    picture = read(encoded(large, "JPEG"))
    assert picture.pixels.shape == (1280, 1280, 3)
    for content in (encoded(large, compress_level=1), encoded(large, "WEBP", quality=1)):
        with pytest.raises(TooManyPixels, match="2560 x 2560"):
            read(content)


def progressive(scans: int, side: int) -> bytes:
    """A JPEG with empty scans after its own."""
    plain = encoded(Image.fromarray(np.tile(PIXELS, (side // 64, side // 64, 1))), "JPEG",
                    progressive=True)  # fmt: skip
    last = plain.rindex(b"\xff\xda")
    return plain[:-2] + plain[last:-2] * scans + plain[-2:]


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded() -> None:
    bomb = progressive(2000, 1024)
    started = time.process_time()
    with pytest.raises(TooManyPixels, match="scans"):
        read(bomb)
    assert time.process_time() - started < 0.5
    assert read(progressive(0, 1024)).pixels.shape == (1024, 1024, 3)


def test_one_large_block_of_many_bands_is_refused() -> None:
    bands = np.zeros((1024, 1024, 13), np.uint16)
    content = raster(bands, compress="deflate", interleave="pixel", blockysize=1024)
    with pytest.raises(TooManyPixels, match="save it in tiles"):
        read(content)


def test_no_bytes_are_too_strange() -> None:
    """Mutants of each kind are read or refused, never anything else."""
    dice = np.random.default_rng(0)
    seeds = [
        JPEG, encoded(Image.fromarray(PIXELS)), encoded(Image.fromarray(PIXELS), "TIFF"),
        raster(REFLECTANCE), raster(REFLECTANCE, driver="PNG", crs=None), raster(PIXELS, tiled=True,
        blockxsize=16, blockysize=16, compress="deflate"), encoded(Image.fromarray(PIXELS), "WEBP"),
    ]  # fmt: skip
    for seed, _ in itertools.product(seeds, range(60)):
        mutant = bytearray(seed)
        for at in dice.integers(0, min(len(mutant), 600), 4):
            mutant[at] = dice.integers(0, 256)
        try:
            picture = read(bytes(mutant))
        except BadImage:
            continue
        assert picture.pixels.dtype == np.uint8

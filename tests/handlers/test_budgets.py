"""No bytes of at most 5 MB cost much to read: each is read in a process of its own, and measured.

The child is a fork of this process with its peak of memory reset, so that what it takes for the
picture alone is seen, and not the libraries.
"""

import io
import multiprocessing
import struct
import sys
import time
import zlib
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import Affine

from handlers.reading import BadImage, read
from tests.support.paths import SAMPLES

SECONDS, MEGABYTES = 1.0, 64.0
CPUS = 2  # times slower than alone, as other tests run beside it

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for its memory")

TILE = np.asarray(Image.open(SAMPLES / "River.jpg"))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(TILE).resize((width, height), Image.Resampling.BICUBIC)


def raster(values: np.ndarray, driver: str = "GTiff", **profile: Any) -> bytes:
    height, width, count = values.shape
    profile["transform"] = Affine(10, 0, 600_000, 0, -10, 5_300_000)
    with rasterio.MemoryFile() as file:
        with file.open(
            driver=driver, height=height, width=width, count=count, dtype=values.dtype, **profile
        ) as target:
            target.write(values.transpose(2, 0, 1))
        content: bytes = file.read()
    return content


def reflectance(side: int, kind: type) -> np.ndarray:
    return np.asarray(picture(side, side)).astype(kind) * 10 + 300


def chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack("!I", len(content)) + kind + content + struct.pack("!I", check)


def png(width: int, height: int, bits: int, colours: int, interlaced: int, packed: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, interlaced)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def with_scans(side: int, scans: int) -> bytes:
    plain = encoded(picture(side, side), "JPEG", progressive=True)
    last = plain.rindex(b"\xff\xda")
    return plain[:-2] + plain[last:-2] * scans + plain[-2:]


def many_parts(kind: str, part: bytes) -> bytes:
    plain = encoded(Image.fromarray(TILE).quantize(64) if kind == "GIF" else picture(64, 64), kind)
    at = {"JPEG": 2, "PNG": 33, "GIF": 13 + 3 * 2 ** ((plain[10] & 7) + 1)}[kind]
    return plain[:at] + part * (5_000_000 // len(part)) + plain[at:]


def tiff(*entries: tuple[int, int, int, int]) -> bytes:
    """A TIFF of 64 x 64 px whose directory has these entries too: tag, type, count, value."""
    own = ((256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (262, 3, 1, 2), (277, 3, 1, 3))
    written = b"".join(struct.pack("<HHII", *entry) for entry in sorted(own + entries))
    count = len(own) + len(entries)
    return struct.pack("<4sIH", b"II*\0", 8, count) + written + struct.pack("<I", 8) + bytes(5**9)


def lying_avif() -> bytes:
    """A header of 100 px a side, and a picture of 8,000."""
    large = encoded(Image.new("RGB", (8000, 8000), "green"), "AVIF", speed=10)
    return large.replace(struct.pack("!II", 8000, 8000), struct.pack("!II", 100, 100))


COSTLY: dict[str, Callable[[], bytes]] = {
    "jpeg 2,000 scans of a tile": lambda: with_scans(64, 2000),
    "jpeg 2,000 scans of 512 px": lambda: with_scans(512, 2000),
    "jpeg of the most scans": lambda: with_scans(1024, 35),
    "jpeg 25 million pixels": lambda: encoded(picture(5000, 5000), "JPEG"),
    "jpeg 4 million pixels, progressive": lambda: encoded(
        picture(2000, 2000), "JPEG", progressive=True, subsampling=0
    ),
    "jpeg without end, 4 million": lambda: encoded(picture(2000, 2000), "JPEG")[:-2],
    "jpeg without end, 25 million": lambda: encoded(picture(5000, 5000), "JPEG")[:-2],
    "jpeg of comments": lambda: many_parts("JPEG", b"\xff\xfe\0\2"),
    "jpeg of fill bytes": lambda: many_parts("JPEG", b"\xff"),
    "png of chunks": lambda: many_parts("PNG", chunk(b"tEXt", b"")),
    "png of empty pixels": lambda: many_parts("PNG", chunk(b"IDAT", b"")),
    "png that says 60,000": lambda: png(60_000, 60_000, 8, 2, 0, b""),
    "png that unpacks to 200 MB": lambda: png(64, 64, 8, 2, 0, zlib.compress(bytes(200_000_000))),
    "png with transparency": lambda: encoded(
        picture(2000, 2000).convert("RGBA"), "PNG", compress_level=1
    ),
    "png of 16 bits, interlaced": lambda: png(
        1400, 1400, 16, 6, 1, zlib.compress(bytes(range(250)) * 63_000)
    ),
    "gif of comments": lambda: many_parts("GIF", b"!\xfe\1a\0"),
    "gif of one long comment": lambda: many_parts("GIF", b"!\xfe" + b"\1a" * 2_400_000 + b"\0"),
    "webp": lambda: encoded(picture(1700, 1700), "WEBP", lossless=True, quality=0, method=0),
    "avif": lambda: encoded(picture(2000, 2000), "AVIF", speed=10, subsampling="4:4:4"),
    "avif that lies": lying_avif,
    "tiff of large tags": lambda: tiff(*((9000 + i, 4, 400_000, 8) for i in range(400))),
    "tiff of many tags": lambda: tiff(*((700 + i, 1, 400_000, 8) for i in range(60_000))),
    "tiff of many strips": lambda: tiff((273, 4, 400_000, 99), (279, 4, 400_000, 99)),
    "tiff of one large tile": lambda: tiff((322, 4, 1, 40_000), (323, 4, 1, 40_000)),
    "tiff without end": lambda: tiff((273, 4, 1, 8), (279, 4, 1, 9)),
    "tiff of one colour": lambda: encoded(
        Image.new("RGB", (2000, 2000), "green"), "TIFF", compression="tiff_deflate"
    ),
    "tiff of 16 bits": lambda: raster(
        reflectance(1400, np.uint16), compress="zstd", nodata=0, tiled=True
    ),
    "tiff of floats": lambda: raster(
        reflectance(1000, np.float32) / np.float32(10_000), compress="zstd", tiled=True
    ),
    "tiff of 300 bands": lambda: raster(
        np.zeros((800, 800, 300), np.uint8), compress="zstd", interleave="pixel", tiled=True,
        blockxsize=64, blockysize=64,
    ),
    "tiff of one block": lambda: raster(
        reflectance(1400, np.uint16), compress="zstd", interleave="pixel", blockysize=1400
    ),
    "jpeg 2000": lambda: raster(np.asarray(picture(2000, 2000)), "JP2OpenJPEG", QUALITY="10"),
    "jpeg 2000 of 16 bits": lambda: raster(
        reflectance(1400, np.uint16), "JP2OpenJPEG", QUALITY="10"
    ),
    "base64 of blanks": lambda: b"/9j/" + b"A " * 2_500_000,
}  # fmt: skip


def memory(name: str) -> float:
    """MB, of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def measure(data: bytes, answer: Connection) -> None:
    """Send the seconds of CPU, the MB and the outcome of reading an image."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, started = memory("VmRSS"), time.process_time()
    try:
        outcome = str(read(data).pixels.shape)
    except BadImage as refused:
        outcome = type(refused).__name__
    seconds = time.process_time() - started
    answer.send((seconds, memory("VmHWM") - before, outcome))


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    """Libraries are loaded once, before anything is measured."""
    read(raster(reflectance(64, np.uint16)))
    read(raster(np.asarray(picture(64, 64)), "JP2OpenJPEG"))
    for kind in ("PNG", "WEBP", "AVIF", "TIFF", "JPEG"):
        read(encoded(picture(64, 64), kind))


@pytest.mark.parametrize("name", COSTLY)
def test_no_picture_costs_more_than_a_second_and_64_megabytes(name: str, tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    maker = fork.Process(target=lambda: (tmp_path / "image").write_bytes(COSTLY[name]()))
    maker.start()  # what making it leaves behind would be there for reading it
    maker.join()
    data = (tmp_path / "image").read_bytes()
    ours, theirs = fork.Pipe()
    reader = fork.Process(target=measure, args=(data, theirs))
    reader.start()
    theirs.close()
    seconds, megabytes, outcome = ours.recv()
    reader.join()
    assert megabytes < MEGABYTES, outcome
    assert seconds < SECONDS * CPUS, outcome

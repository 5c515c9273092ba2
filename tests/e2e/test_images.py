"""Every kind of file that people send, through portal and TorchServe, to one worker."""

import io
import struct
import zlib
from typing import Any, Protocol

import pytest
import requests
from PIL import Image

from tests.support.paths import SAMPLES

TILE = Image.open(SAMPLES / "River.jpg").convert("RGB")


class Product(Protocol):
    """The part of the session fixture that these tests need."""

    url: str

    @property
    def worker_pids(self) -> set[int]: ...


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def huge_png() -> bytes:
    """A PNG that announces 100,000 x 100,000 px and has none."""
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0), b"IDAT", b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    )


def turned_by_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(TILE, "JPEG", exif=exif)


JPEG = encoded(TILE, "JPEG", quality=95)
CASES: dict[str, tuple[bytes, int, str | None]] = {
    "nothing": (b"", 400, "no_image"),
    "text": (b"This is not an image.", 415, "unsupported_image"),
    "a truncated JPEG": (JPEG[: len(JPEG) // 2], 422, "unusable_image"),
    "100,000 x 100,000 px": (huge_png(), 422, "unusable_image"),
    "30 MB": (JPEG + bytes(30_000_000), 413, "too_large"),
    "CMYK": (encoded(TILE.convert("CMYK"), "JPEG", quality=95), 200, None),
    "palette": (encoded(TILE.convert("P"), "PNG"), 200, None),
    "16 bits, one band": (encoded(TILE.convert("L").convert("I;16"), "PNG"), 422, "unusable_image"),
    "RGBA": (encoded(TILE.convert("RGBA"), "PNG"), 200, None),
    "turned by EXIF": (turned_by_exif(), 200, None),
    "an animated GIF": (
        encoded(TILE, "GIF", save_all=True, append_images=[TILE.rotate(90)]),
        200,
        None,
    ),
}


@pytest.mark.parametrize("how", ["raw body", "form"])
@pytest.mark.parametrize("name", CASES)
def test_each_file_has_its_answer_and_the_worker_lives(
    product: Product, name: str, how: str
) -> None:
    data, status, code = CASES[name]
    workers = product.worker_pids
    url = f"{product.url}/api/predict"
    if how == "form":
        answer = requests.post(url, files={"file": ("tile", data)}, timeout=30)
    else:
        answer = requests.post(url, data=data, timeout=30)
    content = answer.json()
    assert answer.status_code == status, content
    if code:
        assert content["error"]["code"] == code
        assert len(content["error"]["message"]) > 20
    else:
        assert sum(content["probabilities"].values()) == pytest.approx(1, abs=1e-6)
        assert len(content["probabilities"]) == 10
    assert product.worker_pids == workers

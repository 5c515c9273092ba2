"""Tiles in whatever form users have them, through each door of the real product: the class of the
tile, or a refusal that says what was found; never a sure answer to nothing.
"""

import base64
import io
import re
import struct
import zlib
from typing import Any, Protocol

import numpy as np
import pytest
import rasterio
import requests
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.transform import Affine

from tests.support.paths import SAMPLES

JPEG = (SAMPLES / "River.jpg").read_bytes()
PIXELS = np.asarray(Image.open(io.BytesIO(JPEG)))
REFLECTANCE = (PIXELS - 1.0) / 254 * 0.275  # of EuroSAT's look
VALUES = np.rint(REFLECTANCE * 10_000).astype(np.uint16)
NEAR_INFRARED = np.random.default_rng(0).integers(40, 200, (64, 64), dtype=np.uint8)
SEEN = np.ones((64, 64), np.uint8)
RGB_ALPHA = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
NOTHING = "nothing_to_see"


class Product(Protocol):
    """The part of the session fixture that these tests need."""

    url: str


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def raster(bands: np.ndarray, *, colours: list[ColorInterp] | None = None, **profile: Any) -> bytes:
    """(H, W, bands) as rasterio writes it."""
    profile = {"driver": "GTiff", "crs": "EPSG:32632"} | profile
    with rasterio.MemoryFile() as file:
        with file.open(
            height=64, width=64, count=bands.shape[2], dtype=bands.dtype,
            transform=Affine(10, 0, 600_000, 0, -10, 5_300_000), **profile,
        ) as target:  # fmt: skip
            target.write(bands.transpose(2, 0, 1))
            if colours:
                target.colorinterp = colours
        content: bytes = file.read()
    return content


def multispectral() -> np.ndarray:
    """13 bands of EuroSAT MS, of which the fourth, third and second are the picture."""
    bands = np.random.default_rng(1).integers(800, 3000, (64, 64, 13)).astype(np.uint16)
    bands[..., [3, 2, 1]] = VALUES
    return bands


def with_chunk(kind: bytes, content: bytes) -> bytes:
    """The tile as PNG, with another chunk behind its header."""
    png, body = encoded(PIXELS), kind + content
    chunk = struct.pack("!I", len(content)) + body + struct.pack("!I", zlib.crc32(body))
    return png[:33] + chunk + png[33:]


def mostly_empty() -> np.ndarray:
    found = PIXELS.copy()
    found[:, :58] = 0
    return found


# Each with its class, or the code of its refusal.
KINDS: dict[str, tuple[bytes, str]] = {
    "JPEG": (JPEG, "River"),
    "AVIF": (encoded(PIXELS, "AVIF", quality=90), "River"),
    "JPEG 2000": (raster(PIXELS, driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES"), "River"),
    "BigTIFF": (raster(PIXELS, BIGTIFF="YES"), "River"),
    "x 10000, TIFF": (raster(VALUES), "River"),
    "x 10000, PNG": (raster(VALUES, driver="PNG"), "River"),
    "x 10000 + 1000": (raster(VALUES + 1000), "River"),
    "x 1000": (raster(np.rint(REFLECTANCE * 1000).astype(np.uint16)), "River"),
    "float": (raster(REFLECTANCE.astype(np.float32)), "River"),
    "three bands, by pixel": (
        raster(PIXELS, photometric="MINISBLACK", interleave="pixel"),
        "River",
    ),
    "three bands, by band": (raster(PIXELS, photometric="MINISBLACK", interleave="band"), "River"),
    "13 bands, by pixel": (raster(multispectral(), interleave="pixel"), "River"),
    "13 bands, by band": (raster(multispectral(), interleave="band"), "River"),
    "RGB and data mask": (raster(np.dstack([PIXELS, SEEN])), "River"),
    "RGB and data mask as alpha": (raster(np.dstack([PIXELS, SEEN]), colours=RGB_ALPHA), "River"),
    "RGB and NIR": (raster(np.dstack([PIXELS, NEAR_INFRARED]), photometric="RGB"), "River"),
    "RGB and NIR as alpha": (
        raster(np.dstack([PIXELS, NEAR_INFRARED]), colours=RGB_ALPHA),
        "River",
    ),
    "a nodata tag": (raster(PIXELS, nodata=0, photometric="RGB"), "River"),
    "broken EXIF": (with_chunk(b"eXIf", b"garbage" * 20), "River"),
    "a large text": (with_chunk(b"tEXt", b"Comment\0" + b"x" * 2_000_000), "River"),
    "base64": (base64.b64encode(JPEG), "River"),
    "a data URL": (b"data:image/jpeg;base64," + base64.b64encode(JPEG), "River"),
    "all hidden": (encoded(np.dstack([PIXELS, np.zeros((64, 64), np.uint8)])), NOTHING),
    "black": (encoded(np.zeros_like(PIXELS)), NOTHING),
    "white": (encoded(np.full_like(PIXELS, 255)), NOTHING),
    "nine tenths no data": (raster(mostly_empty(), nodata=0), NOTHING),
    "no data without a tag": (encoded(mostly_empty()), NOTHING),
    "millions": (raster(np.rint(REFLECTANCE * 1e6).astype(np.int32)), "unknown_scale"),
}


@pytest.mark.parametrize("name", KINDS)
def test_alone(product: Product, name: str) -> None:
    image, found = KINDS[name]
    answer = requests.post(f"{product.url}/api/predict", data=image, timeout=30)
    if answer.status_code == 200:
        assert answer.json()["class_name"] == found
    else:
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (422, found)
        assert len(error["message"]) > 20


def test_many_at_once(product: Product) -> None:
    files = [("files", (name, image)) for name, (image, _) in KINDS.items()]
    answer = requests.post(f"{product.url}/api/predict/batch", files=files, timeout=60)
    assert answer.status_code == 200
    results = {
        item["name"]: item["error"]["code"] if item["error"] else item["prediction"]["class_name"]
        for item in answer.json()["results"]
    }
    assert results == {name: found for name, (_, found) in KINDS.items()}


@pytest.mark.parametrize("name", KINDS)
def test_on_the_page(product: Product, name: str) -> None:
    image, found = KINDS[name]
    answer = requests.post(f"{product.url}/", files={"file": (name, image)}, timeout=30)
    shown = re.search(r'class="(?:verdict|problem)" data-(?:class|code)="(\w+)"', answer.text)
    assert shown is not None
    assert shown[1] == found
    assert answer.status_code == (200 if found == "River" else 422)
    assert 'id="bench"' in answer.text


@pytest.mark.parametrize("name", ["x 10000, TIFF", "x 10000 + 1000", "13 bands, by pixel"])
def test_what_was_read_into_it_is_said(product: Product, name: str) -> None:
    image, _ = KINDS[name]
    answer = requests.post(f"{product.url}/api/predict", data=image, timeout=30).json()
    assert answer["assumed"]["type"] == "uint16"
    assert answer["assumed"]["scale"] == ("10000-offset" if "+" in name else "10000")
    assert answer["assumed"]["look"] == "l1c"
    page = requests.post(f"{product.url}/", files={"file": (name, image)}, timeout=30).text
    assert "Read as reflectance x 10000" in page


@pytest.mark.parametrize("operation", ["predict", "explain"])
@pytest.mark.parametrize("head", ["", "data:image/jpeg;base64,"])
def test_json(product: Product, operation: str, head: str) -> None:
    text = head + base64.b64encode(JPEG).decode()
    for body in ({"image": text}, {"instances": [{"image": {"b64": text}}]}):
        answer = requests.post(f"{product.url}/api/{operation}", json=body, timeout=30)
        assert answer.json()["class_name"] == "River"


@pytest.mark.parametrize("how", ["predict", "explain", "predict/batch", "page"])
def test_what_is_said_of_the_values_counts(product: Product, how: str) -> None:
    """As surface reflectance, its values are another picture; read so they are not refused."""
    image, known = KINDS["x 10000, TIFF"][0], {"scale": "10000", "look": "l2a"}
    url = f"{product.url}/" if how == "page" else f"{product.url}/api/{how}"
    files = {"files" if how == "predict/batch" else "file": ("tile.tif", image)}
    answer = requests.post(url, files=files, data=known, timeout=30)
    assert answer.status_code == 200, answer.text
    if how == "page":
        assert "Read as reflectance x 10000, L2A, surface" in answer.text
    elif how != "explain":
        content = answer.json()
        found = content if how == "predict" else content["results"][0]["prediction"]
        assert found["assumed"]["look"] == "l2a"


def test_a_scale_makes_a_picture_of_values_that_do_not_tell(product: Product) -> None:
    image, _ = KINDS["millions"]
    url = f"{product.url}/api/predict"
    assert requests.post(url, data=image, timeout=30).status_code == 422
    told = requests.post(url, params={"scale": "65535"}, data=image, timeout=30)
    assert told.status_code == 200
    assert told.json()["assumed"]["scale"] == "65535"


def test_a_version_without_figures_says_that_it_cannot_judge(product: Product) -> None:
    answer = requests.post(f"{product.url}/api/predict", data=JPEG, timeout=30).json()
    codes = [warning["code"] for warning in answer["warnings"]]
    if answer["prediction_set"] is None:
        assert codes == ["not_judged"]
    else:
        assert codes == []
        assert answer["prediction_set"][0] == "River"


def test_many_times_a_tile_is_said_to_be_squeezed(product: Product) -> None:
    large = encoded(np.asarray(Image.fromarray(PIXELS).resize((943, 960))), "JPEG")
    answer = requests.post(f"{product.url}/api/predict", data=large, timeout=30).json()
    assert answer["uncertain"]
    assert answer["warnings"][0]["code"] == "squeezed"
    assert "943 x 960" in answer["warnings"][0]["message"]

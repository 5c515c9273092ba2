"""What really changes between products, weather and transport, as functions on tiles.

Each takes and gives uint8 (N, H, W, 3), RGB, and is deterministic, so that two models are measured
on the same pixels.
"""

import io
from collections.abc import Callable
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageFilter

# Path radiance that L2A lacks against EuroSAT's L1C look, share of the value range (R, G, B): the
# difference of the mean colours of EuroSAT's pastures and of those in a Sentinel-2 L2A scene
# (30UVC, May 2021).
L2A_OFFSET = (0.11, 0.13, 0.24)

Shift = Callable[[np.ndarray], np.ndarray]


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Rounded, and cut at 0 and 255."""
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _each(change: Callable[[Image.Image], Image.Image]) -> Shift:
    return lambda tiles: np.stack([np.asarray(change(Image.fromarray(tile))) for tile in tiles])


def l2a_like(tiles: np.ndarray) -> np.ndarray:
    """Darker and less blue, as surface reflectance (L2A) is against top of atmosphere (L1C)."""
    return to_uint8(tiles - 255 * np.array(L2A_OFFSET, np.float32))


def brightness(factor: float) -> Shift:
    """All channels multiplied."""
    return lambda tiles: to_uint8(tiles * np.float32(factor))


def haze(tiles: np.ndarray) -> np.ndarray:
    """A third of the light comes from a bright bluish veil."""
    return to_uint8(tiles * np.float32(2 / 3) + np.array([200, 210, 225], np.float32) / 3)


def jpeg(quality: int) -> Shift:
    """Compressed once more."""

    def change(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer).convert("RGB")

    return _each(change)


def blur(radius: float) -> Shift:
    """Gaussian, standard deviation in px."""
    return _each(lambda image: image.filter(ImageFilter.GaussianBlur(radius)))


def noise(deviation: float) -> Shift:
    """Gaussian, standard deviation in grey values of 255; the same for every model."""
    random = np.random.default_rng
    return lambda tiles: to_uint8(tiles + random(0).normal(0, deviation, tiles.shape))


def half_resolution(tiles: np.ndarray) -> np.ndarray:
    """20 m instead of 10 m GSD, brought back to the tile's size."""

    def change(image: Image.Image) -> Image.Image:
        small = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
        return small.resize(image.size, Image.Resampling.BILINEAR)

    return _each(change)(tiles)


SHIFTS: MappingProxyType[str, Shift] = MappingProxyType(
    {
        "L2A-like (darker, less blue)": l2a_like,
        "brightness x 0.5": brightness(0.5),
        "brightness x 1.5": brightness(1.5),
        "haze": haze,
        "JPEG quality 30": jpeg(30),
        "blur, 1 px": blur(1.0),
        "noise, 10 of 255": noise(10.0),
        "half resolution": half_resolution,
    }
)

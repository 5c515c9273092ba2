"""Scenes that tests write: mosaics of EuroSAT's tiles, in whatever file is asked for."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine

from handlers.radiometry import PATH, TRANSMITTANCE, WHITE
from portal.scenes.inspector import look_into
from portal.scenes.terms import Inspection, Options
from tests.support.paths import SAMPLES

UTM = {"crs": "EPSG:32632", "transform": Affine(10, 0, 600_000, 0, -10, 5_300_000)}
NOWHERE = {"crs": None, "transform": Affine.identity()}


def mosaic(height: int, width: int, seed: int = 0) -> np.ndarray:
    """EuroSAT's pixels, uint8 (height, width, 3), 1..255: the same scene for the same seed."""
    tiles = [np.asarray(Image.open(path)) for path in sorted(SAMPLES.glob("*.jpg"))]
    order = np.random.default_rng(seed).integers(0, len(tiles), (-(-height // 64), -(-width // 64)))
    rows = [np.concatenate([tiles[one] for one in row], axis=1) for row in order]
    found: np.ndarray = np.maximum(np.concatenate(rows)[:height, :width], 1)
    return found


def reflectance(pixels: np.ndarray) -> np.ndarray:
    """At the top of the atmosphere (L1C), of EuroSAT's pixels."""
    found: np.ndarray = (pixels - 1.0) / 254 * WHITE
    return found


def surface(pixels: np.ndarray) -> np.ndarray:
    """At the surface (L2A), of EuroSAT's pixels."""
    found: np.ndarray = ((reflectance(pixels) - PATH) / TRANSMITTANCE).clip(1e-4)
    return found


def write(path: Path, bands: np.ndarray, **profile: Any) -> Path:
    """Write (H, W, bands); by default a GeoTIFF of 10 m in UTM.

    ``mask``: (H, W), 0 is no data; ``colours``, ``names``: as the bands have them.
    """
    mask, colours = profile.pop("mask", None), profile.pop("colours", None)
    names = profile.pop("names", ())
    profile = {"driver": "GTiff", "dtype": bands.dtype} | UTM | profile
    height, width, count = bands.shape
    with warnings.catch_warnings(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES"):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", height=height, width=width, count=count, **profile) as target:
            target.write(bands.transpose(2, 0, 1))
            if colours:
                target.colorinterp = colours
            for number, name in enumerate(names, 1):
                target.set_band_description(number, name)
            if mask is not None:
                target.write_mask(mask)
    return path


def write_empty(path: Path, height: int, width: int, dtype: str = "uint8", **profile: Any) -> Path:
    """A large file of which nothing is written, so that all of it is 0."""
    profile = {"driver": "GTiff", "count": 3, "tiled": True, "sparse_ok": True} | UTM | profile
    with rasterio.open(path, "w", height=height, width=width, dtype=dtype, **profile):
        return path


def look(path: Path, previews: Path | None = None, **options: Any) -> Inspection:
    """Look into a file in this process, with options by name."""
    return look_into(path, replace(Options("model"), **options), previews)

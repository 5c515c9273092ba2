"""A spec, tiles as bytes, and a model so small that its answers can be worked out by hand."""

import io

import numpy as np
import pytest
from PIL import Image

from handlers.contract.spec import ModelSpec


@pytest.fixture
def spec() -> ModelSpec:
    return ModelSpec(
        labels=("Blue", "Green", "Red"),
        image_size=16,
        mean=(0.2, 0.4, 0.6),
        std=(0.1, 0.2, 0.5),
        threshold=0.5,
    )


@pytest.fixture
def tile() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def png(tile: Image.Image) -> bytes:
    buffer = io.BytesIO()
    tile.save(buffer, "PNG")
    return buffer.getvalue()

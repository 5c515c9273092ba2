"""Three classes of one's own, small and clearly different, in files of several kinds."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"Dünen & Strand": (220, 200, 150), "hafen 2": (60, 70, 90), "Reben": (90, 150, 60)}
KINDS = {".jpg": "JPEG", ".JPG": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".tif": "TIFF"}


def picture(label: str, number: int, side: int = 64, kind: str = "JPEG") -> bytes:
    """One tile: the class's colour, its stripes, and noise of its own."""
    random = np.random.default_rng([number, *label.encode()])
    y, x = np.mgrid[:side, :side]
    period = 4 + 4 * list(COLOURS).index(label)
    stripes = 25 * np.sign(np.sin(2 * np.pi * (x + y + number) / period))
    pixels = np.array(COLOURS[label]) + stripes[..., None] + random.normal(0, 12, (side, side, 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def write_own_tiles(folder: Path, each: int = 20, side: int = 64) -> Path:
    """Class folders whose files have the same names in each, of every kind that is read."""
    for label in COLOURS:
        (folder / label).mkdir(parents=True)
        for number in range(each):
            suffix, kind = list(KINDS.items())[number % len(KINDS)]
            content = picture(label, number, side, kind)
            (folder / label / f"tile {number}{suffix}").write_bytes(content)
    return folder

"""Find or download the tiles, verify them, list the splits.

EUROSAT_DIR=/data python -m training.dataset
"""

import argparse
import logging
import os
from collections import Counter

import numpy as np

from training.dataset.download import ZIP_MD5, ZIP_URL, download
from training.dataset.eurosat import BadData, data_dir, find_tiles, label_of, verify
from training.dataset.splits import PARTS, SPLITS, load_split
from training.runs import run_command

logger = logging.getLogger(__name__)


def main() -> None:
    """Say what is there, once it is."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    root = data_dir()
    try:
        tiles = find_tiles(root)
    except BadData:
        if "EUROSAT_DIR" in os.environ and not root.is_dir():
            raise
        logger.info("no tiles in %s yet: downloading the official zip", root)
        download(ZIP_URL, root / "EuroSAT.zip", ZIP_MD5)
        tiles = find_tiles(root)
    verify(tiles)
    print(f"{len(tiles.names):,} tiles in {len(tiles.labels)} classes: {tiles.location}")
    pixels = tiles.decode(tiles.names)
    for number, channel in enumerate("RGB"):
        # From the histogram: exact, and without 27,000 tiles as floats in memory.
        counts = np.bincount(pixels[..., number].ravel(), minlength=256)
        values = np.arange(256) / 255
        mean = np.average(values, weights=counts)
        std = np.average((values - mean) ** 2, weights=counts) ** 0.5
        print(f"  {channel}: mean {mean:.4f}, std {std:.4f}")
    for name in SPLITS:
        split = load_split(name, tiles)
        sizes = (f"{part} {len(getattr(split, part)):,}" for part in PARTS)
        print(f"split {name}: {', '.join(sizes)}")
        for part in PARTS:
            classes = Counter(map(label_of, getattr(split, part)))
            print(f"  {part} sha256 {split.sha256[part]}")
            print("    " + ", ".join(f"{label} {classes[label]}" for label in tiles.labels))


if __name__ == "__main__":
    run_command(main, BadData)

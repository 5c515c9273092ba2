"""Find or download the tiles, verify them, list the splits.

EUROSAT_DIR=/data python -m training.dataset
"""

import argparse
import logging
import os
from collections import Counter
from pathlib import Path

import numpy as np

from handlers.contract.names import ZIPS
from training.dataset.download import ZIP_MD5, ZIP_URL, download
from training.dataset.eurosat import (
    CLASS_COUNTS,
    BadData,
    compare_with_published,
    data_dir,
    find_tiles,
    label_of,
)
from training.dataset.splits import (
    PARTS,
    SPLITS,
    check_classes,
    choose_split,
    new_split,
)
from training.runs import run_command

logger = logging.getLogger(__name__)
ZIP = ZIPS[0]


def main() -> None:
    """Say what is there, once it is."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    root = data_dir()
    try:
        tiles = find_tiles(root)
    except BadData:
        if _is_the_users(root):
            raise
        logger.info("no tiles in %s yet: downloading the official zip", root)
        download(ZIP_URL, root / ZIP, ZIP_MD5)
        tiles = find_tiles(root)
    if wrong := compare_with_published(tiles):
        if not CLASS_COUNTS.keys().isdisjoint(tiles.labels):
            logger.warning("%s is not the published EuroSAT:%s", tiles.location, wrong)
        names: tuple[str, ...] = (choose_split("random", tiles),)
    else:
        names = SPLITS
    splits = [new_split(name, tiles) for name in names]
    for split in splits:
        check_classes(split, tiles)
    print(f"{len(tiles.names):,} tiles in {len(tiles.labels)} classes: {tiles.location}")
    pixels = tiles.decode(tiles.names, progress="verify")
    for number, channel in enumerate("RGB"):
        # From the histogram: exact, and without 27,000 tiles as floats in memory.
        counts = np.bincount(pixels[..., number].ravel(), minlength=256)
        values = np.arange(256) / 255
        mean = np.average(values, weights=counts)
        std = np.average((values - mean) ** 2, weights=counts) ** 0.5
        print(f"  {channel}: mean {mean:.4f}, std {std:.4f}")
    for split in splits:
        sizes = (f"{part} {len(getattr(split, part)):,}" for part in PARTS)
        print(f"split {split.name}: {', '.join(sizes)}")
        for part in PARTS:
            classes = Counter(map(label_of, getattr(split, part)))
            print(f"  {part} sha256 {split.sha256[part]}")
            print("    " + ", ".join(f"{label} {classes[label]}" for label in tiles.labels))


def _is_the_users(root: Path) -> bool:
    """Whether nothing may be downloaded into a folder: it was named, and is none or has files."""
    if not os.environ.get("EUROSAT_DIR"):
        return False
    return not root.is_dir() or any(path.name != f"{ZIP}.part" for path in root.iterdir())


if __name__ == "__main__":
    run_command(main, BadData)

"""EuroSAT tiles and splits: find, download, verify, decode.

    python -m training.eurosat            find or download the tiles, verify them, list the splits
    EUROSAT_DIR=/data python -m training.eurosat

EuroSAT: Helber et al., 2019, "EuroSAT: A Novel Dataset and Deep Learning Benchmark for Land Use and
Land Cover Classification" (MIT licence); imagery: Copernicus Sentinel data.
"""

import argparse
import hashlib
import io
import logging
import os
import random
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import requests
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from handlers.spec import ModelSpec
from handlers.vision import resize

logger = logging.getLogger(__name__)

CLASS_COUNTS = MappingProxyType(  # Helber et al., 2019
    {
        "AnnualCrop": 3000,
        "Forest": 3000,
        "HerbaceousVegetation": 3000,
        "Highway": 2500,
        "Industrial": 2500,
        "Pasture": 2000,
        "PermanentCrop": 2500,
        "Residential": 3000,
        "River": 2500,
        "SeaLake": 3000,
    }
)
TILE_SIZE = 64  # px, at 10 m GSD
# Mean and standard deviation of each channel, pixel values scaled to 0..1: of all 27,000 tiles
# (`python -m training.eurosat` measures them), and of ImageNet as torchvision's weights expect.
MEAN = (0.3444, 0.3803, 0.4078)
STD = (0.2027, 0.1369, 0.1156)
STATISTICS = MappingProxyType(
    {
        "eurosat": (MEAN, STD),
        "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    }
)

# As torchvision.datasets.EuroSAT has them.
ZIP_URL = (
    "https://huggingface.co/datasets/torchgeo/eurosat/resolve/"
    "c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip"
)
ZIP_MD5 = "c8fa014336c82ac7804f0398fcb19387"
# TorchGeo's EuroSATSpatial: 60/20/20 by longitude.
SPATIAL_URL = "https://huggingface.co/datasets/torchgeo/eurosat/resolve/main/"
SPATIAL_MD5 = MappingProxyType(
    {
        "eurosat-spatial-train.txt": "7be3254be39f23ce4d4d144290c93292",
        "eurosat-spatial-val.txt": "acf392290050bb3df790dc8fc0ebf193",
        "eurosat-spatial-test.txt": "5ec1733f9c16116bf0aa2d921fc613ef",
    }
)

PARTS = ("train", "val", "test")
SPLITS = ("random", "spatial")
SPLITS_DIR = Path(__file__).parent / "splits"
DEFAULT_DIR = Path(__file__).parent / "data"
_LAYOUTS = ("2750", "EuroSAT_RGB", "")
_PUBLISHED = 27_000


class BadData(Exception):
    """The tiles or the split lists are not what they must be."""


def data_dir() -> Path:
    """Where the tiles are: ``EUROSAT_DIR``, or ``training/data``."""
    return Path(os.environ.get("EUROSAT_DIR") or DEFAULT_DIR).expanduser()


class Tiles:
    """The tiles of a folder or a zip, by name; bytes are read on demand.

    Attributes:
        names: every tile, ``<Class>_<n>.jpg``, sorted by class and number.
        labels: the classes that are present, sorted: the order of the logits.
        location: the folder or zip file.
    """

    def __init__(self, location: Path) -> None:
        """
        Raises:
            BadData: no class folder with .jpg tiles at ``location``, or the zip is damaged.
        """
        self.location = location
        self._zip: zipfile.ZipFile | None = None
        if location.is_dir():
            paths = _tiles_in_folder(location)
        else:
            try:
                self._zip = zipfile.ZipFile(location)
            except zipfile.BadZipFile as error:
                raise BadData(
                    f"{location} is not a complete zip; delete it and run `make data`"
                ) from error
            paths = [name for name in self._zip.namelist() if name.endswith(".jpg")]
        self._paths = {Path(path).name: path for path in paths}
        self.names = sorted(self._paths, key=_by_class_and_number)
        self.labels = sorted({label_of(name) for name in self.names})
        if not self.names:
            raise BadData(
                f"No EuroSAT tiles in {location}: expected class folders with .jpg tiles, found "
                "none. Run `make data` or set EUROSAT_DIR."
            )

    def read(self, name: str) -> bytes:
        """The encoded tile.

        Raises:
            BadData: there is no tile of that name, or the zip is damaged where it lies.
        """
        try:
            path = self._paths[name]
        except KeyError as error:
            raise BadData(
                f"{name} is not in {self.location}; run `make data` to see what is missing"
            ) from error
        if not self._zip:
            return Path(path).read_bytes()
        try:
            return self._zip.read(path)
        except (zipfile.BadZipFile, zlib.error) as error:
            raise BadData(
                f"{self.location} is damaged at {name} ({error}); delete it and run `make data`"
            ) from error

    def decode(self, names: Sequence[str], progress: str = "") -> np.ndarray:
        """Decode tiles into memory.

        Args:
            names: which tiles, in which order; at least one.
            progress: what the progress bar is called; none is shown when empty.

        Returns:
            uint8 (N, 64, 64, 3), RGB; 12 KB a tile.

        Raises:
            BadData: a tile is missing, damaged or not 64 x 64 RGB; all such tiles are named.
        """
        # Reading goes through one zip handle, so only decoding (which frees the GIL) is spread.
        pixels = np.empty((len(names), TILE_SIZE, TILE_SIZE, 3), np.uint8)
        bad: list[str] = []
        encoded = (self.read(name) for name in names)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            bar = tqdm(
                pool.map(_decode_tile, encoded),
                desc=progress,
                total=len(names),
                unit="tile",
                disable=not progress,
            )
            for index, (name, tile) in enumerate(zip(names, bar, strict=True)):
                if isinstance(tile, str):
                    bad.append(f"{name}: {tile}")
                else:
                    pixels[index] = tile
        if bad:
            shown = "\n  ".join(bad[:20])
            raise BadData(f"{len(bad)} bad tiles in {self.location}:\n  {shown}")
        return pixels


def label_of(name: str) -> str:
    """``River_17.jpg`` -> ``River``."""
    return name.rpartition("_")[0]


def find_tiles(root: Path | None = None) -> Tiles:
    """Open the tiles below ``root`` (default: ``data_dir()``).

    A zip file, a folder with ``EuroSAT.zip`` or ``EuroSAT_RGB.zip``, and class folders directly in
    it or in ``2750/``, ``EuroSAT_RGB/`` (also below ``eurosat/``, torchvision's layout) are known.

    Raises:
        BadData: nothing of the kind is there; the message says what was searched.
    """
    root = root or data_dir()
    if root.is_file():
        return Tiles(root)
    for folder in (root, root / "eurosat"):
        for layout in _LAYOUTS:
            if any((folder / layout / label).is_dir() for label in CLASS_COUNTS):
                return Tiles(folder / layout)
        for name in ("EuroSAT.zip", "EuroSAT_RGB.zip"):
            if (folder / name).is_file():
                return Tiles(folder / name)
    raise BadData(
        f"No EuroSAT tiles in {root}: expected class folders in 2750/ or EuroSAT_RGB/, or "
        "EuroSAT.zip; found none. Run `make data` or set EUROSAT_DIR."
    )


def verify(tiles: Tiles) -> None:
    """Check that this is the published dataset, whole: counts, and every tile decodes.

    Raises:
        BadData: says precisely which classes and tiles are missing, superfluous or damaged.
    """
    found = Counter(label_of(name) for name in tiles.names)
    wrong = [
        f"{label}: expected {CLASS_COUNTS.get(label, 0)}, found {found.get(label, 0)}"
        + _missing_numbers(tiles, label)
        for label in sorted(set(CLASS_COUNTS) | set(found))
        if CLASS_COUNTS.get(label, 0) != found.get(label, 0)
    ]
    if wrong:
        raise BadData(
            "not the published tiles in {}:\n  {}".format(tiles.location, "\n  ".join(wrong))
        )
    tiles.decode(tiles.names, progress="verify")


@dataclass(frozen=True)
class Split:
    """Three lists of tile names that have nothing in common.

    Attributes:
        name: ``random`` (stratified 70/15/15) or ``spatial`` (60/20/20 by longitude).
        train, val, test: tile names.
    """

    name: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        for part in PARTS:
            if not getattr(self, part):
                raise BadData(f"split {self.name}: the {part} list is empty; expected tile names")
        everything = [*self.train, *self.val, *self.test]
        if repeated := [name for name, n in Counter(everything).items() if n > 1]:
            raise BadData(
                f"split {self.name}: {len(repeated)} tiles stand in it twice, {repeated[0]} first"
            )

    @property
    def sha256(self) -> dict[str, str]:
        """Of each list as it is written to its file."""
        return {
            part: hashlib.sha256(_to_text(getattr(self, part)).encode()).hexdigest()
            for part in PARTS
        }


def load_split(name: str, tiles: Tiles) -> Split:
    """Read a split: ours from ``SPLITS_DIR``, TorchGeo's from beside the tiles.

    Raises:
        BadData: a list is missing, empty, damaged, or names a tile that is not there.
    """
    if name not in SPLITS:
        raise BadData(f"unknown split {name!r}; valid: {', '.join(SPLITS)}")
    lists = [
        _read_list(
            _spatial_list(part, tiles) if name == "spatial" else SPLITS_DIR / f"random-{part}.txt"
        )
        for part in PARTS
    ]
    split = Split(name, *lists)
    present = set(tiles.names)
    missing = [tile for part in lists for tile in part if tile not in present]
    if missing:
        raise BadData(
            f"split {name}: {len(missing)} tiles are not in {tiles.location}, {missing[0]} first; "
            "run `make data` to see what is missing"
        )
    return split


@dataclass(frozen=True)
class Examples:
    """Tiles in memory, ready for a model: ``names``, ``pixels`` uint8 (N, S, S, 3), RGB, and
    ``targets`` int64 (N,), indices into the labels.
    """

    names: tuple[str, ...]
    pixels: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)


def load_examples(
    tiles: Tiles,
    names: tuple[str, ...],
    spec: ModelSpec,
    progress: str = "",
    change: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Examples:
    """Decode tiles, ``change`` them if asked to, and bring them to the model's input size.

    The resizing is ``handlers.vision.resize``'s, so that training sees what serving sees.

    Raises:
        BadData: a tile is missing or damaged, or its class is not among the labels.
    """
    index = {label: number for number, label in enumerate(spec.labels)}
    if foreign := sorted({label_of(name) for name in names} - set(index)):
        raise BadData(f"tiles of {', '.join(foreign)}, but the labels are {', '.join(index)}")
    pixels = tiles.decode(names, progress)
    if change:
        pixels = change(pixels)
    if spec.image_size != TILE_SIZE:
        # Filled in place, some at a time: all at once would double gigabytes at 224 px.
        enlarged = np.empty((len(names), spec.image_size, spec.image_size, 3), np.uint8)
        for start in range(0, len(names), 256):
            some = slice(start, start + 256)
            enlarged[some] = resize(pixels[some], spec.image_size)
        pixels = enlarged
    targets = torch.tensor([index[label_of(name)] for name in names])
    return Examples(names, torch.from_numpy(pixels), targets)


def make_random_split(names: Iterable[str], seed: int = 0) -> Split:
    """Stratified 70/15/15 split, the same for the same names and seed on every platform."""
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    by_label: dict[str, list[str]] = {}
    for name in sorted(names, key=_by_class_and_number):
        by_label.setdefault(label_of(name), []).append(name)
    for label, members in by_label.items():
        random.Random(f"{seed}-{label}").shuffle(members)
        first, second = round(len(members) * 0.70), round(len(members) * 0.85)
        parts["train"] += members[:first]
        parts["val"] += members[first:second]
        parts["test"] += members[second:]
    return Split("random", **{part: tuple(names) for part, names in parts.items()})


def write_split(split: Split, folder: Path = SPLITS_DIR) -> None:
    """Write the three lists as ``<split>-<part>.txt``, one tile name a line."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        (folder / f"{split.name}-{part}.txt").write_text(_to_text(getattr(split, part)))


def download(url: str, target: Path, md5: str) -> None:
    """Fetch ``url`` into ``target``, continuing where an earlier try stopped.

    Raises:
        BadData: the server cannot be reached or answers with an error, or the file that arrived
            has another md5 (it is deleted then, so that the next try starts anew).
    """
    if target.is_file() and _md5(target) == md5:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".part")
    have = partial.stat().st_size if partial.exists() else 0
    try:
        headers = {"Range": f"bytes={have}-"} if have else {}
        with requests.get(url, headers=headers, stream=True, timeout=30) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                pass  # everything has arrived already; the checksum decides
            else:
                response.raise_for_status()
                resumed = response.status_code == requests.codes.partial_content
                _receive(response, partial, have if resumed else 0)
    except requests.RequestException as error:
        raise BadData(
            f"cannot download {url} ({type(error).__name__}). What arrived is kept: run the "
            f"command again to go on, or put the file at {target} yourself."
        ) from error
    if (found := _md5(partial)) != md5:
        partial.unlink()
        raise BadData(f"{url}: expected md5 {md5}, found {found}; run the command again")
    partial.replace(target)


def _receive(response: requests.Response, partial: Path, have: int) -> None:
    total = int(response.headers.get("Content-Length", 0)) + have
    with (
        partial.open("ab" if have else "wb") as file,
        tqdm(desc=partial.stem, total=total, initial=have, unit="B", unit_scale=True) as bar,
    ):
        for chunk in response.iter_content(1 << 20):
            file.write(chunk)
            bar.update(len(chunk))


def _tiles_in_folder(folder: Path) -> list[str]:
    return [str(path) for path in folder.glob("*/*.jpg") if path.is_file()]


def _decode_tile(data: bytes) -> np.ndarray | str:
    """A tile's pixels, or what is wrong with it."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.size != (TILE_SIZE, TILE_SIZE) or image.mode != "RGB":
                return f"expected 64 x 64 RGB, found {image.width} x {image.height} {image.mode}"
            return np.asarray(image)
    except Exception as error:  # noqa: BLE001 - Pillow raises many types on damaged files
        return f"cannot be decoded ({error})"


def _by_class_and_number(name: str) -> tuple[str, int, str]:
    label, _, number = name.removesuffix(".jpg").rpartition("_")
    return label, int(number) if number.isdigit() else 0, name


def _missing_numbers(tiles: Tiles, label: str) -> str:
    present = set(tiles.names)
    missing = [
        name
        for number in range(1, CLASS_COUNTS.get(label, 0) + 1)
        if (name := f"{label}_{number}.jpg") not in present
    ]
    return (
        f"; missing {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}" if missing else ""
    )


def _spatial_list(part: str, tiles: Tiles) -> Path:
    name = f"eurosat-spatial-{part}.txt"
    home = tiles.location.parent
    for folder in (tiles.location, home, home / "splits", home.parent / "splits", DEFAULT_DIR):
        if (path := folder / name).is_file():
            break
    else:
        path = DEFAULT_DIR / name
        download(SPATIAL_URL + name, path, SPATIAL_MD5[name])
    if (found := _md5(path)) != SPATIAL_MD5[name]:
        raise BadData(
            f"{path}: expected md5 {SPATIAL_MD5[name]}, found {found}; delete it and try again"
        )
    return path


def _read_list(path: Path) -> tuple[str, ...]:
    try:
        return tuple(path.read_text().split())
    except FileNotFoundError as error:
        raise BadData(f"{path} is missing; restore it from the repository") from error


def _to_text(names: Iterable[str]) -> str:
    return "".join(f"{name}\n" for name in names)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def main() -> None:
    """Find or download the tiles, verify them, and say what is there."""
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
        mean = float(np.average(values, weights=counts))
        std = float(np.average((values - mean) ** 2, weights=counts) ** 0.5)
        print(f"  {channel}: mean {mean:.4f}, std {std:.4f}")
    for name in SPLITS:
        split = load_split(name, tiles)
        sizes = ", ".join(f"{part} {len(getattr(split, part)):,}" for part in PARTS)
        print(f"split {name}: {sizes}")
        for part in PARTS:
            classes = Counter(label_of(tile) for tile in getattr(split, part))
            print(f"  {part} sha256 {split.sha256[part]}")
            print("    " + ", ".join(f"{label} {classes[label]}" for label in tiles.labels))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        main()
    except BadData as problem:
        sys.exit(str(problem))

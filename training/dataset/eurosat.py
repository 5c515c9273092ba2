"""EuroSAT tiles: find, verify, decode.

EuroSAT: Helber et al., 2019, "EuroSAT: A Novel Dataset and Deep Learning Benchmark for Land Use and
Land Cover Classification" (MIT licence); imagery: Copernicus Sentinel data.
"""

import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

import numpy as np
from tqdm import tqdm

from handlers.reading import BadImage, read

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
# (`python -m training.dataset` measures them), and of ImageNet as torchvision's weights expect.
MEAN = (0.3444, 0.3803, 0.4078)
STD = (0.2027, 0.1369, 0.1156)
STATISTICS = MappingProxyType(
    {"eurosat": (MEAN, STD), "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}
)
DEFAULT_DIR = Path(__file__).parents[1] / "data"


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

    Raises:
        BadData: when made, if there are no class folders with .jpg tiles or the zip is damaged;
            when read, if a tile is missing, damaged or, decoded, not 64 x 64 RGB.
    """

    def __init__(self, location: Path) -> None:
        self.location = location
        self._zip: zipfile.ZipFile | None = None
        if location.is_dir():
            paths = [str(path) for path in location.glob("*/*.jpg") if path.is_file()]
        else:
            try:
                self._zip = zipfile.ZipFile(location)
            except zipfile.BadZipFile as error:
                raise BadData(
                    f"{location} is not a complete zip; delete it and run `make data`"
                ) from error
            paths = [name for name in self._zip.namelist() if name.endswith(".jpg")]
        self._paths = {Path(path).name: path for path in paths}
        self.names = sorted(self._paths, key=by_class_and_number)
        self.labels = sorted(set(map(label_of, self.names)))
        if not self.names:
            raise BadData(
                f"No EuroSAT tiles in {location}: expected class folders with .jpg tiles, found "
                "none. Run `make data` or set EUROSAT_DIR."
            )

    def read(self, name: str) -> bytes:
        """The encoded tile."""
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
            uint8 (N, 64, 64, 3), RGB. All bad tiles are named by an error.
        """
        # Reading goes through one zip handle, so only decoding (which frees the GIL) is spread.
        pixels = np.empty((len(names), TILE_SIZE, TILE_SIZE, 3), np.uint8)
        bad: list[str] = []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            decoded = pool.map(_decode_tile, map(self.read, names))
            bar = tqdm(decoded, progress, len(names), unit="tile", disable=not progress)
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
        for layout in ("2750", "EuroSAT_RGB", ""):
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
    present = set(tiles.names)
    found = Counter(map(label_of, present))
    wrong = ""
    for label in sorted(CLASS_COUNTS.keys() | found):
        expected = CLASS_COUNTS.get(label, 0)
        if found[label] == expected:
            continue
        wrong += f"\n  {label}: expected {expected}, found {found[label]}"
        every = (f"{label}_{number}.jpg" for number in range(1, expected + 1))
        if missing := [name for name in every if name not in present]:
            wrong += f"; missing {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}"
    if wrong:
        raise BadData(f"not the published tiles in {tiles.location}:{wrong}")
    tiles.decode(tiles.names, progress="verify")


def _decode_tile(data: bytes) -> np.ndarray | str:
    """A tile's pixels, or what is wrong with it."""
    try:
        pixels = read(data).pixels
    except BadImage as problem:
        return str(problem)
    if pixels.shape[:2] != (TILE_SIZE, TILE_SIZE):
        return f"expected 64 x 64 px, found {pixels.shape[1]} x {pixels.shape[0]}"
    return pixels


def by_class_and_number(name: str) -> tuple[str, int, str]:
    """The order of tiles: ``River_9.jpg`` stands before ``River_10.jpg``."""
    label, _, number = name.removesuffix(".jpg").rpartition("_")
    return label, int(number) if number.isdigit() else 0, name

"""EuroSAT's tiles, or those of any folder of class folders: find, verify, decode.

EuroSAT: Helber et al., 2019, "EuroSAT: A Novel Dataset and Deep Learning Benchmark for Land Use and
Land Cover Classification" (MIT licence); imagery: Copernicus Sentinel data.
"""

import logging
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

import numpy as np
from tqdm import tqdm

from handlers.contract.names import LABEL, MOST_LABELS, ZIPS
from handlers.reading import BadImage, read
from handlers.vision import resize
from training.dataset.folders import Sorted, sort_out, walk

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
# (`python -m training.dataset` measures them), of ImageNet as torchvision's weights expect, and the
# plain halves that those of Inception and EfficientNet-Lite do.
MEAN = (0.3444, 0.3803, 0.4078)
STD = (0.2027, 0.1369, 0.1156)
STATISTICS = MappingProxyType(
    {
        "eurosat": (MEAN, STD),
        "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    }
)
RESIZED_TOGETHER = 2**22  # bytes of tiles of one size
DEFAULT_DIR = Path(__file__).parents[1] / "data"


class BadData(Exception):
    """The tiles or the split lists are not what they must be."""


class NoTiles(BadData):
    """There are no folders of tiles."""


def data_dir() -> Path:
    """Where the tiles are: ``EUROSAT_DIR``, or ``training/data``."""
    return Path(os.environ.get("EUROSAT_DIR") or DEFAULT_DIR).expanduser()


class Tiles:
    """The tiles of a folder or a zip, by name; bytes are read on demand.

    A tile called ``<Class>_<n>.jpg`` in the folder of its class goes by that name, as in EuroSAT
    and its published lists, any other one by ``<Class>/<file>``: no two have the same name.

    Attributes:
        names: every tile, sorted by class and number.
        labels: the classes, sorted: the order of the logits.
        location: the folder in which the class folders are, or the zip file.
        left_out: how many files are no tiles, by the reason.

    Raises:
        BadData: when made, if there are no class folders with tiles, several such sets of them, a
            class without tiles or with a name that no class may have, or the zip is damaged; when
            read, if a tile is missing or damaged.
    """

    def __init__(self, location: Path) -> None:
        self.location = location
        self._zip, found = _look(location)
        home = _home(found, location)
        classes = found.homes[home]
        _check_classes(classes, location / home)
        self._paths: dict[str, str] = {}
        for label, paths in classes.items():
            for path in paths:
                name = _name(label, path)
                if name in self._paths:
                    raise BadData(f"{location} has two tiles {name}; expected one of a name")
                self._paths[name] = path if self._zip else str(location / path)
        if not self._zip:
            self.location = location / home
        self.names = sorted(self._paths, key=by_class_and_number)
        self.labels = sorted(classes)
        self.left_out = found.left_out_with(home)
        if said := ", ".join(f"{count:,} {why}" for why, count in self.left_out.items()):
            logger.info("%s: left out %s", self.location, said)

    def read(self, name: str) -> bytes:
        """The encoded tile."""
        try:
            path = self._paths[name]
        except KeyError as error:
            raise BadData(
                f"{name} is not in {self.location}; run `make data` to see what is missing"
            ) from error
        try:
            return self._zip.read(path) if self._zip else Path(path).read_bytes()
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise BadData(  # RuntimeError: of an encrypted one, or one packed in an unknown way
                f"{self.location} is damaged at {name} ({error}): copy or download it once more"
            ) from error
        except OSError as error:
            raise BadData(f"{name} of {self.location} cannot be read: {error}") from error

    def side(self) -> int:
        """The shorter side of the first tile, px."""
        tile = _decode_tile(self.read(self.names[0]))
        if isinstance(tile, str):
            raise BadData(f"1 bad tiles in {self.location}:\n  {self.names[0]}: {tile}")
        return min(tile.shape[:2])

    def decode(self, names: Sequence[str], progress: str = "", size: int = TILE_SIZE) -> np.ndarray:
        """Decode tiles into memory, those of other sizes resized as the handler resizes them.

        Args:
            names: which tiles, in which order; at least one.
            progress: what the progress bar is called; none is shown when empty.
            size: side of what is returned, px.

        Returns:
            uint8 (N, size, size, 3), RGB. All bad tiles are named by an error.
        """
        # Reading goes through one zip handle, so only decoding (which frees the GIL) is spread.
        pixels = np.empty((len(names), size, size, 3), np.uint8)
        bad: list[str] = []
        waiting: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}  # by size, to be resized
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            decoded = pool.map(_decode_tile, map(self.read, names))
            bar = tqdm(decoded, progress, len(names), unit="tile", disable=not progress)
            for index, (name, tile) in enumerate(zip(names, bar, strict=True)):
                if isinstance(tile, str):
                    bad.append(f"{name}: {tile}")
                elif tile.shape[:2] == (size, size):
                    pixels[index] = tile
                else:
                    together = waiting.setdefault(tile.shape, [])
                    together.append((index, tile))
                    if len(together) * tile.size >= RESIZED_TOGETHER:
                        _resize(together, pixels)
        for together in waiting.values():
            _resize(together, pixels)
        if bad:
            shown = "\n  ".join(bad[:20])
            raise BadData(f"{len(bad)} bad tiles in {self.location}:\n  {shown}")
        return pixels


def _resize(waiting: list[tuple[int, np.ndarray]], pixels: np.ndarray) -> None:
    """Bring tiles of one size to that of ``pixels``, to their places there."""
    if waiting:
        indices, tiles = zip(*waiting, strict=True)
        pixels[list(indices)] = resize(np.stack(tiles), pixels.shape[1])
        waiting.clear()


def open_zip(path: Path) -> zipfile.ZipFile:
    """A zip to read from.

    Raises:
        BadData: it is none, or not whole.
    """
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise BadData(
            f"{path} is not a complete zip ({error}): copy or download it once more"
        ) from error


def _look(location: Path) -> tuple[zipfile.ZipFile | None, Sorted]:
    """An open zip, None of a folder, and what is in it."""
    if location.is_dir():
        return None, sort_out(walk(location))
    if not location.exists():
        raise NoTiles(
            f"No tiles in {location}: there is no such file or folder. Set EUROSAT_DIR to one that "
            "is there, or leave it unset and run `make data`."
        )
    archive = open_zip(location)
    return archive, sort_out(dict.fromkeys(archive.namelist()))


def _home(found: Sorted, location: Path) -> str:
    """Where in a folder or zip the class folders are."""
    homes = found.choose()
    if len(homes) > 1:
        raise BadData(
            f"{location} has several folders of class folders, {homes[0] or '.'} and {homes[1]}; "
            "set EUROSAT_DIR to the one that is meant"
        )
    if not homes:
        single = [label for home in found.homes.values() for label, paths in home.items() if paths]
        raise NoTiles(
            f"No tiles in {location}: expected two or more folders, one a class, of .jpg, .png or "
            f".tif tiles, in it or in 2750/, EuroSAT_RGB/, EuroSAT/ or train/, or a zip of them; "
            f"found {_listed(sorted(single)) if single else 'none'}. Run `make data` for EuroSAT "
            "or set EUROSAT_DIR."
        )
    return homes[0]


def _check_classes(classes: dict[str, list[str]], location: Path) -> None:
    if empty := sorted(label for label, paths in classes.items() if not paths):
        raise BadData(
            f"{location}: class {_listed(empty)} has no tiles: put some into its folder, or move "
            "that elsewhere"
        )
    if bad := sorted(label for label in classes if not LABEL.fullmatch(label)):
        raise BadData(
            f"{location}: a class cannot be called {bad[0]!r}; expected at most 64 characters, "
            "none of / \\ or a control character, no space at an end, and a letter or digit first"
        )
    if len(classes) > MOST_LABELS:
        raise BadData(
            f"{location} has {len(classes)} class folders; expected 2 to {MOST_LABELS}. Does "
            "EUROSAT_DIR name the right folder?"
        )


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:5]) + (" ..." if len(words) > 5 else "")


def _name(label: str, path: str) -> str:
    """By which name a tile goes."""
    file = path.replace("\\", "/").rpartition("/")[2]
    published = re.fullmatch(re.escape(label) + r"_\d+\.jpg", file, re.ASCII)
    return file if published else f"{label}/{file}"


def label_of(name: str) -> str:
    """``River_17.jpg`` -> ``River``, ``Harbour/quay 3.png`` -> ``Harbour``."""
    label, slash, _ = name.partition("/")
    return label if slash else name.rpartition("_")[0]


def find_tiles(root: Path | None = None) -> Tiles:
    """Open the tiles below ``root`` (default: ``data_dir()``).

    A zip file, a folder in or below which class folders are, or one with a zip: any folder of class
    folders is a dataset. Where several could be meant, ``handlers.contract.names.LAYOUTS`` decides.

    Raises:
        BadData: nothing of the kind is there; the message says what was searched.
    """
    root = root or data_dir()
    try:
        return Tiles(root)
    except NoTiles:
        zips = sorted(root.glob("*.zip")) if root.is_dir() else []
        known = [path for path in zips if path.name in ZIPS] or zips
        if not known:
            raise
    if len(known) > 1 and known is zips:
        raise BadData(
            f"{root} has several zips, {known[0].name} and {known[1].name}; set EUROSAT_DIR to the "
            "one that is meant"
        )
    return Tiles(known[0])


def compare_with_published(tiles: Tiles) -> str:
    """Which classes and tiles are missing or superfluous, a line each; empty: EuroSAT, whole."""
    present = set(tiles.names)
    found = Counter(map(label_of, present))
    wrong = ""
    for label in sorted(CLASS_COUNTS.keys() | found):
        expected = CLASS_COUNTS.get(label, 0)
        every = (f"{label}_{number}.jpg" for number in range(1, expected + 1))
        missing = [name for name in every if name not in present]
        if found[label] == expected and not missing:
            continue
        wrong += f"\n  {label}: expected {expected}, found {found[label]}"
        if missing:
            wrong += f"; missing {_listed(missing)}"
    return wrong


def _decode_tile(data: bytes) -> np.ndarray | str:
    """A tile's pixels, or what is wrong with it."""
    try:
        return read(data).pixels
    except BadImage as problem:
        return str(problem)


def by_class_and_number(name: str) -> tuple[str, int, str]:
    """The order of tiles: ``River_9.jpg`` stands before ``River_10.jpg``."""
    digits = re.search(r"(\d{1,18})\.\w+$", name, re.ASCII)
    return label_of(name), int(digits[1]) if digits else 0, name

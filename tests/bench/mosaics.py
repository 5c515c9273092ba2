"""What maps of scenes are worth, where the truth is known.

    EUROSAT_DIR=/data nice python -m tests.bench.mosaics                      # all; half an hour
    EUROSAT_DIR=/data nice python -m tests.bench.mosaics --only scales,demo   # some of them

The newest release of each model answers, in int8, from its archive. Scenes are made of EuroSAT's
tiles, brought together as ``training.dataset.neighbours`` finds them. Those that count are
validation tiles; what lies between them are training tiles, and test tiles are left out. ``demo``
needs no tiles.
"""

import argparse
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT

from handlers.radiometry import PATH, TCI_WHITE, TRANSMITTANCE
from portal.errors import UnusableScene
from portal.scenes.archive_classifier import ArchiveClassifier
from portal.scenes.inspector import look_into
from portal.scenes.mapping import map_scene
from portal.scenes.raster import open_raster
from portal.scenes.scene import GSD, SIDE, WATER, Answers, CellMap, Classifier, Inspection, Options
from tests.bench.figures import Promise, verdict
from tests.bench.limits import Cells, table
from tests.bench.scene_work import MODELS, SAMPLE, newest
from tests.support.rasters import reflectance, surface, write
from training.archive import build
from training.dataset.eurosat import Tiles, data_dir, find_tiles, label_of
from training.dataset.neighbours import PLACES, Zone, groups, quads, read_zones
from training.dataset.splits import Split, load_split
from training.hardware import cpu_name
from training.scenes import shores

MIXED, SCENES = 8, 10  # tiles, a side of a scene of strangers, and how many of these there are
LOST = Promise("", 0.5, 0.2, least=False)  # points of accuracy
APART = Promise("", 1e-6, 0, least=False)  # of a probability
SEA = Promise("", 0.9, 1.0)
LAND = Promise("", 0.02, 0.01, least=False)

# Where the scene of strangers lies: reference system, left and top.
SYSTEMS = {
    "UTM": ("EPSG:32632", 600_000, 5_300_000),
    "Britain's grid": ("EPSG:27700", 258_000, 282_000),
    "Europe's grid": ("EPSG:3035", 4_320_000, 3_210_000),
}
AS_IT_IS = Options("none", stride=SIDE, look="eurosat")

Values = Callable[[np.ndarray], np.ndarray]


def _whole(slope: float, offset: float, dtype: str = "uint16") -> Values:
    """Reflectances as whole numbers, of which none is 0, as that is no data."""
    return lambda found: np.rint(found * slope + offset).clip(1, np.iinfo(dtype).max).astype(dtype)


# What is written of reflectances, and which scale that is.
SCALES: Mapping[str, tuple[str, Values]] = {
    "x 10000": ("10000", _whole(1e4, 0)),
    "x 10000 + 1000": ("10000-offset", _whole(1e4, 1000)),
    "x 1000": ("1000", _whole(1e3, 0)),
    "x 65535": ("65535", _whole(65535, 0)),
    "0..1": ("1", lambda found: found.astype(np.float32)),
    "true colour": ("255", _whole(255 / TCI_WHITE, 0, "uint8")),
}


def _through(air: float) -> Values:
    """The surface under so many times the air that the product reckons with."""
    path, transmittance = PATH * air, 1 - (1 - TRANSMITTANCE) * air
    return lambda pixels: ((reflectance(pixels) - path) / transmittance).clip(1e-4)


class Model:
    """A classifier that asks its archive about each window once.

    Attributes:
        title, release: of the model, and its folder.
        archive: what is asked.
    """

    def __init__(self, name: str, store: Path, stack: ExitStack) -> None:
        self.title, self.release = MODELS[name], newest(name)
        self.archive = stack.enter_context(ArchiveClassifier(build(self.release, store)))
        self._known: dict[bytes, tuple[Any, ...]] = {}

    def __call__(self, windows: np.ndarray) -> Answers:
        """As of ``Classifier``."""
        keys = [window.tobytes() for window in windows]
        new = {key: at for at, key in enumerate(keys) if key not in self._known}
        if new:
            found = self.archive(windows[list(new.values())])
            rows = zip(found.probabilities, found.unsure, found.bright, found.empty, strict=True)
            self._known.update(zip(new, rows, strict=True))
        rows_of = zip(*(self._known[key] for key in keys), strict=True)
        return Answers(tuple(sorted(self.archive.archive.labels)), *map(np.array, rows_of))


class Bench:
    """What the figures have in common: tiles, mosaics of them, models, a folder for scenes."""

    def __init__(self, given: argparse.Namespace, work: Path, stack: ExitStack) -> None:
        self.given, self.work = given, work
        self.models = [Model(name, work / "store", stack) for name in given.models]
        self._maps = 0

    @cached_property
    def tiles(self) -> Tiles:
        """Where tiles are read from."""
        return find_tiles()

    @cached_property
    def split(self) -> Split:
        """That of which the released models have learned the training tiles alone."""
        return load_split("random", self.tiles)

    @cached_property
    def zones(self) -> list[Zone]:
        """Where tiles lie."""
        return read_zones(data_dir() / "splits" / PLACES)

    @cached_property
    def known(self) -> set[str]:
        """The tiles that count."""
        return set(self.split.val)

    @cached_property
    def untouched(self) -> set[str]:
        """The tiles that are not looked at."""
        return set(self.split.test)

    @cached_property
    def strangers(self) -> list[str]:
        """They, in disorder."""
        return [str(name) for name in np.random.default_rng(1).permutation(sorted(self.known))]

    def map(self, path: Path, seen: Inspection, classify: Classifier) -> CellMap:
        """The product's map of a scene."""
        self._maps += 1
        folder = self.work / f"strips-{self._maps}"
        with open_raster(path, seen) as raster:
            return map_scene(
                raster, seen.stride, classify, folder=folder, progress=lambda _done, _total: None
            )


@dataclass(frozen=True)
class _Outcome:
    """What became of a mosaic.

    Attributes:
        reading: what its values were taken for.
        tiles: that count.
        lost: by each model, how many of them it named rightly one by one, and not here; None: the
            mosaic was refused.
    """

    reading: str
    tiles: int
    lost: list[int] | None


def scales(bench: Bench) -> Iterator[str]:
    """Real mosaics, nearly all of one class, against their tiles one by one."""
    mosaics = [
        {place: name for place, name in group.items() if name not in bench.untouched}
        for group in groups(bench.zones)
        if len(group) >= bench.given.least and bench.known & set(group.values())
    ]
    yield from _in_every_scale(bench, mosaics)


def mixed(bench: Bench) -> Iterator[str]:
    """Scenes of strangers, as a landscape has all classes, against the same."""
    tiles = MIXED * MIXED
    names = [bench.strangers[first : first + tiles] for first in range(0, SCENES * tiles, tiles)]
    places = list(np.ndindex(MIXED, MIXED))
    yield from _in_every_scale(bench, [dict(zip(places, some, strict=True)) for some in names])


def _in_every_scale(bench: Bench, mosaics: Sequence[Mapping[Any, str]]) -> Iterator[str]:
    right, count = np.zeros(len(bench.models), int), 0
    outcomes: dict[tuple[str, str], list[_Outcome]] = defaultdict(list)
    for group in mosaics:
        pixels = _joined(bench, group)
        truth = {place: label_of(name) for place, name in group.items() if name in bench.known}
        tiles = np.stack([_cell(pixels, place) for place in truth])
        alone = [_right(_named(model(tiles)), list(truth.values())) for model in bench.models]
        right, count = right + alone, count + len(truth)
        for kind, bands, ways in _written(pixels):
            path = write(bench.work / "mosaic.tif", bands)
            for way, options in ways.items():
                outcomes[kind, way].append(_outcome(bench, path, options, truth, alone))
    for model, share in zip(bench.models, right / count, strict=True):
        yield (
            f"{count} validation tiles in {len(mosaics)} mosaics, one by one, {model.title}: "
            f"{100 * share:.2f} % right"
        )
    for (kind, way), found in outcomes.items():
        of = sum(outcome.tiles for outcome in found if outcome.lost is not None)
        losses = np.sum([outcome.lost for outcome in found if outcome.lost is not None], axis=0)
        readings = Counter(outcome.reading for outcome in found).most_common()
        told = ", ".join(f"{reading} ({times})" for reading, times in readings)
        for model, lost in zip(bench.models, 100 * losses / of, strict=True):
            yield (
                f"{kind}, {way}, {model.title}: {lost:.2f} points lost; ≤ {LOST.must}, goal ≤ "
                f"{LOST.goal}: {verdict(LOST, lost)}; taken for {told}"
            )


def _outcome(
    bench: Bench,
    path: Path,
    options: Mapping[str, Any],
    truth: Mapping[tuple[int, int], str],
    alone: Sequence[int],
) -> _Outcome:
    try:
        seen = look_into(path, Options("none", stride=SIDE, **options))
    except UnusableScene:
        return _Outcome("refused", len(truth), None)
    lost = []
    for model, right in zip(bench.models, alone, strict=True):
        names = _names(bench.map(path, seen, model))
        lost.append(right - _right([names[place] for place in truth], list(truth.values())))
    return _Outcome(f"{seen.scale} {seen.look}", len(truth), lost)


def _written(
    pixels: np.ndarray,
) -> Iterator[tuple[str, np.ndarray, dict[str, dict[str, str]]]]:
    """What can be written of EuroSAT's pixels: its name, values, and what may be told of them."""
    data = pixels.any(axis=2, keepdims=True)
    # has to be told: 8 bits of a scene are a true-colour image
    yield "EuroSAT's own", pixels, {"told": {"look": "eurosat"}}
    for level, physical in (("l1c", reflectance), ("l2a", surface)):
        for scale, (name, values) in SCALES.items():
            told = {"look": level, "scale": name}
            yield (
                f"{level} {scale}",
                values(physical(pixels)) * data,
                {"told": told, "guessed": {}},
            )
    for air in (0.7, 1.3):
        bands = SCALES["x 10000"][1](_through(air)(pixels)) * data
        told = {"look": "l2a", "scale": "10000"}
        yield f"l2a x 10000 of {air} times the air", bands, {"told": told, "guessed": {}}


def stitched(bench: Bench) -> Iterator[str]:
    """A scene in several reference systems, against its tiles one by one."""
    side = bench.given.side
    names = bench.strangers[: side * side]
    group = {divmod(number, side): name for number, name in enumerate(names)}
    pixels = _joined(bench, group)
    tiles = np.stack([_cell(pixels, place) for place in group])
    truth = [label_of(name) for name in names]
    paths = {}
    for name, (crs, left, top) in SYSTEMS.items():
        transform = Affine(GSD, 0, left, 0, -GSD, top)
        paths[name] = write(bench.work / f"{name}.tif", pixels, crs=crs, transform=transform)
    degrees = _in_degrees(paths["UTM"], bench.work / "degrees.tif")
    for model in bench.models:
        # one at a time, as they come without a scene
        answers = [model.archive(tile[None]) for tile in tiles]
        alone = np.concatenate([answer.probabilities for answer in answers])
        for name, path in paths.items():
            seen = look_into(path, AS_IT_IS)
            found = bench.map(path, seen, model.archive).probabilities
            how = "warped" if seen.resampled else "not warped"
            yield (
                f"{name}, {how}, {len(tiles)} tiles, {model.title}: "
                f"{_apart(found.reshape(alone.shape), alone)}"
            )
        seen = look_into(degrees, AS_IT_IS)
        with open_raster(degrees, seen) as raster:
            scene, valid = raster.read(0, 0, raster.geo.height, raster.geo.width)
        cells = [
            place
            for place in np.ndindex(*(length // SIDE for length in valid.shape))
            if _cell(valid, place).all()
        ]
        found = bench.map(degrees, seen, model.archive).probabilities
        cut = model.archive(np.stack([_cell(scene, place) for place in cells])).probabilities
        yield (
            f"lon/lat, warped, {len(cells)} cells of the warped pixels, {model.title}: "
            f"{_apart(np.stack([found[place] for place in cells]), cut)}"
        )
        # where the tiles are in the warped scene
        _, left, top = SYSTEMS["UTM"]
        down = round((seen.geo.origin[1] - top) / GSD)
        right = round((left - seen.geo.origin[0]) / GSD)
        again = model.archive(np.stack([_cell(scene[down:, right:], place) for place in group]))
        named = _named(again)
        before = [name for answer in answers for name in _named(answer)]
        lost = 100 * (_right(before, truth) - _right(named, truth)) / len(truth)
        yield (
            f"lon/lat, warped there and back, {len(tiles)} tiles, {model.title}: "
            f"{100 * _right(named, before) / len(truth):.2f} % keep their class, {lost:.2f} points "
            f"lost"
        )


def _apart(found: np.ndarray, alone: np.ndarray) -> str:
    apart = float(abs(found - alone).max())
    return f"probabilities {apart:.1e} apart; ≤ {APART.must:g}, goal 0: {verdict(APART, apart)}"


def _in_degrees(path: Path, target: Path) -> Path:
    """A scene as ``gdalwarp -t_srs EPSG:4326 -r bilinear`` makes it of another."""
    with (
        rasterio.open(path) as source,
        WarpedVRT(source, crs="EPSG:4326", resampling=Resampling.bilinear, nodata=0) as warped,
    ):
        values = warped.read().transpose(1, 2, 0)
        return write(target, values, crs="EPSG:4326", transform=warped.transform, nodata=0)


def demo(bench: Bench) -> Iterator[str]:
    """Sea and land of the sample scene."""
    for path in bench.given.scene or [SAMPLE]:
        for stride in (64, 32, 16):
            seen = look_into(path, Options("none", stride=stride))
            for model in bench.models:
                found = bench.map(path, seen, model)
                sea, land = (
                    where & (found.valid > 0)
                    for where in shores(seen.geo.origin, stride, found.state.shape)
                )
                labels = np.array([*found.labels, *[""] * 256])[found.classes]
                at_sea = float((labels[sea] == "SeaLake").mean())
                on_land = float(np.isin(labels[land], WATER).mean())
                yield (
                    f"{path.name}, stride {stride}, {model.title}: {at_sea:.3f} of {sea.sum()} sea "
                    f"cells SeaLake; ≥ {SEA.must}, goal {SEA.goal}: {verdict(SEA, at_sea)}; "
                    f"{on_land:.4f} of {land.sum()} land cells water; ≤ {LAND.must}, goal ≤ "
                    f"{LAND.goal}: {verdict(LAND, on_land)}"
                )


def limits(bench: Bench) -> Iterator[str]:
    """What strides are worth, and from which confidence on averaged answers are sure."""
    corners = [
        quad
        for quad in quads(bench.zones)
        if bench.known & set(quad) and not bench.untouched & set(quad)
    ]
    drawn = iter(bench.strangers)
    strangers = list(zip(drawn, drawn, drawn, drawn, strict=False))
    for model in bench.models:
        for title, some in (("neighbours", corners), ("strangers", strangers)):
            cells = Cells(model.release, bench.tiles, some, bench.known)
            for line in table(cells):
                yield f"{model.title}, {title}, {len(some)} corners: {line}"


def _joined(bench: Bench, group: Mapping[Any, str]) -> np.ndarray:
    """The scene of a group, uint8 (H, W, 3), 0 where it has no tile."""
    rows, columns = (max(ends) + 1 for ends in zip(*group, strict=True))
    scene = np.zeros((rows * SIDE, columns * SIDE, 3), np.uint8)
    for place, pixels in zip(group, bench.tiles.decode(list(group.values())), strict=True):
        _cell(scene, place)[:] = pixels
    return scene


def _cell(scene: np.ndarray, place: tuple[int, ...]) -> np.ndarray:
    """The part of a scene that a cell is, of stride ``SIDE``."""
    top, left = place[0] * SIDE, place[1] * SIDE
    return scene[top : top + SIDE, left : left + SIDE]


def _names(found: CellMap) -> np.ndarray:
    """The class of each cell, str (rows, columns); "" where it has none."""
    return np.array([*found.labels, *[""] * (256 - len(found.labels))])[found.classes]


def _named(answers: Answers) -> list[str]:
    """The class of each window."""
    return [answers.labels[best] for best in answers.probabilities.argmax(axis=1)]


def _right(named: Sequence[str], truth: Sequence[str]) -> int:
    """How many are."""
    return sum(one == other for one, other in zip(named, truth, strict=True))


FIGURES: dict[str, Callable[[Bench], Iterator[str]]] = {
    "scales": scales,
    "mixed": mixed,
    "stitched": stitched,
    "demo": demo,
    "limits": limits,
}


def main() -> None:
    """Print the figures, one a line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.mosaics", description=__doc__)
    parser.add_argument("--only", default=",".join(FIGURES), help=f"of {','.join(FIGURES)}")
    parser.add_argument("--models", default=",".join(MODELS), help=f"of {','.join(MODELS)}")
    parser.add_argument("--least", type=int, default=9, help="tiles of a mosaic in scales")
    parser.add_argument("--side", type=int, default=20, help="tiles, of the scene in stitched")
    parser.add_argument(
        "--scene", type=Path, action="append", help="another file of the sample scene in demo"
    )
    given = parser.parse_args()
    for name, known in (("only", FIGURES), ("models", MODELS)):
        asked = getattr(given, name).split(",")
        if unknown := sorted(set(asked) - set(known)):
            parser.error(f"--{name}: expected some of {','.join(known)}, found {','.join(unknown)}")
        setattr(given, name, asked)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench-") as name, ExitStack() as stack:
        bench = Bench(given, Path(name), stack)
        for figure in given.only:
            for line in FIGURES[figure](bench):
                sys.stdout.write(f"{figure}: {line}\n")
                sys.stdout.flush()
    sys.stdout.write(f"{cpu_name()}\n")


if __name__ == "__main__":
    main()

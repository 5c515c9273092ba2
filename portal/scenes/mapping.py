"""From an open scene to its map: read in strips, cut into windows, ask, keep what is finished.

A strip is a number of rows of windows. Its file holds all that the map needs of it, so that a
mapping that was interrupted goes on behind the last one that is whole.
"""

import logging
import os
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from portal import errors
from portal.scenes.grid import (
    BRIGHT,
    FILLED,
    MOST_WHITE,
    REACH,
    UNSURE,
    WHITE,
    Grid,
    Windows,
    count_in_cells,
    fill_nearest,
    smallest_shift,
    to_cells,
)
from portal.scenes.scene import SIDE, Answers, CellMap, Classifier, Raster
from portal.scenes.terms import MOST_CLASSES

log = logging.getLogger("portal.scenes.mapping")

# px of a part that is read at a time: with 2 bytes for each of three bands it has 25 MB. Rows are
# those of the usual blocks of a file, so that each block is unpacked once.
ROWS, TALL_ROWS = 512, 1024
COLUMNS = 4096
CHUNK = 0.5  # seconds that the windows that are asked about together are to take
FEWEST, FULL, MOST = 16, 64, 1024  # of these windows; if there are many, a multiple of the second

Progress = Callable[[int, int], None]


def map_scene(
    raster: Raster, stride: int, classify: Classifier, *, folder: Path, progress: Progress
) -> CellMap:
    """Map a scene.

    Args:
        raster: may say as ``block`` how many rows and columns the blocks of its file have.
        stride: of ``STRIDES``.
        folder: for the files of strips, of this scene, stride and model alone; those that are there
            are not made again.
        progress: is told, at least every second unless the model or the file is slower than that,
            how many windows are done with, and how many there are. An error that it raises ends
            the mapping.

    Raises:
        MakesNoMaps: the model has too many classes, as its first answer tells.
        UnusableScene: the scene is smaller than a window, or the model has no answer to any.
        OSError: a strip cannot be written.
        PortalError: what the raster and the classifier raise.
    """
    height, width = raster.geo.height, raster.geo.width
    if min(height, width) < SIDE:
        raise errors.UnusableScene(
            f"The scene has {width} x {height} px of 10 m; {SIDE} x {SIDE} are needed. "
            "Send a larger part of it."
        )
    grid = Grid(height, width, stride)
    folder.mkdir(parents=True, exist_ok=True)
    band = _Band(raster)
    tell = _Counter(progress, grid.windows)
    asking = _Asking(classify, tell)
    strips: list[_Strip] = []
    for number, part in enumerate(_strips(grid, band.rows)):
        path = folder / f"strip-{number:04}.npz"
        key = np.array([height, width, stride, band.rows, *part[:2]])
        strip = _Strip.load(path, key)
        if strip is None:
            tell(0)
            strip = _map_strip(grid, band, part, asking, tell)
            asking.end(strip, partial(strip.save, path, key))
        else:
            tell((part[1] - part[0]) * len(grid.lefts))
        strips.append(strip)
    asking.take()
    return _join(grid, strips)


_Extent = tuple[int, int, int]


def _strips(grid: Grid, rows: int) -> Iterator[_Extent]:
    """First and last-plus-one row of windows of each strip, and the px rows that must be read."""
    tops = grid.tops
    first = 0
    for bottom in range(rows, grid.height + rows, rows):
        # those that can be moved without leaving what is read
        end = int((tops + SIDE + REACH <= bottom).sum()) if bottom < grid.height else len(tops)
        yield first, end, min(bottom, grid.height)
        first = end


@dataclass
class _Strip:
    """What became of some rows of windows, and what is in as many rows of cells.

    Attributes:
        labels: of the model; none if it was not asked.
        windows: of the strip.
        valid, white: uint16 (rows, columns), as of ``to_cells``, of the cells in the px rows that
            were read for this strip first.
    """

    labels: tuple[str, ...]
    windows: Windows
    valid: np.ndarray
    white: np.ndarray

    def take(self, at: list[tuple[int, int]], answers: Answers) -> None:
        """Note what a model says of the windows at these rows and columns."""
        if not self.labels:
            self.labels = answers.labels
            shape = (*self.windows.marks.shape, len(self.labels))
            self.windows = replace(self.windows, probabilities=np.full(shape, np.nan, np.float32))
        rows, columns = np.array(at).T
        found = np.where(answers.empty[:, None], np.nan, answers.probabilities)
        self.windows.probabilities[rows, columns] = found
        marks = UNSURE * answers.unsure + BRIGHT * answers.bright
        self.windows.marks[rows, columns] |= marks.astype(np.uint8)

    def save(self, path: Path, key: np.ndarray) -> None:
        """Write it, whole or not at all."""
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            np.savez(
                file,
                key=key,
                labels=np.array(self.labels, np.str_),
                probabilities=self.windows.probabilities,
                shift=self.windows.shift,
                marks=self.windows.marks,
                valid=self.valid,
                white=self.white,
            )
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)

    @classmethod
    def load(cls, path: Path, key: np.ndarray) -> "_Strip | None":
        """The strip in a file; None if there is none, or another one, or it is damaged."""
        if not path.exists():
            return None
        damaged = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
        with suppress(*damaged), path.open("rb") as file, np.load(file) as found:
            if np.array_equal(found["key"], key):
                windows = Windows(found["probabilities"], found["shift"], found["marks"])
                labels = tuple(found["labels"].tolist())
                return cls(labels, windows, found["valid"], found["white"])
        log.warning("%s is of no use and is made again", path)
        return None


class _Counter:
    """Tells how many windows are done with."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._done, self._total = progress, 0, total

    def __call__(self, more: int = 0) -> None:
        self._done += more
        self._progress(self._done, self._total)


class _Band:
    """The px rows that are in memory.

    Attributes:
        rows: px, to a multiple of which the file is read.
        top: the first row.
        pixels, valid: as of ``Raster.read``, over the whole width.
        white: bool, like ``valid``: white, and has data.
    """

    def __init__(self, raster: Raster) -> None:
        self._raster = raster
        self._width = raster.geo.width
        height, width = getattr(raster, "block", (1, self._width))
        self.rows = TALL_ROWS if height > ROWS and width <= COLUMNS else ROWS
        self._part = (self.rows, COLUMNS)
        if width > COLUMNS:  # of a file in strips a part has whole ones
            self._part = (max(min(ROWS * COLUMNS * 2 // self._width, ROWS), 1), self._width)
        self.top = 0
        self._empty()

    def _empty(self) -> None:
        self.pixels = np.zeros((0, self._width, 3), np.uint8)
        self.valid = np.zeros((0, self._width), bool)
        self.white = self.valid

    def hold(self, top: int, bottom: int, tell: _Counter) -> None:
        """Read what is not there of the rows from ``top`` to ``bottom``, drop those above."""
        if not self.top <= top <= self.top + len(self.valid):
            self._empty()
            self.top = top
        row = self.top + len(self.valid)  # to be read next
        self.pixels = _moved_up(self.pixels, top - self.top, bottom - top)
        self.valid = _moved_up(self.valid, top - self.top, bottom - top)
        self.white = _moved_up(self.white, top - self.top, bottom - top)
        self.top = top
        rows, columns = self._part
        while row < bottom:
            down = min(rows - row % rows, bottom - row)
            for column in range(0, self._width, columns):
                across = min(columns, self._width - column)
                part = slice(row - top, row - top + down), slice(column, column + across)
                self.pixels[part], self.valid[part] = self._raster.read(row, column, down, across)
                self.white[part] = _white(self.pixels[part]) & self.valid[part]
                tell()
            row += down

    def around(self, top: int, left: int) -> np.ndarray:
        """Which pixels of a window and ``REACH`` px around it have data; beyond there are none."""
        found = np.zeros((SIDE + 2 * REACH, SIDE + 2 * REACH), bool)
        first_row, first_column = max(top - REACH - self.top, 0), max(left - REACH, 0)
        seen = self.valid[
            first_row : top + SIDE + REACH - self.top, first_column : left + SIDE + REACH
        ]
        down, right = first_row - (top - REACH - self.top), first_column - (left - REACH)
        found[down : down + seen.shape[0], right : right + seen.shape[1]] = seen
        return found


def _moved_up(rows: np.ndarray, by: int, length: int) -> np.ndarray:
    """The rows from the ``by``-th on, with room for as many more as make ``length``."""
    moved = np.empty((length, *rows.shape[1:]), rows.dtype)
    moved[: len(rows) - by] = rows[by:]
    return moved


def _white(pixels: np.ndarray) -> np.ndarray:
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    found: np.ndarray = np.minimum(np.minimum(red, green), blue) >= WHITE
    return found


def _map_strip(
    grid: Grid, band: _Band, extent: _Extent, asking: "_Asking", tell: _Counter
) -> _Strip:
    """Cut a strip into windows, and ask about them."""
    first, end, bottom = extent
    tops, lefts = grid.tops, grid.lefts
    begins = bottom - 1 - (bottom - 1) % band.rows  # of what is read for this strip first
    above = max(int(tops[first]) - REACH, 0) if first < end else begins
    band.hold(min(above, begins), bottom, tell)
    new = slice(begins - band.top, None)
    valid = count_in_cells(band.valid[new], grid.stride)
    white = count_in_cells(band.white[new], grid.stride)
    shape = (end - first, len(lefts))
    shift = np.zeros((*shape, 2), np.int8)
    marks = np.zeros(shape, np.uint8)
    windows = Windows(np.zeros((*shape, 0), np.float32), shift, marks)
    strip = _Strip((), windows, valid, white)
    for row in range(first, end):
        top = int(tops[row])
        inside = slice(top - band.top, top - band.top + SIDE)
        counts = _counts(band.valid[inside], lefts)
        whites = _counts(band.white[inside], lefts)
        for column, left in enumerate(lefts.tolist()):
            at = row - first, column
            home = np.array([row, column]) * grid.stride
            if counts[column] == SIDE * SIDE:
                y, x, count, bright = top, left, SIDE * SIDE, int(whites[column])
            else:
                y, x, count = _move(band, top, left, int(counts[column]))
                bright = int(band.white[y - band.top : y - band.top + SIDE, x : x + SIDE].sum())
            shift[at] = (y, x) - home
            if not count:
                asking.leave(strip)
            elif bright > MOST_WHITE * count:
                marks[at] |= BRIGHT
                asking.leave(strip)
            else:
                part = slice(y - band.top, y - band.top + SIDE), slice(x, x + SIDE)
                pixels = band.pixels[part]
                if count < SIDE * SIDE:
                    marks[at] |= FILLED
                    pixels = fill_nearest(pixels, band.valid[part])
                asking.add(strip, at, pixels)
    return strip


def _counts(marked: np.ndarray, lefts: np.ndarray) -> np.ndarray:
    """How many pixels of each window of a row of them are marked, int64 (K,)."""
    sums = np.concatenate([[0], marked.sum(axis=0).cumsum()])
    found: np.ndarray = sums[lefts + SIDE] - sums[lefts]
    return found


def _move(band: _Band, top: int, left: int, count: int) -> tuple[int, int, int]:
    """Where a window that touches pixels without data goes, and how many with data are there.

    None of them where it gets no answer.
    """
    # moved by REACH both ways it still has a quarter of its pixels
    if count >= (SIDE - REACH) ** 2:
        shift = smallest_shift(band.around(top, left))
        if shift is not None:
            return top + shift[0], left + shift[1], SIDE * SIDE
    return top, left, count if 2 * count >= SIDE * SIDE else 0


class _Asking:
    """Collects windows, and asks the model about as many of them as take it half a second.

    The next ones are read and collected while these are under way, if the classifier can ``begin``.
    """

    def __init__(self, classify: Classifier, tell: _Counter) -> None:
        self._begin = getattr(classify, "begin", partial(partial, classify))
        self._tell = tell
        self._labels: tuple[str, ...] = ()
        self._most = FEWEST
        self._left = 0  # windows that need no answer, and were not told of
        self._told = self._taken = time.monotonic()
        self._at: list[tuple[int, int]] = []  # of one strip
        self._pixels: list[np.ndarray] = []
        self._begun: _Begun | None = None

    def leave(self, strip: _Strip) -> None:
        """Count a window that is not asked about."""
        self._left += 1
        if time.monotonic() - self._told > CHUNK:
            self._ask(strip)

    def add(self, strip: _Strip, at: tuple[int, int], pixels: np.ndarray) -> None:
        """Ask about a window, now or later."""
        self._at.append(at)
        self._pixels.append(pixels)
        if len(self._at) >= self._most or time.monotonic() - self._told > CHUNK:
            self._ask(strip)

    def end(self, strip: _Strip, save: Callable[[], None]) -> None:
        """Ask about the last windows of a strip; it is saved once it is whole."""
        self._ask(strip)
        if self._begun is None:
            save()
        else:
            self._begun.save = save

    def _ask(self, strip: _Strip) -> None:
        """Ask about all that wait, and take the answers to those before them."""
        begun = None
        if self._at:
            started = time.monotonic()
            begun = _Begun(strip, self._at, self._begin(np.stack(self._pixels)), started)
        self._at, self._pixels = [], []
        self.take()
        self._begun = begun
        self._tell(self._left)
        self._left = 0
        self._told = time.monotonic()

    def take(self) -> None:
        """Take the answers that are under way."""
        begun, self._begun = self._begun, None
        if begun is None:
            return
        answers = begun.answers()
        self._labels = self._labels or answers.labels
        if answers.labels != self._labels:
            raise errors.BadAnswer("The model has other classes than a moment ago. Start again.")
        if len(self._labels) > MOST_CLASSES:
            raise errors.MakesNoMaps(
                f"The model has {len(self._labels)} classes; a map has room for {MOST_CLASSES}. "
                "Map the scene with another model."
            )
        begun.strip.take(begun.at, answers)
        now = time.monotonic()
        rate = len(begun.at) / max(now - max(begun.started, self._taken), 1e-3)
        unit = FULL if rate * CHUNK >= FULL else 1
        self._most = int(np.clip(rate * CHUNK // unit * unit, FEWEST, MOST))
        self._taken = now
        if begun.save is not None:
            begun.save()
        self._tell(len(begun.at))


@dataclass
class _Begun:
    """Windows that the model is asked about.

    Attributes:
        at: where they are in their strip.
        answers: waits for them.
        started: time.monotonic.
        save: of the strip, if it is whole then.
    """

    strip: _Strip
    at: list[tuple[int, int]]
    answers: Callable[[], Answers]
    started: float
    save: Callable[[], None] | None = None


def _join(grid: Grid, strips: list[_Strip]) -> CellMap:
    """The map of all strips."""
    labels = next((strip.labels for strip in strips if strip.labels), ())
    if any(strip.labels not in ((), labels) for strip in strips):
        raise errors.BadAnswer("Parts of this map have other classes than the rest. Start again.")
    if not labels:
        raise errors.UnusableScene(
            "There is nothing to see in this scene: all of it is too bright, of one colour or "
            "without data. Send another one."
        )
    found = [
        np.full((*strip.windows.marks.shape, len(labels)), np.nan, np.float32)
        if not strip.labels
        else strip.windows.probabilities
        for strip in strips
    ]
    windows = Windows(
        np.concatenate(found),
        np.concatenate([strip.windows.shift for strip in strips]),
        np.concatenate([strip.windows.marks for strip in strips]),
    )
    valid = np.concatenate([strip.valid for strip in strips])
    white = np.concatenate([strip.white for strip in strips])
    return to_cells(grid, labels, windows, valid, white)

"""Windows over a scene, and what their answers make of its cells: NumPy alone.

A scene of H x W px has a cell for each ``stride`` px down and across, those at the far edges cut
off. The window of a cell begins where the cell does and covers (SIDE / stride)² cells; windows that
would reach beyond the scene move inwards until they are whole, so that there are fewer of them than
cells where the stride is smaller than a window.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from portal.scenes.scene import GSD, SIDE, WATER, CellMap, State

REACH = SIDE // 2  # px by which a window may move, each way, away from pixels without data
WHITE = 254  # from here on in all channels a pixel is white, as of handlers.doubt
MOST_WHITE = 0.1  # of the valid pixels of a window or a cell; more is too bright
HECTARES = GSD**2 / 10_000  # of a pixel

# Marks of a window, added up.
FILLED = 1  # pixels without data were filled
UNSURE = 2  # the model does not trust its answer
BRIGHT = 4  # too bright; its answer is not used


@dataclass(frozen=True)
class Grid:
    """Where the windows and the cells of a scene are.

    Attributes:
        height, width: px of the scene, at least ``SIDE`` each.
        stride: px, a divisor of ``SIDE``.
    """

    height: int
    width: int
    stride: int

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return -(-self.height // self.stride), -(-self.width // self.stride)

    @property
    def tops(self) -> np.ndarray:
        """The first px row of each row of windows, int64 (R,)."""
        return starts(self.height, self.stride)

    @property
    def lefts(self) -> np.ndarray:
        """The first px column of each column of windows, int64 (K,)."""
        return starts(self.width, self.stride)

    @property
    def windows(self) -> int:
        """How many there are."""
        return len(self.tops) * len(self.lefts)


def starts(length: int, stride: int) -> np.ndarray:
    """Where windows begin along a side of ``length`` px: int64 (N,), the last moved inwards.

    Raises:
        ValueError: the side is shorter than a window.
    """
    if length < SIDE:
        raise ValueError(f"found a side of {length} px, expected {SIDE} at least")
    count = -(-(length - SIDE) // stride) + 1
    found: np.ndarray = np.minimum(np.arange(count) * stride, length - SIDE)
    return found


def smallest_shift(valid: np.ndarray) -> tuple[int, int] | None:
    """By how many px, down and right, a window must move to have data in all of its pixels.

    Args:
        valid: bool (SIDE + 2 REACH, SIDE + 2 REACH), the window and ``REACH`` px around it.

    Returns:
        The shift over the least distance, of equal ones the first from above and from the left;
        None: there is none.
    """
    sums = np.zeros((len(valid) + 1, len(valid) + 1), np.int32)
    valid.cumsum(axis=0, dtype=np.int32).cumsum(axis=1, out=sums[1:, 1:])
    counts = sums[SIDE:, SIDE:] - sums[:-SIDE, SIDE:] - sums[SIDE:, :-SIDE] + sums[:-SIDE, :-SIDE]
    shifts = np.argwhere(counts == SIDE * SIDE) - REACH
    if not len(shifts):
        return None
    down, right = shifts[(shifts**2).sum(axis=1).argmin()].tolist()
    return down, right


def fill_nearest(pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Give each pixel without data the value of the nearest one that has some.

    Of equally near ones the first column from the left counts, and in it the first from above.

    Args:
        pixels: (H, W, ...).
        valid: bool (H, W), one pixel at least.
    """
    height, width = valid.shape
    rows, columns = np.arange(height), np.arange(width)
    far = height + width
    # In each column first: for each pixel, the distance to the nearest row with data.
    apart = np.abs(rows[:, None] - rows)[:, :, None] + np.where(valid, 0, far)  # (H, H, W)
    nearest = apart.argmin(axis=1)
    down = apart.min(axis=1)
    across = (
        np.where(down < far, down**2, 2 * far**2)[:, None, :] + (columns[:, None] - columns) ** 2
    )
    column = across.argmin(axis=2)
    row = np.take_along_axis(nearest, column, axis=1)
    return np.where(
        valid.reshape(valid.shape + (1,) * (pixels.ndim - 2)), pixels, pixels[row, column]
    )


def count_in_cells(marked: np.ndarray, stride: int) -> np.ndarray:
    """How many pixels of each cell are marked: bool (H, W) -> uint16 (rows, columns)."""
    edges = np.arange(0, marked.shape[1], stride)
    rows = [
        np.add.reduceat(marked[top : top + stride].sum(axis=0, dtype=np.uint16), edges)
        for top in range(0, len(marked), stride)
    ]
    return np.array(rows, np.uint16).reshape(len(rows), len(edges))


@dataclass(frozen=True)
class Windows:
    """What became of the windows of a grid, R rows of K.

    Attributes:
        probabilities: float32 (R, K, C); NaN in a window without an answer.
        shift: int8 (R, K, 2), px that it lies below and right of where its cell begins.
        marks: uint8 (R, K), of ``FILLED``, ``UNSURE`` and ``BRIGHT``.
    """

    probabilities: np.ndarray
    shift: np.ndarray
    marks: np.ndarray


# The mean of several answers is less confident than each of them and more often right: it has a
# limit of its own. From these confidences on, by stride, cells of MANY windows or more are sure if
# the model is sure of half of their windows; cells of fewer only if it is sure of all of them.
#
# Measured by `python -m tests.bench.mosaics --only limits`, baseline 2.0 and ResNet-18 2.0 in int8.
# Four real neighbours from EuroSAT's grid of 650 m, 619 cells in validation tiles: the models are
# sure of 97.1 and 98.2 % of the single tiles, all right; from these limits on of 98.4 and 99.0 %
# (stride 32) and 98.2 and 98.5 % (16) of the cells, all right. Validation tiles of any class side
# by side, 4,048 cells, all at borders: of the sure tiles 99.5 % are right; of the cells 11.5 and
# 10.8 % (32) and 1.7 and 1.6 % (16) stay sure, of which 99.4 and 99.3 %, and 97.1 and 95.4 % are
# right. Limits of 0.9 (16) would give 97.5 and 97.4 %: no other one is right for either model.
LIMITS = {32: 0.8, 16: 0.85}
MANY = 4


def to_cells(
    grid: Grid, labels: Sequence[str], windows: Windows, valid: np.ndarray, white: np.ndarray
) -> CellMap:
    """The map that the answers of windows make.

    A cell has the mean of the answers of those of its windows that cover all of it and were not
    filled. If there are none, it has that of the windows that moved off it in part; else that of
    those that were filled. The answers of windows that are too bright never count.

    Args:
        valid, white: uint16 (rows, columns), px of each cell that have data, and that are white.
    """
    parts = _parts(grid, windows)
    best, count, sure, near, bright = _tally(grid, windows, parts)
    probabilities = _mean(grid, windows, parts, best, count)
    state = np.full(grid.cells, State.SURE, np.uint8)
    state[near == 0] = State.EDGE
    confidence = probabilities.max(axis=2, initial=0)
    averaged = (confidence < LIMITS.get(grid.stride, 0)) | (2 * sure < count)
    state[np.where(count < MANY, sure < count, averaged)] = State.UNSURE
    state[count == 0] = State.NO_DATA
    state[((count == 0) & (bright > 0)) | (white > MOST_WHITE * valid)] = State.BRIGHT
    state[valid == 0] = State.NO_DATA
    probabilities[np.isin(state, (State.BRIGHT, State.NO_DATA))] = 0
    return CellMap(tuple(labels), grid.stride, probabilities, state, valid)


# How much of a cell a window tells of.
_NOTHING, _FILLED, _PART, _WHOLE = range(4)


@dataclass(frozen=True)
class _Part:
    """Of all windows the cell at one place in them.

    Attributes:
        cells: these, rows and columns.
        told: uint8 (R, K), how much each window tells of its one.
    """

    cells: tuple[slice, slice]
    told: np.ndarray


def _parts(grid: Grid, windows: Windows) -> list[_Part]:
    """Every place of a cell in a window."""
    answered = ~np.isnan(windows.probabilities).any(axis=2) & ((windows.marks & BRIGHT) == 0)
    filled = (windows.marks & FILLED) > 0
    rows, columns = answered.shape
    found = []
    for i in range(SIDE // grid.stride):
        whole_rows = _covered(windows.shift[..., 0], grid.height, grid.stride, i)
        for j in range(SIDE // grid.stride):
            whole = whole_rows & _covered(windows.shift[..., 1].T, grid.width, grid.stride, j).T
            told = np.where(filled, _FILLED, np.where(whole, _WHOLE, _PART))
            told = np.where(answered, told, _NOTHING).astype(np.uint8)
            found.append(_Part((slice(i, i + rows), slice(j, j + columns)), told))
    return found


def _covered(shift: np.ndarray, length: int, stride: int, place: int) -> np.ndarray:
    """Along a side: whether windows reach over all of the cell at a place in them.

    Args:
        shift: int8 (N, M), px by which the windows of each of N starts have moved.
        length: px of the side.
        place: of the cell in a window that has not moved, from 0.
    """
    first = place * stride
    end = np.minimum(first + stride, length - np.arange(len(shift)) * stride)
    moved = shift.astype(np.int64)
    covered: np.ndarray = (moved <= first) & (moved + SIDE >= end[:, None])
    return covered


def _tally(grid: Grid, windows: Windows, parts: Sequence[_Part]) -> np.ndarray:
    """Five figures of each cell, uint8 (5, rows, columns).

    How much its best windows tell, how many of these there are, and how many of them are sure; how
    many of its windows cover it in their place, and how many are too bright.
    """
    figures = np.zeros((5, *grid.cells), np.uint8)
    trusted = (windows.marks & UNSURE) == 0
    in_place = ~windows.shift.any(axis=2)
    too_bright = (windows.marks & BRIGHT) > 0
    for part in parts:
        best, count, sure, near, bright = figures[:, *part.cells]
        better, same = part.told > best, (part.told == best) & (part.told > _NOTHING)
        count[:] = np.where(better, 1, count + same)
        sure[:] = np.where(better, trusted, sure + (same & trusted))
        best[:] = np.maximum(best, part.told)
        near += in_place & (part.told == _WHOLE)
        bright += too_bright
    return figures


def _mean(
    grid: Grid, windows: Windows, parts: Sequence[_Part], best: np.ndarray, count: np.ndarray
) -> np.ndarray:
    """The mean of the best answers to each cell, float32 (rows, columns, C); 0 without any."""
    total = np.zeros((*grid.cells, windows.probabilities.shape[2]))
    for part in parts:
        counts = (part.told == best[part.cells]) & (part.told > _NOTHING)
        total[part.cells] += np.where(counts[:, :, None], windows.probabilities, 0)
    mean: np.ndarray = total / np.maximum(count, 1)[:, :, None]
    return mean.astype(np.float32)


@dataclass(frozen=True)
class Area:
    """How much of a scene has a class.

    Attributes:
        class_name: a label; "water" for all of ``WATER`` together.
        hectares: of pixels with data, of ``GSD`` metres.
        share: of all pixels with data, 0..1.
    """

    class_name: str
    hectares: float
    share: float


def areas(cells: CellMap) -> list[Area]:
    """The area of each class, in the order of the labels, and last that of water.

    Together with ``classless_area`` the classes are all of the pixels with data.
    """
    classes = cells.classes
    pixels = {
        label: int(cells.valid[classes == number].sum(dtype=np.int64))
        for number, label in enumerate(cells.labels)
    }
    if all(label in pixels for label in WATER):
        pixels["water"] = sum(pixels[label] for label in WATER)
    return [_area(name, count, cells) for name, count in pixels.items()]


def classless_area(cells: CellMap) -> Area:
    """That of the pixels with data that got no class: too bright, or too little around them."""
    return _area("none", int(cells.valid[cells.classless].sum(dtype=np.int64)), cells)


def _area(name: str, pixels: int, cells: CellMap) -> Area:
    return Area(name, pixels * HECTARES, pixels / max(int(cells.valid.sum(dtype=np.int64)), 1))

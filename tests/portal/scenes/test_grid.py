"""Windows and cells against references that go pixel by pixel."""

import itertools

import numpy as np
import pytest

from portal.scenes.grid import (
    BRIGHT,
    FILLED,
    LIMITS,
    MANY,
    REACH,
    UNSURE,
    Grid,
    Windows,
    areas,
    classless_area,
    count_in_cells,
    fill_nearest,
    smallest_shift,
    starts,
    to_cells,
)
from portal.scenes.scene import SIDE, CellMap, State

SIZES = [(64, 64), (65, 130), (943, 64), (200, 333), (128, 512)]
LABELS = ("Forest", "Pasture", "River", "SeaLake")


@pytest.mark.parametrize("stride", [64, 32, 16])
@pytest.mark.parametrize("length", [64, 65, 79, 80, 127, 128, 129, 943, 960])
def test_windows_cover_a_side_and_stay_within_it(length: int, stride: int) -> None:
    found = starts(length, stride).tolist()
    covered = {pixel for start in found for pixel in range(start, start + SIDE)}
    assert covered == set(range(length))
    assert all(start == number * stride for number, start in enumerate(found[:-1]))
    assert len(found) == len(set(found))


def test_a_side_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="found a side of 63 px, expected 64"):
        starts(63, 16)


def test_the_windows_of_the_largest_scene_are_counted() -> None:
    assert Grid(943, 960, 64).windows == 15 * 15
    assert Grid(943, 960, 64).cells == (15, 15)
    assert Grid(10_980, 10_980, 64).windows == 172 * 172
    assert Grid(943, 960, 32).cells == (30, 30)
    assert Grid(943, 960, 32).windows == 29 * 29


def shift_by_trying(valid: np.ndarray) -> tuple[int, int] | None:
    found = [
        (down**2 + right**2, down, right)
        for down, right in itertools.product(range(-REACH, REACH + 1), repeat=2)
        if valid[REACH + down :, REACH + right :][:SIDE, :SIDE].all()
    ]
    return min(found)[1:] if found else None


@pytest.mark.parametrize("seed", range(12))
def test_the_smallest_shift_is_found(seed: int) -> None:
    random = np.random.default_rng(seed)
    side = SIDE + 2 * REACH
    down, right = np.mgrid[:side, :side]
    slope = random.uniform(-1, 1, 2)
    valid = (down - side / 2) * slope[0] + (right - side / 2) * slope[1] < random.uniform(-5, 40)
    valid[tuple(random.integers(0, side, (2, 2)))] = False
    found = smallest_shift(valid)
    assert found == shift_by_trying(valid)


def test_a_window_among_data_stays_and_one_without_room_does_not_move() -> None:
    valid = np.ones((SIDE + 2 * REACH, SIDE + 2 * REACH), bool)
    assert smallest_shift(valid) == (0, 0)
    valid[REACH + 10] = False
    assert smallest_shift(valid) == (11, 0)
    valid[REACH + 50] = False
    assert smallest_shift(valid) is None


@pytest.mark.parametrize("seed", range(6))
def test_each_hole_gets_the_value_of_a_nearest_pixel(seed: int) -> None:
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (23, 17, 3), np.uint8)
    valid = random.random((23, 17)) < (0.02, 0.1, 0.5, 0.9, 1.0, 0.3)[seed]
    valid[5, 7] = True
    if seed == 5:
        valid[:, :9] = False
    filled = fill_nearest(pixels, valid)
    assert (filled[valid] == pixels[valid]).all()
    rows, columns = valid.nonzero()
    for row, column in np.argwhere(~valid):
        apart = (rows - row) ** 2 + (columns - column) ** 2
        order = np.lexsort((rows, columns, apart))[0]
        assert (filled[row, column] == pixels[rows[order], columns[order]]).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [64, 16])
def test_pixels_are_counted_in_cells(size: tuple[int, int], stride: int) -> None:
    marked = np.random.default_rng(1).random(size) < 0.4
    marked[:64, :64] = True
    found = count_in_cells(marked, stride)
    assert found.dtype == np.uint16
    assert found.shape == Grid(*size, stride).cells
    for row, column in np.ndindex(*found.shape):
        part = marked[row * stride : (row + 1) * stride, column * stride : (column + 1) * stride]
        assert found[row, column] == part.sum()


def drawn(grid: Grid, seed: int) -> Windows:
    """Windows with answers drawn at random: some moved, filled, too bright or without any."""
    random = np.random.default_rng(seed)
    shape = len(grid.tops), len(grid.lefts)
    probabilities = random.dirichlet([9, 0.2, 0.2, 0.2], shape).astype(np.float32)
    probabilities[random.random(shape) < 0.1] = np.nan
    places = np.stack(np.meshgrid(grid.tops, grid.lefts, indexing="ij"), axis=2)
    moved = (
        random.integers(-REACH, REACH + 1, places.shape) * (random.random(shape) < 0.3)[..., None]
    )
    at = np.clip(places + moved, 0, np.array([grid.height, grid.width]) - SIDE)
    shift = at - np.moveaxis(np.indices(shape), 0, 2) * grid.stride
    marks = sum(mark * (random.random(shape) < 0.2) for mark in (FILLED, UNSURE, BRIGHT))
    return Windows(probabilities, shift.astype(np.int8), np.asarray(marks, np.uint8))


def told(grid: Grid, windows: Windows, cell: tuple[int, int]) -> dict[str, list[tuple[int, int]]]:
    """The windows whose place in the grid is over a cell, by what they tell of it."""
    found: dict[str, list[tuple[int, int]]] = {name: [] for name in ("whole", "part", "filled")}
    top, left = cell[0] * grid.stride, cell[1] * grid.stride
    pixels = {
        (y, x)
        for y in range(top, min(top + grid.stride, grid.height))
        for x in range(left, min(left + grid.stride, grid.width))
    }
    corners = {min(pixels), max(pixels)}
    reach = SIDE // grid.stride
    for at in itertools.product(
        range(max(cell[0] - reach + 1, 0), cell[0] + 1),
        range(max(cell[1] - reach + 1, 0), cell[1] + 1),
    ):
        if at[0] >= len(grid.tops) or at[1] >= len(grid.lefts):
            continue
        if windows.marks[at] & BRIGHT or np.isnan(windows.probabilities[at]).any():
            continue
        y, x = np.array(at) * grid.stride + windows.shift[at]
        whole = all(y <= row < y + SIDE and x <= column < x + SIDE for row, column in corners)
        kind = "filled" if windows.marks[at] & FILLED else "whole" if whole else "part"
        found[kind].append(at)
    return found


@pytest.mark.parametrize("stride", [64, 32, 16])
@pytest.mark.parametrize("size", [(64, 64), (65, 130), (200, 333)])
def test_cells_have_the_mean_of_their_best_windows(size: tuple[int, int], stride: int) -> None:
    grid = Grid(*size, stride)
    windows = drawn(grid, seed=stride)
    random = np.random.default_rng(3)
    valid = count_in_cells(random.random(size) < 0.8, stride)
    valid[random.random(grid.cells) < 0.05] = 0
    white = (valid * random.choice([0.05, 0.11], grid.cells, p=[0.9, 0.1])).astype(np.uint16)
    cells = to_cells(grid, LABELS, windows, valid, white)
    assert cells.labels == LABELS
    assert cells.probabilities.dtype == np.float32
    assert cells.state.shape == grid.cells
    seen = set()
    for cell in np.ndindex(*grid.cells):
        groups = told(grid, windows, cell)
        best = next((group for group in groups.values() if group), [])
        bright = any(
            windows.marks[at] & BRIGHT
            for at in np.ndindex(*windows.marks.shape)
            if 0 <= cell[0] - at[0] < SIDE // stride and 0 <= cell[1] - at[1] < SIDE // stride
        )
        if not valid[cell]:
            expected = State.NO_DATA
        elif white[cell] > 0.1 * valid[cell] or (not best and bright):
            expected = State.BRIGHT
        elif not best:
            expected = State.NO_DATA
        else:
            mean = np.mean([windows.probabilities[at].astype(float) for at in best], axis=0)
            assert cells.probabilities[cell] == pytest.approx(mean, abs=1e-6)
            sure = sum(not windows.marks[at] & UNSURE for at in best)
            doubted = sure < len(best)
            if len(best) >= MANY:
                low = bool(cells.probabilities[cell].max() < LIMITS[stride])
                doubted = low or sure < len(best) / 2
            home = any(not windows.shift[at].any() for at in groups["whole"])
            expected = State.UNSURE if doubted else State.SURE if home else State.EDGE
        assert cells.state[cell] == expected, cell
        if expected in (State.BRIGHT, State.NO_DATA):
            assert not cells.probabilities[cell].any()
            assert cells.classes[cell] == 255
        seen.add(expected)
    assert size[0] < 200 or seen == set(State)


@pytest.mark.parametrize("stride", [64, 32, 16])
def test_the_cells_at_the_far_edges_are_of_windows_that_moved_inwards(stride: int) -> None:
    grid = Grid(943, 960, stride)
    shape = len(grid.tops), len(grid.lefts)
    places = np.stack(np.meshgrid(grid.tops, grid.lefts, indexing="ij"), axis=2)
    shift = places - np.moveaxis(np.indices(shape), 0, 2) * stride
    probabilities = np.zeros((*shape, len(LABELS)), np.float32)
    probabilities[..., 1] = 1
    windows = Windows(probabilities, shift.astype(np.int8), np.zeros(shape, np.uint8))
    valid = count_in_cells(np.ones((943, 960), bool), stride)
    cells = to_cells(grid, LABELS, windows, valid, np.zeros_like(valid))
    assert (cells.state[-1] == State.EDGE).all()
    assert (cells.state[:-1] == State.SURE).all()
    assert (cells.classes == 1).all()


def test_areas_are_those_of_pixels_with_data() -> None:
    probabilities = np.zeros((2, 3, 4), np.float32)
    for number, cell in enumerate(np.ndindex(2, 3)):
        probabilities[cell][min(number, 3)] = 0.9
    state = np.zeros((2, 3), np.uint8)
    state[1, 2] = State.BRIGHT
    probabilities[1, 2] = 0
    valid = np.array([[1024, 1000, 512], [1024, 24, 100]], np.uint16)
    cells = CellMap(LABELS, 32, probabilities, state, valid)
    found = areas(cells)
    assert [area.class_name for area in found] == [*LABELS, "water"]
    assert [round(area.hectares, 6) for area in found] == [10.24, 10, 5.12, 10.48, 15.6]
    total = valid.sum()
    assert found[0].share == pytest.approx(1024 / total)
    none = classless_area(cells)
    assert none.hectares == pytest.approx(1)
    assert sum(area.share for area in found[:-1]) + none.share == pytest.approx(1)
    assert sum(area.hectares for area in found[:-1]) + none.hectares == pytest.approx(total / 100)


def test_water_is_summed_only_where_the_labels_have_both() -> None:
    cells = CellMap(
        ("Forest", "River"),
        64,
        np.ones((1, 1, 2), np.float32) / 2,
        np.zeros((1, 1), np.uint8),
        np.full((1, 1), 4096, np.uint16),
    )
    assert [area.class_name for area in areas(cells)] == ["Forest", "River"]

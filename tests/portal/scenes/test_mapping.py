"""Mapping a scene, against asking window by window."""

import itertools
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from portal import errors
from portal.scenes import mapping
from portal.scenes.grid import (
    BRIGHT,
    FILLED,
    REACH,
    UNSURE,
    Grid,
    Windows,
    count_in_cells,
    fill_nearest,
    to_cells,
)
from portal.scenes.mapping import map_scene
from portal.scenes.scene import SIDE, Answers, CellMap, Geo, State

LABELS = ("Forest", "Pasture", "River", "SeaLake")


class Stored:
    """A scene in memory that notes what is read of it."""

    def __init__(self, pixels: np.ndarray, valid: np.ndarray) -> None:
        self.pixels, self.valid = pixels, valid
        self.geo = Geo(valid.shape[1], valid.shape[0], None, (0, 0))
        self.reads = np.zeros(valid.shape, np.uint8)
        self.parts: list[tuple[int, int, int, int]] = []

    def read(self, row: int, column: int, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
        part = slice(row, row + rows), slice(column, column + columns)
        self.reads[part] += 1
        self.parts.append((row, column, rows, columns))
        assert self.valid[part].shape == (rows, columns)
        return self.pixels[part], self.valid[part]


class Model:
    """Answers by the pixels of a window alone, and notes how many it was asked about."""

    def __init__(self, labels: tuple[str, ...] = LABELS) -> None:
        self.labels = labels
        self.asked: list[int] = []

    def __call__(self, windows: np.ndarray) -> Answers:
        assert windows.shape[1:] == (SIDE, SIDE, 3)
        assert windows.dtype == np.uint8
        self.asked.append(len(windows))
        means = windows.reshape(len(windows), -1, 3).mean(axis=1)
        logits = np.stack([(i + 1) * np.sin(means @ [0.9, 0.5, 1.7] + i) for i in range(4)], axis=1)
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        corner = windows[:, 3, 5, 1]
        return Answers(
            self.labels,
            shares[:, : len(self.labels)].astype(np.float32),
            corner % 5 == 0,
            corner % 31 == 1,
            corner % 29 == 2,
        )


def scene(height: int, width: int, seed: int = 0) -> Stored:
    """Blotches, two slanted edges without data, single holes, a white cloud."""
    random = np.random.default_rng(seed)
    pixels = random.integers(1, 250, (height, width, 3), np.uint8)
    down, right = np.mgrid[:height, :width]
    valid = (right > 90 - down / 3) & (down + right / 4 < height + width / 4 - 60)
    holes = random.integers(0, min(height, width), (2, 12))
    valid[holes[0], holes[1]] = False
    cloud = slice(height // 3, height // 3 + 70), slice(width // 2, width // 2 + 90)
    pixels[cloud] = 255
    return Stored(pixels, valid)


def one_by_one(raster: Stored, stride: int, model: Model) -> CellMap:
    """The map as the words of the contract make it, one window at a time."""
    grid = Grid(raster.geo.height, raster.geo.width, stride)
    shape = len(grid.tops), len(grid.lefts)
    around = np.pad(raster.valid, REACH)
    probabilities = np.full((*shape, len(LABELS)), np.nan, np.float32)
    shift, marks = np.zeros((*shape, 2), np.int8), np.zeros(shape, np.uint8)
    shifts = sorted(
        itertools.product(range(-REACH, REACH + 1), repeat=2),
        key=lambda shift: (shift[0] ** 2 + shift[1] ** 2, shift),
    )
    for at in np.ndindex(*shape):
        top, left = int(grid.tops[at[0]]), int(grid.lefts[at[1]])
        for down, right in shifts:
            y, x = top + down, left + right
            seen = around[y + REACH : y + REACH + SIDE, x + REACH : x + REACH + SIDE]
            if seen.shape == (SIDE, SIDE) and seen.all():
                break
        else:
            y, x = top, left
        part = slice(y, y + SIDE), slice(x, x + SIDE)
        window, valid = raster.pixels[part], raster.valid[part]
        shift[at] = y - at[0] * stride, x - at[1] * stride
        if valid.sum() < SIDE * SIDE / 2:
            continue
        if ((window >= 254).all(axis=2) & valid).sum() > 0.1 * valid.sum():
            marks[at] = BRIGHT
            continue
        if not valid.all():
            marks[at] = FILLED
            window = fill_nearest(window, valid)
        answers = model(window[None])
        marks[at] |= UNSURE * int(answers.unsure[0]) + BRIGHT * int(answers.bright[0])
        if not answers.empty[0]:
            probabilities[at] = answers.probabilities[0]
    return to_cells(
        grid,
        LABELS,
        Windows(probabilities, shift, marks),
        count_in_cells(raster.valid, stride),
        count_in_cells((raster.pixels >= 254).all(axis=2) & raster.valid, stride),
    )


def nothing(_done: int, _total: int) -> None:
    """Take no notice of progress."""


def same(one: CellMap, other: CellMap) -> bool:
    return (
        one.labels == other.labels
        and np.array_equal(one.probabilities, other.probabilities)
        and np.array_equal(one.state, other.state)
        and np.array_equal(one.valid, other.valid)
    )


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a small scene one of several strips, each read in several parts."""
    monkeypatch.setattr(mapping, "ROWS", 128)
    monkeypatch.setattr(mapping, "TALL_ROWS", 256)
    monkeypatch.setattr(mapping, "COLUMNS", 192)


@pytest.mark.parametrize("stride", [64, 32, 16])
@pytest.mark.parametrize("size", [(64, 64), (300, 450), (257, 129), (384, 256)])
def test_a_map_is_what_asking_window_by_window_gives(
    size: tuple[int, int], stride: int, tmp_path: Path
) -> None:
    raster = scene(*size) if size[0] > 64 else Stored(*drawn(64, 64))
    expected = one_by_one(raster, stride, Model())
    found = map_scene(raster, stride, Model(), folder=tmp_path, progress=nothing)
    assert same(found, expected)
    assert (raster.reads == 1).all()
    if size == (300, 450):
        assert set(np.unique(found.state)) == set(State)


def drawn(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    pixels = np.random.default_rng(5).integers(1, 250, (height, width, 3), np.uint8)
    return pixels, np.ones((height, width), bool)


def test_the_same_pixels_give_the_same_answer_whatever_surrounds_them(tmp_path: Path) -> None:
    one = Stored(*drawn(256, 320))
    other = Stored(one.pixels.copy(), one.valid.copy())
    other.pixels[:64] = 255
    other.pixels[192:] = 7
    maps = [
        map_scene(raster, 64, Model(), folder=tmp_path / str(number), progress=nothing)
        for number, raster in enumerate((one, other))
    ]
    assert np.array_equal(maps[0].probabilities[1:3], maps[1].probabilities[1:3])
    assert not np.array_equal(maps[0].probabilities[3], maps[1].probabilities[3])


@pytest.mark.parametrize(
    ("block", "parts"),
    [
        (None, {(0, 0, 98, 500), (98, 0, 30, 500), (196, 0, 60, 500)}),
        ((64, 64), {(0, 0, 128, 192), (0, 192, 128, 192), (256, 384, 64, 116)}),
        ((256, 256), {(0, 0, 98, 500)}),
        ((1, 500), {(0, 0, 98, 500), (98, 0, 30, 500), (196, 0, 60, 500)}),
        ((200, 190), {(0, 0, 256, 192), (256, 192, 64, 192)}),
    ],
)
def test_parts_are_those_of_the_blocks_of_the_file(
    block: tuple[int, int] | None, parts: set[tuple[int, ...]], tmp_path: Path
) -> None:
    raster: Any = Stored(*drawn(320, 500))
    if block:
        raster.block = block
    map_scene(raster, 64, Model(), folder=tmp_path, progress=nothing)
    assert (raster.reads == 1).all()
    assert parts <= set(raster.parts)


def test_progress_is_told_and_ends_with_all_windows(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    model = Model()
    map_scene(
        scene(300, 450), 32, model, folder=tmp_path, progress=lambda *found: told.append(found)
    )
    windows = Grid(300, 450, 32).windows
    assert {total for _, total in told} == {windows}
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[0][0] == 0
    assert told[-1][0] == windows
    assert sum(model.asked) < windows  # none about those without data


class Cancelled(Exception):
    pass


def test_a_mapping_ends_soon_after_progress_raises(tmp_path: Path) -> None:
    class Slow(Model):
        def __call__(self, windows: np.ndarray) -> Answers:
            time.sleep(0.02 * len(windows))
            return super().__call__(windows)

    cancelled = time.monotonic() + 1.5

    def progress(_done: int, _total: int) -> None:
        if time.monotonic() > cancelled:
            raise Cancelled

    with pytest.raises(Cancelled):
        map_scene(scene(300, 450), 16, Slow(), folder=tmp_path, progress=progress)
    assert time.monotonic() - cancelled < 1


def test_a_mapping_goes_on_behind_the_last_strip_that_was_finished(tmp_path: Path) -> None:
    raster = scene(600, 400)
    expected = one_by_one(raster, 32, Model())

    class Dying(Model):
        def __call__(self, windows: np.ndarray) -> Answers:
            if (tmp_path / "strip-0001.npz").exists():
                raise Cancelled
            return super().__call__(windows)

    first = Dying()
    with pytest.raises(Cancelled):
        map_scene(raster, 32, first, folder=tmp_path, progress=nothing)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["strip-0000.npz", "strip-0001.npz"]
    told: list[int] = []
    rest, whole = Model(), Model()
    found = map_scene(
        raster, 32, rest, folder=tmp_path, progress=lambda done, _total: told.append(done)
    )
    assert same(found, expected)
    assert told[0] > 0
    map_scene(raster, 32, whole, folder=tmp_path / "whole", progress=nothing)
    assert sum(first.asked) > 0
    assert sum(rest.asked) == sum(whole.asked) - sum(first.asked)
    again = Model()
    assert same(map_scene(raster, 32, again, folder=tmp_path, progress=nothing), expected)
    assert again.asked == []


def test_strips_that_are_damaged_or_of_another_mapping_are_made_again(tmp_path: Path) -> None:
    raster = scene(300, 400)
    expected = map_scene(raster, 32, Model(), folder=tmp_path, progress=nothing)
    paths = sorted(tmp_path.iterdir())
    assert len(paths) == 3
    paths[0].write_bytes(paths[0].read_bytes()[:-200])
    paths[1].write_bytes(b"")
    model = Model()
    assert same(map_scene(raster, 32, model, folder=tmp_path, progress=nothing), expected)
    assert model.asked
    other = map_scene(raster, 64, Model(), folder=tmp_path, progress=nothing)
    assert same(other, one_by_one(raster, 64, Model()))


def test_classes_that_change_in_the_middle_are_no_map(tmp_path: Path) -> None:
    raster = scene(300, 400)
    map_scene(raster, 32, Model(), folder=tmp_path, progress=nothing)
    min(tmp_path.iterdir()).unlink()
    with pytest.raises(errors.BadAnswer, match="other classes than the rest"):
        map_scene(raster, 32, Model(("A", "B", "C", "D")), folder=tmp_path, progress=nothing)


@pytest.mark.parametrize("kind", ["no data", "white", "empty"])
def test_a_scene_without_any_answer_is_refused(kind: str, tmp_path: Path) -> None:
    raster = Stored(*drawn(200, 300))
    if kind == "no data":
        raster.valid[:] = False
    elif kind == "white":
        raster.pixels[:] = 255
    else:
        raster.pixels[3::16, 5::16] = 2
        raster.pixels[3::4, 5::4] = 2
    with pytest.raises(errors.UnusableScene, match="nothing to see"):
        map_scene(
            raster, 64, Blind() if kind == "empty" else Model(), folder=tmp_path, progress=nothing
        )


class Blind(Model):
    """Sees nothing in any window, and so names no classes."""

    def __call__(self, windows: np.ndarray) -> Answers:
        count = len(windows)
        none = np.zeros(count, bool)
        return Answers((), np.full((count, 0), np.nan, np.float32), none, none, ~none)


def test_a_model_with_too_many_classes_is_asked_once(tmp_path: Path) -> None:
    asked: list[int] = []

    def model(windows: np.ndarray) -> Answers:
        asked.append(len(windows))
        no = np.zeros(len(windows), bool)
        shares = np.full((len(windows), 256), 1 / 256, np.float32)
        return Answers(tuple(f"class {number}" for number in range(256)), shares, no, no, no)

    with pytest.raises(errors.MakesNoMaps, match="256 classes; a map has room for 255"):
        map_scene(scene(450, 450), 32, model, folder=tmp_path, progress=nothing)
    assert len(asked) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_scene_smaller_than_a_window_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.UnusableScene, match="300 x 63 px"):
        map_scene(Stored(*drawn(63, 300)), 64, Model(), folder=tmp_path, progress=nothing)


def test_what_the_raster_raises_ends_the_mapping(tmp_path: Path) -> None:
    class Damaged(Stored):
        def read(
            self, row: int, column: int, rows: int, columns: int
        ) -> tuple[np.ndarray, np.ndarray]:
            if row >= 256:
                raise errors.DamagedScene("row 260, column 5")
            return super().read(row, column, rows, columns)

    raster = Damaged(*drawn(300, 300))
    with pytest.raises(errors.DamagedScene, match="row 260"):
        map_scene(raster, 32, Model(), folder=tmp_path, progress=nothing)
    assert [path.name for path in tmp_path.iterdir()] == ["strip-0000.npz"]


@pytest.mark.parametrize("block", [(512, 512), (1024, 1024)])
def test_memory_is_bounded(
    block: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("ROWS", 512), ("TALL_ROWS", 1024), ("COLUMNS", 4096)):
        monkeypatch.setattr(mapping, name, value)
    most = 0

    class Large:
        geo = Geo(10_980, 2_500, None, (0, 0))

        def read(
            self, row: int, column: int, rows: int, columns: int
        ) -> tuple[np.ndarray, np.ndarray]:
            nonlocal most
            most = max(most, rows * columns * 6)  # bytes of three bands of uint16
            pixels = np.full((rows, columns, 3), 77, np.uint8)
            pixels[::7] = (row + column) % 200
            return pixels, np.ones((rows, columns), bool)

    raster: Any = Large()
    raster.block = block
    tracemalloc.start()
    try:
        map_scene(raster, 64, Model(), folder=tmp_path, progress=nothing)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most <= 4096 * 1024 * 6
    assert peak < (80e6 if block[0] == 512 else 130e6)

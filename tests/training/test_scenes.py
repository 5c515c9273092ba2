"""Scene figures of the tiny run: made-up places put its tiles side by side."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rasterio.warp import transform

from handlers.reading import read
from handlers.vision import resize, to_probabilities
from portal.scenes.inspector import look_into
from portal.scenes.mapping import map_scene
from portal.scenes.raster import open_raster
from portal.scenes.scene import SIDE, Answers, Geo, Options
from training.dataset.eurosat import BadData, Tiles, find_tiles
from training.dataset.neighbours import PLACES
from training.inference import load_exported, predict
from training.release import release
from training.runs import BadExport
from training.scenes import DEMO, STRIDES, cut, mean_of_cells, measure_scenes, shores

# Rows of the grid, of the tiles that lie there: 13 to 16 are validation tiles, from 17 on test.
GRID = (
    ("Forest_1", "Forest_13", "Forest_14"),
    ("Forest_2", "Forest_3", "River_15"),
    ("Forest_17", "Forest_4", "Forest_5"),
)


@pytest.fixture
def placed(own_eurosat: Path) -> Tiles:
    """The tiny tiles, some of them on the grid, the others far from each other."""
    at = {name: (row, column) for row, line in enumerate(GRID) for column, name in enumerate(line)}
    tiles = find_tiles(own_eurosat)
    names = [name.removesuffix(".jpg") for name in tiles.names]
    places = [at.get(name, (30 + 5 * number, 0)) for number, name in enumerate(names)]
    xs = [500_000 + 650 * column for _, column in places]
    ys = [5_400_000 - 650 * row for row, _ in places]
    degrees = zip(*transform("EPSG:32632", "EPSG:4326", xs, ys), strict=True)
    lines = [f"{name},{lon},{lat}" for name, (lon, lat) in zip(names, degrees, strict=True)]
    text = "\n".join(["name,longitude,latitude", *lines])
    (own_eurosat / "splits" / PLACES).write_text(text)
    return tiles


def test_pieces_of_scenes_are_measured(run: Path, placed: Tiles) -> None:
    before = json.loads((run / "report.json").read_text())
    after = json.loads(measure_scenes(run, placed).read_text())
    found = after.pop("scenes")
    assert after == before
    assert found["precision"] == "int8"
    mosaics = found["mosaics"]
    # upper left, upper right and lower right; the lower left one has a test tile
    assert (mosaics["corners"], mosaics["cells"], mosaics["between"]) == (3, 1 + 3 + 1, 1)
    model, spec = load_exported(run, "int8")

    def named(windows: np.ndarray) -> list[str]:
        pixels = torch.from_numpy(resize(windows, spec.image_size))
        best = to_probabilities(predict(model, pixels, spec), spec).argmax(dim=1)
        return [spec.labels[index] for index in best.tolist()]

    asked = ("Forest_13", "Forest_13", "Forest_14", "River_15", "River_15")
    alone = named(placed.decode([f"{name}.jpg" for name in asked]))
    right = [label == name.partition("_")[0] for label, name in zip(alone, asked, strict=True)]
    assert [line["stride"] for line in mosaics["strides"]] == list(STRIDES)
    assert mosaics["strides"][0]["accuracy"] == np.mean(right)
    four = placed.decode([f"Forest_{number}.jpg" for number in (1, 13, 2, 3)])
    scene = np.concatenate([np.concatenate(four[:2], axis=1), np.concatenate(four[2:], axis=1)])
    assert mosaics["shifted"] == (named(scene[None, 32:96, 32:96]) == ["Forest"])
    for line, stride in zip(found["demo"], STRIDES, strict=True):
        assert line["stride"] == stride
        assert min(line["sea_cells"], line["land_cells"]) > 5


def test_the_card_of_a_release_tells_it_too(run: Path, placed: Tiles, tmp_path: Path) -> None:
    releases = tmp_path / "releases"
    releases.mkdir()
    made = release(run, releases, tmp_path / "no-readme.md", force=True)
    before = (made / "MODEL_CARD.md").read_text()
    measure_scenes(made, placed)
    after = (made / "MODEL_CARD.md").read_text()
    assert "demo scene" not in before
    assert "demo scene" in after
    assert after.startswith(before[: before.index("##")])


@pytest.mark.parametrize("stride", STRIDES)
def test_cells_are_means_as_on_maps(stride: int, tmp_path: Path) -> None:
    pixels = np.random.default_rng(stride).integers(1, 250, (128, 192, 3), np.uint8)

    class Stored:
        geo = Geo(192, 128, None, (0, 0))

        def read(
            self, row: int, column: int, rows: int, columns: int
        ) -> tuple[np.ndarray, np.ndarray]:
            part = pixels[row : row + rows, column : column + columns]
            return part, np.ones(part.shape[:2], bool)

    def shares(windows: np.ndarray) -> np.ndarray:
        share = np.sin(windows[:, 3, 5, :1].astype(float)) ** 2
        return np.concatenate([share, 1 - share], axis=1)

    def ask(windows: np.ndarray) -> Answers:
        none = np.zeros(len(windows), bool)
        return Answers(("a", "b"), shares(windows).astype(np.float32), none, none, none)

    found = map_scene(Stored(), stride, ask, folder=tmp_path, progress=lambda _done, _all: None)
    windows = cut(pixels, stride)
    answers = shares(windows.reshape(-1, SIDE, SIDE, 3)).reshape(*windows.shape[:2], 2)
    assert mean_of_cells(answers, stride) == pytest.approx(found.probabilities, abs=1e-6)


def test_the_demo_scene_is_read_as_it_is_mapped() -> None:
    seen = look_into(DEMO, Options("none"))
    with open_raster(DEMO, seen) as raster:
        pixels, valid = raster.read(0, 0, raster.geo.height, raster.geo.width)
    assert valid.all()
    assert np.array_equal(read(DEMO.read_bytes(), look="tci").pixels, pixels)
    sea, land = shores(seen.geo.origin, 64, (15, 14))
    assert not (sea & land).any()
    assert sea[:, 0].any()
    assert land[:, -1].all()


def without_report(run: Path) -> None:
    (run / "report.json").unlink()


def without_json(run: Path) -> None:
    (run / "report.json").write_text("[]")


def of_another_file(run: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    report["int8"]["model_sha256"] = "0" * 64
    (run / "report.json").write_text(json.dumps(report))


def of_own_tiles(run: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    report["split"]["name"] = "custom"
    (run / "report.json").write_text(json.dumps(report))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without_report, r"report\.json does not exist: run `make evaluate` first"),
        (without_json, r"report\.json is not a report; run `make evaluate` again"),
        (of_another_file, r"belongs to another model-int8\.pt; run `make evaluate` again"),
        (of_own_tiles, "knows classes or tiles of its own"),
    ],
)
def test_what_cannot_be_measured_says_why(
    run: Path, tiles: Tiles, change: Callable[[Path], None], reason: str
) -> None:
    change(run)
    with pytest.raises(BadExport, match=reason):
        measure_scenes(run, tiles)


def test_tiles_whose_places_are_not_known(run: Path, own_eurosat: Path) -> None:
    tiles = find_tiles(own_eurosat)
    with pytest.raises(BadData, match=f"not known where the tiles lie; put {PLACES} "):
        measure_scenes(run, tiles)
    (own_eurosat / "splits" / PLACES).write_text("name,longitude,latitude\nForest_1,9,48\n")
    with pytest.raises(BadData, match=r"found no four of .* that meet in a corner"):
        measure_scenes(run, tiles)

"""What maps of scenes are worth: the section ``scenes`` of a run's report.

    python -m training.scenes training/runs/baseline-3.0

Of the file that is served, in int8 if there is one. Four tiles that meet in a corner are a piece of
a scene of which the truth is known: cells in validation tiles are held against it, as whole tiles
and as means over the windows that cover them, and so is the window between the four. Pieces with a
test tile are left out. In the demo scene, sea and land are known. To evaluate again drops the
section.
"""

import argparse
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from numpy.lib.stride_tricks import sliding_window_view
from tqdm import tqdm

from handlers.contract.names import BadName
from handlers.contract.window import SIDE
from handlers.reading import read
from handlers.vision import resize, to_probabilities
from training.card import model_card, read_reports
from training.config import BadConfig
from training.dataset.eurosat import BadData, Tiles, find_tiles, label_of
from training.dataset.neighbours import PLACES, quads, read_zones
from training.dataset.splits import Split, find_beside, load_split
from training.inference import judge, load_exported
from training.runs import FILES, BadExport, has_int8, run_command, sha256, write_json

logger = logging.getLogger(__name__)

DEMO = Path(__file__).parent.parent / "portal/web/static/samples/scenes/aberystwyth.tif"
GSD = 10.0  # m
STRIDES = (64, 32, 16)  # px; the last divides the others
SEA, WATER = "SeaLake", ("River", "SeaLake")
AT_ONCE = 40  # pieces of scenes whose windows are in memory together

# Where the coast of the sample scene is, drawn by hand on a picture of it, as nothing in three
# bands alone tells water from a dark wood: metres south of a corner, in EPSG:32630, and east of it.
CORNER = (424_930.0, 5_811_878.0)
COAST = np.array(
    [
        (0, 1860), (120, 1850), (640, 1670), (1280, 1520), (1650, 1520), (1900, 1600), (2150, 1680),
        (2220, 1620), (2560, 1350), (2750, 1270), (3000, 1200), (3200, 1250), (3500, 1300),
        (3840, 1280), (3950, 1180), (4050, 1000), (4250, 820), (4480, 950), (4750, 980),
        (5050, 800), (5120, 920), (5400, 1000), (5750, 980), (6000, 880), (6150, 720), (6400, 600),
        (6600, 450), (6900, 300), (7040, 220), (7350, 100), (7450, 0), (9600, -1000),
    ],
    float,
)  # fmt: skip
SHORE = 100.0  # m on both sides of it that are neither sea nor land

Ask = Callable[[np.ndarray], np.ndarray]  # windows, uint8 (N, SIDE, SIDE, 3) -> float (N, C)


def measure_scenes(folder: Path, tiles: Tiles, demo: Path = DEMO) -> Path:
    """Add the section to the report of a run, or to report and card of a release.

    Returns:
        The report's path.

    Raises:
        BadName, BadExport, BadData: with what is missing.
    """
    path = folder / "report.json"
    precision = "int8" if has_int8(folder) else "fp32"
    try:
        report = json.loads(path.read_text())
        part = report if precision == "fp32" else report["int8"]
        measured, split_name = part["model_sha256"], report["split"]["name"]
    except FileNotFoundError as error:
        raise BadExport(f"{path} does not exist: run `make evaluate` first") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BadExport(f"{path} is not a report; run `make evaluate` again") from error
    if measured != sha256(folder / FILES[precision][0]):
        raise BadExport(
            f"{path} belongs to another {FILES[precision][0]}; run `make evaluate` again"
        )
    if split_name == "custom":
        raise BadExport(
            f"{folder.name} knows classes or tiles of its own, and where these lie is not known: "
            "scenes are measured of models of EuroSAT's splits"
        )
    model, spec = load_exported(folder, precision)

    def ask(windows: np.ndarray) -> np.ndarray:
        logits, _ = judge(model, torch.from_numpy(resize(windows, spec.image_size)), spec)
        return to_probabilities(logits, spec).numpy()

    split = load_split(split_name, tiles, folder)
    report["scenes"] = {
        "precision": precision,
        "mosaics": _mosaics(ask, spec.labels, tiles, split),
        "demo": _demo(ask, np.array(spec.labels), demo),
    }
    write_json(path, report)
    card = folder / "MODEL_CARD.md"
    if card.is_file():  # of a release
        card.write_text(model_card(*read_reports(folder)))
    logger.info("%s: %s", path, json.dumps(report["scenes"]))
    return path


def _mosaics(ask: Ask, labels: Sequence[str], tiles: Tiles, split: Split) -> dict[str, Any]:
    known, test = set(split.val), set(split.test)
    there = {*known, *split.train}
    if (places := find_beside(PLACES, tiles)) is None:
        raise BadData(
            f"it is not known where the tiles lie; put {PLACES} (columns name, longitude, "
            f"latitude) beside {tiles.location}"
        )
    found = quads(read_zones(places))
    corners = [quad for quad in found if known & set(quad) and set(quad) <= there - test]
    if not corners:
        raise BadData(
            f"found no four of {tiles.location} that meet in a corner, one of validation and none "
            "of test tiles: scenes cannot be measured"
        )
    right: dict[int, list[bool]] = {stride: [] for stride in STRIDES}
    between: list[bool] = []
    for start in tqdm(range(0, len(corners), AT_ONCE), "mosaics", unit="batch"):
        some = corners[start : start + AT_ONCE]
        pixels = tiles.decode([name for quad in some for name in quad])
        windows = np.stack(
            [cut(_joined(four), STRIDES[-1]) for four in np.split(pixels, len(some))]
        )
        answers = ask(windows.reshape(-1, SIDE, SIDE, 3)).reshape(*windows.shape[:3], -1)
        for quad, answer in zip(some, answers, strict=True):
            truths = [labels.index(label_of(name)) for name in quad]
            for stride in STRIDES:
                step = stride // STRIDES[-1]
                cells = mean_of_cells(answer[::step, ::step], stride).argmax(axis=2)
                last = SIDE // stride - 1  # the cells that meet in the corner
                for place, name in enumerate(quad):
                    if name in known:
                        down, right_of = divmod(place, 2)
                        right[stride].append(cells[last + down, last + right_of] == truths[place])
            if len(set(truths)) == 1:
                middle = SIDE // 2 // STRIDES[-1]
                between.append(answer[middle, middle].argmax() == truths[0])
    return {
        "corners": len(corners),
        "cells": len(right[SIDE]),
        "strides": [
            {"stride": stride, "accuracy": float(np.mean(right[stride]))} for stride in STRIDES
        ],
        "between": len(between),
        "shifted": float(np.mean(between)) if between else 0.0,
    }


def _demo(ask: Ask, labels: np.ndarray, path: Path) -> list[dict[str, Any]]:
    """Of each stride, how many cells of sea and of land there are, and what they are taken for."""
    pixels = read(path.read_bytes(), look="tci").pixels
    with rasterio.open(path) as source:
        origin = (source.transform.c, source.transform.f)
    windows = cut(pixels, STRIDES[-1])
    answers = ask(windows.reshape(-1, SIDE, SIDE, 3)).reshape(*windows.shape[:2], -1)
    lines = []
    for stride in STRIDES:
        step = stride // STRIDES[-1]
        classes = labels[mean_of_cells(answers[::step, ::step], stride).argmax(axis=2)]
        sea, land = shores(origin, stride, classes.shape)
        lines.append(
            {
                "stride": stride,
                "sea_cells": int(sea.sum()),
                "sea_right": float((classes[sea] == SEA).mean()),
                "land_cells": int(land.sum()),
                "land_as_water": float(np.isin(classes[land], WATER).mean()),
            }
        )
    return lines


def cut(scene: np.ndarray, stride: int) -> np.ndarray:
    """The windows of a scene, uint8 (H, W, 3) -> (rows, columns, SIDE, SIDE, 3)."""
    windows = sliding_window_view(scene, (SIDE, SIDE), axis=(0, 1))
    return np.ascontiguousarray(windows[::stride, ::stride].transpose(0, 1, 3, 4, 2))


def mean_of_cells(answers: np.ndarray, stride: int) -> np.ndarray:
    """The mean answer of the windows that cover a cell, of ``stride`` px.

    Args:
        answers: float (R, K, C), of windows ``stride`` px apart.

    Returns:
        float64 (R + SIDE / stride - 1, K + SIDE / stride - 1, C).
    """
    rows, columns, count = answers.shape
    reach = SIDE // stride
    total = np.zeros((rows + reach - 1, columns + reach - 1, count))
    covered = np.zeros((*total.shape[:2], 1))
    for down, right in np.ndindex(reach, reach):
        total[down : down + rows, right : right + columns] += answers
        covered[down : down + rows, right : right + columns] += 1
    found: np.ndarray = total / covered
    return found


def shores(
    origin: tuple[float, float], stride: int, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Which cells of the demo scene are all sea, and which all land.

    Args:
        origin: left and top of the first cell, m, in EPSG:32630.
        shape: rows and columns of cells.

    Returns:
        Two of bool (rows, columns).
    """
    size = stride * GSD
    left, top = origin
    tops = CORNER[1] - top + size * np.arange(shape[0])
    # where the coast is, every pixel down each row of cells
    lines = tops[:, None] + np.arange(stride + 1) * GSD
    coast = CORNER[0] - left + np.interp(lines, *COAST.T)
    west = size * np.arange(shape[1])
    sea = west + size <= coast.min(axis=1, keepdims=True) - SHORE
    land = west >= coast.max(axis=1, keepdims=True) + SHORE
    return sea, land


def _joined(four: np.ndarray) -> np.ndarray:
    """Uint8 (4, SIDE, SIDE, 3) -> the scene of four tiles; the pixel between two is left out."""
    rows = four.reshape(2, 2, SIDE, SIDE, 3).transpose(0, 2, 1, 3, 4)
    return rows.reshape(2 * SIDE, 2 * SIDE, 3)


def main() -> None:
    """Measure the folder named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="evaluated run or release")
    print(measure_scenes(parser.parse_args().folder, find_tiles()))


if __name__ == "__main__":
    run_command(main, BadConfig, BadData, BadExport, BadName)

"""Everything that is committed under training/releases belongs together and keeps its promises."""

import csv
import hashlib
import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from handlers.contract.names import ModelVersion
from handlers.model import logits_and_distances
from tests.support.paths import ROOT
from tests.support.split_lists import make_random_split
from training.card import BEGIN, END, comparison
from training.dataset.eurosat import CLASS_COUNTS
from training.dataset.splits import PARTS, SPLITS_DIR
from training.export import SERVING
from training.inference import load_exported
from training.runs import INT8_MAY_LOSE, has_int8

RELEASES = ROOT / "training" / "releases"
SPLITS = ROOT / "training" / "splits"
FOLDERS = sorted(path for path in RELEASES.iterdir() if path.is_dir())
EVALUATED = [path for path in FOLDERS if (path / "report.json").is_file()]
FILES = {
    "model.pt", "model-config.yaml", "report.json", "predictions.csv", "MODEL_CARD.md",
    "confusion.svg", "reliability.svg", "history.svg",
}  # fmt: skip
INT8 = {"model-int8.pt", "model-config-int8.yaml"}
TEST_TILES = 4050
BASELINE_BYTES = 1_300_000
# Folders of a machine, in a place where a path begins.
MACHINE_PATH = re.compile(
    rb"(?<![\w./:-])(?:/(?:home|root|work|workspace|mnt|tmp|var|opt|usr|data|Users)/[\w.-]+"
    rb"|[A-Z]:\\[\w.-]+\\)"
)

each_release = pytest.mark.parametrize("release", EVALUATED, ids=lambda path: path.name)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def files_of(release: Path) -> set[str]:
    """What a release must hold: its int8 files as well, if its report speaks of them."""
    return FILES | (INT8 if "int8" in read(release / "report.json") else set())


def contents(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    """A file, and what is packed in it."""
    yield name, data
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in archive.namelist():
                yield from contents(f"{name}/{entry}", archive.read(entry))


def machine_paths(path: Path) -> list[tuple[str, bytes]]:
    data = path.read_bytes()
    if path.name.startswith("report"):
        # Tiles in base64 may spell anything.
        report = json.loads(data)
        for tile in report["probe"]:
            del tile["jpeg"]
        data = json.dumps(report).encode()
    return [
        (name, found)
        for name, content in contents(path.name, data)
        for found in MACHINE_PATH.findall(content)
    ]


def test_a_baseline_is_released_and_every_release_is_whole() -> None:
    models = Counter(ModelVersion.parse(path.name).model for path in FOLDERS)
    assert "baseline" in models
    assert max(models.values()) <= 2, "the latest release of a model, and the one before"
    missing = {
        path.name: files_of(path) - {file.name for file in path.iterdir()} for path in FOLDERS
    }
    assert {name: files for name, files in missing.items() if files} == {}


@each_release
def test_the_report_belongs_to_the_model(release: Path) -> None:
    report = read(release / "report.json")
    data = (release / "model.pt").read_bytes()
    assert report["model_sha256"] == hashlib.sha256(data).hexdigest()
    assert report["size_bytes"] == len(data)
    assert f"{report['model']}-{report['version']}" == release.name
    assert report["training"]["config"]["model"] == report["model"]
    _, spec = load_exported(release)
    assert report["spec"] == spec.to_dict()
    assert set(spec.labels) == set(CLASS_COUNTS)


@each_release
def test_the_model_is_served_as_the_code_says(release: Path) -> None:
    config = (release / "model-config.yaml").read_text()
    for key, value in SERVING.items():
        assert f"{key}: {value}\n" in config


@each_release
def test_the_int8_file_is_the_measured_one(release: Path) -> None:
    report = read(release / "report.json")
    assert ("int8" in report) == has_int8(release)
    if "int8" not in report:
        return
    int8, data = report["int8"], (release / "model-int8.pt").read_bytes()
    assert int8["model_sha256"] == hashlib.sha256(data).hexdigest()
    assert int8["size_bytes"] == len(data) < report["size_bytes"]
    assert int8["spec"] == load_exported(release, "int8")[1].to_dict()
    lossy = (
        int8["accuracy"] < report["accuracy"] - INT8_MAY_LOSE
        or int8["calibration"]["ece"] > report["calibration"]["ece"] + INT8_MAY_LOSE
    )
    # A release that was forced although int8 loses more says so.
    assert lossy == ("released all the same (FORCE=1)" in (release / "MODEL_CARD.md").read_text())
    with (release / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    right = sum(row["truth"] == row["predicted_int8"] for row in rows)
    assert int8["accuracy"] == pytest.approx(right / TEST_TILES, abs=1e-12)
    indices = bytes(report["spec"]["labels"].index(row["predicted_int8"]) for row in rows)
    assert int8["labels_sha256"] == hashlib.sha256(indices).hexdigest()


@each_release
def test_a_model_that_judges_is_measured_in_it(release: Path) -> None:
    report = read(release / "report.json")
    for precision, part in (("fp32", report), ("int8", report.get("int8"))):
        if part is None:
            continue
        model, spec = load_exported(release, precision)
        size = spec.image_size
        with torch.inference_mode():
            _, distances = logits_and_distances(model(torch.zeros(1, 3, size, size)))
        assert (distances is None) == (spec.doubt is None)
        for key in ("unlike_training", "prediction_sets"):
            assert (key in part) == (spec.doubt is not None), (precision, key)


@each_release
def test_the_baseline_is_small(release: Path) -> None:
    if release.name.startswith("baseline-"):
        assert (release / "model.pt").stat().st_size <= BASELINE_BYTES


@each_release
def test_the_lists_are_the_committed_ones(release: Path) -> None:
    split = read(release / "report.json")["split"]
    assert split["name"] == "random"
    assert split["sha256"] == {
        part: hashlib.sha256((SPLITS / f"random-{part}.txt").read_bytes()).hexdigest()
        for part in ("train", "val", "test")
    }


@each_release
def test_the_figures_are_those_of_the_predictions(release: Path) -> None:
    report = read(release / "report.json")
    labels = report["spec"]["labels"]
    with (release / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == (SPLITS / "random-test.txt").read_text().split()
    assert len(rows) == TEST_TILES
    confusion = [[0] * len(labels) for _ in labels]
    for row in rows:
        assert row["file"].startswith(f"{row['truth']}_")
        confusion[labels.index(row["truth"])][labels.index(row["predicted"])] += 1
    assert report["confusion"] == confusion
    assert sum(map(sum, report["confusion"])) == TEST_TILES
    right = sum(row["truth"] == row["predicted"] for row in rows)
    assert report["accuracy"] == pytest.approx(right / TEST_TILES, abs=1e-12)
    assert len(report["errors"]) == TEST_TILES - right
    indices = bytes(labels.index(row["predicted"]) for row in rows)
    assert report["labels_sha256"] == hashlib.sha256(indices).hexdigest()


@each_release
def test_the_spatial_report_is_of_the_same_model(release: Path) -> None:
    path = release / "report-spatial.json"
    if not path.is_file():
        return
    report, spatial = read(release / "report.json"), read(path)
    assert spatial["split"]["name"] == "spatial"
    assert (spatial["model"], spatial["version"]) == (report["model"], report["version"])
    counts = spatial["split"]["counts"]
    assert sum(map(sum, spatial["confusion"])) == sum(counts["test"].values())
    assert sum(sum(part.values()) for part in counts.values()) == sum(CLASS_COUNTS.values())


@each_release
def test_no_file_names_a_folder_of_a_machine(release: Path) -> None:
    for path in release.iterdir():
        assert machine_paths(path) == []


def test_a_path_of_a_machine_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text('"teacher": "/home/me/runs/big-1.0"')
    assert machine_paths(tmp_path / "plain.txt") == [("plain.txt", b"/home/me")]
    with zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("code/debug", b"x" * 500 + b" /opt/training/models.py")
    assert machine_paths(tmp_path / "packed.pt") == [("packed.pt/code/debug", b"/opt/training")]
    (tmp_path / "fine.txt").write_text("https://example.org/data/set training/data/x and/or")
    assert machine_paths(tmp_path / "fine.txt") == []


@pytest.mark.skipif(not EVALUATED, reason="nothing is released yet")
def test_the_tables_are_those_of_the_releases() -> None:
    reports = []
    for release in EVALUATED:
        spatial = release / "report-spatial.json"
        reports.append(
            (read(release / "report.json"), read(spatial) if spatial.is_file() else None)
        )
    table = comparison(reports)
    assert (RELEASES / "README.md").read_text().endswith(table)
    assert f"{BEGIN}\n{table}{END}" in (ROOT / "README.md").read_text()


def test_the_random_lists_are_what_seed_0_gives() -> None:
    names = [
        f"{label}_{number}.jpg"
        for label, count in CLASS_COUNTS.items()
        for number in range(1, count + 1)
    ]
    split = make_random_split(names, seed=0)
    for part in PARTS:
        listed = (SPLITS_DIR / f"random-{part}.txt").read_text().split()
        assert tuple(listed) == getattr(split, part)

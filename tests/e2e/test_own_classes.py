"""Three classes of one's own: from a folder of tiles to answers, pages and maps of the product."""

import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from deploy.settings import Settings
from handlers.vision import to_probabilities
from tests.support.own_tiles import COLOURS, picture, write_own_tiles
from tests.support.paths import ROOT
from tests.support.product import RunningProduct, own_settings, running_product
from training.dataset.eurosat import find_tiles
from training.dataset.examples import load_examples
from training.inference import load_exported, predict

LABELS = sorted(COLOURS)
MAPPED_WITHIN = 120.0  # s
EPOCHS = 3  # of a tiny model, a second each


def command(module: str, *words: str, tiles: Path, runs: Path) -> str:
    """Run a verb of the training on the tiles, as the user does; what it printed."""
    code = (
        "import runpy, sys; from pathlib import Path; from training import runs; "
        f"runs.RUNS_DIR = Path({str(runs)!r}); sys.argv[0] = {module!r}; "
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=ROOT,
        env=os.environ | {"EUROSAT_DIR": str(tiles), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zip as Windows makes them, with what notebooks and macOS leave in folders."""
    folder = write_own_tiles(tmp_path_factory.mktemp("own") / "mine", each=30)
    zipped = folder.with_suffix(".zip")
    with zipfile.ZipFile(zipped, "w") as archive:
        for path in sorted(folder.rglob("*.*")):
            name = str(path.relative_to(folder.parent)).replace("/", "\\")
            archive.write(path, name)
        archive.writestr("mine\\Reben\\.ipynb_checkpoints\\tile 1-checkpoint.jpg", b"")
        archive.writestr("__MACOSX/mine/Reben/._tile 1.jpg", b"")
    return zipped


@pytest.fixture(scope="module")
def run(tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained, exported and evaluated by the commands."""
    runs = tmp_path_factory.mktemp("runs")
    knobs = {
        "version": "1.0", "served_as": "coast", "image_size": 32, "widths": "[4, 4, 4]",
        "epochs": EPOCHS, "batch_size": 16, "lr": 0.03, "warmup_epochs": 0, "threads": 1,
        "precision": "fp32",
    }  # fmt: skip
    words = [word for key, value in knobs.items() for word in ("--set", f"{key}={value}")]
    made = Path(command("training.train", *words, tiles=tiles, runs=runs))
    assert made == runs / "coast-1.0"
    command("training.export", str(made), tiles=tiles, runs=runs)
    command("training.evaluate", str(made), "--fast", tiles=tiles, runs=runs)
    return made


@pytest.fixture(scope="module")
def product(
    run: Path, tiles: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningProduct]:
    """The product with the archive of these classes alone, and its report."""
    folder = tmp_path_factory.mktemp("product")
    command("training.archive", str(run), "--store", str(folder / "store"), tiles=tiles, runs=run)
    settings: Settings = own_settings(folder, folder / "store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PORTAL_REPORTS_DIR", str(run.parent))
        patch.setenv("PORTAL_TILES_DIR", str(tiles))
        patch.setenv("PORTAL_DEFAULT_MODEL", "coast")
        with running_product(settings) as started:
            running = RunningProduct(started)
            running.wait_until_ready()
            yield running


@pytest.fixture
def get(product: RunningProduct) -> Callable[[str], requests.Response]:
    def get_it(path: str) -> requests.Response:
        answer = requests.get(product.url + path, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer

    return get_it


def report_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "report.json").read_text())
    return found


def test_the_run_tells_what_it_learned_from(run: Path) -> None:
    report = report_of(run)
    assert report["model"] == "coast"
    assert report["spec"]["labels"] == LABELS
    assert report["split"]["name"] == report["training"]["config"]["split"] == "custom"
    assert report["split"]["counts"]["train"] == dict.fromkeys(LABELS, 21)
    lists = json.loads((run / "split.json").read_text())
    assert sorted(name for part in lists.values() for name in part) == sorted(
        f"{label}/tile {number}{suffix}"
        for label in LABELS
        for number in range(30)
        for suffix in [(".jpg", ".JPG", ".jpeg", ".png", ".tif")[number % 5]]
    )
    log = (run / "train.log").read_text()
    assert "left out: {'hidden files': 1, 'files in __MACOSX': 1}" in log
    assert report["accuracy"] > 0.5  # of three: something was learned


@pytest.mark.parametrize(("suffix", "kind"), [("jpg", "JPEG"), ("png", "PNG"), ("tif", "TIFF")])
def test_an_answer_is_the_models(
    product: RunningProduct, run: Path, suffix: str, kind: str
) -> None:
    image = picture("hafen 2", 77, kind=kind)
    answer = requests.post(
        f"{product.url}/api/predict", files={"file": (f"x.{suffix}", image)}, timeout=30
    ).json()
    assert set(answer["probabilities"]) == set(LABELS)
    assert answer["model"] == "coast"
    model, spec = load_exported(run, "int8")
    folder = run.parent / f"asked-{suffix}"
    for label in LABELS:
        (folder / label).mkdir(parents=True)
        (folder / label / f"x.{suffix}").write_bytes(image)
    found = find_tiles(folder)
    examples = load_examples(found, (f"hafen 2/x.{suffix}",), spec)
    (row,) = to_probabilities(predict(model, examples.pixels, spec), spec).tolist()
    expected = dict(zip(spec.labels, row, strict=True))
    assert answer["probabilities"] == pytest.approx(expected, abs=1e-6)


def test_pages_and_api_name_these_classes_and_no_others(
    get: Callable[[str], requests.Response], run: Path
) -> None:
    report = get("/api/reports/coast/1.0").json()["report"]
    assert report["labels"] == LABELS
    assert report["split"]["name"] == "custom"
    assert '"coast"' in get("/api/models").text
    page = get("/reports/coast/1.0").text
    assert "Dünen &amp; strand" in page
    assert "Hafen 2" in page
    assert "Annual crop" not in page
    for path in ("/", "/models", "/reports", "/map", "/docs", "/openapi.json"):
        get(path)


def test_the_tiles_of_mistakes_are_shown(
    get: Callable[[str], requests.Response], product: RunningProduct, run: Path
) -> None:
    mistakes = report_of(run)["errors"]
    assert mistakes, "make the training shorter: this test needs a mistake"
    for mistake in mistakes:
        address = f"{product.url}/reports/coast/1.0/tiles/{mistake['file']}"
        answer = requests.get(address, timeout=30)
        shown = not mistake["file"].endswith(".tif")  # which no browser shows
        assert answer.status_code == (200 if shown else 404), mistake["file"]


def test_a_scene_is_mapped_with_these_classes(product: RunningProduct) -> None:
    session = requests.Session()
    session.post(f"{product.url}/map/sample", timeout=60).raise_for_status()
    deadline = time.monotonic() + MAPPED_WITHIN
    while (scene := session.get(f"{product.url}/api/scenes", timeout=30).json()["scenes"][0])[
        "state"
    ] != "done":
        assert scene["state"] in ("queued", "running"), scene["reason"]
        assert time.monotonic() < deadline, scene
        time.sleep(0.3)
    assert [area["class_name"] for area in scene["areas"]] == LABELS
    assert len({area["color"] for area in scene["areas"]}) == len(LABELS)
    for name in scene["outputs"].values():
        session.get(product.url + name, timeout=30).raise_for_status()
    page = session.get(f"{product.url}/map/{scene['id']}", timeout=30)
    assert page.status_code == 200
    assert "Hafen 2" in page.text

"""EuroSAT in miniature: four of its classes, twenty tiles each, and a run made from them."""

import io
import logging
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from handlers.contract.spec import ModelSpec
from tests.support.knobs import knobs
from tests.support.split_lists import write_split
from training import distill, train
from training.config import TrainConfig
from training.dataset import splits
from training.dataset.eurosat import MEAN, STD, Tiles, find_tiles
from training.dataset.splits import Split
from training.evaluate import evaluate
from training.export import export

COMMIT = "0123456789abcdef0123456789abcdef01234567"

TILES_A_CLASS = 20
COLOURS = {  # red, green, blue: clearly different, as is the texture below
    "Forest": (40, 90, 60),
    "Industrial": (170, 150, 150),
    "River": (90, 120, 150),
    "SeaLake": (20, 50, 130),
}

VERDICTS = """file,split,label,verdict,better,reason
Forest_17.jpg,test,Forest,wrong,River,"water, no trees"
River_18.jpg,test,River,doubtful,SeaLake,no shore in sight
SeaLake_19.jpg,test,SeaLake,undecidable,,one colour
Industrial_20.jpg,test,Industrial,right,,roofs
Forest_13.jpg,val,Forest,wrong,River,water
"""


def jpeg(label: str, number: int) -> bytes:
    """One 64 x 64 tile: the class's colour, its stripes, and noise of its own."""
    random = np.random.default_rng([number, *label.encode()])
    y, x = np.mgrid[:64, :64]
    period = 4 + 4 * list(COLOURS).index(label)
    stripes = 25 * np.sign(np.sin(2 * np.pi * (x + y + number) / period))
    pixels = np.array(COLOURS[label]) + stripes[..., None] + random.normal(0, 12, (64, 64, 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def zipped(folder: Path, target: Path) -> Path:
    """The tiles below a folder as a zip, class folders and all."""
    target.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*.jpg")):
            archive.write(path, path.relative_to(folder.parent))
    return target


@pytest.fixture(scope="session")
def tiny_eurosat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder EUROSAT_DIR would name: tiles in 2750/<Class>/, random lists in splits/.

    Read only; a test that breaks something does so in a copy (``own_eurosat``).
    """
    root = tmp_path_factory.mktemp("eurosat")
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for label in COLOURS:
        folder = root / "2750" / label
        folder.mkdir(parents=True)
        names = [f"{label}_{number}.jpg" for number in range(1, TILES_A_CLASS + 1)]
        for number, name in enumerate(names, start=1):
            (folder / name).write_bytes(jpeg(label, number))
        lists["train"] += names[:12]
        lists["val"] += names[12:16]
        lists["test"] += names[16:]
    split = Split("random", *(tuple(lists[part]) for part in ("train", "val", "test")))
    write_split(split, root / "splits")
    (root / "splits" / "verdicts.csv").write_text(VERDICTS)
    return root


@pytest.fixture
def own_eurosat(tiny_eurosat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tiny EuroSAT that the test may break; its lists are the ones in use."""
    root = tmp_path / "eurosat"
    shutil.copytree(tiny_eurosat, root)
    monkeypatch.setattr(splits, "SPLITS_DIR", root / "splits")
    return root


@pytest.fixture
def tiles(tiny_eurosat: Path) -> Tiles:
    return find_tiles(tiny_eurosat)


@pytest.fixture(autouse=True)
def tiny_world(tiny_eurosat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny lists instead of the committed ones; nothing is kept beside the real tiles.

    Whatever is changed in the checkout that runs the tests, runs are of a commit.
    """
    monkeypatch.setattr(splits, "SPLITS_DIR", tiny_eurosat / "splits")
    monkeypatch.setattr("training.release.git_commit", lambda: COMMIT)
    monkeypatch.setattr(distill, "TEACHER_DIR", tmp_path / "teacher")


@pytest.fixture(scope="session", autouse=True)
def talking() -> Iterator[None]:
    """Runs write their log, as they do from the command line."""
    logger = logging.getLogger("training")
    before = logger.level
    logger.setLevel(logging.INFO)
    yield
    logger.setLevel(before)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On work so small torch's threads only wait for each other: minutes, on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def config() -> TrainConfig:
    """A baseline so small that an epoch takes a blink, and too short to get everything right."""
    return knobs(
        version="1.0",
        image_size=32,
        widths=(4, 4, 4),
        epochs=3,
        batch_size=16,
        lr=0.03,
        warmup_epochs=0.0,
        brightness=0.1,
        threads=1,
        precision="fp32",
    )


@pytest.fixture(scope="session")
def spec() -> ModelSpec:
    return ModelSpec(tuple(COLOURS), 32, MEAN, STD)


@pytest.fixture(scope="session")
def finished_run(
    tiny_eurosat: Path, config: TrainConfig, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """baseline-1.0: trained, exported, evaluated in full. Read only; copy it to change it."""
    tiles = find_tiles(tiny_eurosat)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "SPLITS_DIR", tiny_eurosat / "splits")
        patch.setattr("training.evaluate.git_commit", lambda: COMMIT)
        folder = train.train(config, tiles, tmp_path_factory.mktemp("runs"))
        export(folder, tiles)
        evaluate(folder, tiles)
    return folder


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that the test may change."""
    return Path(shutil.copytree(finished_run, tmp_path / "runs" / finished_run.name))

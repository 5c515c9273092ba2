"""One tile, two ways: as training sees it, and through the archive's own copy of the handlers."""

import base64
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handlers.contract.report import Precision
from handlers.reading import read
from handlers.vision import normalize, stack_pixels, to_answer, to_probabilities
from training import archive
from training.dataset.eurosat import Tiles
from training.dataset.examples import load_examples
from training.inference import load_exported, predict

NAMES = ("Forest_17.jpg", "Industrial_18.jpg", "River_19.jpg", "SeaLake_20.jpg")

# Runs in the unpacked archive; what it imports as `handlers` must lie there.
SERVED_TENSORS = """
import sys, base64, json
from pathlib import Path
import numpy as np, yaml
import handlers.vision
from handlers.contract.spec import ModelSpec
from handlers.reading import read
assert Path(handlers.vision.__file__).is_relative_to(Path.cwd()), handlers.vision.__file__
spec = ModelSpec.from_dict(yaml.safe_load(Path("model-config.yaml").read_text())["spec"])
images = [read(base64.b64decode(image)).pixels for image in json.load(sys.stdin)]
np.save("tensors.npy", handlers.vision.stack_pixels(images, spec).numpy())
"""


def in_archive(unpacked: Path, words: list[str], tiles: Tiles) -> str:
    """Run Python in the unpacked archive, with the tiles on stdin; its output."""
    result = subprocess.run(
        [sys.executable, *words],
        cwd=unpacked,
        input=json.dumps([base64.b64encode(tiles.read(name)).decode() for name in NAMES]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(params=["int8", "fp32"])
def precision(request: pytest.FixtureRequest) -> Precision:
    found: Precision = request.param
    return found


@pytest.fixture
def unpacked(finished_run: Path, tmp_path: Path, precision: Precision) -> Path:
    """What TorchServe makes of the tiny run's archive."""
    with zipfile.ZipFile(archive.build(finished_run, tmp_path / "store", precision)) as mar:
        mar.extractall(tmp_path / "unpacked")
    return tmp_path / "unpacked"


def test_training_and_serving_see_the_same_tensors_and_give_the_same_answers(
    unpacked: Path, finished_run: Path, tiles: Tiles, precision: str
) -> None:
    model, spec = load_exported(finished_run, precision)
    images = [read(tiles.read(name)).pixels for name in NAMES]
    examples = load_examples(tiles, NAMES, spec)
    trained_on = normalize(examples.pixels, spec)

    in_archive(unpacked, ["-c", SERVED_TENSORS], tiles)
    served = torch.from_numpy(np.load(unpacked / "tensors.npy"))
    assert served.shape == (4, 3, 32, 32)  # resized from 64: that must be the same as well
    assert torch.equal(served, trained_on)
    assert torch.equal(served, stack_pixels(images, spec))
    assert torch.equal(served, torch.cat([stack_pixels([image], spec) for image in images]))

    probe = Path(archive.__file__).with_name("answer_probe.py")
    answers: list[dict[str, Any]] = json.loads(in_archive(unpacked, [str(probe)], tiles))
    rows = to_probabilities(predict(model, examples.pixels, spec), spec).tolist()
    for answer, row in zip(answers, rows, strict=True):
        expected = to_answer(row, spec)
        assert answer["class_name"] == expected["class_name"]
        doubted = {warning["code"] for warning in answer["warnings"]} - {"not_judged"}
        assert answer["uncertain"] is (expected["uncertain"] or bool(doubted))
        assert answer["prediction_set"] == expected["prediction_set"]
        assert answer["confidence"] == pytest.approx(expected["confidence"], abs=1e-6)
        assert answer["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-6)
        assert list(answer["probabilities"]) == list(expected["probabilities"])

"""Real archives, asked without a model server."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from rasterio.transform import Affine

from portal.errors import BadAnswer, BadArchive, ModelNotReady, TooSlow
from portal.scenes.archive_classifier import BUNDLE, ArchiveClassifier
from portal.scenes.mapping import map_scene
from portal.scenes.raster import open_raster
from tests.support.paths import ROOT, SAMPLES
from tests.support.rasters import look, mosaic, write
from tests.support.real_archives import (
    CONFIG,
    HANDLER,
    Entries,
    answers_nan,
    answers_otherwise,
    archive,
    exits_in_init,
    is_too_slow_in_init,
    replaced,
)

Changed = Callable[[Callable[[Entries], None]], Path]


@pytest.fixture(scope="module")
def classifier(mar: Path) -> Iterator[ArchiveClassifier]:
    with ArchiveClassifier(mar) as found:
        yield found


@pytest.fixture
def changed(mar: Path, tmp_path: Path) -> Changed:
    """The archive with its entries changed, as another version."""
    return lambda change: archive(tmp_path, mar, "9.0", change)


@pytest.fixture(autouse=True)
def folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where archives are unpacked."""
    path = tmp_path / "unpacked"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


def samples() -> tuple[list[str], np.ndarray]:
    paths = sorted(SAMPLES.glob("*.jpg"))
    tiles = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    return [path.stem for path in paths], np.stack(tiles)


def processes(folders: Path) -> list[psutil.Process]:
    """Those of archives that this test has had unpacked."""
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if Path(child.cwd()).is_relative_to(folders)
    ]


def test_every_sample_gets_its_class_in_whatever_bundle(classifier: ArchiveClassifier) -> None:
    names, tiles = samples()
    answers = classifier(np.concatenate([tiles] * (2 * BUNDLE // len(tiles))))
    labels = np.array(answers.labels)
    assert sorted(labels) == labels.tolist() == sorted(classifier.archive.labels)
    found = labels[answers.probabilities.argmax(axis=1)].tolist()
    assert found == names * (len(found) // len(names))
    assert answers.probabilities.dtype == np.float32
    assert np.allclose(answers.probabilities.sum(axis=1), 1, atol=1e-5)
    assert not answers.empty.any()
    assert not answers.bright.any()


def test_what_speaks_against_an_answer_is_told(classifier: ArchiveClassifier) -> None:
    _, tiles = samples()
    tiles = tiles[:3].copy()
    tiles[0] = 77
    tiles[1, :20] = 255
    answers = classifier(tiles)
    assert answers.empty.tolist() == [True, False, False]
    assert np.isnan(answers.probabilities).all(axis=1).tolist() == [True, False, False]
    assert answers.bright.tolist() == [False, True, False]
    assert answers.unsure.tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("crs", "left", "top"),
    [
        ("EPSG:32632", 600_000, 5_300_000),
        ("EPSG:27700", 258_000, 282_000),
        ("EPSG:3035", 4_320_000, 3_210_000),
    ],
)
def test_a_tile_in_a_scene_gets_the_answer_that_it_gets_alone(
    classifier: ArchiveClassifier, tmp_path: Path, crs: str, left: int, top: int
) -> None:
    """Neither UTM nor a national grid of 10 m is warped, whichever windows are asked together."""
    pixels = mosaic(320, 448)
    transform = Affine(10, 0, left, 0, -10, top)
    path = write(tmp_path / "s.tif", pixels, crs=crs, transform=transform)
    seen = look(path, look="eurosat", stride=64)
    with open_raster(path, seen) as raster:
        found = map_scene(
            raster, 64, classifier, folder=tmp_path / "strips", progress=lambda _done, _total: None
        )
    assert not seen.resampled
    assert seen.geo.origin == (left, top)
    for row, column in np.ndindex(5, 7):
        tile = pixels[None, 64 * row : 64 * row + 64, 64 * column : 64 * column + 64]
        (alone,) = classifier(tile).probabilities
        assert found.probabilities[row, column] == pytest.approx(alone, abs=1e-6)


def test_no_windows_are_no_answers(classifier: ArchiveClassifier) -> None:
    answers = classifier(np.empty((0, 64, 64, 3), np.uint8))
    assert answers.probabilities.shape == (0, 10)


def test_the_code_that_answers_is_the_archives_own(
    classifier: ArchiveClassifier, changed: Changed
) -> None:
    _, tiles = samples()
    with ArchiveClassifier(changed(answers_otherwise)) as other:
        found = other(tiles)
    assert np.array_equal(found.probabilities, classifier(tiles).probabilities[:, ::-1])


def test_an_archive_older_than_bundles_is_asked_window_by_window(
    classifier: ArchiveClassifier, changed: Changed
) -> None:
    def knows_no_bundles(entries: Entries) -> None:
        replaced(entries, HANDLER, "elif body.startswith(MAGIC):", "elif False:")

    _, tiles = samples()
    with ArchiveClassifier(changed(knows_no_bundles)) as older:
        found = older(tiles)
    assert np.allclose(found.probabilities, classifier(tiles).probabilities, atol=1e-6)


def test_it_has_one_thread_no_secrets_and_no_other_code(
    changed: Changed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tells(entries: Entries) -> None:
        names = "PORTAL_PASSWORD_HASH", "MY_TOKEN", "PYTHONPATH", "OMP_NUM_THREADS"
        told = f"[os.environ.get(name) for name in {names}]"
        line = f"import os; raise RuntimeError(({told}, torch.get_num_threads()))"
        replaced(entries, HANDLER, "config = context.model_yaml_config", line)

    for name in ("PORTAL_PASSWORD_HASH", "MY_TOKEN"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with (
        ArchiveClassifier(changed(tells)) as classify,
        pytest.raises(BadArchive, match=r"\(\[None, None, None, '1'\], 1\)"),
    ):
        classify(samples()[1])


@pytest.mark.parametrize("change", [exits_in_init, is_too_slow_in_init])
def test_an_archive_that_does_not_load_is_refused(
    changed: Changed, change: Callable[[Entries], None], folders: Path
) -> None:
    def soon(entries: Entries) -> None:
        change(entries)
        entries[CONFIG] = entries[CONFIG].replace(b"startupTimeout: 5\n", b"startupTimeout: 1\n")

    path = changed(soon)
    with ArchiveClassifier(path) as classify, pytest.raises(BadArchive, match=path.name):
        classify(samples()[1])
    assert processes(folders) == []


def test_an_answer_that_no_model_may_give_is_refused(changed: Changed) -> None:
    with ArchiveClassifier(changed(answers_nan)) as classify, pytest.raises(BadAnswer):
        classify(samples()[1])


def test_an_archive_that_was_exchanged_is_not_asked(changed: Changed) -> None:
    classify = ArchiveClassifier(changed(lambda _entries: None))
    changed(answers_otherwise)
    with pytest.raises(BadArchive, match="another archive"):
        classify(samples()[1])


def test_a_process_that_dies_or_hangs_is_told_and_replaced(mar: Path, folders: Path) -> None:
    _, tiles = samples()
    with ArchiveClassifier(mar) as classify:
        before = classify(tiles).probabilities
        (process,) = processes(folders)
        process.kill()
        with pytest.raises(ModelNotReady, match="killed"):
            classify(tiles)
        assert np.array_equal(classify(tiles).probabilities, before)
        (process,) = processes(folders)
        process.suspend()
        classify._answer_timeout = 0.2
        with pytest.raises(TooSlow):
            classify(tiles)
    assert processes(folders) == []
    assert list(folders.iterdir()) == []


def test_nothing_is_left_of_one_whose_parent_was_killed(mar: Path, folders: Path) -> None:
    code = (
        "import sys, pathlib, numpy, time\n"
        "from portal.scenes.archive_classifier import ArchiveClassifier\n"
        "classify = ArchiveClassifier(pathlib.Path(sys.argv[1]))\n"
        "classify(numpy.zeros((1, 64, 64, 3), numpy.uint8))\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    environ = os.environ | {"TMPDIR": str(folders), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(mar)], env=environ, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        (child,) = processes(folders)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while child.is_running() or list(folders.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.1)

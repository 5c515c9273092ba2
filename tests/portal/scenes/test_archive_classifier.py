"""Windows of a scene, asked about through a real archive."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rasterio.transform import Affine

from portal.errors import BadAnswer
from portal.scenes.archive_classifier import ArchiveClassifier
from portal.scenes.mapping import map_scene
from portal.scenes.raster import open_raster
from portal.serving.archive_model import BUNDLE
from tests.support.paths import SAMPLES
from tests.support.rasters import look, mosaic, write
from tests.support.real_archives import answers_nan, archive


@pytest.fixture(scope="module")
def classifier(mar: Path) -> Iterator[ArchiveClassifier]:
    with ArchiveClassifier(mar) as found:
        yield found


def samples() -> tuple[list[str], np.ndarray]:
    paths = sorted(SAMPLES.glob("*.jpg"))
    tiles = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    return [path.stem for path in paths], np.stack(tiles)


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


def test_an_answer_that_no_model_may_give_is_refused(mar: Path, tmp_path: Path) -> None:
    _, tiles = samples()
    path = archive(tmp_path, mar, "9.0", answers_nan)
    with ArchiveClassifier(path) as classify, pytest.raises(BadAnswer):
        classify(tiles)

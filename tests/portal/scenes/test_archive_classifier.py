"""Windows of a scene, asked about through a real archive."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from portal.errors import BadAnswer
from portal.scenes.archive_classifier import ArchiveClassifier
from portal.serving.archive_model import BUNDLE
from tests.support.paths import SAMPLES
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


def test_no_windows_are_no_answers(classifier: ArchiveClassifier) -> None:
    answers = classifier(np.empty((0, 64, 64, 3), np.uint8))
    assert answers.probabilities.shape == (0, 10)


def test_an_answer_that_no_model_may_give_is_refused(mar: Path, tmp_path: Path) -> None:
    _, tiles = samples()
    path = archive(tmp_path, mar, "9.0", answers_nan)
    with ArchiveClassifier(path) as classify, pytest.raises(BadAnswer):
        classify(tiles)

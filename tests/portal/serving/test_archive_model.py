"""Real archives, asked without a model server."""

import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from PIL import Image

from handlers.contract.tile_bundle import LARGEST_TILE_PIXELS
from portal.errors import (
    BadAnswer,
    BadArchive,
    ModelNotReady,
    NoExplanations,
    TooSlow,
    UnknownModel,
    UnsupportedImage,
    UnusableImage,
)
from portal.serving.archive_model import BUNDLE, ArchiveModel
from portal.serving.model_server import Prediction
from tests.support.paths import ROOT, SAMPLES
from tests.support.processes import running_children
from tests.support.rasters import mosaic
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
PATHS = sorted(SAMPLES.glob("*.jpg"))
IMAGES = [path.read_bytes() for path in PATHS]


@pytest.fixture(scope="module")
def model(mar: Path) -> Iterator[ArchiveModel]:
    with ArchiveModel(mar) as found:
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


def processes(folders: Path) -> list[psutil.Process]:
    """Those of archives that this test has had unpacked."""
    return [child for child in running_children() if Path(child.cwd()).is_relative_to(folders)]


def ask(model: ArchiveModel, images: list[bytes] = IMAGES) -> list[Prediction]:
    """The predictions; each image must have one."""
    outcomes = model.predict_bundle(images, model.archive.name)
    for outcome in outcomes:
        assert isinstance(outcome, Prediction), outcome
    return [outcome for outcome in outcomes if isinstance(outcome, Prediction)]


def picture(side: int) -> bytes:
    """A PNG of so many tiles."""
    buffer = io.BytesIO()
    Image.fromarray(mosaic(side, side)).save(buffer, "PNG")
    return buffer.getvalue()


def shares(found: list[Prediction]) -> list[dict[str, float]]:
    return [prediction.probabilities for prediction in found]


def test_every_sample_gets_its_class_alone_and_among_any_number(model: ArchiveModel) -> None:
    found = ask(model, IMAGES * (2 * BUNDLE // len(IMAGES)))
    names = [path.stem for path in PATHS] * (2 * BUNDLE // len(IMAGES))
    assert [prediction.class_name for prediction in found] == names
    version = model.default_version(model.archive.model)
    assert version == model.archive.name
    alone = [model.predict(image, version) for image in IMAGES]
    for one, other in zip(alone, found, strict=False):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)
        assert (one.model, one.version) == (version.model, version.version)
    with pytest.raises(UnknownModel):
        model.default_version("another")


def test_a_bad_image_has_its_own_error(model: ArchiveModel) -> None:
    images = [b"no image", IMAGES[0], IMAGES[1][:700]]
    bad, good, truncated = model.predict_bundle(images, model.archive.name)
    assert isinstance(bad, UnsupportedImage)
    assert isinstance(good, Prediction)
    assert isinstance(truncated, UnusableImage)
    with pytest.raises(UnsupportedImage, match="something else"):
        model.predict(b"no image", model.archive.name)


def test_what_is_too_large_for_a_bundle_is_asked_about_alone(model: ArchiveModel) -> None:
    side = 1200
    assert side**2 > LARGEST_TILE_PIXELS
    large, small = ask(model, [picture(side), IMAGES[0]])
    assert large.warnings[0].code == "squeezed"
    assert small.class_name == PATHS[0].stem
    outcome, _ = model.predict_bundle([picture(2100), IMAGES[0]], model.archive.name)
    assert isinstance(outcome, UnusableImage)
    assert "2100 x 2100" in str(outcome)


def test_it_does_not_explain(model: ArchiveModel) -> None:
    with pytest.raises(NoExplanations, match=str(model.archive.name)):
        model.explain(IMAGES[0], model.archive.name)


def test_the_code_that_answers_is_the_archives_own(model: ArchiveModel, changed: Changed) -> None:
    labels = model.archive.labels
    with ArchiveModel(changed(answers_otherwise)) as other:
        found = shares(ask(other))
    expected = [
        {label: share[mirrored] for label, mirrored in zip(labels, reversed(labels), strict=True)}
        for share in shares(ask(model))
    ]
    assert found == expected


def test_an_archive_older_than_bundles_is_asked_one_by_one(
    model: ArchiveModel, changed: Changed
) -> None:
    def knows_no_bundles(entries: Entries) -> None:
        replaced(entries, HANDLER, "elif body.startswith(MAGIC):", "elif False:")

    with ArchiveModel(changed(knows_no_bundles)) as older:
        found = ask(older)
    for one, other in zip(found, ask(model), strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)


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
        ArchiveModel(changed(tells)) as model,
        pytest.raises(BadArchive, match=r"\(\[None, None, None, '1'\], 1\)"),
    ):
        ask(model)


@pytest.mark.parametrize("change", [exits_in_init, is_too_slow_in_init])
def test_an_archive_that_does_not_load_is_refused(
    changed: Changed, change: Callable[[Entries], None], folders: Path
) -> None:
    def soon(entries: Entries) -> None:
        change(entries)
        entries[CONFIG] = entries[CONFIG].replace(b"startupTimeout: 5\n", b"startupTimeout: 1\n")

    path = changed(soon)
    with ArchiveModel(path) as model, pytest.raises(BadArchive, match=path.name):
        ask(model)
    assert processes(folders) == []


def test_an_answer_that_no_model_may_give_is_refused(changed: Changed) -> None:
    with ArchiveModel(changed(answers_nan)) as model:
        outcomes = model.predict_bundle(IMAGES, model.archive.name)
    assert {type(outcome) for outcome in outcomes} == {BadAnswer}


def test_an_archive_that_was_exchanged_is_not_asked(changed: Changed) -> None:
    model = ArchiveModel(changed(lambda _entries: None))
    changed(answers_otherwise)
    with pytest.raises(BadArchive, match="another archive"):
        ask(model)


def test_a_process_that_dies_or_hangs_is_told_and_replaced(mar: Path, folders: Path) -> None:
    with ArchiveModel(mar) as model:
        before = shares(ask(model))
        (process,) = processes(folders)
        process.kill()
        with pytest.raises(ModelNotReady, match="killed"):
            ask(model)
        assert shares(ask(model)) == before
        (process,) = processes(folders)
        process.suspend()
        model._answer_timeout = 0.2
        with pytest.raises(TooSlow):
            ask(model)
    assert processes(folders) == []
    assert list(folders.iterdir()) == []


def test_nothing_is_left_of_one_whose_parent_was_killed(mar: Path, folders: Path) -> None:
    code = (
        "import sys, pathlib, time\n"
        "from portal.serving.archive_model import ArchiveModel\n"
        "model = ArchiveModel(pathlib.Path(sys.argv[1]))\n"
        "model.predict_bundle([b'no image'], model.archive.name)\n"
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

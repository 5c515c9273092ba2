import json
from dataclasses import replace
from pathlib import Path

import pytest

from handlers.contract.names import ModelVersion
from portal.catalog.archive_inspection import Archive
from portal.catalog.golden import Golden, parse_golden
from portal.deployments.acceptance import check, of_archive, of_served
from portal.errors import BadArchive, ChangeFailed, ModelNotReady, NotPossible
from portal.services import Services
from portal.serving.probe_tile import PROBE_TILE
from tests.support.archive_files import Entries, write_archive
from tests.support.fake_torchserve import PROBABILITIES, FakeTorchServe
from tests.support.managed_models import (
    IN_THE_ARCHIVE,
    archive,
    own,
    quickly,
    released,
    report,
)
from tests.support.report_content import golden_content, write_release

__all__ = ["archive", "own", "quickly", "released"]  # fixtures

NAME = ModelVersion("baseline", "1.0")
NEXT = ModelVersion("baseline", "1.1")
LABELS = tuple(PROBABILITIES)


def two_classes(entries: Entries) -> None:
    entries["model-config.yaml"] = b"spec: {labels: [AnnualCrop, River]}"


def eight_views(entries: Entries) -> None:
    entries["model-config.yaml"] += b"tta: 8\n"


def inspected(own: Services, name: ModelVersion = NEXT) -> Archive:
    return own.archives.get(name)


# --- what an archive promises


@pytest.mark.parametrize("unreported", [True, False])
def test_an_archive_promises_what_its_report_says(
    own: Services, archive: Path, *, unreported: bool
) -> None:
    found = of_archive(own.steps, inspected(own), unreported=unreported)
    assert found is not None
    assert [tile.file for tile in found.tiles] == ["River_0.jpg", "River_1.jpg", "River_2.jpg"]
    assert found.tiles[0].probabilities == PROBABILITIES
    assert found.tolerance == 1e-3


def test_an_archive_of_the_int8_file_promises_what_that_does(released: Services) -> None:
    found = of_archive(released.steps, inspected(released), unreported=False)
    assert found is not None
    assert (found.model_sha256, found.tolerance) == (IN_THE_ARCHIVE, 2e-2)


def test_an_archive_of_means_over_views_promises_what_they_do(
    own: Services, reports_dir: Path
) -> None:
    content = report("1.1")
    write_release(reports_dir, content)
    write_archive(own.settings.model_store, change=eight_views)
    with pytest.raises(BadArchive, match=r"the mean over 8 views \(tta\), which its report do"):
        of_archive(own.steps, inspected(own), unreported=True)
    mean = {"file": "River_1.jpg", "probabilities": PROBABILITIES | {"River": 0.5}}
    content["test_time_augmentation"] |= {"probe": [mean]}
    (reports_dir / "baseline-1.1" / "report.json").write_text(json.dumps(content))
    found = of_archive(own.steps, inspected(own), unreported=False)
    assert found is not None
    assert (found.views, found.tiles[0].probabilities["River"]) == (8, 0.5)
    assert of_served(own.steps, NEXT) == (found, tuple(mean["probabilities"]))


def test_an_archive_without_a_report_needs_a_word(own: Services) -> None:
    write_archive(own.settings.model_store)
    with pytest.raises(NotPossible, match=r"baseline 1\.1 has no report, .* `unreported`"):
        of_archive(own.steps, inspected(own), unreported=False)
    assert of_archive(own.steps, inspected(own), unreported=True) is None


@pytest.mark.parametrize("unreported", [True, False])
def test_an_archive_of_other_weights_is_never_taken(
    own: Services, archive: Path, *, unreported: bool
) -> None:
    other = replace(inspected(own), model_sha256="ab" * 32)
    words = rf"holds other weights \(sha256 abababababab\) than .* \({IN_THE_ARCHIVE[:12]}\)"
    with pytest.raises(BadArchive, match=words):
        of_archive(own.steps, other, unreported=unreported)


def test_an_archive_has_the_classes_of_its_report(own: Services, reports_dir: Path) -> None:
    write_release(reports_dir, report("1.1"))
    write_archive(own.settings.model_store, change=two_classes)
    with pytest.raises(BadArchive, match="has 2 classes, its report 3: not the same ones"):
        of_archive(own.steps, inspected(own), unreported=False)


def test_as_many_other_classes_are_not_the_same(own: Services, archive: Path) -> None:
    other = replace(inspected(own), labels=("AnnualCrop", "River", "Glacier"))
    with pytest.raises(BadArchive, match="has 3 classes, its report 3: not the same ones"):
        of_archive(own.steps, other, unreported=False)


def test_an_unreported_archive_has_the_classes_of_the_default(own: Services) -> None:
    write_archive(own.settings.model_store, change=two_classes)
    # the archive of the default version is not at hand: nothing says its classes
    assert of_archive(own.steps, inspected(own), unreported=True) is None
    write_archive(own.settings.model_store, "1.0")
    with pytest.raises(BadArchive, match=r"has 2 classes, the default version 1\.0 has 3"):
        of_archive(own.steps, inspected(own), unreported=True)


def test_an_unreported_first_archive_may_have_any_classes(own: Services) -> None:
    write_archive(own.settings.model_store, "1.0")
    write_archive(own.settings.model_store, "1.0", "vit", change=two_classes)
    vit = inspected(own, ModelVersion("vit", "1.0"))
    assert of_archive(own.steps, vit, unreported=True) is None


# --- what a served version promises


def test_a_served_version_promises_what_is_said_of_its_weights(released: Services) -> None:
    known, labels = of_served(released.steps, NEXT)
    assert known is not None
    assert (known.model_sha256, known.tolerance) == (IN_THE_ARCHIVE, 2e-2)
    assert labels == LABELS


def test_without_its_archive_a_report_is_believed(own: Services, archive: Path) -> None:
    archive.unlink()
    known, labels = of_served(own.steps, NEXT)
    assert known is not None
    assert known.model_sha256 == IN_THE_ARCHIVE
    assert labels == LABELS


def test_a_report_about_other_weights_says_nothing(own: Services, reports_dir: Path) -> None:
    write_release(reports_dir, report("1.1", model_sha256="ab" * 32))
    write_archive(own.settings.model_store)
    assert of_served(own.steps, NEXT) == (None, ("AnnualCrop", "River", "SeaLake"))


def test_without_a_report_its_archive_says_its_classes(own: Services) -> None:
    assert of_served(own.steps, NEXT) == (None, ())
    write_archive(own.settings.model_store, change=two_classes)
    assert of_served(own.steps, NEXT) == (None, ("AnnualCrop", "River"))


# --- what it answers


def golden(off: float = 0.0) -> Golden:
    """Of a file in fp32; the fake's answers are ``off`` by so much."""
    return parse_golden(golden_content(off))[0]


def test_int8_may_round_otherwise_and_fp32_may_not() -> None:
    fp32, int8 = parse_golden(golden_content(off=0.01))
    assert "answered as the report says" in check(FakeTorchServe(), NAME, int8, LABELS)
    with pytest.raises(ChangeFailed, match=r"differ from its report by up to 0\.01"):
        check(FakeTorchServe(), NAME, fp32, LABELS)
    with pytest.raises(ChangeFailed, match="differ"):
        check(FakeTorchServe(), NAME, parse_golden(golden_content(off=0.03))[1], LABELS)


def test_every_golden_tile_is_asked_for(torchserve: FakeTorchServe) -> None:
    (tile,) = golden(0.0005).tiles
    three = replace(golden(), tiles=(*golden().tiles, tile, replace(tile, jpeg=b"another")))
    words = "3 golden tiles are answered as the report says (largest difference 0.0005)."
    assert check(torchserve, NAME, three, LABELS) == words
    assert torchserve.asked == [
        (jpeg, "baseline", "1.0") for jpeg in (b"a tile", b"a tile", b"another")
    ]


def test_the_last_golden_tile_counts_like_the_first(torchserve: FakeTorchServe) -> None:
    spoilt = replace(golden(), tiles=golden().tiles + golden(off=0.5).tiles)
    with pytest.raises(ChangeFailed, match=r"by up to 0\.5, more than 0\.001"):
        check(torchserve, NAME, spoilt, LABELS)


def test_a_version_answers_with_the_classes_of_its_report(torchserve: FakeTorchServe) -> None:
    del torchserve.probabilities["River"]
    with pytest.raises(ChangeFailed, match=r"with 2 classes, its report has 3: not the same"):
        check(torchserve, NAME, golden(), ())


@pytest.mark.parametrize("known", [golden(), None])
def test_a_version_answers_with_the_classes_of_its_archive(
    torchserve: FakeTorchServe, known: Golden | None
) -> None:
    with pytest.raises(ChangeFailed, match="with 3 classes, its archive promises 2: not the same"):
        check(torchserve, NAME, known, ("AnnualCrop", "River"))


@pytest.mark.parametrize(
    ("known", "tile"), [(golden(), r"AnnualCrop_1\.jpg"), (None, "the synthetic tile")]
)
def test_a_version_answers(torchserve: FakeTorchServe, known: Golden | None, tile: str) -> None:
    torchserve.predict_error = ModelNotReady("no worker")
    with pytest.raises(ChangeFailed, match=rf"^baseline 1\.0 did not answer {tile}: no worker$"):
        check(torchserve, NAME, known, LABELS)


@pytest.mark.parametrize("labels", [LABELS, ()])
def test_without_a_report_an_answer_is_enough(
    torchserve: FakeTorchServe, labels: tuple[str, ...]
) -> None:
    assert "there is no report to compare with" in check(torchserve, NAME, None, labels)
    assert torchserve.asked == [(PROBE_TILE, "baseline", "1.0")]

"""What a version promises before it may answer: the golden tiles of its report, its classes."""

from contextlib import suppress

from handlers.contract.names import ModelVersion
from portal.catalog import golden
from portal.catalog.archive_inspection import Archive
from portal.catalog.golden import Golden
from portal.deployments.steps import Steps
from portal.errors import BadArchive, ChangeFailed, NotPossible, PortalError
from portal.serving.model_server import ModelServer
from portal.serving.probe_tile import PROBE_TILE


def of_archive(steps: Steps, archive: Archive, *, unreported: bool) -> Golden | None:
    """The golden tiles of an archive's report, which must be about these very weights.

    Args:
        unreported: it may have no report; then the answer is None.

    Raises:
        NotPossible: there is no report.
        BadArchive: it holds other weights than the report is about, or has other classes.
    """
    promises = steps.reports.golden(archive.name)
    if not promises:
        if not unreported:
            raise NotPossible(
                f"{archive.name} has no report, so nobody knows how good it is. Evaluate and "
                "release it, or confirm that it is to be served unmeasured (field `unreported`)."
            )
        _check_classes(steps, archive)
        return None
    known = golden.of_weights(promises, archive.model_sha256, archive.views)
    if known is None and golden.of_weights(promises, archive.model_sha256, 1) is not None:
        raise BadArchive(
            f"{archive.file} answers with the mean over {archive.views} views (tta), which its "
            "report does not tell of. Evaluate its release again, or build the archive without."
        )
    if known is None:
        measured = ", ".join(dict.fromkeys(promise.model_sha256[:12] for promise in promises))
        raise BadArchive(
            f"{archive.file} holds other weights (sha256 {archive.model_sha256[:12]}) than its "
            f"report was measured on ({measured}). Build the archive from its release, or evaluate "
            "it again."
        )
    promised = set(known.tiles[0].probabilities)
    if promised != set(archive.labels):
        raise BadArchive(
            f"{archive.file} has {len(archive.labels)} classes, its report {len(promised)}: "
            "not the same ones. Build the archive from its release."
        )
    return known


def of_served(steps: Steps, target: ModelVersion) -> tuple[Golden | None, tuple[str, ...]]:
    """The golden tiles of a served version (None without a report), and its classes if known."""
    promises = steps.reports.golden(target)
    known, labels = next(iter(promises), None), tuple[str, ...]()
    with suppress(PortalError):  # loaded from elsewhere: which of the files it has is not known
        archive = steps.archives.get(target)
        known = golden.of_weights(promises, archive.model_sha256, archive.views)
        labels = archive.labels
    return known, tuple(known.tiles[0].probabilities) if known is not None else labels


def _check_classes(steps: Steps, archive: Archive) -> None:
    """Refuse an archive without a report that has other classes than the default version."""
    default = steps.default(archive.model)
    if default is None:
        return
    try:
        labels = steps.archives.get(default).labels
    except PortalError:
        return  # nothing says its classes
    if set(labels) != set(archive.labels):
        raise BadArchive(
            f"{archive.file} has {len(archive.labels)} classes, the default version "
            f"{default.version} has {len(labels)}: not the same ones. Give a model with other "
            "classes another name."
        )


def check(
    server: ModelServer, target: ModelVersion, golden: Golden | None, labels: tuple[str, ...]
) -> str:
    """Ask for the golden tiles or, without a report, the synthetic one; say what was found.

    Args:
        labels: the classes that its archive promises; empty if that is not known.

    Raises:
        ChangeFailed: an answer is missing or differs.
    """
    if golden is None:
        _answer(server, target, "the synthetic tile", PROBE_TILE, labels)
        return "The synthetic tile got a well-formed answer; there is no report to compare with."
    largest = 0.0
    for tile in golden.tiles:
        found = _answer(server, target, tile.file, tile.jpeg, labels)
        if set(found) != set(tile.probabilities):
            raise ChangeFailed(
                f"{target} answered {tile.file} with {len(found)} classes, its report "
                f"has {len(tile.probabilities)}: not the same ones. Build the archive of the "
                "model that the report is about."
            )
        difference = max(abs(found[label] - p) for label, p in tile.probabilities.items())
        largest = max(largest, difference)
        if difference > golden.tolerance:
            raise ChangeFailed(
                f"{target} answered {tile.file} with probabilities that differ from its "
                f"report by up to {difference:.2g}, more than {golden.tolerance}. Build the "
                "archive again, or evaluate the model again."
            )
    return (
        f"{len(golden.tiles)} golden tiles are answered as the report says "
        f"(largest difference {largest:.1g})."
    )


def _answer(
    server: ModelServer, target: ModelVersion, name: str, image: bytes, labels: tuple[str, ...]
) -> dict[str, float]:
    try:
        found = server.predict(image, target).probabilities
    except PortalError as error:
        raise ChangeFailed(f"{target} did not answer {name}: {error}") from error
    if labels and set(found) != set(labels):
        raise ChangeFailed(
            f"{target} answered {name} with {len(found)} classes, its archive promises "
            f"{len(labels)}: not the same ones. Export and archive the model again."
        )
    return found

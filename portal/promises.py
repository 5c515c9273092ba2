"""What a version promises before it may answer: the golden tiles of its report, its classes."""

from portal import golden
from portal.archive_content import Archive
from portal.errors import BadArchive, NotPossible, PortalError
from portal.golden import Golden
from portal.serving import Serving


def of_archive(serving: Serving, archive: Archive, *, unreported: bool) -> Golden | None:
    """The golden tiles of an archive's report, which must be about these very weights.

    Args:
        unreported: it may have no report; then the answer is None.

    Raises:
        NotPossible: there is no report.
        BadArchive: it holds other weights than the report is about, or has other classes.
    """
    promises = serving.reports.golden(archive.model, archive.version)
    if not promises:
        if not unreported:
            raise NotPossible(
                f"{archive.model} {archive.version} has no report, so nobody knows how good "
                "it is. Evaluate and release it, or confirm that it is to be served "
                "unmeasured (field `unreported`)."
            )
        _check_classes(serving, archive)
        return None
    known = golden.of_weights(promises, archive.model_sha256)
    if known is None:
        measured = ", ".join(promise.model_sha256[:12] for promise in promises)
        raise BadArchive(
            f"{archive.file} holds other weights (sha256 {archive.model_sha256[:12]}) than "
            f"its report was measured on ({measured}). Build the archive from its release, or "
            "evaluate it again."
        )
    promised = set(known.tiles[0].probabilities)
    if promised != set(archive.labels):
        raise BadArchive(
            f"{archive.file} has {len(archive.labels)} classes, its report {len(promised)}: "
            "not the same ones. Build the archive from its release."
        )
    return known


def of_served(serving: Serving, model: str, version: str) -> tuple[Golden | None, tuple[str, ...]]:
    """The golden tiles of a served version, and the classes that it answers with.

    Returns:
        None without a report; no classes if nothing says them.
    """
    promises = serving.reports.golden(model, version)
    try:
        archive = serving.archives.get(model, version)
    except PortalError:  # loaded from elsewhere: which of the files it has is not known
        known, labels = promises[0] if promises else None, tuple[str, ...]()
    else:
        known, labels = golden.of_weights(promises, archive.model_sha256), archive.labels
    return known, tuple(known.tiles[0].probabilities) if known is not None else labels


def _check_classes(serving: Serving, archive: Archive) -> None:
    """Refuse an archive without a report that has other classes than the default version."""
    default = serving.default(archive.model)
    if default is None:
        return
    try:
        other = serving.archives.get(archive.model, default)
    except PortalError:
        return  # nothing says its classes
    if set(other.labels) != set(archive.labels):
        raise BadArchive(
            f"{archive.file} has {len(archive.labels)} classes, the default version "
            f"{other.version} has {len(other.labels)}: not the same ones. Give a model "
            "with other classes another name."
        )

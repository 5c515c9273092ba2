"""Every model and version as it is now: what is recorded, served, measured and stored."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

from portal.catalog.archives import Archives, Rejected
from portal.catalog.variants import Precision, Unmeasured, find_variant
from portal.deployments.records import Default, Deployment, Records
from portal.errors import PortalError
from portal.observability.health import LOADING
from portal.observability.health import Report as HealthReport
from portal.services import Services
from portal.serving.model_server import ServedVersion

LOOK_TIMEOUT = 3.0  # seconds for one look at everything that is served

# "missing": recorded as served, but the model server does not have it (yet).
VersionState = Literal["ready", "loading", "broken", "sleeping", "missing", "unknown"]


@dataclass(frozen=True)
class Measured:
    """What a version's report says of the file that it is served with.

    Shares are 0..1; ``low`` and ``high`` limit the 95 % interval of the accuracy.
    """

    precision: Precision
    accuracy: float
    low: float
    high: float
    macro_f1: float
    ece: float
    latency_ms: float


@dataclass(frozen=True)
class VersionLine:
    """One version.

    Attributes:
        reason: why it is not ready; empty where there is nothing to say.
        recorded: the portal brings it back when TorchServe starts again.
        deployed_at: ISO 8601, UTC; empty for what is not recorded.
        unmeasured: why there are no figures, or "".
    """

    model: str
    version: str
    state: VersionState
    reason: str
    default: bool
    previous: bool
    recorded: bool
    lazy: bool
    workers_ready: int
    workers_wanted: int
    sha256: str
    size_bytes: int
    deployed_by: str
    deployed_at: str
    report: Measured | None
    unmeasured: Unmeasured


@dataclass(frozen=True)
class ModelLine:
    """A model: its default version, the one a roll back goes to, all its versions."""

    model: str
    default: str | None
    previous: str | None
    versions: list[VersionLine]


@dataclass(frozen=True)
class ArchiveLine:
    """An archive in the model store that is not served.

    Attributes:
        unmeasured: why there are no figures, or "".
        problem: why it cannot be deployed; empty if it can.
    """

    file: str
    model: str
    version: str
    sha256: str
    size_bytes: int
    classes: int
    report: Measured | None
    unmeasured: Unmeasured
    problem: str


@dataclass(frozen=True)
class Overview:
    """Everything; ``problem`` says why the model server or the store cannot be asked, or ""."""

    models: list[ModelLine]
    archives: list[ArchiveLine]
    problem: str


def overview(own: Services) -> Overview:
    """Look at the model server, the database, the reports and the model store.

    Raises:
        StateUnavailable: the database cannot be used.
    """
    health = own.health.report(LOOK_TIMEOUT)
    problem = health.failures[0].reason if health.status == "down" else ""
    rows = {(row.model, row.version): row for row in own.records.deployments()}
    defaults = own.records.defaults()
    lines: dict[str, list[VersionLine]] = defaultdict(list)
    served = {(found.model, found.version): found for found in health.versions + health.on_trial}
    wanted = {name for name, row in rows.items() if row.wanted == "served"}
    for name in sorted(served.keys() | wanted, key=_order):
        lines[name[0]].append(
            _version(
                own,
                name,
                served.get(name),
                rows.get(name),
                defaults.get(name[0]),
                _state(own, health, name, served.get(name), problem),
            )
        )
    archives, store_problem = _archives(own, served.keys() | wanted)
    return Overview(
        models=[
            ModelLine(
                model,
                next((line.version for line in versions if line.default), None),
                defaults[model].previous if model in defaults else None,
                versions,
            )
            for model, versions in sorted(lines.items())
        ],
        archives=archives,
        problem=problem or store_problem,
    )


def _order(name: tuple[str, str]) -> tuple[str, list[int]]:
    """By model, the newest version first."""
    model, version = name
    numbers = (
        [int(part) for part in version.split(".")] if version.replace(".", "").isdigit() else []
    )
    return model, [-number for number in numbers]


def _version(
    own: Services,
    name: tuple[str, str],
    found: ServedVersion | None,
    row: Deployment | None,
    default: Default | None,
    said: tuple[VersionState, str],
) -> VersionLine:
    model, version = name
    recorded = row is not None and row.wanted == "served"
    state, reason = said
    weights = weights_served(own.archives, model, version, row if recorded else None)
    report, unmeasured = _measured(own, model, version, weights)
    return VersionLine(
        model=model,
        version=version,
        state=state,
        reason=reason,
        default=found.default if found else bool(default and default.version == version),
        previous=default is not None and default.previous == version,
        recorded=recorded,
        lazy=own.scale_to_zero.is_lazy(model, version),
        workers_ready=found.workers_ready if found else 0,
        workers_wanted=found.workers_wanted if found else (row.workers if row else 0),
        sha256=row.sha256 if row and recorded else "",
        size_bytes=row.size_bytes if row and recorded else 0,
        deployed_by=row.deployed_by if row and recorded else "",
        deployed_at=row.deployed_at.isoformat() if row and recorded else "",
        report=report,
        unmeasured=unmeasured,
    )


def _state(
    own: Services,
    health: HealthReport,
    name: tuple[str, str],
    found: ServedVersion | None,
    problem: str,
) -> tuple[VersionState, str]:
    if found is None:
        if problem:
            return "unknown", "TorchServe cannot be asked"
        return "missing", "TorchServe does not have it; it is registered again"
    gate = own.torchserve.gate
    on_trial = gate.is_on_trial(*name)
    reason = next((f.reason for f in health.failures if (f.model, f.version) == name), "")
    if on_trial:
        reason = "it is being deployed"
    elif not reason and found.workers_ready == 0 and not gate.is_asleep(*name):
        reason = LOADING
    if reason:
        return ("loading" if on_trial or reason == LOADING else "broken"), reason
    if found.workers_ready == 0:
        return "sleeping", "it wakes when somebody asks it"
    return "ready", ""


def _measured(
    own: Services, model: str, version: str, weights: str
) -> tuple[Measured | None, Unmeasured]:
    """The figures of the weights with that sha256 or, with None, why there are none."""
    found = find_variant(own.reports, model, version, weights)
    if isinstance(found, str):
        return None, found
    return Measured(
        precision=found.precision,
        accuracy=found.accuracy.value,
        low=found.accuracy.low,
        high=found.accuracy.high,
        macro_f1=found.macro_f1.value,
        ece=found.ece,
        latency_ms=found.latency.median_ms,
    ), ""


def _archives(own: Services, served: set[tuple[str, str]]) -> tuple[list[ArchiveLine], str]:
    """The archives that are not served, and why the model store cannot be read, or ""."""
    lines = []
    try:
        found = own.archives.all()
    except PortalError as error:
        return [], str(error)
    for archive in found:
        if isinstance(archive, Rejected):
            lines.append(ArchiveLine(archive.file, "", "", "", 0, 0, None, "", archive.reason))
        elif (archive.model, archive.version) not in served:
            report, unmeasured = _measured(
                own, archive.model, archive.version, archive.model_sha256
            )
            lines.append(
                ArchiveLine(
                    file=archive.file,
                    model=archive.model,
                    version=archive.version,
                    sha256=archive.sha256,
                    size_bytes=archive.size_bytes,
                    classes=len(archive.labels),
                    report=report,
                    unmeasured=unmeasured,
                    problem="",
                )
            )
    return lines, ""


def weights_served(archives: Archives, model: str, version: str, row: Deployment | None) -> str:
    """The sha256 of the weights that a version is served with; empty if it is not known.

    Args:
        row: what is recorded of the version, if anything is.
    """
    try:
        archive = archives.get(model, version)
    except PortalError:
        return ""
    # one that was built anew since it was loaded may hold other weights
    replaced = row is not None and row.sha256 != archive.sha256
    return "" if replaced else archive.model_sha256


def all_weights_served(archives: Archives, records: Records) -> set[str]:
    """The sha256 of the weights of every version that is to be served, as far as known."""
    try:
        rows = [row for row in records.deployments() if row.wanted == "served"]
    except PortalError:
        return set()  # reports can be read without the database
    return {weights_served(archives, row.model, row.version, row) for row in rows} - {""}

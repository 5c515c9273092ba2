"""Every model and version as it is now: what is recorded, served, measured and stored."""

from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from handlers.contract.names import ModelVersion
from handlers.contract.report import Precision
from portal.catalog.archives import Archives, Rejected
from portal.catalog.reports import Unmeasured
from portal.deployments.records import Deployment, Records
from portal.deployments.scale_to_zero import ScaleToZero
from portal.deployments.steps import Steps
from portal.errors import PortalError
from portal.fields import Count, Number, Share
from portal.observability.health import LOADING, Health, HealthReport
from portal.serving.model_server import ServedVersion
from portal.serving.version_gate import VersionGate

OVERVIEW_TIMEOUT = 3.0  # seconds for one look at everything that is served

# "missing": recorded as served, but the model server does not have it (yet).
VersionState = Literal["ready", "loading", "broken", "sleeping", "missing", "unknown"]


@dataclass(frozen=True)
class VariantFigures:
    """What a version's report says of the file that it is served with.

    Shares are 0..1; ``low`` and ``high`` limit the 95 % interval of the accuracy.
    """

    precision: Precision
    accuracy: Share
    low: Share
    high: Share
    macro_f1: Share
    ece: Share
    latency_ms: Number


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
    workers_ready: Count
    workers_wanted: Count
    sha256: str
    size_bytes: Count
    deployed_by: str
    deployed_at: str
    report: VariantFigures | None
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
    model: str = ""
    version: str = ""
    sha256: str = ""
    size_bytes: Count = 0
    classes: Count = 0
    report: VariantFigures | None = None
    unmeasured: Unmeasured = ""
    problem: str = ""


@dataclass(frozen=True)
class Overview:
    """Everything; ``problem`` says why the model server or the store cannot be asked, or ""."""

    models: list[ModelLine]
    archives: list[ArchiveLine]
    problem: str


def overview(steps: Steps, observed: Health, scale_to_zero: ScaleToZero) -> Overview:
    """Look at everything; StateUnavailable if the database cannot be used."""
    health = observed.report(OVERVIEW_TIMEOUT)
    problem = health.failures[0].reason if health.status == "down" else ""
    rows = {row.name: row for row in steps.records.deployments() if row.wanted == "served"}
    defaults = steps.records.defaults()
    lines: dict[str, list[VersionLine]] = defaultdict(list)
    served = {found.name: found for found in health.versions + health.on_trial}
    for target in sorted(served.keys() | rows.keys(), reverse=True):  # the newest version first
        found, row, default = served.get(target), rows.get(target), defaults.get(target.model)
        if found is not None:
            state, reason = _state(steps.server.gate, health, found)
        elif problem:
            state, reason = "unknown", "TorchServe cannot be asked"
        else:
            state, reason = "missing", "TorchServe does not have it; it is registered again"
        report, unmeasured = _measured(steps, target, weights_served(steps.archives, target, row))
        lines[target.model].append(
            VersionLine(
                model=target.model,
                version=target.version,
                state=state,
                reason=reason,
                default=found.default if found else bool(default and default.name == target),
                previous=default is not None and default.previous == target.version,
                recorded=row is not None,
                lazy=scale_to_zero.is_lazy(target),
                workers_ready=found.workers_ready if found else 0,
                workers_wanted=found.workers_wanted if found else row.workers if row else 0,
                sha256=row.sha256 if row else "",
                size_bytes=row.size_bytes if row else 0,
                deployed_by=row.deployed_by if row else "",
                deployed_at=row.deployed_at.isoformat() if row else "",
                report=report,
                unmeasured=unmeasured,
            )
        )
    archives, store_problem = _archives(steps, served.keys() | rows.keys())
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


def _state(
    gate: VersionGate, health: HealthReport, found: ServedVersion
) -> tuple[VersionState, str]:
    if gate.is_on_trial(found.name):
        return "loading", "it is being deployed"
    asleep = found.workers_ready == 0 and gate.is_asleep(found.name)
    loading = LOADING if found.workers_ready == 0 and not asleep else ""
    if reason := next((f.reason for f in health.failures if f.is_about(found.name)), loading):
        return "loading" if reason == LOADING else "broken", reason
    return ("sleeping", "it wakes when somebody asks it") if asleep else ("ready", "")


def _measured(
    steps: Steps, target: ModelVersion, weights: str
) -> tuple[VariantFigures | None, Unmeasured]:
    """The figures of the weights with that sha256 or, with None, why there are none."""
    found = steps.reports.of_weights(target, weights)
    if isinstance(found, str):
        return None, found
    return VariantFigures(
        precision=found.precision,
        accuracy=found.accuracy.value,
        low=found.accuracy.low,
        high=found.accuracy.high,
        macro_f1=found.macro_f1.value,
        ece=found.ece,
        latency_ms=found.latency.median_ms,
    ), ""


def _archives(steps: Steps, served: set[ModelVersion]) -> tuple[list[ArchiveLine], str]:
    """The archives that are not served, and why the model store cannot be read, or ""."""
    lines = []
    try:
        found = steps.archives.all()
    except PortalError as error:
        return [], str(error)
    for archive in found:
        if isinstance(archive, Rejected):
            lines.append(ArchiveLine(archive.file, problem=archive.reason))
        elif archive.name not in served:
            lines.append(
                ArchiveLine(
                    archive.file,
                    archive.model,
                    archive.version,
                    archive.sha256,
                    archive.size_bytes,
                    len(archive.labels),
                    *_measured(steps, archive.name, archive.model_sha256),
                )
            )
    return lines, ""


def weights_served(archives: Archives, target: ModelVersion, row: Deployment | None) -> str:
    """The sha256 of the weights that a version is served with; empty if it is not known.

    Args:
        row: what is recorded of it, if it is: an archive built anew may hold other weights.
    """
    with suppress(PortalError):
        archive = archives.get(target)
        if row is None or row.sha256 == archive.sha256:
            return archive.model_sha256
    return ""


def all_weights_served(archives: Archives, records: Records) -> set[str]:
    """The sha256 of the weights of every version that is to be served, as far as known."""
    try:
        rows = [row for row in records.deployments() if row.wanted == "served"]
    except PortalError:
        return set()  # reports can be read without the database
    return {weights_served(archives, row.name, row) for row in rows} - {""}

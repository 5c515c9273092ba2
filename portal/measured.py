"""The measured files of a release, and which of them is served: fp32 and int8 differ a little."""

from dataclasses import dataclass
from typing import Literal

from portal.archives import Archives
from portal.errors import PortalError, UnknownReport, UnreadableReport
from portal.report_schema import Figure, Latency, Report
from portal.reports import Reports
from portal.state import Deployment, State

Precision = Literal["fp32", "int8"]
# Why a version has no figures; empty where it has some. "unknown weights": its archive was
# replaced since it was loaded, or is not in the model store.
Unmeasured = Literal["", "no report", "unreadable report", "other weights", "unknown weights"]


@dataclass(frozen=True)
class MeasuredFile:
    """What was measured of one TorchScript file of a release."""

    precision: Precision
    accuracy: Figure
    macro_f1: Figure
    ece: float
    size_bytes: int
    latency: Latency
    model_sha256: str


def measured_files(report: Report) -> list[MeasuredFile]:
    """The files of a release: that in int8, if there is one, then that in fp32."""
    exact = MeasuredFile(
        precision="fp32",
        accuracy=report.accuracy,
        macro_f1=report.macro_f1,
        ece=report.calibration.ece,
        size_bytes=report.size_bytes,
        latency=report.latency,
        model_sha256=report.model_sha256,
    )
    if report.int8 is None:
        return [exact]
    small = MeasuredFile(
        precision="int8",
        accuracy=report.int8.accuracy,
        macro_f1=report.int8.macro_f1,
        ece=report.int8.ece,
        size_bytes=report.int8.size_bytes,
        latency=report.int8.latency,
        model_sha256=report.int8.model_sha256,
    )
    return [small, exact]


def measured_file(
    reports: Reports, model: str, version: str, weights: str
) -> MeasuredFile | Unmeasured:
    """What a version's report says of the weights with that sha256, or why it says nothing.

    Args:
        weights: sha256 of the TorchScript file; empty if it is not known.
    """
    try:
        report = reports.get(model, version).report
    except UnknownReport:
        return "no report"
    except UnreadableReport:
        return "unreadable report"
    if not weights:
        return "unknown weights"
    for file in measured_files(report):
        if file.model_sha256 == weights:
            return file
    return "other weights"


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


def all_weights_served(archives: Archives, state: State) -> set[str]:
    """The sha256 of the weights of every version that is to be served, as far as known."""
    try:
        rows = [row for row in state.deployments() if row.wanted == "served"]
    except PortalError:
        return set()  # reports can be read without the database
    return {weights_served(archives, row.model, row.version, row) for row in rows} - {""}

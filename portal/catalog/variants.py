"""The measured files of a release, and which of them is served: fp32 and int8 differ a little."""

from dataclasses import dataclass
from typing import Literal

from handlers.contract.names import ModelVersion
from handlers.contract.report import Precision
from portal.catalog.report_schema import Figure, Latency, Report
from portal.catalog.reports import Reports
from portal.errors import UnknownReport, UnreadableReport

# Why a version has no figures; empty where it has some. "unknown weights": its archive was
# replaced since it was loaded, or is not in the model store.
Unmeasured = Literal["", "no report", "unreadable report", "other weights", "unknown weights"]


@dataclass(frozen=True)
class Variant:
    """What was measured of one TorchScript file of a release."""

    precision: Precision
    accuracy: Figure
    macro_f1: Figure
    ece: float
    size_bytes: int
    latency: Latency
    model_sha256: str


def variants_of(report: Report) -> list[Variant]:
    """The files of a release: that in int8, if there is one, then that in fp32."""
    exact = Variant(
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
    small = Variant(
        precision="int8",
        accuracy=report.int8.accuracy,
        macro_f1=report.int8.macro_f1,
        ece=report.int8.ece,
        size_bytes=report.int8.size_bytes,
        latency=report.int8.latency,
        model_sha256=report.int8.model_sha256,
    )
    return [small, exact]


def find_variant(reports: Reports, name: ModelVersion, weights: str) -> Variant | Unmeasured:
    """What a version's report says of the weights with that sha256, or why it says nothing.

    Args:
        weights: sha256 of the TorchScript file; empty if it is not known.
    """
    try:
        report = reports.get(name).report
    except UnknownReport:
        return "no report"
    except UnreadableReport:
        return "unreadable report"
    if not weights:
        return "unknown weights"
    for file in variants_of(report):
        if file.model_sha256 == weights:
            return file
    return "other weights"

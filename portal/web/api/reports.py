"""The reports of the released models as JSON."""

from datetime import datetime
from typing import Annotated, Any

from flask_openapi.blueprint import APIBlueprint
from pydantic import Field
from typing_extensions import TypedDict

from handlers.contract.names import ModelVersion
from handlers.contract.report import Precision
from portal.catalog.report_schema import Figure
from portal.catalog.reports import Release, Unreadable
from portal.deployments.overview import all_weights_served
from portal.fields import Count, ModelName, Number, Share, Version
from portal.web.api.operations import OneVersion, answers, more
from portal.web.context import services

blueprint = APIBlueprint("reports", __name__, url_prefix="/api", abp_tags=[{"name": "Reports"}])


class MeasuredFile(TypedDict):
    """The figures of one file of a release."""

    precision: Precision
    served: Annotated[bool, Field(description="A served version is known to have it.")]
    accuracy: Figure
    macro_f1: Figure
    ece: Share
    size_bytes: Count
    latency_ms: Number


class ReportSummary(TypedDict):
    """A release in short; its own figures are those of its file in fp32."""

    model: ModelName
    version: Version
    created: datetime
    split: str
    test_tiles: Count
    accuracy: Figure
    macro_f1: Figure
    ece: Share
    size_bytes: Count
    latency_ms: Number
    spatial_accuracy: Figure | None
    files: list[MeasuredFile]


class ReportsAnswer(TypedDict):
    """All releases, and what is no readable one."""

    reports: list[ReportSummary]
    unreadable: list[Unreadable]


@blueprint.get(
    "/reports",
    operation_id="reports",
    responses=answers(ReportsAnswer, "The models, and what is not readable.", 500),
)
def reports() -> ReportsAnswer:
    """What was measured on every released model, in short."""
    own = services()
    releases, unreadable = own.reports.all()
    served = all_weights_served(own.archives, own.records)
    return {"reports": [_summary(found, served) for found in releases], "unreadable": unreadable}


@blueprint.get(
    "/reports/<model>/<version>",
    operation_id="report",
    responses=answers(more("ReleaseAnswer", Release), "Its reports and its card.", 404, 500),
)
def report(path: OneVersion) -> dict[str, Any]:
    """Everything that was measured on one released model."""
    return vars(services().reports.get(ModelVersion(path.model, path.version)))


def _summary(release: Release, served: set[str]) -> ReportSummary:
    """A release as its lines of the comparison; ``served`` has the sha256 of served weights."""
    measured = release.report
    return {
        "model": measured.model,
        "version": measured.version,
        "created": measured.created,
        "split": measured.split.name,
        "test_tiles": measured.split.tiles.get("test", 0),
        "accuracy": measured.accuracy,
        "macro_f1": measured.macro_f1,
        "ece": measured.calibration.ece,
        "size_bytes": measured.size_bytes,
        "latency_ms": measured.latency.median_ms,
        "spatial_accuracy": release.spatial.accuracy if release.spatial else None,
        "files": [
            {
                "precision": file.precision,
                "served": file.model_sha256 in served,
                "accuracy": file.accuracy,
                "macro_f1": file.macro_f1,
                "ece": file.ece,
                "size_bytes": file.size_bytes,
                "latency_ms": file.latency.median_ms,
            }
            for file in measured.files
        ],
    }

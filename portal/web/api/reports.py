"""The reports of the released models as JSON."""

from flask_openapi.blueprint import APIBlueprint

from handlers.contract.names import ModelVersion
from portal.catalog.reports import Release as ReleaseOnDisk
from portal.catalog.variants import variants_of
from portal.deployments.overview import all_weights_served
from portal.web.api.answers import ReleaseAnswer, ReportsAnswer, ReportSummary
from portal.web.api.operations import OneVersion, answer, errors
from portal.web.context import services

blueprint = APIBlueprint("reports", __name__, url_prefix="/api", abp_tags=[{"name": "Reports"}])


@blueprint.get(
    "/reports",
    operation_id="reports",
    responses={**errors(500), 200: answer(ReportsAnswer, "The models, and what is not readable.")},
)
def reports() -> ReportsAnswer:
    """What was measured on every released model, in short."""
    own = services()
    releases, unreadable = own.reports.all()
    served = all_weights_served(own.archives, own.records)
    return {
        "reports": [_summary(release, served) for release in releases],
        "unreadable": unreadable,
    }


@blueprint.get(
    "/reports/<model>/<version>",
    operation_id="report",
    responses={**errors(404, 500), 200: answer(ReleaseAnswer, "Its reports and its card.")},
)
def report(path: OneVersion) -> ReleaseAnswer:
    """Everything that was measured on one released model."""
    release = services().reports.get(ModelVersion(path.model, path.version))
    return {
        "report": release.report,
        "spatial": release.spatial,
        "spatial_problem": release.spatial_problem,
        "card": release.card,
    }


def _summary(release: ReleaseOnDisk, served: set[str]) -> ReportSummary:
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
            for file in variants_of(measured)
        ],
    }

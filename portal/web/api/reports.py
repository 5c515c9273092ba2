"""The reports of the released models as JSON."""

from dataclasses import asdict
from typing import Any

from flask import Blueprint

from handlers.contract.names import ModelVersion
from portal.catalog.report_schema import Report
from portal.catalog.reports import Release
from portal.catalog.variants import variants_of
from portal.deployments.overview import all_weights_served
from portal.web.context import services

blueprint = Blueprint("reports", __name__, url_prefix="/api")


@blueprint.get("/reports")
def reports() -> dict[str, Any]:
    """What was measured on every released model, in one line each."""
    own = services()
    releases, unreadable = own.reports.all()
    served = all_weights_served(own.archives, own.records)
    return {
        "reports": [_summary(release, served) for release in releases],
        "unreadable": [asdict(entry) for entry in unreadable],
    }


@blueprint.get("/reports/<model>/<version>")
def report(model: str, version: str) -> dict[str, Any]:
    """Everything that was measured on one released model."""
    return _details(services().reports.get(ModelVersion(model, version)))


def _summary(release: Release, served: set[str]) -> dict[str, Any]:
    """A release as its lines of the comparison; ``served`` has the sha256 of served weights."""
    measured = release.report
    return {
        "model": measured.model,
        "version": measured.version,
        "created": measured.created.isoformat(),
        "split": measured.split.name,
        "test_tiles": measured.split.tiles.get("test", 0),
        "accuracy": asdict(measured.accuracy),
        "macro_f1": asdict(measured.macro_f1),
        "ece": measured.calibration.ece,
        "size_bytes": measured.size_bytes,
        "latency_ms": measured.latency.median_ms,
        "spatial_accuracy": asdict(release.spatial.accuracy) if release.spatial else None,
        "files": [
            {
                "precision": file.precision,
                "served": file.model_sha256 in served,
                "accuracy": asdict(file.accuracy),
                "macro_f1": asdict(file.macro_f1),
                "ece": file.ece,
                "size_bytes": file.size_bytes,
                "latency_ms": file.latency.median_ms,
            }
            for file in variants_of(measured)
        ],
    }


def _details(release: Release) -> dict[str, Any]:
    """A whole release."""
    return {
        "report": _as_json(release.report),
        "spatial": _as_json(release.spatial) if release.spatial else None,
        "spatial_problem": release.spatial_problem,
        "card": release.card,
    }


def _as_json(measured: Report) -> dict[str, Any]:
    return {**measured.model_dump(), "created": measured.created.isoformat()}

"""The JSON API under ``/api``."""

from dataclasses import asdict
from typing import Any

from flask import Blueprint, g, request

from portal.batch import classify_many, read_uploads
from portal.classify import as_answer, classify, explain, read_upload, requested_model
from portal.errors import PortalError
from portal.measured import all_weights_served, measured_files
from portal.model_server import Prediction
from portal.operators import changes_nothing
from portal.report_schema import Report
from portal.reports import Release
from portal.services import services

blueprint = Blueprint("api", __name__, url_prefix="/api")


@blueprint.post("/predict")
@changes_nothing
def predict() -> dict[str, Any]:
    """Classify one image."""
    image = read_upload()
    return {**as_answer(classify(image, *requested_model())), "request_id": g.request_id}


@blueprint.post("/explain")
@changes_nothing
def explain_class() -> dict[str, Any]:
    """What in an image speaks for its class."""
    image = read_upload()
    return {**asdict(explain(image, *requested_model())), "request_id": g.request_id}


@blueprint.post("/predict/batch")
@changes_nothing
def predict_batch() -> dict[str, Any]:
    """Classify many images; each has its own result or error."""
    request.max_content_length = services().settings.max_batch_bytes
    uploads = read_uploads()
    results = classify_many(uploads, *requested_model())
    return {
        "results": [
            {"name": name, **_as_item(result)}
            for (name, _), result in zip(uploads, results, strict=True)
        ],
        "request_id": g.request_id,
    }


@blueprint.get("/health")
def health() -> tuple[dict[str, Any], int]:
    """What is served, and what does not work; 200 only if all of it works."""
    report = services().health.report()
    body = {
        "status": report.status,
        "models_loaded": [
            {
                "model": served.model,
                "version": served.version,
                "default": served.default,
                "asleep": services().health.sleeps(served),
                "workers_ready": served.workers_ready,
                "workers": max(served.workers_wanted, len(served.workers)),
            }
            for served in report.versions
        ],
        "failures": [asdict(failure) for failure in report.failures],
    }
    return body, 200 if report.status == "ok" else 503


@blueprint.get("/health/live")
def live() -> dict[str, str]:
    """Whether this process answers; it asks nobody else."""
    return {"status": "alive"}


@blueprint.get("/health/ready")
def ready() -> tuple[dict[str, str], int]:
    """Whether the default model answers, whatever state the others are in."""
    if services().health.report().ready:
        return {"status": "ready"}, 200
    return {"status": "not ready"}, 503


@blueprint.get("/reports")
def reports() -> dict[str, Any]:
    """What was measured on every released model, in one line each."""
    own = services()
    releases, unreadable = own.reports.all()
    served = all_weights_served(own.archives, own.state)
    return {
        "reports": [_summary(release, served) for release in releases],
        "unreadable": [asdict(entry) for entry in unreadable],
    }


@blueprint.get("/reports/<model>/<version>")
def report(model: str, version: str) -> dict[str, Any]:
    """Everything that was measured on one released model."""
    return _details(services().reports.get(model, version))


def _as_item(result: Prediction | PortalError) -> dict[str, Any]:
    if isinstance(result, PortalError):
        error = {"status": result.status, "code": result.code, "message": str(result)}
        return {"prediction": None, "error": error}
    return {"prediction": as_answer(result), "error": None}


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
            for file in measured_files(measured)
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
    return {**asdict(measured), "created": measured.created.isoformat()}

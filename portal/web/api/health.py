"""Whether the product works: ``/api/health``, for people, load balancers and orchestrators."""

from dataclasses import asdict
from typing import Any

from flask import Blueprint

from portal.web.context import services

blueprint = Blueprint("health", __name__, url_prefix="/api")


@blueprint.get("/health")
def health() -> tuple[dict[str, Any], int]:
    """What is served, and what does not work; 200 only if all of it works."""
    report = services().health.report()
    body = {
        "status": report.status,
        "models_loaded": [
            {
                "model": served.name.model,
                "version": served.name.version,
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

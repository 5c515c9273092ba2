"""The JSON API of the model management."""

from dataclasses import asdict
from typing import Any

from flask import Blueprint, Response, g, jsonify, request, url_for

from portal.deployments.overview import overview
from portal.errors import BadRequest
from portal.jobs import Job
from portal.web.auth.operators import operator_required
from portal.web.change_requests import (
    MOST_LINES,
    allow_archives,
    begin_deploy,
    begin_promote,
    begin_retire,
    begin_roll_back,
    begin_scale,
    read_archive,
    whole_number,
)
from portal.web.context import services

blueprint = Blueprint("model_api", __name__, url_prefix="/api")


@blueprint.before_request
def _limit() -> None:
    if request.endpoint == "model_api.upload":
        allow_archives()


@blueprint.get("/models")
def models() -> dict[str, Any]:
    """Every model, version and archive."""
    own = services()
    return asdict(overview(own.steps, own.health, own.scale_to_zero))


@blueprint.post("/models/<model>/<version>/deploy")
@operator_required
def deploy(model: str, version: str) -> Response:
    """Load an archive of the model store and serve it."""
    return _accepted(begin_deploy(model, version))


@blueprint.post("/models/<model>/<version>/promote")
@operator_required
def promote(model: str, version: str) -> Response:
    """Make a version the default."""
    return _accepted(begin_promote(model, version))


@blueprint.post("/models/<model>/<version>/scale")
@operator_required
def scale(model: str, version: str) -> Response:
    """Give a version another number of workers."""
    unsaid = "Say how many workers: send the field `workers`, for example 2."
    return _accepted(begin_scale(model, version, unsaid))


@blueprint.post("/models/<model>/<version>/retire")
@operator_required
def retire(model: str, version: str) -> Response:
    """Serve a version no more."""
    return _accepted(begin_retire(model, version))


@blueprint.post("/models/<model>/rollback")
@operator_required
def roll_back(model: str) -> Response:
    """Make the previous default the default again."""
    return _accepted(begin_roll_back(model))


@blueprint.post("/archives")
@operator_required
def upload() -> tuple[dict[str, Any], int]:
    """Put an archive into the model store; it is not deployed yet."""
    archive = read_archive()
    return {"archive": asdict(archive), "request_id": g.request_id}, 201


@blueprint.get("/jobs")
def jobs() -> dict[str, Any]:
    """The changes since the portal started, the newest first."""
    return {"jobs": [_job(job) for job in services().deployments.jobs.recent()]}


@blueprint.get("/jobs/<job>")
def job(job: str) -> dict[str, Any]:
    """One change and its steps."""
    return {"job": _job(services().deployments.jobs.get(job))}


@blueprint.get("/audit")
def audit() -> dict[str, Any]:
    """Who did what when, the newest first."""
    limit = whole_number("limit")
    if limit is not None and not 1 <= limit <= MOST_LINES:
        raise BadRequest(f"limit must be 1 to {MOST_LINES}, found {limit}.")
    return {
        "audit": [
            {
                "at": line.at.isoformat(),
                "actor": line.actor,
                "action": line.action,
                "model": line.model,
                "version": line.version,
                "outcome": line.outcome,
                "reason": line.reason,
            }
            for line in services().records.audit(limit or 100)
        ]
    }


def _accepted(job: Job) -> Response:
    """202: the change is under way, and where to look at it."""
    response = jsonify(job=_job(job), request_id=g.request_id)
    response.status_code = 202
    response.headers["Location"] = url_for("model_api.job", job=job.id)
    return response


def _job(job: Job) -> dict[str, Any]:
    finished = job.finished.isoformat() if job.finished is not None else None
    return {**asdict(job), "started": job.started.isoformat(), "finished": finished}

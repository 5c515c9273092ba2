"""The JSON API of the model management."""

from typing import Any

from flask import Response, g, jsonify, request, url_for
from flask_openapi.blueprint import APIBlueprint

from portal.deployments.overview import Overview, overview
from portal.jobs import Job
from portal.web.api.answers import AuditAnswer, JobAnswer, JobBegun, JobsAnswer, Stored
from portal.web.api.operations import (
    FOR_OPERATORS,
    ArchiveFile,
    OneJob,
    OneModel,
    OneVersion,
    answer,
    errors,
    fields,
    form,
    query,
)
from portal.web.auth.operators import operator_required
from portal.web.change_requests import (
    AuditFields,
    DeployFields,
    ScaleFields,
    allow_archives,
    begin_deploy,
    begin_promote,
    begin_retire,
    begin_roll_back,
    begin_scale,
    read_archive,
    read_fields,
)
from portal.web.context import services

blueprint = APIBlueprint("model_api", __name__, url_prefix="/api", abp_tags=[{"name": "Models"}])

_OF_A_CHANGE: dict[str, Any] = {
    "security": FOR_OPERATORS,
    "responses": {
        **errors(404, 409, 413, 415, 422, 500, 502, 503),
        202: answer(
            JobBegun,
            "It is under way; ask for the job until it has ended.",
            headers={"Location": {"description": "The job.", "schema": {"type": "string"}}},
        ),
    },
}


@blueprint.before_request
def _limit() -> None:
    if request.endpoint == "model_api.upload":
        allow_archives()


@blueprint.get(
    "/models",
    operation_id="models",
    responses={**errors(500, 503), 200: answer(Overview, "What is served and what is stored.")},
)
def models() -> Response:
    """Every model, version and archive."""
    own = services()
    return jsonify(overview(own.steps, own.health, own.scale_to_zero))


@blueprint.post(
    "/models/<model>/<version>/deploy",
    operation_id="deploy",
    request_body=fields(DeployFields, {"default": True}),
    **_OF_A_CHANGE,
)
@operator_required
def deploy(path: OneVersion) -> Response:
    """Load an archive of the model store and serve it.

    It is served only if it loads and answers the golden tiles as its report says; else everything
    is as before. The first version of a model becomes the default. For operators.
    """
    return _accepted(begin_deploy(path.model, path.version))


@blueprint.post("/models/<model>/<version>/promote", operation_id="promote", **_OF_A_CHANGE)
@operator_required
def promote(path: OneVersion) -> Response:
    """Make a version the default.

    It answers the golden tiles first. For operators.
    """
    return _accepted(begin_promote(path.model, path.version))


@blueprint.post(
    "/models/<model>/<version>/scale",
    operation_id="scale",
    request_body=fields(ScaleFields, {"workers": 2}),
    **_OF_A_CHANGE,
)
@operator_required
def scale(path: OneVersion) -> Response:
    """Give a version another number of workers.

    Each worker costs about half a gigabyte of memory. For operators.
    """
    unsaid = "Say how many workers: send the field `workers`, for example 2."
    return _accepted(begin_scale(path.model, path.version, unsaid))


@blueprint.post("/models/<model>/<version>/retire", operation_id="retire", **_OF_A_CHANGE)
@operator_required
def retire(path: OneVersion) -> Response:
    """Serve a version no more.

    It answers first what it was sent. For operators.
    """
    return _accepted(begin_retire(path.model, path.version))


@blueprint.post("/models/<model>/rollback", operation_id="roll_back", **_OF_A_CHANGE)
@operator_required
def roll_back(path: OneModel) -> Response:
    """Make the previous default the default again.

    It answers the golden tiles first. For operators.
    """
    return _accepted(begin_roll_back(path.model))


@blueprint.post(
    "/archives",
    operation_id="upload_archive",
    security=FOR_OPERATORS,
    request_body=form(ArchiveFile),
    responses={**errors(409, 413, 422, 500, 502, 503), 201: answer(Stored, "What it holds.")},
)
@operator_required
def upload() -> tuple[Stored, int]:
    """Put an archive into the model store.

    <model>-<version>.mar as `make archive` builds it. It is checked without running anything of it,
    and not served by that. For operators.
    """
    return {"archive": read_archive(), "request_id": g.request_id}, 201


@blueprint.get(
    "/jobs",
    operation_id="jobs",
    responses={**errors(500, 503), 200: answer(JobsAnswer, "The jobs.")},
)
def jobs() -> JobsAnswer:
    """The last changes, also those from before a restart, the newest first."""
    return {"jobs": services().deployments.jobs.recent()}


@blueprint.get(
    "/jobs/<job>",
    operation_id="job",
    responses={**errors(404, 500, 503), 200: answer(JobAnswer, "The job.")},
)
def job(path: OneJob) -> JobAnswer:
    """One change and its steps."""
    return {"job": services().deployments.jobs.get(path.job)}


@blueprint.get(
    "/audit",
    operation_id="audit",
    openapi_extensions=query(AuditFields),
    responses={**errors(500, 503), 200: answer(AuditAnswer, "The lines.")},
)
def audit() -> AuditAnswer:
    """Who did what when, the newest first."""
    return {
        "audit": [
            {
                "at": line.at,
                "actor": line.actor,
                "action": line.action,
                "model": line.model,
                "version": line.version,
                "outcome": line.outcome,
                "reason": line.reason,
            }
            for line in services().records.audit(read_fields(AuditFields).limit)
        ]
    }


def _accepted(job: Job) -> Response:
    """202: the change is under way, and where to look at it."""
    begun: JobBegun = {"job": job, "request_id": g.request_id}
    response = jsonify(begun)
    response.status_code = 202
    response.headers["Location"] = url_for("model_api.job", job=job.id)
    return response

"""The JSON API of the model management."""

from datetime import datetime
from typing import Annotated, Any

from flask import Response, g, jsonify, url_for
from flask_openapi.blueprint import APIBlueprint
from pydantic import BaseModel, Field, WithJsonSchema
from typing_extensions import TypedDict

from portal.catalog.archive_inspection import Archive
from portal.deployments.overview import Overview, overview
from portal.deployments.records import AuditOutcome
from portal.jobs import Job
from portal.web import change_requests as changes
from portal.web.api import operations
from portal.web.auth.operators import operator_required
from portal.web.context import services

blueprint = APIBlueprint("model_api", __name__, url_prefix="/api", abp_tags=[{"name": "Models"}])
blueprint.before_request(changes.allow_archives)


class OneJob(BaseModel):
    """A job in a path."""

    job: Annotated[str, WithJsonSchema({"type": "string", "pattern": "^[0-9a-f]{12}$"})]


class ArchiveFile(BaseModel):
    """A form with an archive, called as `make archive` calls it."""

    file: operations.Binary


class JobAnswer(TypedDict):
    """A change."""

    job: Job


class JobBegun(JobAnswer):
    """A change that is under way; ask for it until it has ended."""

    request_id: str


class JobsAnswer(TypedDict):
    """Changes, the newest first."""

    jobs: list[Job]


class Stored(TypedDict):
    """An archive that was taken into the model store."""

    archive: Archive
    request_id: str


class AuditLine(TypedDict):
    """Who did what when, and how it ended."""

    at: datetime
    actor: Annotated[str, Field(description="operator, token, or portal for its own acts.")]
    action: str
    model: str | None
    version: str | None
    outcome: AuditOutcome
    reason: str


class AuditAnswer(TypedDict):
    """What was done, the newest first."""

    audit: list[AuditLine]


Accepted = tuple[JobBegun, int, dict[str, str]]

_OF_A_CHANGE: dict[str, Any] = {
    "security": operations.FOR_OPERATORS,
    "responses": operations.answers(
        JobBegun,
        "It is under way; ask for the job until it has ended.",
        *(404, 409, 413, 415, 422, 500, 502, 503),
        status=202,
        headers={"Location": {"description": "The job.", "schema": {"type": "string"}}},
    ),
}


@blueprint.get(
    "/models",
    operation_id="models",
    responses=operations.answers(Overview, "What is served and what is stored.", 500, 503),
)
def models() -> Response:
    """Every model, version and archive."""
    own = services()
    return jsonify(overview(own.steps, own.health, own.scale_to_zero))


@blueprint.post(
    "/models/<model>/<version>/deploy",
    operation_id="deploy",
    request_body=operations.fields(changes.DeployFields, {"default": True}),
    **_OF_A_CHANGE,
)
@operator_required
def deploy(path: operations.OneVersion) -> Accepted:
    """Load an archive of the model store and serve it.

    It is served only if it loads and answers the golden tiles as its report says; else everything
    is as before. The first version of a model becomes the default. For operators.
    """
    return _accepted(changes.begin_deploy(path.model, path.version))


@blueprint.post("/models/<model>/<version>/promote", operation_id="promote", **_OF_A_CHANGE)
@operator_required
def promote(path: operations.OneVersion) -> Accepted:
    """Make a version the default.

    It answers the golden tiles first. For operators.
    """
    return _accepted(changes.begin_promote(path.model, path.version))


@blueprint.post(
    "/models/<model>/<version>/scale",
    operation_id="scale",
    request_body=operations.fields(changes.ScaleFields, {"workers": 2}),
    **_OF_A_CHANGE,
)
@operator_required
def scale(path: operations.OneVersion) -> Accepted:
    """Give a version another number of workers.

    Each worker costs about half a gigabyte of memory. For operators.
    """
    return _accepted(changes.begin_scale(path.model, path.version))


@blueprint.post("/models/<model>/<version>/retire", operation_id="retire", **_OF_A_CHANGE)
@operator_required
def retire(path: operations.OneVersion) -> Accepted:
    """Serve a version no more.

    It answers first what it was sent. For operators.
    """
    return _accepted(changes.begin_retire(path.model, path.version))


@blueprint.post("/models/<model>/rollback", operation_id="roll_back", **_OF_A_CHANGE)
@operator_required
def roll_back(path: operations.OneModel) -> Accepted:
    """Make the previous default the default again.

    It answers the golden tiles first. For operators.
    """
    return _accepted(changes.begin_roll_back(path.model))


@blueprint.post(
    "/archives",
    operation_id="upload_archive",
    security=operations.FOR_OPERATORS,
    request_body=operations.form(ArchiveFile),
    responses=operations.answers(
        Stored, "What it holds.", 409, 413, 422, 500, 502, 503, status=201
    ),
)
@operator_required
def upload() -> tuple[Stored, int]:
    """Put an archive into the model store.

    <model>-<version>.mar as `make archive` builds it. It is checked without running anything of it,
    and not served by that. For operators.
    """
    return {"archive": changes.read_archive(), "request_id": g.request_id}, 201


@blueprint.get(
    "/jobs", operation_id="jobs", responses=operations.answers(JobsAnswer, "The jobs.", 500, 503)
)
def jobs() -> JobsAnswer:
    """The last changes, also those from before a restart, the newest first."""
    return {"jobs": services().deployments.jobs.recent()}


@blueprint.get(
    "/jobs/<job>",
    operation_id="job",
    responses=operations.answers(JobAnswer, "The job.", 404, 500, 503),
)
def job(path: OneJob) -> JobAnswer:
    """One change and its steps."""
    return {"job": services().deployments.jobs.get(path.job)}


@blueprint.get(
    "/audit",
    operation_id="audit",
    openapi_extensions=operations.query(changes.AuditFields),
    responses=operations.answers(AuditAnswer, "The lines.", 500, 503),
)
def audit() -> Response:
    """Who did what when, the newest first."""
    lines = services().records.audit(changes.read_fields(changes.AuditFields).limit)
    fields = AuditLine.__annotations__
    return jsonify(audit=[{name: getattr(line, name) for name in fields} for line in lines])


def _accepted(job: Job) -> Accepted:
    """202: the change is under way, and where to look at it."""
    where = {"Location": url_for("model_api.job", job=job.id)}
    return {"job": job, "request_id": g.request_id}, 202, where

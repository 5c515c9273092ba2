"""Whether the product works: ``/api/health``, for people, load balancers and orchestrators."""

from typing import Annotated

from flask_openapi.blueprint import APIBlueprint
from pydantic import Field
from typing_extensions import TypedDict

from portal.fields import Count
from portal.observability.health import Failure, Status
from portal.web.api.operations import OPEN_OPERATION, answer, answers
from portal.web.context import services

blueprint = APIBlueprint("health", __name__, url_prefix="/api", abp_tags=[{"name": "Health"}])

_NOT_ALL = {
    "status": "degraded",
    "models_loaded": [],
    "failures": [{"model": "baseline", "version": "1.2", "reason": "it has no ready worker"}],
}


class ServedModel(TypedDict):
    """One version, and how many of its workers take requests."""

    model: str
    version: str
    default: bool
    asleep: Annotated[bool, Field(description="Lazy, and without workers until it is asked.")]
    workers_ready: Count
    workers: Count


class HealthAnswer(TypedDict):
    """What is served, by which workers, and what failed."""

    status: Status
    models_loaded: list[ServedModel]
    failures: list[Failure]


class StatusAnswer(TypedDict):
    """One word."""

    status: str


@blueprint.get(
    "/health",
    operation_id="health",
    responses={
        **answers(HealthAnswer, "All works."),
        503: answer(HealthAnswer, "Not all does.", _NOT_ALL),
    },
)
def health() -> tuple[HealthAnswer, int]:
    """What is served, and what does not work; 200 only if all of it works."""
    report = services().health.report()
    body: HealthAnswer = {
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
        "failures": report.failures,
    }
    return body, 200 if report.status == "ok" else 503


@blueprint.get(
    "/health/live",
    operation_id="live",
    openapi_extensions=OPEN_OPERATION,
    responses={200: answer(StatusAnswer, "It does.")},
)
def live() -> StatusAnswer:
    """Whether this process answers; it asks nobody else."""
    return {"status": "alive"}


@blueprint.get(
    "/health/ready",
    operation_id="ready",
    openapi_extensions=OPEN_OPERATION,
    responses={
        200: answer(StatusAnswer, "It does.", {"status": "ready"}),
        503: answer(StatusAnswer, "It does not.", {"status": "not ready"}),
    },
)
def ready() -> tuple[StatusAnswer, int]:
    """Whether the default model answers, whatever state the others are in."""
    if services().health.report().ready:
        return {"status": "ready"}, 200
    return {"status": "not ready"}, 503

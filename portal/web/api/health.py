"""Whether the product works: ``/api/health``, for people, load balancers and orchestrators."""

from flask_openapi.blueprint import APIBlueprint

from portal.web.api.answers import Health, Word
from portal.web.api.operations import ALWAYS_OPEN, answer, errors
from portal.web.context import services

blueprint = APIBlueprint("health", __name__, url_prefix="/api", abp_tags=[{"name": "Health"}])

_NOT_ALL = {
    "status": "degraded",
    "models_loaded": [],
    "failures": [{"model": "baseline", "version": "1.2", "reason": "it has no ready worker"}],
}


@blueprint.get(
    "/health",
    operation_id="health",
    responses={
        **errors(),
        200: answer(Health, "All works."),
        503: answer(Health, "Not all does.", _NOT_ALL),
    },
)
def health() -> tuple[Health, int]:
    """What is served, and what does not work; 200 only if all of it works."""
    report = services().health.report()
    body: Health = {
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
    openapi_extensions=ALWAYS_OPEN,
    responses={200: answer(Word, "It does.")},
)
def live() -> Word:
    """Whether this process answers; it asks nobody else."""
    return {"status": "alive"}


@blueprint.get(
    "/health/ready",
    operation_id="ready",
    openapi_extensions=ALWAYS_OPEN,
    responses={
        200: answer(Word, "It does.", {"status": "ready"}),
        503: answer(Word, "It does not.", {"status": "not ready"}),
    },
)
def ready() -> tuple[Word, int]:
    """Whether the default model answers, whatever state the others are in."""
    if services().health.report().ready:
        return {"status": "ready"}, 200
    return {"status": "not ready"}, 503

"""The pages of the model management."""

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from portal.deployments.overview import overview
from portal.deployments.scale import MOST_WORKERS
from portal.jobs import Job
from portal.web.auth.operators import operator_required
from portal.web.change_requests import (
    allow_archives,
    begin_deploy,
    begin_promote,
    begin_retire,
    begin_roll_back,
    begin_scale,
    read_archive,
)
from portal.web.context import services

blueprint = Blueprint("model_pages", __name__, url_prefix="/models")

AUDIT_LINES = 50  # on the page; the API has more


@blueprint.before_request
def _limit() -> None:
    if request.endpoint == "model_pages.upload":
        allow_archives()


@blueprint.get("")
def models() -> str:
    """Every model, version and archive, and what was done to them."""
    own = services()
    return render_template(
        "model_pages/models.html",
        overview=overview(own.steps, own.health, own.scale_to_zero),
        running=own.deployments.jobs.unfinished(),
        audit=own.records.audit(AUDIT_LINES),
        most_workers=MOST_WORKERS,
        max_archive_bytes=own.settings.max_archive_bytes,
    )


@blueprint.get("/jobs/<job>")
def job(job: str) -> str:
    """The steps of one change; without JavaScript the page loads itself again while it runs."""
    found = services().deployments.jobs.get(job)
    return render_template("model_pages/job.html", job=found)


@blueprint.post("/<model>/<version>/deploy")
@operator_required
def deploy(model: str, version: str) -> Response:
    """Load an archive of the model store and serve it."""
    return _see(begin_deploy(model, version))


@blueprint.post("/<model>/<version>/promote")
@operator_required
def promote(model: str, version: str) -> Response:
    """Make a version the default."""
    return _see(begin_promote(model, version))


@blueprint.post("/<model>/<version>/scale")
@operator_required
def scale(model: str, version: str) -> Response:
    """Give a version another number of workers."""
    unsaid = "Say how many workers the version is to have."
    return _see(begin_scale(model, version, unsaid))


@blueprint.post("/<model>/<version>/retire")
@operator_required
def retire(model: str, version: str) -> Response:
    """Serve a version no more."""
    return _see(begin_retire(model, version))


@blueprint.post("/<model>/rollback")
@operator_required
def roll_back(model: str) -> Response:
    """Make the previous default the default again."""
    return _see(begin_roll_back(model))


@blueprint.post("/archives")
@operator_required
def upload() -> Response:
    """Put an archive into the model store; it is not deployed yet."""
    read_archive()
    return redirect(url_for("model_pages.models", _anchor="archives"), code=303)


def _see(job: Job) -> Response:
    return redirect(url_for("model_pages.job", job=job.id), code=303)

"""The pages of the model management."""

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from portal.deployments import MOST_WORKERS, Wish
from portal.errors import BadRequest
from portal.jobs import Job
from portal.model_form import allow_archives, checked_name, flag, read_archive, whole_number
from portal.model_list import overview
from portal.operators import operator_name, operator_required
from portal.services import services

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
        overview=overview(own),
        running=[job for job in own.deployments.jobs.recent() if job.state == "running"],
        audit=own.state.audit(AUDIT_LINES),
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
    checked_name(model, version)
    wish = Wish(
        default=flag("default"), workers=whole_number("workers"), unreported=flag("unreported")
    )
    return _see(services().deployments.deploy(model, version, operator_name(), wish))


@blueprint.post("/<model>/<version>/promote")
@operator_required
def promote(model: str, version: str) -> Response:
    """Make a version the default."""
    checked_name(model, version)
    return _see(services().deployments.promote(model, version, operator_name()))


@blueprint.post("/<model>/<version>/scale")
@operator_required
def scale(model: str, version: str) -> Response:
    """Give a version another number of workers."""
    checked_name(model, version)
    workers = whole_number("workers")
    if workers is None:
        raise BadRequest("Say how many workers the version is to have.")
    return _see(services().deployments.scale(model, version, operator_name(), workers))


@blueprint.post("/<model>/<version>/retire")
@operator_required
def retire(model: str, version: str) -> Response:
    """Serve a version no more."""
    checked_name(model, version)
    return _see(services().deployments.retire(model, version, operator_name()))


@blueprint.post("/<model>/rollback")
@operator_required
def roll_back(model: str) -> Response:
    """Make the previous default the default again."""
    checked_name(model)
    return _see(services().deployments.roll_back(model, operator_name()))


@blueprint.post("/archives")
@operator_required
def upload() -> Response:
    """Put an archive into the model store; it is not deployed yet."""
    read_archive(services(), operator_name())
    return redirect(url_for("model_pages.models", _anchor="archives"), code=303)


def _see(job: Job) -> Response:
    return redirect(url_for("model_pages.job", job=job.id), code=303)

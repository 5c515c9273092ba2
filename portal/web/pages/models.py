"""The pages of the model management."""

from collections.abc import Callable

from flask import Blueprint, redirect, render_template, url_for
from werkzeug.wrappers import Response

from portal.deployments.changes import MOST_WORKERS
from portal.deployments.overview import overview
from portal.jobs import Job
from portal.web import change_requests as changes
from portal.web.auth.operators import operator_required
from portal.web.context import services

blueprint = Blueprint("model_pages", __name__, url_prefix="/models")
blueprint.before_request(changes.allow_archives)

AUDIT_LINES = 50  # on the page; the API has more


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


@operator_required
def change(begin: Callable[..., Job], **names: str) -> Response:
    """Begin a change, and lead to its steps."""
    return redirect(url_for("model_pages.job", job=begin(**names).id), code=303)


for rule, endpoint, begin in (
    ("/<model>/<version>/deploy", "deploy", changes.begin_deploy),
    ("/<model>/<version>/promote", "promote", changes.begin_promote),
    ("/<model>/<version>/scale", "scale", changes.begin_scale),
    ("/<model>/<version>/retire", "retire", changes.begin_retire),
    ("/<model>/rollback", "roll_back", changes.begin_roll_back),
):
    blueprint.post(rule, endpoint=endpoint, defaults={"begin": begin})(change)


@blueprint.post("/archives")
@operator_required
def upload() -> Response:
    """Put an archive into the model store; it is not deployed yet."""
    changes.read_archive()
    return redirect(url_for("model_pages.models", _anchor="archives"), code=303)

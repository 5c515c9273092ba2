"""Logging in and out."""

import re

from flask import Blueprint, Flask, redirect, render_template, request, url_for
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from werkzeug.wrappers import Response

from portal.errors import ManagementOff
from portal.storage.database import Database
from portal.web.auth import operators
from portal.web.auth.login_attempts import AttemptStorage
from portal.web.context import services

blueprint = Blueprint("login", __name__)

limiter = Limiter(get_remote_address)

# A path of ours: neither scheme nor host, whatever a browser makes of slashes, backslashes, tabs.
_PATH = re.compile(r"/(?![/\\])[!-\[\]-~]*", re.ASCII)


def install(app: Flask, database: Database) -> None:
    """Let people log in to ``app``; ``database`` counts how often they try."""
    app.config["RATELIMIT_STORAGE_URI"] = f"{AttemptStorage.STORAGE_SCHEME[0]}://"
    app.config["RATELIMIT_STORAGE_OPTIONS"] = {"database": database}
    limiter.init_app(app)
    app.register_blueprint(blueprint)


@blueprint.get("/login")
def page() -> str | Response:
    """The form; who is logged in already goes on."""
    _check_that_there_is_a_login()
    back = _path(request.args.get("next"))
    if operators.current_operator() is not None:
        return redirect(back, 303)
    return render_template("login/page.html", back=back)


@blueprint.post("/login")
@limiter.limit("5 per minute")  # from one address; a login that succeeds takes them back
def log_in() -> Response | tuple[str, int]:
    """Begin a session if the password is right."""
    _check_that_there_is_a_login()
    back = _path(request.form.get("next"))
    if not services().credentials.is_password(request.form.get("password", "")):
        return render_template("login/page.html", back=back, wrong=True), 401
    if (used := limiter.current_limit) is not None:
        limiter.limiter.clear(used.limit, *used.request_args)
    operators.log_in()
    return redirect(back, 303)


@blueprint.post("/logout")
def log_out() -> Response:
    """End the session."""
    operators.log_out()
    return redirect(url_for("pages.home"), 303)


def _check_that_there_is_a_login() -> None:
    if not services().credentials.has_password:
        raise ManagementOff(
            "There is no login, because the portal has no password. Run `make password`, or set "
            "PORTAL_PASSWORD_HASH."
        )


def _path(offered: str | None) -> str:
    """Where to go after the login: the page that asked for it, if it is one of ours."""
    return offered if offered and _PATH.fullmatch(offered) else url_for("pages.home")

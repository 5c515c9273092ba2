"""The API's own description: ``/openapi.json``, and Swagger UI at ``/docs``.

Swagger UI comes from an installed package, so that nothing is asked from outside.
"""

from importlib.resources import files
from typing import Any

from flask import Blueprint, Response, abort, render_template, send_file

from portal.web.api.openapi import DOCUMENT

blueprint = Blueprint("docs", __name__)

ASSETS = ("swagger-ui-bundle.js", "swagger-ui.css")  # of all that the package brings


@blueprint.get("/openapi.json")
def document() -> dict[str, Any]:
    """The OpenAPI document."""
    return DOCUMENT


@blueprint.get("/docs")
def page() -> str:
    """The API, to read and to try."""
    return render_template("docs/page.html")


@blueprint.get("/docs/<file>")
def asset(file: str) -> Response:
    """A file of Swagger UI."""
    if file not in ASSETS:
        abort(404)
    return send_file(str(files("flask_swagger_ui") / "dist" / file))

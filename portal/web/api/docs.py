"""The API's own description: ``/openapi.json``, and Swagger UI at ``/docs``.

Swagger UI comes from an installed package, so that nothing is asked from outside.
"""

from functools import cache
from importlib.resources import files
from typing import Any

from flask import Blueprint, Response, abort, render_template, send_file
from flask_openapi.models.path_item import PathItem

from portal.web.api import health, models, predict, reports, scenes
from portal.web.api.operations import FOR_OPERATORS, schemas
from portal.web.context import services

blueprint = Blueprint("docs", __name__)

API = (
    predict.blueprint,
    scenes.blueprint,
    health.blueprint,
    reports.blueprint,
    models.blueprint,
)
ASSETS = ("swagger-ui-bundle.js", "swagger-ui.css")  # of all that the package brings
_INFO = {
    "title": "EuroSAT land use",
    "version": "1.0",
    "description": (
        "Classifies Sentinel-2 tiles, 64 x 64 pixels of 10 m. Every answer has the header "
        "X-Request-ID; a client's own is kept."
    ),
}
_WAYS_IN = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "The token that `make token` showed.",
    },
    "login": {
        "type": "apiKey",
        "in": "cookie",
        "name": "landuse_session",
        "description": (
            "The session that begins at /login, for 12 hours; five wrong passwords within a minute "
            "are answered 429 with Retry-After. A request that changes something also carries the "
            "header X-CSRFToken, with the value of the field csrf_token in the forms of the pages."
        ),
    },
}


@cache
def openapi() -> dict[str, Any]:
    """The OpenAPI document of a portal that is open for reading and predicting."""
    return {
        "openapi": "3.1.0",
        "info": _INFO,
        "paths": {path: _told(item) for part in API for path, item in part.paths.items()},
        "components": {"schemas": schemas(), "securitySchemes": _WAYS_IN},
    }


def _told(item: PathItem) -> dict[str, Any]:
    """With the words of the docstrings as they stand there, which flask-openapi gives breaks."""
    methods = item.model_dump(mode="json", by_alias=True, exclude_none=True)
    for operation in methods.values():
        if "description" in operation:
            operation["description"] = operation["description"].replace("<br/>", "\n").strip()
        operation["responses"] = dict(sorted(operation["responses"].items()))
    return methods


@blueprint.get("/openapi.json")
def document() -> dict[str, Any]:
    """The OpenAPI document; in closed mode every operation needs a token or a login."""
    return openapi() if services().settings.public else {**openapi(), "security": FOR_OPERATORS}


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

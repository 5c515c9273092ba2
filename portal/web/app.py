"""The web portal: pages and JSON API in front of TorchServe.

Run with ``gunicorn 'portal.web.app:create_app()'``: one process, because health and the limit of
concurrent predictions live in its memory.
"""

import os
from dataclasses import is_dataclass
from datetime import datetime
from typing import Any

from flask import Flask
from flask.json.provider import DefaultJSONProvider
from flask_openapi.openapi import OpenAPI
from pydantic import BaseModel

from portal.services import Services
from portal.serving.model_server import ModelServer
from portal.serving.torchserve.client import TorchServe
from portal.settings import Settings
from portal.web import error_handlers, metrics_endpoint, middleware
from portal.web.api import docs
from portal.web.auth import login, operators
from portal.web.context import MULTIPART_FRAMING
from portal.web.fast_path import FastPath
from portal.web.multipart import FormRequest
from portal.web.pages import home, models, reports
from portal.web.pages import map as maps


def create_app(settings: Settings | None = None, torchserve: ModelServer | None = None) -> Flask:
    """Build the portal.

    Args:
        settings: what to run with; read from the ``PORTAL_*`` variables when not given.
        torchserve: the model server; a TorchServe at the settings' addresses when not given, which
            the portal then also keeps in the state that the operators decided.

    Raises:
        BadSetting: a ``PORTAL_*`` variable has a value that cannot be used.
        StateUnavailable: the database cannot be used.
    """
    settings = settings or Settings.from_environment(os.environ)
    app = OpenAPI(__name__, doc_ui=False)
    app.request_class = FormRequest
    assert isinstance(app.json, DefaultJSONProvider)
    app.json.sort_keys = False  # probabilities keep their order
    app.json.default = _as_json
    own = Services(settings, torchserve or TorchServe(settings))
    app.extensions["portal"] = own
    # Flask stops reading above this; the image itself is measured by the ``Predictor``.
    app.config["MAX_CONTENT_LENGTH"] = settings.max_upload_bytes + MULTIPART_FRAMING
    middleware.install(app, settings.allowed_hosts)
    metrics_endpoint.install(app, own.metrics)
    error_handlers.install(app, settings.max_upload_bytes)
    operators.install(app, settings.secret_key, cookie_secure=settings.cookie_secure)
    login.install(app, own.database)
    for part in docs.API:
        app.register_api(part)
    for module in (home, maps, reports, models, docs, metrics_endpoint):
        app.register_blueprint(module.blueprint)
    app.wsgi_app = FastPath(app.wsgi_app, own)  # type: ignore[method-assign]
    if torchserve is None:
        own.database.open()
        own.reconciler.start()
    return app


def _as_json(value: Any) -> Any:
    """What JSON itself does not know: times in ISO 8601, dataclasses and models as objects."""
    if is_dataclass(value):
        return vars(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, BaseModel):
        return value.model_dump()
    return DefaultJSONProvider.default(value)

"""The web portal: pages and JSON API in front of TorchServe.

Run with ``gunicorn 'portal:create_app()'``: one process, because health and the limit of
concurrent predictions live in its memory.
"""

import os

from flask import Flask

from portal import (
    access,
    api,
    docs,
    errors,
    login,
    model_api,
    model_pages,
    monitoring,
    operators,
    pages,
    report_pages,
)
from portal.forms import QuickRequest
from portal.model_server import ModelServer
from portal.services import Services
from portal.settings import Settings
from portal.thin_path import ThinPath
from portal.torchserve import TorchServe


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
    app = Flask(__name__)
    app.request_class = QuickRequest
    app.json.sort_keys = False  # type: ignore[attr-defined]  # probabilities keep their order
    own = Services(settings, torchserve or TorchServe(settings))
    own.install(app)
    access.install(app, settings.allowed_hosts)
    monitoring.install(app, own.metrics)
    errors.install(app, settings.max_upload_bytes)
    operators.install(app, settings.secret_key, cookie_secure=settings.cookie_secure)
    login.limiter.init_app(app)
    app.register_blueprint(login.blueprint)
    app.register_blueprint(api.blueprint)
    app.register_blueprint(pages.blueprint)
    app.register_blueprint(report_pages.blueprint)
    app.register_blueprint(model_api.blueprint)
    app.register_blueprint(model_pages.blueprint)
    app.register_blueprint(docs.blueprint)
    app.register_blueprint(monitoring.blueprint)
    app.wsgi_app = ThinPath(app.wsgi_app, own)  # type: ignore[method-assign]
    if torchserve is None:
        own.keeper.start()
    return app

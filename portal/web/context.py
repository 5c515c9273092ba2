"""How a view reaches the services of its app."""

from typing import cast

from flask import Flask, current_app

from portal.services import Services

MULTIPART_FRAMING = 64 * 1024  # bytes: boundaries, headers and small fields around one file


def install(app: Flask, own: Services) -> None:
    """Make these the services of ``app``."""
    app.extensions["portal"] = own
    # Flask stops reading above this; the image itself is measured by the ``Predictor``.
    app.config["MAX_CONTENT_LENGTH"] = own.settings.max_upload_bytes + MULTIPART_FRAMING


def services() -> Services:
    """The services of the app that handles the current request."""
    return cast("Services", current_app.extensions["portal"])

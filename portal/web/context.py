"""How a view reaches the services of its app."""

from typing import cast

from flask import current_app

from portal.services import Services

MULTIPART_FRAMING = 64 * 1024  # bytes: boundaries, headers and small fields around one file


def services() -> Services:
    """The services of the app that handles the current request."""
    return cast("Services", current_app.extensions["portal"])

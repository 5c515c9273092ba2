"""The parts that one app owns, and how a view reaches them."""

import threading
from dataclasses import dataclass, field
from typing import cast

from flask import Flask, current_app

from portal.health import Health
from portal.model_server import ModelServer
from portal.settings import Settings

MULTIPART_FRAMING = 64 * 1024  # bytes: boundaries, headers and small fields around one file


@dataclass
class Services:
    """Settings, model server, health, and the seats for concurrent predictions."""

    settings: Settings
    torchserve: ModelServer
    health: Health = field(init=False)
    seats: threading.BoundedSemaphore = field(init=False)

    def __post_init__(self) -> None:
        self.health = Health(self.torchserve, self.settings.default_model)
        self.seats = threading.BoundedSemaphore(self.settings.max_in_flight)

    def install(self, app: Flask) -> None:
        """Make these the services of ``app``."""
        app.extensions["portal"] = self
        # Flask stops reading above this; the image itself is measured by ``classify``.
        app.config["MAX_CONTENT_LENGTH"] = self.settings.max_upload_bytes + MULTIPART_FRAMING


def services() -> Services:
    """The services of the app that handles the current request."""
    return cast("Services", current_app.extensions["portal"])

"""The parts that one app owns, and how a view reaches them."""

import threading
from dataclasses import dataclass, field
from typing import cast

from flask import Flask, current_app

from portal.archives import Archives
from portal.credentials import Credentials
from portal.deployments import Deployments
from portal.health import Health
from portal.keeper import Keeper
from portal.laziness import Laziness
from portal.metrics import Metrics
from portal.model_log import ModelLog
from portal.model_server import ModelServer
from portal.pace import Pace
from portal.reports import Reports
from portal.serving import Serving
from portal.settings import Settings
from portal.state import State
from portal.tiles import Tiles

MAX_BATCHES = 2  # at the same time: each keeps one of gunicorn's threads for as long as it takes
MAX_EXPLANATIONS = 2  # at the same time: predictions wait in TorchServe's queue behind them
MULTIPART_FRAMING = 64 * 1024  # bytes: boundaries, headers and small fields around one file


@dataclass
class Services:
    """What an app has: settings, credentials, model server, and what the views ask of them.

    ``seats`` are for the requests that wait for the model server, or in its waiting room,
    ``batches`` and ``explanations`` for those that take long; ``pace`` is for a batch's stacks.
    """

    settings: Settings
    torchserve: ModelServer
    credentials: Credentials = field(init=False)
    health: Health = field(init=False)
    metrics: Metrics = field(init=False)
    reports: Reports = field(init=False)
    tiles: Tiles | None = field(init=False)
    archives: Archives = field(init=False)
    state: State = field(init=False)
    deployments: Deployments = field(init=False)
    laziness: Laziness = field(init=False)
    keeper: Keeper = field(init=False)
    seats: threading.BoundedSemaphore = field(init=False)
    batches: threading.BoundedSemaphore = field(init=False)
    pace: Pace = field(init=False)
    explanations: threading.BoundedSemaphore = field(init=False)

    def __post_init__(self) -> None:
        self.credentials = Credentials(self.settings)
        self.health = Health(self.torchserve, self.settings.default_model)
        self.metrics = Metrics()
        self.reports = Reports(self.settings.reports_dir)
        self.tiles = Tiles(self.settings.tiles) if self.settings.tiles is not None else None
        self.archives = Archives(self.settings.model_store, self.settings.max_archive_bytes)
        self.state = State(self.settings.database_url)
        serving = Serving(
            self.torchserve,
            self.reports,
            self.archives,
            self.state,
            ModelLog(self.settings.torchserve_model_log),
        )
        self.deployments = Deployments(serving)
        self.laziness = Laziness(self.torchserve, self.settings)
        self.keeper = Keeper(serving, self.deployments.locks, self.laziness)
        self.seats = threading.BoundedSemaphore(self.settings.max_in_flight)
        self.batches = threading.BoundedSemaphore(MAX_BATCHES)
        self.pace = Pace()
        self.explanations = threading.BoundedSemaphore(MAX_EXPLANATIONS)

    def install(self, app: Flask) -> None:
        """Make these the services of ``app``."""
        app.extensions["portal"] = self
        # Flask stops reading above this; the image itself is measured by ``classify``.
        app.config["MAX_CONTENT_LENGTH"] = self.settings.max_upload_bytes + MULTIPART_FRAMING


def services() -> Services:
    """The services of the app that handles the current request."""
    return cast("Services", current_app.extensions["portal"])

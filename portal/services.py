"""The parts that one app owns, and how a view reaches them."""

import threading
from dataclasses import dataclass, field
from typing import cast

from flask import Flask, current_app

from portal.catalog.archives import Archives
from portal.catalog.eurosat_tiles import Tiles
from portal.catalog.reports import Reports
from portal.credentials import Credentials
from portal.deployments.manager import Deployments
from portal.deployments.reconciler import Reconciler
from portal.deployments.records import Records
from portal.deployments.scale_to_zero import ScaleToZero
from portal.deployments.steps import Steps
from portal.deployments.worker_log import WorkerLog
from portal.observability.health import Health
from portal.observability.metrics import Metrics
from portal.serving.model_server import ModelServer
from portal.serving.pace import Pace
from portal.settings import Settings

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
    records: Records = field(init=False)
    deployments: Deployments = field(init=False)
    scale_to_zero: ScaleToZero = field(init=False)
    reconciler: Reconciler = field(init=False)
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
        self.records = Records(self.settings.database_url)
        steps = Steps(
            self.torchserve,
            self.reports,
            self.archives,
            self.records,
            WorkerLog(self.settings.torchserve_model_log),
        )
        self.deployments = Deployments(steps)
        self.scale_to_zero = ScaleToZero(self.torchserve, self.settings)
        self.reconciler = Reconciler(steps, self.deployments.locks, self.scale_to_zero)
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

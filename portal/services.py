"""The parts that one portal owns, put together."""

from pydantic import SecretStr

from portal.catalog.archives import Archives
from portal.catalog.eurosat_tiles import TileSource
from portal.catalog.reports import Reports
from portal.credentials import Credentials
from portal.deployments.gates import Gates
from portal.deployments.locks import ModelLocks
from portal.deployments.manager import Deployments
from portal.deployments.reconciler import Reconciler
from portal.deployments.records import Records
from portal.deployments.scale_to_zero import ScaleToZero
from portal.deployments.steps import Steps
from portal.deployments.worker_log import WorkerLog
from portal.jobs import Jobs
from portal.observability.health import Health
from portal.observability.metrics import Metrics
from portal.scenes.inspection import inspect
from portal.scenes.manager import Scenes
from portal.scenes.records import SceneRecords
from portal.scenes.store import Store
from portal.serving.model_server import ModelServer
from portal.serving.predictor import Predictor
from portal.settings import Settings
from portal.storage.database import Database
from portal.storage.heartbeat import Heartbeat


class Services:
    """What a portal has: settings, credentials, model server, and what the views ask of them."""

    def __init__(self, settings: Settings, torchserve: ModelServer) -> None:
        self.settings = settings
        self.torchserve = torchserve
        self.credentials = Credentials(
            _unveiled(settings.password_hash),
            settings.password_file,
            _unveiled(settings.token_hash),
            settings.token_file,
        )
        self.database = Database(settings.database_url.get_secret_value())
        self.health = Health(torchserve, settings.default_model, self.database)
        self.metrics = Metrics()
        self.predictor = Predictor(torchserve, settings, observers=[self.metrics.observe])
        self.reports = Reports(settings.reports_dir)
        self.tiles = TileSource(settings.tiles_dir) if settings.tiles_dir is not None else None
        self.archives = Archives(settings.model_store, settings.max_archive_bytes)
        heartbeat = Heartbeat(self.database)
        self.records = Records(self.database)
        log = WorkerLog(settings.torchserve_model_log)
        gates = Gates(self.database, heartbeat, torchserve.gate)
        self.steps = Steps(torchserve, self.reports, self.archives, self.records, log, gates)
        jobs, locks = Jobs(self.database, heartbeat), ModelLocks(self.database, heartbeat)
        self.deployments = Deployments(self.steps, jobs, locks)
        records = SceneRecords(self.database)
        store = Store(
            settings.scenes_dir, records, settings.scenes_kept_bytes, settings.scenes_kept_days
        )
        self.scenes = Scenes(records, store, settings, torchserve, inspect)
        self.scale_to_zero = ScaleToZero(torchserve, settings, self.scenes.needed)
        self.reconciler = Reconciler(self.steps, jobs, locks, self.scale_to_zero)


def _unveiled(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret is not None else None

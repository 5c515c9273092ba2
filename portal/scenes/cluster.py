"""Maps of many scenes on a Dask cluster: a task for each, on this machine or on others.

A task that lost its worker is done by another, which goes on at the last finished strip; what is
done already is not done again. Imported only where Dask is meant to be used.
"""

import logging
import os
import random
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import dask
from dask.system import CPU_COUNT
from distributed import Client, Future, LocalCluster, Worker, WorkerPlugin, as_completed, get_worker
from distributed.scheduler import KilledWorker

from portal.catalog.archive_inspection import inspect
from portal.errors import BadArchive, PortalError, UnknownModel
from portal.scenes.archive_classifier import ArchiveClassifier
from portal.scenes.collection import Outcome
from portal.scenes.pipeline import digest, identify, map_one
from portal.scenes.scene import Classifier, Options
from portal.settings import Settings

log = logging.getLogger("portal.scenes.cluster")

RETRIES = 2  # of a scene whose task failed, but not for the scene's own sake
PATIENCE = 30  # seconds until a scheduler answers and has a worker
LOOPBACK = "127.0.0.1"


class NoCluster(Exception):
    """There is no cluster to work on; the message is a sentence for the user."""


class MapOne(Protocol):
    """``portal.scenes.pipeline.map_one``, as it is called here."""

    def __call__(
        self,
        path: Path,
        options: Options,
        classify: Classifier,
        folder: Path,
        *,
        name: str,
        archive_sha256: str,
        scene_sha256: str,
    ) -> None:
        """Map a scene into the folder."""


@dataclass(frozen=True)
class Plan:
    """What holds for all scenes of a run.

    Attributes:
        results: for the maps, and seen by every worker, as are the scenes.
        options: with a version.
        archive_sha256: of the archive that each worker loads; "" where servers answer.
        plugin: the name under which a worker has its ``ModelPlugin``.
    """

    results: Path
    options: Options
    archive_sha256: str
    plugin: str
    map_one: MapOne


class ModelPlugin(WorkerPlugin):
    """What a worker asks about windows: an archive that it loads itself, or model servers.

    Args:
        archive: file name and content; None: the servers are asked.
        servers: URLs of TorchServe's inference API.
    """

    def __init__(
        self, archive: tuple[str, bytes] | None, servers: tuple[str, ...], options: Options
    ) -> None:
        self._archive = archive
        self._servers = servers
        self._options = options

    def setup(self, worker: Worker) -> None:
        """Called on each worker; the model is loaded when the first scene comes."""
        self._folder = Path(worker.local_directory)
        self._lock = threading.Lock()
        self._classifiers: dict[int, ArchiveClassifier] = {}  # by thread
        self._through: dict[str, Classifier] = {}  # by URL

    def teardown(self, worker: Worker) -> None:  # noqa: ARG002 - Dask's signature
        """Called on each worker at the end."""
        with self._lock:
            for classify in self._classifiers.values():
                classify.close()
            self._classifiers.clear()

    def classifier(self) -> Classifier:
        """The one for the calling thread."""
        with self._lock:
            if self._archive is None:
                return self._through_server(random.choice(self._servers))
            thread = threading.get_ident()
            if thread not in self._classifiers:
                name, content = self._archive
                path = self._folder / name
                if not path.exists():
                    path.write_bytes(content)
                self._classifiers[thread] = ArchiveClassifier(path)
            return self._classifiers[thread]

    def _through_server(self, url: str) -> Classifier:
        # needed on the workers of these runs only
        from portal.scenes.classifier import ThroughPredictor  # noqa: PLC0415
        from portal.serving.predictor import Predictor  # noqa: PLC0415
        from portal.serving.torchserve.client import TorchServe  # noqa: PLC0415

        if url not in self._through:
            told = os.environ | {"PORTAL_TORCHSERVE_INFERENCE": url}
            settings = Settings.from_environment(told)
            predictor = Predictor(TorchServe(settings), settings)
            asked = self._options.model, self._options.version
            self._through[url] = ThroughPredictor(predictor, *asked)
        return self._through[url]


def map_scenes(
    scenes: Mapping[str, Path],
    results: Path,
    options: Options,
    *,
    archive: Path | None = None,
    servers: tuple[str, ...] = (),
    scheduler: str = "",
    workers: int | None = None,
    mapper: MapOne = map_one,
) -> list[Outcome]:
    """Map each scene into a folder of ``results``, named by ``portal.scenes.pipeline.identify``.

    Args:
        scenes: absolute paths by what they are called.
        options: with a version.
        archive: called as in the model store. Either it or servers must be given.
        scheduler: address of a cluster; "": processes on this machine, ``workers`` of them, or one
            for each core.

    Returns:
        What became of each scene, in their order.

    Raises:
        NoCluster: the scheduler cannot be used.
        BadArchive, UnknownModel: no scene can be mapped.
    """
    content, archive_sha256 = None, ""
    if archive is not None:
        archive_sha256 = inspect(archive, archive.name, sys.maxsize).sha256
        content = archive.name, archive.read_bytes()
    plan = Plan(
        results=results.resolve(),
        options=options,
        archive_sha256=archive_sha256,
        plugin=f"landuse-{uuid.uuid4().hex}",
        map_one=mapper,
    )
    plan.results.mkdir(parents=True, exist_ok=True)
    outcomes: dict[str, Outcome] = {}
    with _client(scheduler, min(workers or CPU_COUNT, len(scenes))) as client:
        _prepare(client, ModelPlugin(content, servers, options), plan.plugin)
        try:
            futures = client.map(
                _map,
                list(scenes),
                list(scenes.values()),
                key=[f"{plan.plugin}-{number}" for number in range(len(scenes))],
                plan=plan,
                retries=RETRIES,
            )
            names = dict(zip((future.key for future in futures), scenes, strict=True))
            for future in as_completed(futures, loop=client.loop):
                outcome = _outcome(future, names[future.key], plan.results)
                outcomes[outcome.scene] = outcome
                _tell(outcome, len(outcomes), len(scenes))
        finally:
            with suppress(Exception):  # whatever ended it ended the plugin as well
                client.unregister_worker_plugin(plan.plugin)
    return [outcomes[name] for name in scenes]


def _prepare(client: Client, plugin: ModelPlugin, name: str) -> None:
    """Give every worker the plugin, also those to come, and see that tasks of ours are understood.

    Raises:
        NoCluster: they are not.
    """
    try:
        client.register_plugin(plugin, name=name)
        client.submit(_ready, key=f"{name}-ready").result(timeout=PATIENCE)
    except Exception as error:
        last = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise NoCluster(
            f"The cluster cannot be used: {last} Scheduler and workers must run this release in "
            "the folder of its checkout (.venv/bin/python -m dask scheduler, ... worker)."
        ) from error


def _ready() -> None:
    """A task that needs no more than this module."""


def _map(name: str, path: Path, plan: Plan) -> Outcome | PortalError:
    """The task, on a worker; an error that it returns is that of all scenes.

    Raises:
        PortalError: not the scene's fault: it is tried again.
        OSError: a file cannot be read or written.
    """
    scene_sha256 = digest(path)
    folder = plan.results / identify(scene_sha256, plan.archive_sha256, plan.options)
    if folder.is_dir():
        return Outcome(name, folder.name, kept=True)
    plugin = get_worker().plugins[plan.plugin]
    assert isinstance(plugin, ModelPlugin)
    try:
        plan.map_one(
            path,
            plan.options,
            plugin.classifier(),
            folder,
            name=path.name,
            archive_sha256=plan.archive_sha256,
            scene_sha256=scene_sha256,
        )
    except (BadArchive, UnknownModel) as error:
        return error
    except PortalError as error:
        if error.status >= 500:
            raise
        return Outcome(name, reason=str(error))
    return Outcome(name, folder.name)


def _outcome(future: "Future[Outcome | PortalError]", name: str, results: Path) -> Outcome:
    """What became of a scene, by what became of its task.

    Raises:
        BadArchive, UnknownModel: as of all others.
    """
    try:
        outcome = future.result()
    except PortalError as error:
        return Outcome(name, reason=str(error))
    except KilledWorker:
        reason = (
            "The workers that took it ended, one after the other: they may need more memory. Try "
            "again."
        )
    except OSError as error:
        said = f"{error.filename}: {error.strerror}" if error.strerror else str(error)
        reason = (
            f"On a worker a file cannot be read or written ({said}). All workers must see the "
            "scenes and the results under the same paths as this machine."
        )
    except Exception as error:
        log.debug("%s", name, exc_info=True)
        reason = f"Something went wrong ({type(error).__name__}: {error}); see the workers' log."
    else:
        if isinstance(outcome, PortalError):
            raise outcome
        if not outcome.folder or (results / outcome.folder).is_dir():
            return outcome
        reason = (
            f"Its map is not in {results} on this machine: the workers must write into the same "
            "folder that this machine reads."
        )
    return Outcome(name, reason=reason)


def _tell(outcome: Outcome, done: int, count: int) -> None:
    if outcome.folder:
        what = f"{'mapped before' if outcome.kept else 'mapped'}: {outcome.folder}"
    else:
        what = f"failed: {outcome.reason}"
    log.info("%d of %d: %s: %s", done, count, outcome.scene, what)


@contextmanager
def _client(scheduler: str, workers: int) -> Iterator[Client]:
    """A client of the cluster, which is ended at the end if it was not there before."""
    if not scheduler:
        config = {
            # its dashboard is off; its HTTP servers have nothing to show then
            "distributed.scheduler.http.routes": [],
            "distributed.worker.http.routes": [],
            # a worker has one scene at a time: if it is killed, no other is suspected
            "distributed.scheduler.worker-saturation": 1.0,
        }
        with (
            dask.config.set(config),
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                host=LOOPBACK,
                dashboard_address=f"{LOOPBACK}:0",
                scheduler_kwargs={"dashboard": False},
                # certificates of this run alone: else any user of this machine could run code here
                security=True,
            ) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            yield client
        return
    parts = urlsplit(scheduler)
    if parts.scheme == "tcp" and parts.hostname not in (LOOPBACK, "localhost", "::1"):
        log.warning(
            "%s is neither encrypted nor protected: whoever reaches it runs code on the workers. "
            "Use it in a closed network only, else tls://.", scheduler,
        )  # fmt: skip
    try:
        client = Client(scheduler, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        raise NoCluster(
            f"There is no Dask scheduler at {scheduler} that can be used: {error}. Expected an "
            "address such as tcp://127.0.0.1:8786, or tls://... with the certificates of "
            "DASK_DISTRIBUTED__COMM__TLS__*."
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as error:
            raise NoCluster(
                f"The scheduler at {scheduler} has no workers. Start some in the folder of this "
                "checkout: dask worker --nthreads 1 with its address."
            ) from error
        yield client

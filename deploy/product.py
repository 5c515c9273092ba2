"""The programs of the product: TorchServe, the portal, the worker of scenes; what connects them."""

import http.client
import os
import shutil
import sys
import tempfile
from pathlib import Path

from deploy import CannotServe
from deploy.allocator import preload
from deploy.child import Child
from deploy.settings import Settings, archives
from portal.deployments.boot import models_to_load, note_archives
from portal.errors import StateUnavailable
from portal.settings import Settings as PortalSettings

SPARE_THREADS = 16  # of the portal: for health, pages and management while predictions wait
SAMPLE = "portal/web/static/samples/River.jpg"  # in the checkout; what the first prediction asks


class Product:
    """TorchServe, run by the Java in ``java_home``, and those that ask it: portal and scenes."""

    def __init__(self, settings: Settings, java_home: Path) -> None:
        self.settings = settings
        self.torchserve = Child("torchserve", settings.run_dir)
        self.portal = Child("portal", settings.run_dir)
        self.scenes = Child("scenes", settings.run_dir)
        self._java_home = java_home
        settings.logs.mkdir(parents=True, exist_ok=True)

    def start_torchserve(self) -> None:
        """Start TorchServe with the archives that are to be served; it needs seconds to load."""
        settings = self.settings
        clean(settings)
        models = to_load(settings)
        # One TorchServe per temporary folder: it keeps its pid file, the unpacked archives and the
        # sockets of its workers there. A socket's path is at most 107 bytes long, so a folder in
        # the checkout could be too deep; only a link to it stands in the run folder.
        temp = tempfile.mkdtemp(prefix="eurosat-")
        settings.temp_link.symlink_to(temp)
        environ = {
            name: value
            for name, value in os.environ.items()
            # the first would let a worker import other code than its archive's, the second would
            # win over --ts-config; the portal's variables hold secrets
            if name not in {"PYTHONPATH", "TS_CONFIG_FILE"} and not name.startswith("PORTAL_")
        }
        environ |= {"JAVA_HOME": str(self._java_home), **preload(os.environ)}
        environ |= dict.fromkeys(("TMPDIR", "TEMP"), temp)  # for Python, for Java
        environ |= dict.fromkeys(("LOG_LOCATION", "METRICS_LOCATION"), str(settings.logs))
        self.torchserve.start(
            [
                *(sys.executable, "-m", "ts.model_server", "--start", "--foreground", "--ncs"),
                *("--ts-config", settings.config),
                *("--log-config", settings.root / "deploy" / "log4j2.xml"),
                *("--model-store", settings.model_store),
                *("--models", *models),
            ],
            cwd=settings.run_dir,  # where it writes key_file.json
            environ=environ,
        )

    def start_portal(self) -> None:
        """Start the portal; it answers at once, predictions only when TorchServe is ready."""
        settings = self.settings
        # A prediction that waits keeps its thread; threads that nobody needs are never started.
        waiting = PortalSettings.from_environment(os.environ).max_in_flight
        self.portal.start(
            [
                *(sys.executable, "-m", "gunicorn", "portal.web.app:create_app()"),
                *("--bind", f"{settings.host}:{settings.port}"),
                # one process: the state of the health checks is shared by all threads
                *("--workers", "1", "--worker-class", "gthread"),
                *("--threads", str(waiting + SPARE_THREADS)),
                *("--config", "python:deploy.gunicorn_conf"),
                *("--graceful-timeout", "8"),  # seconds for the requests in flight when it ends
                *("--keep-alive", "15"),  # seconds that a connection stays open for the next tile
                "--no-control-socket",
            ],
            cwd=settings.root,
            environ=self._portal_environ(),
        )

    def start_scenes(self) -> None:
        """Start the worker that maps scenes; it waits for TorchServe by itself."""
        self.scenes.start(
            [sys.executable, "-m", "portal.scenes.worker"],
            cwd=self.settings.root,
            environ={
                **self._portal_environ(),
                # each thread of numpy's has a buffer of its own, and each arena keeps what it had
                "OPENBLAS_NUM_THREADS": "1",
                "MALLOC_ARENA_MAX": "2",
            },
        )

    def _portal_environ(self) -> dict[str, str]:
        """What the portal and the worker of scenes are told."""
        settings, properties = self.settings, self.settings.properties
        return {
            # as portal.cli.credentials writes them
            "PORTAL_PASSWORD_FILE": str(settings.run_dir / "password_hash"),
            "PORTAL_TOKEN_FILE": str(settings.run_dir / "token_hash"),
            "PORTAL_SCENES_DIR": str(settings.run_dir / "scenes"),
            **os.environ,
            "PORTAL_TORCHSERVE_INFERENCE": properties["inference_address"],
            "PORTAL_TORCHSERVE_MANAGEMENT": properties["management_address"],
            "PORTAL_TORCHSERVE_METRICS": properties["metrics_address"],
            "PORTAL_TORCHSERVE_KEY_FILE": str(settings.key_file),
            "PORTAL_TORCHSERVE_MODEL_LOG": str(settings.logs / "model_log.log"),
            "PORTAL_MODEL_STORE": str(settings.model_store),
            "PORTAL_DATABASE_URL": database_url(settings),
        }

    def predict_sample(self) -> tuple[int, str]:
        """Classify the sample tile through the portal; return the status and the body.

        Where predictions need a login, the portal is asked whether its own synthetic one worked.
        The status is 0 and the body the reason when the portal doesn't answer.
        """
        tile = (self.settings.root / SAMPLE).read_bytes()
        status, body = self._ask("POST", "/api/predict", tile)
        return self._ask("GET", "/api/health/ready") if status in (401, 403) else (status, body)

    def _ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, str]:
        host = self.settings.url.removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=30)
        # localhost is a name that the portal always has, whatever PORTAL_ALLOWED_HOSTS says
        headers = {"Content-Type": "image/jpeg", "Host": "localhost"}
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            return 0, str(error)
        finally:
            connection.close()

    def stop(self) -> None:
        """End all, TorchServe last: a request in flight still gets its answer."""
        self.portal.stop(grace=10)
        self.scenes.stop(grace=10)
        self.torchserve.stop(grace=10)
        clean(self.settings)


def database_url(settings: Settings) -> str:
    """The portal's database: what the environment says, else a file in the run folder."""
    given = os.environ.get("PORTAL_DATABASE_URL", "").strip()
    url = given or f"sqlite:///{settings.run_dir / 'portal.db'}"
    portal = PortalSettings.from_environment({"PORTAL_DATABASE_URL": url})
    return portal.database_url.get_secret_value()


def to_load(settings: Settings) -> list[str]:
    """The archives that TorchServe loads, the default version of each model first.

    Those that were built anew are noted. CannotServe when the portal's database cannot be used.
    """
    url = database_url(settings)
    try:
        note_archives(url, settings.model_store)
        return models_to_load(url, archives(settings))
    except StateUnavailable as error:
        raise CannotServe(str(error)) from error


def clean(settings: Settings) -> None:
    """Remove what a TorchServe that has ended left behind: its keys and its temporary files."""
    settings.key_file.unlink(missing_ok=True)
    if settings.temp_link.is_symlink():
        shutil.rmtree(settings.temp_link.readlink(), ignore_errors=True)
        settings.temp_link.unlink()

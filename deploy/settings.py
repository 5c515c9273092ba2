"""Where the product runs: its folders, its addresses, the archives that it serves."""

import errno
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from deploy import CannotServe
from handlers.contract.names import BadName, ModelVersion


@dataclass(frozen=True)
class Settings:
    """One running product; the portal listens on ``host``:``port``."""

    root: Path  # the checkout
    config: Path  # TorchServe's config.properties
    run_dir: Path  # for the key file and the logs
    host: str
    port: int

    @property
    def url(self) -> str:
        """The portal as a browser on this machine reaches it."""
        host = "127.0.0.1" if self.host == "0.0.0.0" else self.host  # noqa: S104  (compared only)
        return f"http://{host}:{self.port}"

    @property
    def key_file(self) -> Path:
        """TorchServe's keys; it writes them into the folder in which it was started."""
        return self.run_dir / "key_file.json"

    @property
    def temp_link(self) -> Path:
        """The link to TorchServe's temporary folder, there while it runs."""
        return self.run_dir / "tmp"

    @property
    def logs(self) -> Path:
        """The folder of all logs."""
        return self.run_dir / "logs"

    @property
    def properties(self) -> dict[str, str]:
        """What config.properties says; CannotServe when there is no such file."""
        try:
            lines = self.config.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise CannotServe(
                f"Cannot read TorchServe's settings {self.config}: {error.strerror}."
            ) from error
        pairs = (line.split("=", 1) for line in lines if not line.lstrip().startswith("#"))
        return {pair[0].strip(): pair[1].strip() for pair in pairs if len(pair) == 2}

    @property
    def model_store(self) -> Path:
        """The folder of the archives; a relative one counts from config.properties."""
        return (self.config.parent / self.properties.get("model_store", "model_store")).resolve()


def archives(settings: Settings) -> list[str]:
    """Return the file names of all archives, the newest version of each model first.

    CannotServe when there is none, or one whose name doesn't say model and version.
    """
    names = sorted(path.name for path in settings.model_store.glob("*.mar"))
    if not names:
        raise CannotServe(
            f"No archive in {settings.model_store}: expected <model>-<version>.mar, found none. "
            "Run `make archive`."
        )
    versions = {}
    for name in names:
        try:
            versions[name] = ModelVersion.of_archive(name)
        except BadName as error:
            raise CannotServe(
                f"{settings.model_store / name} is not called <model>-<version>.mar, "
                "for example baseline-1.0.mar: rename or remove it."
            ) from error
    return sorted(versions, key=versions.__getitem__, reverse=True)


def check_ports(settings: Settings) -> None:
    """Raise CannotServe when a port of the product is in use, with the way to choose another."""
    found = settings.properties
    _check_port(settings.host, settings.port, f"run `make serve PORT={settings.port + 1}`")
    for key in ("inference_address", "management_address", "metrics_address"):
        address = urlsplit(found.get(key, ""))
        if not address.hostname or not address.port:
            raise CannotServe(
                f"{key} in {settings.config} is {found.get(key)!r}: "
                "expected an address with a port, such as http://127.0.0.1:8080."
            )
        _check_port(address.hostname, address.port, f"change {key} in {settings.config}")
    for key, usual in (("grpc_inference_port", "7070"), ("grpc_management_port", "7071")):
        number = found.get(key, usual)
        if not number.isdecimal():
            raise CannotServe(f"{key} in {settings.config} is {number!r}: expected a port number.")
        _check_port("127.0.0.1", int(number), f"change {key} in {settings.config}")


def _check_port(host: str, port: int, remedy: str) -> None:
    with socket.socket() as probe:
        # as the servers do: a connection that ended a moment ago doesn't count
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            problem = f"Cannot listen on {host}:{port}: {error.strerror}."
            if error.errno == errno.EADDRINUSE:
                problem = f"Port {port} is in use{holder(port)}: stop that program, or {remedy}."
            raise CannotServe(problem) from error


def holder(port: int) -> str:
    """Name the program that listens on ``port``: " by java (process 12)", or "" if unknown."""
    with suppress(psutil.Error):  # other users' programs are not ours to see on every system
        for connection in psutil.net_connections("tcp"):
            _, used = connection.laddr or ("", 0)
            if connection.status == psutil.CONN_LISTEN and used == port and connection.pid:
                name = psutil.Process(connection.pid).name()
                return f" by {name} (process {connection.pid})"
    return ""

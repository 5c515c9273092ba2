"""A Postgres of these tests' own: in a temporary folder, on a free port of the loopback."""

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.support.product import free_ports

PROGRAMS = "/usr/lib/postgresql/*/bin"  # where Debian keeps them, not on PATH
START_WITHIN = 60  # seconds


class Postgres:
    """A server that listens, and makes empty databases."""

    def __init__(self, port: int, password: str) -> None:
        self.port = port
        self.password = password
        self._made = 0

    def new_database(self) -> str:
        """The URL of an empty database, as PORTAL_DATABASE_URL names it inside the portal."""
        self._made += 1
        name = f"portal{self._made}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return f"postgresql+psycopg://portal:{self.password}@127.0.0.1:{self.port}/{name}"

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="portal",
            password=self.password,
            dbname="postgres",
            autocommit=True,
        )


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Skips where no Postgres is installed, or nobody may run it; in CI it must not be missing."""
    programs = _programs()
    user = _user()
    folder = Path(tempfile.mkdtemp(prefix="eurosat-postgres-"))
    try:
        if user is not None:
            account = pwd.getpwnam(user)
            os.chown(folder, account.pw_uid, account.pw_gid)
        with _running(programs, folder, user) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _running(programs: Path, folder: Path, user: str | None) -> Iterator[Postgres]:
    (port,) = free_ports(1)
    password = secrets.token_hex(16)
    words = folder / "password"
    words.write_text(password)
    words.chmod(0o644)  # for another user, in a folder that only that user can enter
    made = subprocess.run(
        [
            programs / "initdb", "-D", folder / "data", "-U", "portal", "-E", "UTF8", "--no-sync",
            "--no-locale", "--auth=scram-sha-256", f"--pwfile={words}",
        ],
        cwd=folder, user=user, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    settings = {
        "port": port,
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "fsync": "off",
        "shared_buffers": "16MB",
    }
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [programs / "postgres", "-D", folder / "data", *options],
            cwd=folder, user=user, stdout=log, stderr=log,
        )  # fmt: skip
    server = Postgres(port, password)
    try:
        deadline = time.monotonic() + START_WITHIN
        while True:
            try:
                server.connect().close()
                break
            except psycopg.OperationalError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.05)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:  # it waits for connections that are still open
            process.kill()
            process.wait()


def _programs() -> Path:
    for folder in sorted(Path("/").glob(PROGRAMS.lstrip("/")), reverse=True):
        if (folder / "initdb").exists():
            return folder
    if (found := shutil.which("initdb")) is not None:
        return Path(found).parent
    missing = "no Postgres is installed: initdb was not found"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


def _user() -> str | None:
    """Whom Postgres runs as; it refuses to run as root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    for name in ("postgres", "nobody"):
        if name in names:
            return name
    pytest.skip("Postgres does not run as root, and there is no user postgres or nobody")

"""The portal on a fake model server, and a real archive."""

import subprocess
import sys
from pathlib import Path

import pytest
import werkzeug.test
from flask import Flask
from flask.testing import FlaskClient
from pydantic import SecretStr
from werkzeug.sansio.multipart import Event, MultipartEncoder, State

from portal.settings import Settings
from portal.web.app import create_app
from tests.support.fake_torchserve import FakeTorchServe
from tests.support.paths import ROOT, SAMPLES
from tests.support.real_archives import RELEASE


@pytest.fixture(autouse=True)
def empty_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Werkzeug's test client end the head of an empty part as every real client does."""

    class Encoder(MultipartEncoder):
        def send_event(self, event: Event) -> bytes:
            begins = self.state == State.DATA_START
            sent = super().send_event(event)
            return sent or b"\r\n" if begins else sent

    monkeypatch.setattr(werkzeug.test, "MultipartEncoder", Encoder)


@pytest.fixture(scope="session")
def mar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of one release, built from the code as it is now."""
    store = tmp_path_factory.mktemp("archive")
    command = [sys.executable, "-m", "training.archive", "--store", str(store), str(RELEASE)]
    subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, check=True)
    return store / f"{RELEASE.name}.mar"


@pytest.fixture
def tile() -> bytes:
    return (SAMPLES / "AnnualCrop.jpg").read_bytes()


@pytest.fixture
def reports_dir(tmp_path: Path) -> Path:
    return tmp_path / "releases"


@pytest.fixture
def settings(reports_dir: Path, tmp_path: Path) -> Settings:
    return Settings(
        max_upload_bytes=20_000,
        max_in_flight=2,
        max_batch_bytes=100_000,
        batch_timeout=5,
        reports_dir=reports_dir,
        model_store=tmp_path / "model_store",
        scenes_dir=tmp_path / "scenes",
        database_url=SecretStr(f"sqlite:///{tmp_path}/portal.db"),
    )


@pytest.fixture
def torchserve() -> FakeTorchServe:
    return FakeTorchServe()


@pytest.fixture
def app(settings: Settings, torchserve: FakeTorchServe) -> Flask:
    return create_app(settings, torchserve)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()

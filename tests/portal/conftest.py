"""The portal on a fake model server."""

from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from portal.settings import Settings
from portal.web.app import create_app
from tests.support.fake_torchserve import FakeTorchServe
from tests.support.paths import SAMPLES


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
        database_url=f"sqlite:///{tmp_path}/portal.db",
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

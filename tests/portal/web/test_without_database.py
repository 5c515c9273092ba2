"""What the portal says and does while its database is away."""

from pathlib import Path

import pytest
from flask.testing import FlaskClient

from portal.settings import Settings
from tests.support.fake_torchserve import FakeTorchServe
from tests.support.openapi import conforms
from tests.support.operators import BEARER, password_hash, settings

__all__ = ["password_hash", "settings"]  # fixtures


@pytest.fixture
def path(client: FlaskClient, settings: Settings) -> Path:
    """Of the database, which has been in use and is gone."""
    assert client.get("/api/health").status_code == 200
    assert client.get("/models").status_code == 200
    found = Path(settings.database_url.get_secret_value().removeprefix("sqlite:///"))
    found.rename(found.with_name("away.db"))
    return found


@pytest.mark.usefixtures("path")
def test_health_says_so_and_readiness_is_about_predictions(
    client: FlaskClient, tile: bytes
) -> None:
    body = conforms(client.get("/api/health"), "/api/health", "get", 503)
    assert body["status"] == "degraded"
    (failure,) = body["failures"]
    assert (failure["model"], failure["version"]) == (None, None)
    assert "The portal's database is gone: its file was there when" in failure["reason"]
    assert len(body["models_loaded"]) == 1
    assert client.get("/api/health/ready").status_code == 200
    assert client.post("/api/predict", data=tile).status_code == 200


@pytest.mark.usefixtures("path")
def test_pages_say_so(client: FlaskClient) -> None:
    page = client.get("/models")
    assert page.status_code == 503
    assert "The portal&#39;s database is gone" in page.text
    assert client.get("/models/jobs/0123456789ab").status_code == 503
    client.get("/api/health")
    home = client.get("/")
    assert home.status_code == 200
    assert 'data-state="database"' in home.text
    assert "The portal&#39;s database cannot be used" in home.text
    assert client.get("/reports").status_code == 200


def test_nothing_is_changed(client: FlaskClient, torchserve: FakeTorchServe, path: Path) -> None:
    answer = client.post("/api/models/baseline/1.0/scale", json={"workers": 2}, headers=BEARER)
    assert answer.status_code == 503
    assert answer.get_json()["error"]["code"] == "state_unavailable"
    assert torchserve.changes == []
    assert not path.exists()
    path.with_name("away.db").rename(path)
    assert client.get("/api/health").status_code == 200
    assert client.get("/models").status_code == 200

import io
import logging
import re

import pytest
from flask import Flask
from flask.testing import FlaskClient

from portal.errors import ModelServerDown
from portal.settings import Settings
from tests.support.fake_torchserve import FakeTorchServe


@pytest.mark.parametrize("path", ["/", "/nothing", "/api/health", "/static/portal.css"])
def test_every_answer_has_the_headers(client: FlaskClient, path: str) -> None:
    with client.get(path) as response:  # a static file is open until then
        headers = response.headers
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert re.fullmatch(r"[0-9a-f]{32}", headers["X-Request-ID"])


def test_only_static_files_are_kept(client: FlaskClient) -> None:
    assert client.get("/api/health").headers["Cache-Control"] == "no-store"
    assert client.get("/").headers["Cache-Control"] == "no-store"
    with client.get("/static/portal.css") as response:
        assert "no-store" not in response.headers["Cache-Control"]


@pytest.mark.parametrize("offered", ["abc-DEF_123", "x" * 64])
def test_a_client_keeps_its_id(client: FlaskClient, offered: str) -> None:
    response = client.get("/api/nothing", headers={"X-Request-ID": offered})
    assert response.headers["X-Request-ID"] == offered
    assert response.get_json()["error"]["request_id"] == offered


@pytest.mark.parametrize("offered", ["", "x" * 65, "a b", "a<b>", "\u00e9"])
def test_an_unfit_id_is_replaced(client: FlaskClient, offered: str) -> None:
    response = client.get("/", headers={"X-Request-ID": offered})
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["X-Request-ID"])


def test_two_requests_have_two_ids(client: FlaskClient) -> None:
    ids = {client.get("/api/health/live").headers["X-Request-ID"] for _ in range(2)}
    assert len(ids) == 2


def test_the_log_says_who_what_and_how_long(
    client: FlaskClient, tile: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "portal.web.middleware")
    client.post("/api/predict?version=2.0", data=tile, headers={"X-Request-ID": "mine"})
    (record,) = [record for record in caplog.records if record.name == "portal.web.middleware"]
    assert re.fullmatch(
        r"request=mine method=POST path='/api/predict' model='baseline' version='2.0' "
        r"status=200 seconds=\d+\.\d{4}",
        record.getMessage(),
    )


def test_a_refused_prediction_is_logged_with_its_model(
    client: FlaskClient,
    torchserve: FakeTorchServe,
    tile: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "portal.web.middleware")
    torchserve.predict_error = ModelServerDown("down")
    client.post("/api/predict", data=tile)
    assert "model='baseline' version=None status=503" in caplog.text


def test_a_path_cannot_forge_a_line(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "portal.web.middleware")
    client.get("/x%0Arequest=forged%1b[31m")
    (record,) = [record for record in caplog.records if record.name == "portal.web.middleware"]
    assert "\n" not in record.getMessage()
    assert "\x1b" not in record.getMessage()


class Body(io.BytesIO):
    """A request body that ends by itself, as gunicorn's does; it may break instead."""

    def __init__(self, data: bytes, *, broken: bool = False) -> None:
        super().__init__(data)
        self._broken = broken

    def read(self, size: int | None = -1) -> bytes:
        if self._broken:
            raise OSError("the client has gone")
        return super().read(size)


@pytest.mark.parametrize("path", ["/api/predict", "/api/nothing", "/"])
def test_a_refused_body_is_read_to_its_end(client: FlaskClient, path: str) -> None:
    body = Body(bytes(1_000_000))
    environ = {"wsgi.input_terminated": True}
    response = client.post(
        path, input_stream=body, environ_overrides=environ, content_length=1_000_000
    )
    assert response.status_code in (404, 413)
    assert io.BytesIO.read(body) == b""


def test_a_chunked_body_has_the_same_limit(client: FlaskClient, tile: bytes) -> None:
    environ = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    body = Body(tile + bytes(1_000_000))
    response = client.post("/api/predict", input_stream=body, environ_overrides=environ)
    assert (response.status_code, response.get_json()["error"]["code"]) == (413, "too_large")
    assert io.BytesIO.read(body) == b""
    response = client.post("/api/predict", input_stream=Body(tile), environ_overrides=environ)
    assert response.status_code == 200


def test_a_body_without_end_is_not_read_to_its_end(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portal.web.middleware.DRAIN_LIMIT", 100_000)
    environ = {"wsgi.input_terminated": True}
    body = Body(bytes(1_000_000))
    response = client.post(
        "/api/predict", input_stream=body, environ_overrides=environ, content_length=1_000_000
    )
    assert response.status_code == 413
    assert len(io.BytesIO.read(body)) > 500_000


def test_a_client_that_has_gone_harms_nothing(client: FlaskClient) -> None:
    response = client.post(
        "/api/nothing",
        input_stream=Body(b"x", broken=True),
        environ_overrides={"wsgi.input_terminated": True},
    )
    assert response.status_code == 404


# --- the host ------------------------------------------------------------------------------------


def status_for(app: Flask, host: str, path: str = "/") -> int:
    return app.test_client().get(path, headers={"Host": host}).status_code


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "localhost:8000", "LOCALHOST", "127.0.0.1", "127.0.0.1:54321", "[::1]:8000"),
        *("192.168.1.7:8000", "[2001:db8::1]"),  # docker run -p, asked from another machine
    ],
)
def test_the_loopback_and_addresses_are_ours(app: Flask, host: str) -> None:
    assert status_for(app, host) == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example"),
        *(
            "notlocalhost",
            "evil.example@localhost",
            "localhost@evil.example",
            "[evil]",
            "1.2.3",
            ":",
        ),
    ],
)
def test_other_names_are_not(app: Flask, host: str) -> None:
    assert status_for(app, host) == 400
    assert status_for(app, host, "/api/health") == 400
    assert status_for(app, host, "/nothing") == 400


def test_a_wrong_host_is_told_how_to_be_allowed(app: Flask) -> None:
    answer = app.test_client().get("/api/health", headers={"Host": "gpu-7.example"})
    error = answer.get_json()["error"]
    assert error["code"] == "unknown_host"
    assert "gpu-7.example" in error["message"]
    assert "PORTAL_ALLOWED_HOSTS" in error["message"]


def test_another_host_by_a_header_is_not_believed(client: FlaskClient) -> None:
    answer = client.get("/", headers={"X-Forwarded-Host": "evil.example"})
    assert answer.status_code == 200
    assert "evil" not in answer.text


@pytest.mark.parametrize("path", ["/api/health/live", "/api/health/ready"])
def test_probes_may_use_any_name(app: Flask, path: str) -> None:
    assert status_for(app, "pod-17", path) == 200


class TestNamedHosts:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"allowed_hosts": ("landuse.example", ".lab.example")})

    @pytest.mark.parametrize(
        ("host", "status"),
        [
            ("landuse.example:8000", 200),
            ("gpu.lab.example", 200),
            ("localhost:8000", 200),  # the supervisor asks under this name
            ("other.landuse.example", 400),
            ("192.168.1.7", 400),
        ],
    )
    def test_the_list_is_what_counts(self, app: Flask, host: str, status: int) -> None:
        assert status_for(app, host) == status

"""A raw image takes the fast path, the same image in a form does not: clients see no difference."""

import logging

import pytest
from flask import Flask
from flask.testing import FlaskClient
from pydantic import SecretStr
from werkzeug.test import TestResponse

from portal import errors
from portal.settings import Settings
from portal.web.app import create_app
from tests.support.fake_torchserve import FakeTorchServe

ID = {"X-Request-ID": "mine"}


class Counting:
    """Stands where Flask does, and counts what comes through."""

    def __init__(self, app: Flask) -> None:
        self.requests = 0
        self._inner = app.wsgi_app._app  # type: ignore[attr-defined]
        app.wsgi_app._app = self  # type: ignore[attr-defined]

    def __call__(self, environ: object, start_response: object) -> object:
        self.requests += 1
        return self._inner(environ, start_response)


@pytest.fixture
def flask(app: Flask) -> Counting:
    return Counting(app)


def test_the_answer_is_that_of_the_long_way(
    client: FlaskClient, flask: Counting, tile: bytes
) -> None:
    thin = client.post("/api/predict", data=tile, headers=ID)
    assert flask.requests == 0
    long = client.post("/api/predict?", data=tile, headers=ID, query_string={"x": "1"})
    assert flask.requests == 1
    assert thin.status_code == long.status_code == 200
    assert thin.data == long.data
    long.headers.remove("Vary")  # it looked for a session, and the answer depends on none
    assert dict(thin.headers) == dict(long.headers)


def test_its_line_and_its_counts_are_those_of_the_long_way(
    client: FlaskClient, flask: Counting, tile: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "portal.web.middleware"):
        client.post("/api/predict?model=resnet18&version=2.1", data=tile, headers=ID)
        client.post("/api/predict?model=resnet18&version=2.1&x=1", data=tile, headers=ID)
    thin, long = (record.getMessage().partition(" seconds=")[0] for record in caplog.records)
    assert thin == long
    assert "request=mine" in thin
    assert "model='resnet18' version='2.1' status=200" in thin
    assert flask.requests == 1
    text = client.get("/metrics").text
    assert 'landuse_requests_total{method="POST",route="/api/predict",status="200"} 2.0' in text
    assert "landuse_requests_in_flight 1.0" in text  # the scrape itself
    (line,) = (line for line in text.splitlines() if line.startswith("landuse_predictions_total"))
    assert line.endswith(" 2.0")


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/api/predict", b"", {}, 400),
        ("/api/predict", b"hello", {}, 415),
        ("/api/predict", b"{}", {}, 400),
        ("/api/predict?scale=2000", b"\xff\xd8\xff", {}, 400),
        ("/api/predict", b"\xff\xd8\xff" + bytes(20_000), {}, 413),
        ("/api/predict?model=Baseline", b"\xff\xd8\xff", {}, 404),
        ("/api/predict?version=1.0&version=2.0", b"\xff\xd8\xff", {}, 400),
        ("/api/predict?model=..%2Fx", b"\xff\xd8\xff", {}, 404),
        ("/api/predict", b"\xff\xd8\xff", {"Host": "elsewhere.example"}, 400),
    ],
)
def test_whatever_is_refused_is_refused_by_flask(
    client: FlaskClient,
    flask: Counting,
    torchserve: FakeTorchServe,
    path: str,
    body: bytes,
    headers: dict[str, str],
    status: int,
) -> None:
    assert client.post(path, data=body, headers=headers).status_code == status
    assert flask.requests == 1
    assert torchserve.asked == []


def test_half_an_image_is_none(
    client: FlaskClient, flask: Counting, torchserve: FakeTorchServe, tile: bytes
) -> None:
    promised = {"CONTENT_LENGTH": str(len(tile) + 1), "wsgi.input_terminated": True}
    answer = client.post("/api/predict", data=tile, environ_overrides=promised)
    assert answer.status_code == 400
    assert flask.requests == 1
    assert torchserve.asked == []


def error_of(answer: TestResponse) -> tuple[int, str, str]:
    error = answer.get_json()["error"]
    return answer.status_code, error["code"], error["request_id"]


def test_what_fails_is_answered_by_flask_and_not_asked_again(
    client: FlaskClient, flask: Counting, torchserve: FakeTorchServe, tile: bytes
) -> None:
    torchserve.predict_error = errors.TooSlow("late")
    answer = client.post("/api/predict?model=resnet18", data=tile, headers=ID)
    assert error_of(answer) == (504, "too_slow", "mine")
    assert len(torchserve.asked) == flask.requests == 1
    text = client.get("/metrics").text
    assert 'landuse_requests_total{method="POST",route="/api/predict",status="504"} 1.0' in text
    assert "landuse_requests_in_flight 1.0" in text


def test_a_closed_portal_asks_who_it_is(
    settings: Settings, torchserve: FakeTorchServe, tile: bytes
) -> None:
    closed = create_app(
        settings.model_copy(update={"public": False, "token_hash": SecretStr("0" * 64)}), torchserve
    )
    assert closed.test_client().post("/api/predict", data=tile).status_code == 401
    assert torchserve.asked == []

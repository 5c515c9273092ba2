import base64
import io
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from handlers.contract.image_body import wrap
from handlers.contract.names import ModelVersion
from portal import errors
from portal.errors import PortalError
from portal.services import Services
from portal.serving.model_server import Prediction
from tests.support.fake_torchserve import HEAT, PROBABILITIES, WARNING, FakeTorchServe, served


def upload(client: FlaskClient, image: bytes, **fields: str) -> TestResponse:
    data = {"file": (io.BytesIO(image), "tile.jpg"), **fields}
    return client.post("/api/predict", data=data)


def problem(response: TestResponse) -> tuple[int, str]:
    """Status and code of an error, after a look at its form."""
    error = response.get_json()["error"]
    assert set(error) == {"code", "message", "request_id"}
    assert error["request_id"] == response.headers["X-Request-ID"]
    return response.status_code, error["code"]


def test_predict_answers_as_agreed(client: FlaskClient, tile: bytes) -> None:
    response = upload(client, tile)
    assert response.status_code == 200
    assert response.get_json() == {
        "class_name": "AnnualCrop",
        "confidence": 0.75,
        "probabilities": PROBABILITIES,
        "uncertain": False,
        "prediction_set": ["AnnualCrop"],
        "warnings": [],
        "assumed": {},
        "model": "baseline",
        "version": "1.0",
        "inference_time": 0.0123,
        "request_id": response.headers["X-Request-ID"],
    }


def test_probabilities_keep_their_order(client: FlaskClient, tile: bytes) -> None:
    pairs = json.loads(upload(client, tile).data, object_pairs_hook=list)
    assert dict(pairs)["probabilities"] == list(PROBABILITIES.items())


def test_the_default_model_is_asked_without_a_version(
    client: FlaskClient, torchserve: FakeTorchServe, tile: bytes
) -> None:
    upload(client, tile, version="")
    assert torchserve.asked == [(tile, "baseline", "1.0")]


@pytest.mark.parametrize("how", ["form", "query", "raw"])
def test_model_and_version_can_be_named(
    client: FlaskClient, torchserve: FakeTorchServe, tile: bytes, how: str
) -> None:
    if how == "form":
        response = upload(client, tile, model="resnet18", version="2.1")
    elif how == "query":
        data = {"file": (io.BytesIO(tile), "tile.jpg")}
        response = client.post("/api/predict?model=resnet18&version=2.1", data=data)
    else:
        response = client.post("/api/predict?model=resnet18&version=2.1", data=tile)
    assert (response.get_json()["model"], response.get_json()["version"]) == ("resnet18", "2.1")
    assert torchserve.asked == [(tile, "resnet18", "2.1")]


@pytest.mark.parametrize(
    "content_type", ["image/jpeg", "application/x-www-form-urlencoded", "text/plain", None]
)
def test_a_raw_body_is_taken_whatever_its_type(
    client: FlaskClient, torchserve: FakeTorchServe, tile: bytes, content_type: str | None
) -> None:
    response = client.post("/api/predict", data=tile, content_type=content_type)
    assert response.status_code == 200
    assert torchserve.asked[0][0] == tile


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("model=..%2Fx", (404, "unknown_model")),
        ("model=Baseline", (404, "unknown_model")),
        ("version=all", (404, "unknown_model")),
        ("version=1.0%0Ax", (404, "unknown_model")),
        ("version=1.0&version=2.0", (400, "bad_request")),
    ],
)
def test_names_that_cannot_be_are_not_passed_on(
    client: FlaskClient,
    torchserve: FakeTorchServe,
    tile: bytes,
    parameters: str,
    expected: tuple[int, str],
) -> None:
    response = client.post(f"/api/predict?{parameters}", data=tile)
    assert problem(response) == expected
    assert torchserve.asked == []


def test_no_image(client: FlaskClient) -> None:
    assert problem(client.post("/api/predict")) == (400, "no_image")
    assert problem(upload(client, b"")) == (400, "no_image")
    text = client.post("/api/predict", data={"file": "x"}, content_type="multipart/form-data")
    assert problem(text) == (400, "no_image")
    wrong = {"image": (io.BytesIO(b"\xff\xd8\xff"), "tile.jpg")}
    assert problem(client.post("/api/predict", data=wrong)) == (400, "no_image")


def test_no_multipart_without_a_boundary(client: FlaskClient) -> None:
    response = client.post("/api/predict", data=b"x", content_type="multipart/form-data")
    assert problem(response) == (400, "no_image")


@pytest.mark.parametrize("extra", [1, 100_000])  # above the image's limit, above the body's limit
def test_too_large(client: FlaskClient, torchserve: FakeTorchServe, extra: int) -> None:
    image = b"\xff\xd8\xff" + bytes(20_000 - 3 + extra)
    assert problem(upload(client, image)) == (413, "too_large")
    assert problem(client.post("/api/predict", data=image)) == (413, "too_large")
    assert torchserve.asked == []


def test_the_limit_itself_is_not_too_large(client: FlaskClient) -> None:
    image = b"\xff\xd8\xff" + bytes(20_000 - 3)
    assert upload(client, image).status_code == 200
    assert client.post("/api/predict", data=image).status_code == 200


@pytest.mark.parametrize("image", [b"hello", b"<svg/>", b"%PDF-1.7", b"RIFF1234WAVE", b"\xff\xd8"])
def test_not_an_image(client: FlaskClient, torchserve: FakeTorchServe, image: bytes) -> None:
    assert problem(upload(client, image)) == (415, "unsupported_image")
    assert torchserve.asked == []


@pytest.mark.parametrize(
    ("error", "answer", "retry_after"),
    [
        (errors.UnknownModel, (404, "unknown_model"), None),
        (errors.TooLarge, (413, "too_large"), None),
        (errors.UnsupportedImage, (415, "unsupported_image"), None),
        (errors.UnusableImage, (422, "unusable_image"), None),
        (errors.NothingToSee, (422, "nothing_to_see"), None),
        (errors.UnknownScale, (422, "unknown_scale"), None),
        (errors.BadAnswer, (502, "bad_model_server_answer"), None),
        (errors.ModelServerDown, (503, "model_server_down"), "5"),
        (errors.ModelNotReady, (503, "model_not_ready"), "5"),
        (errors.TooSlow, (504, "too_slow"), None),
    ],
)
def test_errors_of_the_model_server(
    client: FlaskClient,
    torchserve: FakeTorchServe,
    error: type[PortalError],
    answer: tuple[int, str],
    retry_after: str | None,
) -> None:
    torchserve.predict_error = error("What was found. What to do.")
    response = upload(client, b"\xff\xd8\xff")
    assert problem(response) == answer
    assert response.get_json()["error"]["message"] == "What was found. What to do."
    assert response.headers.get("Retry-After") == retry_after


def test_an_unexpected_error_is_logged_once_and_not_shown(
    client: FlaskClient,
    torchserve: FakeTorchServe,
    tile: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    torchserve.predict_error = RuntimeError("the secret path")
    response = upload(client, tile)
    assert problem(response) == (500, "internal_error")
    assert b"secret" not in response.data
    assert [record.name for record in caplog.records if record.exc_info] == [
        "portal.web.error_handlers"
    ]
    assert caplog.text.count("RuntimeError: the secret path") == 1


def test_what_is_doubtful_is_told(
    client: FlaskClient, torchserve: FakeTorchServe, tile: bytes
) -> None:
    torchserve.told = {
        "uncertain": True,
        "prediction_set": ("AnnualCrop", "SeaLake"),
        "warnings": (WARNING,),
        "assumed": {"scale": "10000"},
    }
    for response in (client.post("/api/predict", data=tile), upload(client, tile)):
        answer = response.get_json()
        assert answer["uncertain"] is True
        assert answer["prediction_set"] == ["AnnualCrop", "SeaLake"]
        assert answer["warnings"] == [vars(WARNING)]
        assert answer["assumed"] == {"scale": "10000"}


@pytest.mark.parametrize("path", ["/api/predict", "/api/explain", "/api/predict/batch"])
@pytest.mark.parametrize("how", ["form", "query"])
def test_scale_and_look_can_be_named(
    client: FlaskClient, torchserve: FakeTorchServe, tile: bytes, path: str, how: str
) -> None:
    field = "files" if path.endswith("batch") else "file"
    data: dict[str, object] = {field: (io.BytesIO(tile), "tile.jpg")}
    known = {"scale": "10000", "look": "l2a"}
    data, query = (data | known, {}) if how == "form" else (data, known)
    assert client.post(path, data=data, query_string=query).status_code == 200
    ((image, *_),) = torchserve.asked + torchserve.explained
    assert image == wrap(tile, "10000", "l2a")


@pytest.mark.parametrize("path", ["/api/predict", "/api/explain", "/api/predict/batch"])
def test_an_unknown_scale_is_refused_with_the_known_ones(
    client: FlaskClient, torchserve: FakeTorchServe, tile: bytes, path: str
) -> None:
    field = "files" if path.endswith("batch") else "file"
    data = {field: (io.BytesIO(tile), "tile.jpg"), "scale": "2000"}
    response = client.post(path, data=data)
    assert problem(response) == (400, "bad_request")
    assert "10000-offset" in response.get_json()["error"]["message"]
    assert torchserve.asked + torchserve.explained == []


def test_a_raw_body_with_a_scale(
    client: FlaskClient, torchserve: FakeTorchServe, tile: bytes
) -> None:
    assert client.post("/api/predict?scale=auto&look=auto", data=tile).status_code == 200
    assert client.post("/api/predict?model=baseline&scale=255", data=tile).status_code == 200
    assert [image for image, *_ in torchserve.asked] == [tile, wrap(tile, "255", "auto")]


@pytest.mark.parametrize("path", ["/api/predict", "/api/explain"])
@pytest.mark.parametrize("instances", [False, True])
@pytest.mark.parametrize("head", ["", "data:image/jpeg;base64,"])
def test_an_image_in_json(
    client: FlaskClient,
    torchserve: FakeTorchServe,
    tile: bytes,
    path: str,
    head: str,
    *,
    instances: bool,
) -> None:
    text = head + base64.b64encode(tile).decode()
    body = {"instances": [{"image": {"b64": text}}]} if instances else {"image": text}
    response = client.post(path, json={**body, "model": "resnet18", "version": "2.1"})
    assert response.status_code == 200
    assert torchserve.asked + torchserve.explained == [(tile, "resnet18", "2.1")]
    client.post(path, json={**body, "scale": "255"})
    assert (torchserve.asked + torchserve.explained)[1][0] == wrap(tile, "255", "auto")


def test_json_that_holds_no_image(client: FlaskClient, torchserve: FakeTorchServe) -> None:
    assert problem(client.post("/api/predict", json={})) == (400, "no_image")
    assert problem(client.post("/api/predict", data=b"{")) == (400, "bad_request")
    text = client.post("/api/predict", json={"image": "hello"})
    assert problem(text) == (415, "unsupported_image")
    assert torchserve.asked == []


def test_base64_as_the_whole_body(
    client: FlaskClient, torchserve: FakeTorchServe, tile: bytes
) -> None:
    assert client.post("/api/predict", data=base64.b64encode(tile)).status_code == 200
    assert torchserve.asked == [(tile, "baseline", "1.0")]


def test_an_older_version_cannot_be_told_a_scale(
    client: FlaskClient, torchserve: FakeTorchServe, tile: bytes
) -> None:
    torchserve.old = {"1.0"}
    response = client.post("/api/predict?scale=10000", data=tile)
    assert problem(response) == (501, "takes_no_hints")


def explain(client: FlaskClient, image: bytes) -> TestResponse:
    return client.post("/api/explain", data=image)


def test_explain_answers_as_agreed(
    client: FlaskClient, torchserve: FakeTorchServe, tile: bytes
) -> None:
    response = client.post("/api/explain?model=resnet18&version=2.1", data=tile)
    assert response.status_code == 200
    assert response.get_json() == {
        "class_name": "AnnualCrop",
        "confidence": 0.75,
        "heat": [list(row) for row in HEAT],
        "model": "resnet18",
        "version": "2.1",
        "inference_time": 0.5,
        "request_id": response.headers["X-Request-ID"],
    }
    assert torchserve.explained == [(tile, "resnet18", "2.1")]
    assert torchserve.asked == []


def test_explain_refuses_what_predict_refuses(
    client: FlaskClient, torchserve: FakeTorchServe
) -> None:
    assert problem(explain(client, b"")) == (400, "no_image")
    assert problem(explain(client, b"hello")) == (415, "unsupported_image")
    assert problem(client.post("/api/explain?version=x", data=b"BM")) == (404, "unknown_model")
    assert torchserve.explained == []


def test_few_explanations_at_a_time(app: Flask, client: FlaskClient, tile: bytes) -> None:
    own = app.extensions["portal"]
    assert isinstance(own, Services)
    with own.predictor.explanations, own.predictor.explanations:
        response = explain(client, tile)
        assert problem(response) == (503, "busy")
        assert response.headers["Retry-After"] == "1"
        assert upload(client, tile).status_code == 200
    with own.predictor.in_flight, own.predictor.in_flight:
        assert problem(explain(client, tile)) == (503, "busy")
    assert explain(client, tile).status_code == 200


def test_a_failed_explanation_gives_its_seats_back(
    client: FlaskClient, torchserve: FakeTorchServe, tile: bytes
) -> None:
    torchserve.explain_error = errors.NoExplanations("An older archive.")
    for _ in range(5):
        assert problem(explain(client, tile)) == (501, "no_explanations")
    torchserve.explain_error = None
    assert explain(client, tile).status_code == 200


class Waiting(FakeTorchServe):
    """Answers only when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()

    def predict(
        self, image: bytes, served: ModelVersion, timeout: float | None = None
    ) -> Prediction:
        self.entered.release()
        assert self.go.wait(10)
        return super().predict(image, served, timeout)


class TestBusy:
    @pytest.fixture
    def torchserve(self) -> Iterator[Waiting]:
        waiting = Waiting()
        yield waiting
        waiting.go.set()

    def test_predictions_beyond_the_seats_are_refused_at_once(
        self, app: Flask, torchserve: Waiting, tile: bytes
    ) -> None:
        statuses: list[int] = []

        def ask() -> None:
            statuses.append(upload(app.test_client(), tile).status_code)

        with ExitStack() as stack:
            for _ in range(2):
                thread = threading.Thread(target=ask)
                thread.start()
                stack.callback(thread.join)
                assert torchserve.entered.acquire(timeout=10)
            response = upload(app.test_client(), tile)
            assert problem(response) == (503, "busy")
            assert response.headers["Retry-After"] == "1"
            torchserve.go.set()
        assert statuses == [200, 200]
        assert upload(app.test_client(), tile).status_code == 200

    def test_a_failed_prediction_gives_its_seat_back(
        self, app: Flask, torchserve: Waiting, tile: bytes
    ) -> None:
        torchserve.go.set()
        torchserve.predict_error = errors.TooSlow("late")
        for _ in range(5):
            assert upload(app.test_client(), tile).status_code == 504


def test_health_lists_what_is_served(client: FlaskClient, torchserve: FakeTorchServe) -> None:
    torchserve.versions = [served(), served("2.0", default=False, pids=(21, 22), wanted=2)]
    response = client.get("/api/health")
    assert response.status_code == 200
    baseline = {
        "model": "baseline",
        "default": True,
        "asleep": False,
        "workers_ready": 1,
        "workers": 1,
    }
    assert response.get_json() == {
        "status": "ok",
        "models_loaded": [
            {**baseline, "version": "1.0"},
            {**baseline, "version": "2.0", "default": False, "workers_ready": 2, "workers": 2},
        ],
        "failures": [],
    }


def test_health_says_that_the_server_is_down(
    client: FlaskClient, torchserve: FakeTorchServe
) -> None:
    torchserve.served_error = errors.ModelServerDown("no answer")
    response = client.get("/api/health")
    assert response.status_code == 503
    assert response.get_json() == {
        "status": "down",
        "models_loaded": [],
        "failures": [{"model": None, "version": None, "reason": "no answer"}],
    }


def test_ready_asks_for_the_default_model_only(
    client: FlaskClient, torchserve: FakeTorchServe
) -> None:
    torchserve.versions = [served(), served("2.0", default=False, ready=False)]
    assert client.get("/api/health").status_code == 503
    assert client.get("/api/health/ready").status_code == 200
    torchserve.versions = [served(ready=False)]
    assert client.get("/api/health/ready").status_code == 503


def test_live_asks_nobody(client: FlaskClient, torchserve: FakeTorchServe) -> None:
    torchserve.served_error = errors.ModelServerDown("no answer")
    response = client.get("/api/health/live")
    assert (response.status_code, response.get_json()) == (200, {"status": "alive"})


def test_a_probe_takes_no_seat(app: Flask, client: FlaskClient) -> None:
    own = app.extensions["portal"]
    assert isinstance(own, Services)
    with own.predictor.in_flight, own.predictor.in_flight:
        assert client.get("/api/health").status_code == 200

import io
import threading
import time
from contextlib import ExitStack
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from handlers.contract.names import ModelVersion
from handlers.contract.tile_bundle import LARGEST_BUNDLE
from portal import errors
from portal.errors import PortalError
from portal.services import Services
from portal.serving.model_server import Prediction
from portal.serving.predictor import BUNDLES_AT_ONCE, MAX_BATCHES
from portal.settings import Settings
from portal.web.uploads import LARGEST_BATCH
from tests.support.fake_torchserve import FakeTorchServe


def upload(client: FlaskClient, *images: bytes, **fields: str) -> TestResponse:
    files = [(io.BytesIO(image), f"{i}.jpg") for i, image in enumerate(images)]
    return client.post("/api/predict/batch", data={"files": files, **fields})


def statuses(response: TestResponse) -> list[int]:
    """The status of each item, after a look at its form."""
    assert response.status_code == 200
    found = []
    for i, item in enumerate(response.get_json()["results"]):
        assert set(item) == {"name", "prediction", "error"}
        assert item["name"] == f"{i}.jpg"
        assert (item["prediction"] is None) != (item["error"] is None)
        found.append(item["error"]["status"] if item["error"] else 200)
    return found


def code(response: TestResponse) -> tuple[int, str]:
    return response.status_code, response.get_json()["error"]["code"]


def jpeg(number: int) -> bytes:
    return b"\xff\xd8\xff" + number.to_bytes(2, "big")


class Scripted(FakeTorchServe):
    """Fails for single images, takes its time, and counts on how many bundles it works at once."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: dict[bytes, Exception] = {}
        self.seconds = 0.0
        self.timeouts: list[float | None] = []
        self.most = self._now = 0
        self._lock = threading.Lock()

    def predict_bundle(
        self, images: list[bytes], served: ModelVersion, timeout: float | None = None
    ) -> list[Prediction | PortalError]:
        assert 1 <= len(images) <= LARGEST_BUNDLE
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
            self.timeouts.append(timeout)
        try:
            time.sleep(self.seconds)
            return super().predict_bundle(images, served, timeout)
        finally:
            with self._lock:
                self._now -= 1

    def predict(
        self, image: bytes, served: ModelVersion, timeout: float | None = None
    ) -> Prediction:
        if image in self.errors:
            raise self.errors[image]
        answer = super().predict(image, served, timeout)
        # the image's number stands in the answer, so that an order can be seen
        return Prediction(**{**answer.__dict__, "inference_time": int.from_bytes(image[3:5])})


@pytest.fixture
def torchserve() -> Scripted:
    return Scripted()


def test_a_batch_answers_in_order(client: FlaskClient) -> None:
    response = upload(client, *map(jpeg, range(LARGEST_BATCH)))
    assert statuses(response) == [200] * LARGEST_BATCH
    results = response.get_json()["results"]
    assert [item["prediction"]["inference_time"] for item in results] == list(range(LARGEST_BATCH))
    assert results[0]["prediction"]["model"] == "baseline"
    assert response.get_json()["request_id"] == response.headers["X-Request-ID"]


def test_one_bad_tile_harms_no_other(client: FlaskClient, torchserve: Scripted) -> None:
    torchserve.errors = {jpeg(4): errors.UnusableImage("truncated")}
    large = b"\xff\xd8\xff" + bytes(20_000)
    response = upload(client, jpeg(0), b"", b"text", large, jpeg(4), jpeg(5))
    assert statuses(response) == [200, 400, 415, 413, 422, 200]
    assert len(torchserve.asked) == 2


def test_what_fails_for_a_bundle_fails_for_its_tiles_alone(
    client: FlaskClient, torchserve: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    half = LARGEST_BATCH // 2
    torchserve.errors = {jpeg(10): errors.ModelNotReady("worker lost")}
    response = upload(client, *map(jpeg, range(LARGEST_BATCH)))
    assert statuses(response) == [503] * half + [200] * half
    torchserve.errors = {jpeg(LARGEST_BATCH - 1): RuntimeError("the secret path")}
    response = upload(client, *map(jpeg, range(LARGEST_BATCH)))
    assert statuses(response) == [200] * half + [500] * half
    assert b"secret" not in response.data
    assert "the secret path" in caplog.text


def test_a_batch_of_bad_tiles_is_still_answered(client: FlaskClient) -> None:
    assert statuses(upload(client, b"", b"text")) == [400, 415]


@pytest.mark.parametrize(
    ("error", "answer", "retry_after"),
    [
        (errors.UnknownModel, (404, "unknown_model"), None),
        (errors.ModelServerDown, (503, "model_server_down"), "5"),
        (errors.BadAnswer, (502, "bad_model_server_answer"), None),
    ],
)
def test_what_fails_for_all_is_the_answer_of_all(
    client: FlaskClient,
    torchserve: Scripted,
    error: type[PortalError],
    answer: tuple[int, str],
    retry_after: str | None,
) -> None:
    torchserve.predict_error = error("What was found.")
    response = upload(client, b"text", jpeg(1), jpeg(2))
    assert code(response) == answer
    assert response.headers.get("Retry-After") == retry_after


def test_model_and_version_can_be_named(client: FlaskClient, torchserve: Scripted) -> None:
    upload(client, jpeg(1), model="resnet18", version="2.1")
    assert torchserve.asked == [(jpeg(1), "resnet18", "2.1")]
    assert code(upload(client, jpeg(1), version="x")) == (404, "unknown_model")


def test_limits(client: FlaskClient, torchserve: Scripted) -> None:
    too_many = upload(client, *map(jpeg, range(LARGEST_BATCH + 1)))
    assert code(too_many) == (413, "too_many_tiles")
    assert "257 files" in too_many.get_json()["error"]["message"]
    large = b"\xff\xd8\xff" + bytes(15_000)
    assert statuses(upload(client, *[large] * 6)) == [200] * 6  # above the limit of one image
    response = upload(client, *[large] * 7)
    assert code(response) == (413, "too_large")
    assert "All files together" in response.get_json()["error"]["message"]
    assert len(torchserve.asked) == 6


@pytest.mark.parametrize(
    "data",
    [{}, {"file": (io.BytesIO(b"\xff\xd8\xff"), "tile.jpg")}, {"files": "text"}, b"\xff\xd8\xff"],
)
def test_no_files(client: FlaskClient, data: Any) -> None:
    assert code(client.post("/api/predict/batch", data=data)) == (400, "no_image")


def test_stacks_of_a_batch_are_bounded(client: FlaskClient, torchserve: Scripted) -> None:
    torchserve.seconds = 0.05
    assert statuses(upload(client, *map(jpeg, range(LARGEST_BATCH)))) == [200] * LARGEST_BATCH
    assert torchserve.most == BUNDLES_AT_ONCE
    assert len(torchserve.timeouts) == LARGEST_BATCH / LARGEST_BUNDLE


class TestDeadline:
    @pytest.fixture
    def settings(self) -> Settings:
        return Settings(batch_timeout=0.5)

    def test_the_whole_batch_has_one(self, client: FlaskClient, torchserve: Scripted) -> None:
        torchserve.seconds = 0.6
        found = statuses(upload(client, *map(jpeg, range(LARGEST_BATCH))))
        reached = BUNDLES_AT_ONCE * LARGEST_BUNDLE
        assert found == [200] * reached + [504] * (LARGEST_BATCH - reached)
        assert all(timeout is not None and 0 < timeout <= 0.5 for timeout in torchserve.timeouts)


def test_batches_are_bounded(app: Flask, client: FlaskClient) -> None:
    own = app.extensions["portal"]
    assert isinstance(own, Services)
    with ExitStack() as others:
        for _ in range(MAX_BATCHES):
            others.enter_context(own.predictor.batches)
        response = upload(client, jpeg(1))
    assert code(response) == (503, "busy")
    assert response.headers["Retry-After"] == "1"
    for _ in range(MAX_BATCHES + 1):
        assert statuses(upload(client, jpeg(1))) == [200]

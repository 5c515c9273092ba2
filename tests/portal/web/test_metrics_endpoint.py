import io

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from portal.errors import BadAnswer, ModelServerDown, UnknownModel, UnusableImage
from tests.support.fake_torchserve import FakeTorchServe, served


def samples(client: FlaskClient) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """All of /metrics, as Prometheus reads it: name and labels to value."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.content_type == "text/plain; version=0.0.4; charset=utf-8"
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def value(client: FlaskClient, name: str, **labels: str) -> float | None:
    return samples(client).get((name, frozenset(labels.items())))


def predict(client: FlaskClient, tile: bytes, **query: str) -> int:
    return client.post("/api/predict", data=tile, query_string=query).status_code


def test_requests_are_counted_by_route_and_status(client: FlaskClient, tile: bytes) -> None:
    for _ in range(3):
        predict(client, tile)
    predict(client, b"text")
    client.get("/reports/baseline/7.7")
    counted = {"route": "/api/predict", "method": "POST"}
    assert value(client, "landuse_requests_total", **counted, status="200") == 3
    assert value(client, "landuse_requests_total", **counted, status="415") == 1
    report = {"route": "/reports/<model>/<version>", "method": "GET", "status": "404"}
    assert value(client, "landuse_requests_total", **report) == 1
    assert value(client, "landuse_request_seconds_count", route="/api/predict") == 4
    assert value(client, "landuse_requests_in_flight") == 1  # the scrape itself


def test_predictions_are_counted_by_class_and_version(client: FlaskClient, tile: bytes) -> None:
    predict(client, tile)
    predict(client, tile, version="2.0")
    files = [(io.BytesIO(tile), "a.jpg"), (io.BytesIO(b"text"), "b.jpg")]
    client.post("/api/predict/batch", data={"files": files})
    first = {"model": "baseline", "version": "1.0"}
    counted = {"class_name": "AnnualCrop", "uncertain": "false"}
    assert value(client, "landuse_predictions_total", **first, **counted) == 2
    assert value(client, "landuse_prediction_confidence_sum", **first) == 1.5
    assert value(client, "landuse_prediction_confidence_bucket", **first, le="0.7") == 0
    assert value(client, "landuse_prediction_confidence_bucket", **first, le="0.8") == 2
    assert value(client, "landuse_prediction_seconds_count", **first) == 2
    second = {"model": "baseline", "version": "2.0"}
    assert value(client, "landuse_predictions_total", **second, **counted) == 1
    code = {"code": "unsupported_image", "model": "baseline", "version": "default"}
    assert value(client, "landuse_errors_total", **code) == 1


def test_errors_are_counted_by_code_and_version(
    client: FlaskClient, torchserve: FakeTorchServe, tile: bytes
) -> None:
    predict(client, tile, version="1.0")
    torchserve.predict_error = UnusableImage("no tile")
    predict(client, tile, version="1.0")
    predict(client, tile)
    predict(client, b"text")
    for code, version in (("unusable_image", "1.0"), ("unusable_image", "default")):
        labels = {"code": code, "model": "baseline", "version": version}
        assert value(client, "landuse_errors_total", **labels) == 1
    refused = {"code": "unsupported_image", "model": "none", "version": "none"}
    assert value(client, "landuse_errors_total", **refused) == 1


def test_a_client_cannot_make_series(
    client: FlaskClient, torchserve: FakeTorchServe, tile: bytes
) -> None:
    def provoke(word: int) -> None:
        client.get(f"/nothing/{word}")
        client.get(f"/reports/model{word}/1.0")
        client.open("/", method=f"METHOD{word}")
        client.get("/", headers={"Host": f"host{word}.example"})
        client.get("/login", headers={"Authorization": f"Bearer {word}"})
        torchserve.predict_error = UnknownModel("no such model")
        predict(client, tile, model=f"model{word}")
        predict(client, tile, version=f"{word}.0")
        torchserve.predict_error = ModelServerDown("down")
        predict(client, tile, model=f"model{word}", version=f"{word}.1")

    provoke(1)
    samples(client)
    before = samples(client)
    for word in range(2, 20):
        provoke(word)
    assert samples(client).keys() - before.keys() == set()
    refused = {"code": "unknown_model", "model": "other", "version": "other"}
    assert value(client, "landuse_errors_total", **refused) == 38


def test_the_state_of_each_version_is_told(client: FlaskClient, torchserve: FakeTorchServe) -> None:
    torchserve.versions = [served(), served("2.0", default=False, ready=False, wanted=0)]
    first = {"model": "baseline", "version": "1.0", "default": "true"}
    second = {"model": "baseline", "version": "2.0", "default": "false"}
    assert value(client, "landuse_model_works", **first) == 1
    assert value(client, "landuse_model_workers_ready", **first) == 1
    assert value(client, "landuse_model_works", **second) == 0
    assert value(client, "landuse_ready") == 1


def test_the_model_servers_own_metrics_follow(client: FlaskClient) -> None:
    assert value(client, "landuse_model_server_up") == 1
    assert value(client, "ts_queue") == 3


@pytest.mark.parametrize("error", [ModelServerDown("down"), BadAnswer("nonsense")])
def test_without_the_model_server_there_are_still_metrics(
    client: FlaskClient, torchserve: FakeTorchServe, error: ModelServerDown | BadAnswer
) -> None:
    torchserve.served_error = error
    found = samples(client)
    assert found["landuse_model_server_up", frozenset()] == 0
    assert found["landuse_ready", frozenset()] == 0
    assert ("ts_queue", frozenset()) not in found


def test_synthetic_predictions_are_not_counted(client: FlaskClient) -> None:
    assert client.get("/api/health").status_code == 200
    assert not any(name == "landuse_predictions_total" for name, _ in samples(client))

from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from portal.errors import TooSlow, UnusableImage
from portal.observability.health import Failure, HealthReport
from portal.observability.metrics import CONFIDENCES, SECONDS, Metrics
from portal.serving.model_server import Explanation, Prediction, PredictionWarning
from portal.serving.predictor import Outcome, PredictionRequest
from tests.support.fake_torchserve import WARNING, answered, served

HEALTHY = HealthReport("ok", True, [], [])
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(metrics: Metrics, health: HealthReport = HEALTHY, own: str | None = "") -> Samples:
    """Everything, as Prometheus reads it: name and labels to value."""
    found: Samples = {}
    for family in text_string_to_metric_families(metrics.text(health, own)):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def value(found: Samples, name: str, **labels: str) -> float | None:
    return found.get((name, frozenset(labels.items())))


def series(found: Samples, name: str) -> dict[frozenset[tuple[str, str]], float]:
    return {labels: value for (family, labels), value in found.items() if family == name}


def prediction(version: str = "1.0", *, uncertain: bool = False) -> Prediction:
    return answered(class_name="River", uncertain=uncertain, version=version, inference_time=0.02)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def observe(
    metrics: Metrics, outcome: Outcome, model: str = "baseline", version: str | None = None
) -> None:
    metrics.observe(PredictionRequest("predict", b"tile", model, version), outcome, 1.0)


# --- requests


def test_requests_are_counted_by_route_method_and_status(metrics: Metrics) -> None:
    for status, seconds in ((200, 0.004), (200, 0.3), (415, 70.0)):
        metrics.answered("/api/predict", "POST", status, seconds)
    found = samples(metrics)
    labels = {"route": "/api/predict", "method": "POST"}
    assert value(found, "landuse_requests_total", **labels, status="200") == 2
    assert value(found, "landuse_requests_total", **labels, status="415") == 1
    at = {
        float(dict(labels)["le"]): count
        for labels, count in series(found, "landuse_request_seconds_bucket").items()
    }
    assert list(at) == [*SECONDS, float("inf")]
    assert (at[0.005], at[0.25], at[0.5], at[60], at[float("inf")]) == (1, 1, 2, 2, 3)
    assert value(found, "landuse_request_seconds_sum", route="/api/predict") == 70.304


def test_without_a_route_nothing_of_the_request_is_a_label(metrics: Metrics) -> None:
    for number in range(5):
        metrics.answered(None, f"METHOD{number}", 404, 0.01)
    found = samples(metrics)
    other = frozenset({("route", "other"), ("method", "other"), ("status", "404")})
    assert series(found, "landuse_requests_total") == {other: 5}
    assert value(found, "landuse_request_seconds_count", route="other") == 5


def test_requests_in_flight(metrics: Metrics) -> None:
    with metrics.in_flight.track_inprogress():
        assert value(samples(metrics), "landuse_requests_in_flight") == 1
    assert value(samples(metrics), "landuse_requests_in_flight") == 0


# --- predictions and errors


def test_predictions_are_counted_as_they_were_answered(metrics: Metrics) -> None:
    observe(metrics, prediction())
    observe(metrics, prediction(uncertain=True), version="1.0")
    observe(metrics, prediction("2.0"))
    found = samples(metrics)
    first = {"model": "baseline", "version": "1.0"}
    counted = {**first, "class_name": "River"}
    assert value(found, "landuse_predictions_total", **counted, uncertain="false") == 1
    assert value(found, "landuse_predictions_total", **counted, uncertain="true") == 1
    assert value(found, "landuse_prediction_confidence_sum", **first) == 1.5
    assert value(found, "landuse_prediction_seconds_sum", **first) == 0.04
    assert value(found, "landuse_prediction_confidence_bucket", **first, le="0.7") == 0
    assert value(found, "landuse_prediction_confidence_bucket", **first, le="0.8") == 2
    assert len(series(found, "landuse_prediction_confidence_bucket")) == 2 * (len(CONFIDENCES) + 1)
    assert value(found, "landuse_prediction_seconds_count", model="baseline", version="2.0") == 1


def test_each_warning_is_counted_by_its_code(metrics: Metrics) -> None:
    other = PredictionWarning("squeezed", "943 x 960 px were squeezed into one tile.")
    observe(metrics, prediction())
    for warnings in ((WARNING, other), (WARNING,)):
        observe(metrics, replace(prediction(uncertain=True), warnings=warnings))
    by = {("model", "baseline"), ("version", "1.0")}
    assert series(samples(metrics), "landuse_prediction_warnings_total") == {
        frozenset({*by, ("code", "too_bright")}): 2,
        frozenset({*by, ("code", "squeezed")}): 1,
    }


def test_an_error_is_counted_by_its_code(metrics: Metrics) -> None:
    observe(metrics, prediction())
    observe(metrics, TooSlow("late"), version="1.0")
    observe(metrics, UnusableImage("cut off"))
    found = samples(metrics)
    assert series(found, "landuse_errors_total") == {
        frozenset({("code", "too_slow"), ("model", "baseline"), ("version", "1.0")}): 1,
        frozenset({("code", "unusable_image"), ("model", "baseline"), ("version", "default")}): 1,
    }
    assert sum(series(found, "landuse_predictions_total").values()) == 1


def test_an_explanation_is_no_prediction(metrics: Metrics) -> None:
    before = samples(metrics)
    observe(metrics, Explanation("River", 0.75, ((1.0,),), "baseline", "1.0", 0.5))
    assert samples(metrics).keys() == before.keys()


@pytest.mark.parametrize(
    ("model", "version", "labels"),
    [
        (None, None, ("none", "none")),
        ("baseline", None, ("baseline", "default")),
        ("baseline", "1.0", ("baseline", "1.0")),
        ("baseline", "9.9", ("other", "other")),
        ("invented", None, ("other", "other")),
        ("invented", "1.0", ("other", "other")),
    ],
)
def test_only_what_has_answered_is_a_label(
    metrics: Metrics, model: str | None, version: str | None, labels: tuple[str, str]
) -> None:
    observe(metrics, prediction())
    metrics.failed("too_slow", model, version)
    counted = frozenset({("code", "too_slow"), ("model", labels[0]), ("version", labels[1])})
    assert series(samples(metrics), "landuse_errors_total") == {counted: 1}


def test_what_health_has_seen_is_known_too(metrics: Metrics) -> None:
    metrics.failed("too_slow", "vit", "1.0")
    samples(metrics, HealthReport("ok", True, [served(model="vit")], []))
    metrics.failed("too_slow", "vit", "1.0")
    errors = series(samples(metrics), "landuse_errors_total")
    assert {dict(labels)["model"] for labels in errors} == {"other", "vit"}


def test_each_app_counts_alone(metrics: Metrics) -> None:
    observe(Metrics(), prediction())
    assert series(samples(metrics), "landuse_predictions_total") == {}


# --- the state at a scrape


def test_the_state_of_each_version(metrics: Metrics) -> None:
    versions = [served(pids=(1, 2)), served("2.0", default=False, ready=False)]
    health = HealthReport("loading", True, versions, [Failure("baseline", "2.0", "it is loading")])
    found = samples(metrics, health)
    first = frozenset({("model", "baseline"), ("version", "1.0"), ("default", "true")})
    second = frozenset({("model", "baseline"), ("version", "2.0"), ("default", "false")})
    assert series(found, "landuse_model_works") == {first: 1, second: 0}
    assert series(found, "landuse_model_workers_ready") == {first: 2, second: 0}


def test_a_version_that_is_gone_has_no_state(metrics: Metrics) -> None:
    samples(metrics, HealthReport("ok", True, [served()], []))
    assert series(samples(metrics), "landuse_model_works") == {}


@pytest.mark.parametrize("ready", [True, False])
def test_whether_the_default_model_answers(metrics: Metrics, *, ready: bool) -> None:
    found = samples(metrics, HealthReport("degraded", ready, [], []))
    assert value(found, "landuse_ready") == float(ready)


@pytest.mark.parametrize(
    ("own", "up", "queue"), [("ts_queue 3.0\n", 1, 3), ("", 1, None), (None, 0, None)]
)
def test_the_model_servers_own_follow(
    metrics: Metrics, own: str | None, up: int, queue: float | None
) -> None:
    found = samples(metrics, own=own)
    assert value(found, "landuse_model_server_up") == up
    assert value(found, "ts_queue") == queue


def test_nothing_is_said_of_when_a_counter_was_made(metrics: Metrics) -> None:
    observe(metrics, prediction())
    metrics.answered("/", "GET", 200, 0.1)
    found = samples(metrics)
    assert not [name for name, _ in found if name.endswith("_created")]
    assert value(found, "process_start_time_seconds")

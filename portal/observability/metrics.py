"""What the portal counts, for Prometheus.

A label never has a value that a client chooses: routes are those of the app, models and versions
those that have answered, classes those that they name.

Counting costs 4 us of CPU for each request, and 6 us more for each prediction.
"""

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics import disable_created_metrics

from portal.errors import PortalError
from portal.observability.health import HealthReport
from portal.serving.model_server import Prediction
from portal.serving.predictor import Outcome, PredictionRequest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
CONFIDENCES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)
# They would be a third of all series, and Prometheus has no use for them.
disable_created_metrics()  # type: ignore[no-untyped-call]

OTHER = "other"  # in the place of a value that is not known to be one of ours


class Metrics:
    """The counters of one app."""

    def __init__(self) -> None:
        own = self._registry = CollectorRegistry()
        counter = partial(Counter, registry=own)
        histogram = partial(Histogram, registry=own, buckets=SECONDS)
        self._known: set[tuple[str, str]] = set()
        ProcessCollector(registry=own)
        self.in_flight = Gauge(
            "landuse_requests_in_flight", "Requests being answered.", registry=own
        )
        self._requests = counter(
            "landuse_requests", "Requests by route and status.", ("route", "method", "status")
        )
        self._seconds = histogram(
            "landuse_request_seconds", "Seconds from the request to its answer.", ("route",)
        )
        self._predictions = counter(
            "landuse_predictions",
            "Tiles classified, synthetic ones left out.",
            ("model", "version", "class_name", "uncertain"),
        )
        self._confidence = histogram(
            "landuse_prediction_confidence",
            "Calibrated confidence of the predictions.",
            ("model", "version"),
            buckets=CONFIDENCES,
        )
        self._warnings = counter(
            "landuse_prediction_warnings",
            "What made predictions doubtful; not_judged: the version cannot tell.",
            ("model", "version", "code"),
        )
        self._inference = histogram(
            "landuse_prediction_seconds",
            "Seconds from asking the model server to its answer.",
            ("model", "version"),
        )
        self._errors = counter(
            "landuse_errors",
            "Errors told to clients, those of single tiles in a batch included.",
            ("code", "model", "version"),
        )

    def answered(self, route: str | None, method: str, status: int, seconds: float) -> None:
        """Count a request; ``route`` is the rule that matched, None when none did."""
        self._requests.labels(route or OTHER, method if route else OTHER, str(status)).inc()
        self._seconds.labels(route or OTHER).observe(seconds)

    def observe(self, request: PredictionRequest, outcome: Outcome, _elapsed: float) -> None:
        """Count a prediction, or its failure."""
        if isinstance(outcome, Prediction):
            pair = (outcome.model, outcome.version)
            self._known.add(pair)
            uncertain = str(outcome.uncertain).lower()
            self._predictions.labels(*pair, outcome.class_name, uncertain).inc()
            self._confidence.labels(*pair).observe(outcome.confidence)
            self._inference.labels(*pair).observe(outcome.inference_time)
            for warning in outcome.warnings:
                self._warnings.labels(*pair, warning.code).inc()
        elif isinstance(outcome, PortalError):
            self.failed(outcome.code, request.model, request.version)

    def failed(self, code: str, model: str | None = None, version: str | None = None) -> None:
        """Count an error; ``model`` and ``version`` are what a model was asked as, if one was."""
        if model is None:
            pair = ("none", "none")  # refused before a model was asked
        elif version is None and any(model == known for known, _ in self._known):
            pair = (model, "default")
        elif version is not None and (model, version) in self._known:
            pair = (model, version)
        else:
            pair = (OTHER, OTHER)
        self._errors.labels(code, *pair).inc()

    def text(self, health: HealthReport, own: str | None) -> str:
        """Everything in Prometheus' text format: ours, the state now, and the model server's own.

        ``own`` is None when the model server did not tell.
        """
        self._known |= {(served.name.model, served.name.version) for served in health.versions}
        ours = generate_latest(self._registry).decode()
        state, names = CollectorRegistry(), ("model", "version", "default")
        gauge = partial(Gauge, registry=state)
        up = gauge("landuse_model_server_up", "Whether the model server answers.")
        up.set(own is not None)
        gauge("landuse_ready", "Whether the default model answers.").set(health.ready)
        works = gauge("landuse_model_works", "Whether /api/health has nothing against it.", names)
        workers = gauge("landuse_model_workers_ready", "Workers that take requests.", names)
        for served in health.versions:
            labels = (served.name.model, served.name.version, str(served.default).lower())
            failed = any(failure.is_about(served.name) for failure in health.failures)
            works.labels(*labels).set(not failed)
            workers.labels(*labels).set(served.workers_ready)
        return ours + generate_latest(state).decode() + (own or "")

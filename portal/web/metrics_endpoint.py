"""Counting every request, and ``/metrics`` for Prometheus."""

import logging
import time

from flask import Blueprint, Flask, Response, g, request
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from portal.errors import PortalError
from portal.observability.metrics import Metrics
from portal.web.context import services

log = logging.getLogger("portal.web.metrics_endpoint")

blueprint = Blueprint("monitoring", __name__)

SCRAPE_TIMEOUT = 0.5  # seconds that the model server may take to tell its own metrics


def install(app: Flask, metrics: Metrics) -> None:
    """Count every request of ``app``."""

    def begin() -> None:
        metrics.in_flight.inc()
        g.in_flight = True

    def end(response: Response) -> Response:
        rule = request.url_rule.rule if request.url_rule is not None else None
        seconds = time.perf_counter() - g.started
        metrics.answered(rule, request.method, response.status_code, seconds)
        if "error_code" in g:
            metrics.failed(g.error_code)
        return response

    def leave(_error: BaseException | None) -> None:
        if g.pop("in_flight", False):  # a request for another host did not come as far as begin
            metrics.in_flight.dec()

    app.before_request(begin)
    app.after_request(end)
    app.teardown_request(leave)


@blueprint.get("/metrics")
def scrape() -> Response:
    """What the portal and the model server count; answered even when the latter is down."""
    own = services()
    report = own.health.report()
    try:
        theirs = own.torchserve.metrics(SCRAPE_TIMEOUT)
    except PortalError as error:
        log.info("no metrics of the model server: %s", error)
        theirs = None
    text = own.metrics.text(report, theirs)
    return Response(text, content_type=CONTENT_TYPE_PLAIN_0_0_4)

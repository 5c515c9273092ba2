"""What surrounds every request: its id, its line in the log, and the headers of its answer."""

import contextlib
import logging
import re
import time
import uuid

from flask import Flask, Response, g, request

log = logging.getLogger("portal.access")

REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
DRAIN_LIMIT = 64 * 1024 * 1024  # bytes of a refused body that are read to its end

SECURITY_HEADERS = {
    # blob: and data: are the preview of the chosen tile; nothing inline, nothing from outside.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def install(app: Flask) -> None:
    """Surround every request of ``app``."""
    if not logging.getLogger().handlers:  # nobody who runs us has set up logging
        logging.basicConfig(
            level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s"
        )
    app.before_request(_begin)
    app.after_request(_end)  # runs last: Flask calls these in reverse
    app.after_request(_protect)
    app.after_request(_drain)


def _begin() -> None:
    g.started = time.perf_counter()
    offered = request.headers.get("X-Request-ID", "")
    g.request_id = offered if REQUEST_ID.fullmatch(offered) else uuid.uuid4().hex
    g.model = g.version = None


def _drain(response: Response) -> Response:
    """Read what the client still sends.

    A connection that is closed over unread bytes is reset, and the client would see that instead
    of the answer that says why its body was refused.
    """
    if request.environ.get("wsgi.input_terminated"):
        left = DRAIN_LIMIT
        with contextlib.suppress(OSError):  # the client has gone, stalled, or sends no valid chunks
            while left > 0 and (block := request.environ["wsgi.input"].read(64 * 1024)):
                left -= len(block)
    return response


def _protect(response: Response) -> Response:
    response.headers.update(SECURITY_HEADERS)
    response.headers["X-Request-ID"] = g.request_id
    if request.endpoint not in ("static", "docs.asset"):
        response.headers["Cache-Control"] = "no-store"
    return response


def _end(response: Response) -> Response:
    # %r: a path or a name from outside must not be able to forge a line
    log.info(
        "request=%s method=%s path=%r model=%r version=%r status=%d seconds=%.4f",
        g.request_id,
        request.method,
        request.path,
        g.model,
        g.version,
        response.status_code,
        time.perf_counter() - g.started,
    )
    return response

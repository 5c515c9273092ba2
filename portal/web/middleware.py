"""What surrounds every request: its host, id and line in the log, the headers of its answer."""

import contextlib
import functools
import ipaddress
import logging
import re
import time
import uuid

from flask import Flask, Response, g, request
from werkzeug.sansio.utils import host_is_trusted

from portal.errors import UnknownHost

log = logging.getLogger("portal.web.middleware")

REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
# Asked by orchestrators under the address that they gave us.
PROBE_ENDPOINTS = ("health.live", "health.ready")
STARTED = "portal.started"  # in the environ of a request that began before Flask had it
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


def install(app: Flask, allowed_hosts: tuple[str, ...]) -> None:
    """Surround every request of ``app``; ``allowed_hosts`` as in ``Settings``."""

    def check_host() -> None:
        if request.endpoint not in PROBE_ENDPOINTS and not is_ours(request.host, allowed_hosts):
            raise UnknownHost(
                f"This portal does not answer under the name {request.host[:100]!r}. Open it as "
                "localhost, or let its operator add the name to PORTAL_ALLOWED_HOSTS."
            )

    if not logging.getLogger().handlers:  # nobody who runs us has set up logging
        logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s %(message)s")
    app.before_request(_begin)
    app.before_request(check_host)
    app.after_request(_end)  # runs last: Flask calls these in reverse
    app.after_request(_protect)
    app.after_request(_drain)


@functools.lru_cache(maxsize=64)  # clients name us in a few ways, again and again
def is_ours(host: str, allowed: tuple[str, ...]) -> bool:
    """Whether a Host header names this portal.

    A page elsewhere can let its own name lead to our address, and would then be the same site as we
    are; it cannot do so with an address, which is why any address will do where no names are set.
    """
    host = host.lower()
    if host_is_trusted(host, [*LOOPBACK, *(name.lower() for name in allowed)]):
        return True
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return not allowed


def request_id(offered: str) -> str:
    """The number of a request: what its client offers, or a new one."""
    return offered if REQUEST_ID.fullmatch(offered) else uuid.uuid4().hex


def note(*told: object) -> None:
    """The line of a request in the log: its number, method and so on, as the line names them."""
    # %r: a path or a name from outside must not be able to forge a line
    line = "request=%s method=%s path=%r model=%r version=%r status=%d seconds=%.4f"
    log.info(line, *told)


def _begin() -> None:
    g.started = request.environ.get(STARTED) or time.perf_counter()
    g.request_id = request_id(request.headers.get("X-Request-ID", ""))
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
    if request.endpoint not in ("static", "docs.asset", "map_pages.leaflet"):
        response.headers["Cache-Control"] = "no-store"
    return response


def _end(response: Response) -> Response:
    asked = (g.request_id, request.method, request.path, g.model, g.version)
    note(*asked, response.status_code, time.perf_counter() - g.started)
    return response

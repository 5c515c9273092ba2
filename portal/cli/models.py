"""Deploy and roll back through the running portal.

    python -m portal.cli.models deploy baseline 1.1

The same transactions as on the page /models, with the token of PORTAL_TOKEN. Prints each step, and
ends with 1 when the change was refused or failed; the portal has then taken it back.
"""

import argparse
import http.client
import json
import logging
import os
import sys
import time
from typing import Any
from urllib.parse import quote, urlsplit

JOB_POLL = 0.3  # seconds between two looks at the job
TIMEOUT = 30  # seconds for one answer of the portal

log = logging.getLogger("models")


class CannotAsk(Exception):
    """The portal cannot be asked, or refuses; the message is a sentence for the user."""


def ask(url: str, method: str, path: str, body: str | None = None) -> dict[str, Any]:
    """One call of the portal's API, with the token of PORTAL_TOKEN; CannotAsk for an error."""
    token = os.environ.get("PORTAL_TOKEN", "").strip()
    if not token:
        raise CannotAsk(
            "PORTAL_TOKEN is not set: it must hold the token that `make token` has shown."
        )
    address = urlsplit(url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise CannotAsk(f"{url!r} is no address such as http://127.0.0.1:8000.")
    secure = address.scheme == "https"
    connect = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = connect(address.netloc, timeout=TIMEOUT)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        content = json.loads(response.read())
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise CannotAsk(
            f"The portal at {url} does not answer as one: {error}. "
            "Start it with `make serve`, or say where it is with PORT or --url."
        ) from error
    finally:
        connection.close()
    if response.status >= 400:
        raise CannotAsk(str(content["error"]["message"]))
    return dict(content)


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m portal.cli.models", description=__doc__)
    parser.add_argument("action", choices=("deploy", "rollback"))
    parser.add_argument("model")
    parser.add_argument("version", nargs="?", help="of a deploy")
    parser.add_argument("--default", action="store_true", help="make it the default at once")
    parser.add_argument("--unreported", action="store_true", help="though it has no report")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the portal")
    given = parser.parse_args()
    if (given.action == "deploy") != (given.version is not None):
        parser.error("deploy needs a model and a version, rollback a model")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        return change(given)
    except CannotAsk as error:
        log.error("%s", error)  # noqa: TRY400  (a sentence for the user, no traceback)
    return 1


def change(given: argparse.Namespace) -> int:
    """Begin the change, show its steps, return 0 if it succeeded."""
    model = quote(given.model, safe="")
    if given.action == "deploy":
        path = f"/api/models/{model}/{quote(given.version, safe='')}/deploy"
        body = {"default": given.default, "unreported": given.unreported}
    else:
        path, body = f"/api/models/{model}/rollback", {}
    job = ask(given.url, "POST", path, json.dumps(body))["job"]
    told = 0
    while True:
        ended = [step for step in job["steps"] if step["state"] != "running"]
        for step in ended[told:]:
            log.info("%-8s %s: %s", step["state"], step["name"], step["detail"])
        told = len(ended)
        if job["state"] != "running":
            break
        time.sleep(JOB_POLL)
        job = ask(given.url, "GET", f"/api/jobs/{job['id']}")["job"]
    log.info("%s: %s", job["state"], job["reason"])
    return 0 if job["state"] == "done" else 1


if __name__ == "__main__":
    sys.exit(main())

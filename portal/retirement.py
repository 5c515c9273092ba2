"""Retirement: a version takes no new tiles, answers what it was asked, and is forgotten."""

import time

from portal.errors import ChangeFailed, NotPossible
from portal.jobs import Running, Work
from portal.serving import Serving, not_served

DRAIN_TIMEOUT = 30.0  # seconds until a version has answered what it was asked


def prepare_retirement(serving: Serving, model: str, version: str) -> Work:
    """Check what can be said at once; see ``Deployments.retire``."""
    default = serving.state.defaults().get(model)
    row = serving.state.deployment(model, version)
    found = serving.describe(model, version)
    # one that TorchServe lost, whose archive is gone perhaps, can be retired too
    if found is None and (row is None or row.wanted != "served"):
        raise not_served(model, version)
    default_now = found is not None and found.default
    if default_now or (default is not None and default.version == version):
        raise NotPossible(
            f"{model} {version} is the default and cannot be retired. "
            "Promote another version first."
        )
    return lambda job: _retire(serving, job, model, version)


def _retire(serving: Serving, job: Running, model: str, version: str) -> str:
    traffic = serving.server.traffic
    traffic.close(model, version)
    try:
        with job.step("Drain it") as step:
            _drain(serving, model, version)
            step.detail = "It takes no tiles any more and has answered all it was sent."
        with job.step("Unregister it") as step:
            # Before the call: a portal that ends now does not bring it back.
            serving.state.withdraw(model, version)
            serving.remove(model, version)
            step.detail = "TorchServe has forgotten it; its archive stays in the model store."
    finally:
        traffic.open(model, version)
    return f"{model} {version} is retired."


def _drain(serving: Serving, model: str, version: str) -> None:
    deadline = time.monotonic() + DRAIN_TIMEOUT
    quiet = 0
    while True:
        found = serving.describe(model, version)
        waiting = found.waiting if found is not None else 0
        under_way = serving.server.traffic.in_flight(model, version)
        quiet = quiet + 1 if waiting == under_way == 0 else 0
        if quiet == 2:
            return
        if time.monotonic() > deadline:
            raise ChangeFailed(
                f"{model} {version} still has {under_way} tiles under way and {waiting} in "
                f"its queue after {DRAIN_TIMEOUT:g} s. It is served as before; try again."
            )
        serving.pause()

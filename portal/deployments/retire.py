"""Retirement: a version takes no new tiles, answers what it was asked, and is forgotten."""

import time

from handlers.contract.names import ModelVersion
from portal.deployments.steps import Steps, not_served
from portal.errors import ChangeFailed, NotPossible
from portal.jobs import Running, Work

DRAIN_TIMEOUT = 30.0  # seconds until a version has answered what it was asked


def prepare_retirement(steps: Steps, target: ModelVersion) -> Work:
    """Check what can be said at once; see ``Deployments.retire``."""
    default = steps.records.defaults().get(target.model)
    row = steps.records.deployment(target)
    found = steps.describe(target)
    # one that TorchServe lost, whose archive is gone perhaps, can be retired too
    if found is None and (row is None or row.wanted != "served"):
        raise not_served(target)
    default_now = found is not None and found.default
    if default_now or (default is not None and default.version == target.version):
        raise NotPossible(
            f"{target} is the default and cannot be retired. Promote another version first."
        )
    return lambda job: _retire(steps, job, target)


def _retire(steps: Steps, job: Running, target: ModelVersion) -> str:
    with steps.gates.closed(target):
        with job.step("Drain it") as step:
            drain(steps, target)
            step.detail = "It takes no tiles any more and has answered all it was sent."
        with job.step("Unregister it") as step:
            # Before the call: a portal that ends now does not bring it back.
            steps.records.withdraw(target)
            steps.remove(target)
            step.detail = "TorchServe has forgotten it; its archive stays in the model store."
    return f"{target} is retired."


def drain(steps: Steps, target: ModelVersion) -> None:
    """Return when a version that is closed has answered all that it was asked.

    Raises:
        ChangeFailed: it has not within 30 s.
    """
    deadline = time.monotonic() + DRAIN_TIMEOUT
    quiet = 0
    while True:
        found = steps.describe(target)
        waiting = found.waiting if found is not None else 0
        under_way = steps.server.gate.in_flight(target)
        quiet = quiet + 1 if waiting == under_way == 0 else 0
        if quiet == 2:
            return
        if time.monotonic() > deadline:
            raise ChangeFailed(
                f"{target} still has {under_way} tiles under way and {waiting} in "
                f"its queue after {DRAIN_TIMEOUT:g} s. It is served as before; try again."
            )
        steps.pause()

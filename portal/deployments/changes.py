"""Changes of a served version: it becomes the default, gets other workers, or is retired.

Each ``prepare_...`` checks what can be said at once, and returns the rest; see ``Deployments``.
"""

import time

from handlers.contract.names import ModelVersion
from portal.deployments import acceptance
from portal.deployments.steps import CALL_TIMEOUT, Steps, count, not_served
from portal.errors import BadRequest, ChangeFailed, NotPossible
from portal.jobs import Running, Work

DRAIN_TIMEOUT = 30.0  # seconds until a version has answered what it was asked
MOST_WORKERS = 16  # of one version; each costs half a gigabyte


def previous_default(steps: Steps, model: str) -> ModelVersion:
    """The version that a roll back goes to; NotPossible if there is none."""
    default = steps.records.defaults().get(model)
    if default is None or default.previous is None:
        raise NotPossible(
            f"{model} has no previous default to go back to: none was promoted, or it was "
            "retired. Promote the version that is to answer."
        )
    return ModelVersion(model, default.previous)


def prepare_promotion(steps: Steps, target: ModelVersion, operator: str) -> Work:
    """Make a version the default, also in a roll back."""
    found = steps.served(target)
    if found.default:
        raise NotPossible(f"{target} is the default already. Choose another version.")
    if found.workers_ready == 0 and not steps.server.gate.is_asleep(target):
        raise NotPossible(f"{target} has no worker ready. Wait until it has, or retire it.")
    known, labels = acceptance.of_served(steps, target)

    def promote(job: Running) -> str:
        former = steps.default(target.model)
        before = former.version if former is not None else None
        with job.step("Ask for the golden tiles") as step:
            step.detail = acceptance.check(steps.server, target, known, labels)
        try:
            steps.switch(job, target)
            steps.confirm(job, target, default=True)
            with job.step("Record") as step:
                steps.records.serve(steps.adopted(found, operator), default=True, former=before)
                step.detail = f"The previous default, {before}, stays served for a roll back."
        except Exception:
            with job.step("Take it back") as step:
                if former is not None:
                    steps.server.set_default(former, CALL_TIMEOUT)
                step.detail = f"{before} is the default, as before."
            raise
        return f"{target} is the default; before it was {before}."

    return promote


def check_workers(workers: int) -> None:
    """Raise BadRequest unless a version may have so many workers."""
    if not 1 <= workers <= MOST_WORKERS:
        raise BadRequest(
            f"A version has 1 to {MOST_WORKERS} workers, found {workers}. To have none, retire it."
        )


def prepare_scaling(steps: Steps, target: ModelVersion, operator: str, workers: int) -> Work:
    """Give a version another number of workers."""
    check_workers(workers)
    found = steps.served(target)

    def scale(job: Running) -> str:
        deployment = steps.adopted(found, operator)
        try:
            with job.step("Start or end workers") as step:
                since = steps.log.end()
                steps.server.scale(target, workers, CALL_TIMEOUT)
                step.detail = steps.wait_until_ready(target, workers, since)
            with job.step("Record") as step:
                deployment.workers = workers
                steps.records.save(deployment)
                step.detail = "It has so many whenever TorchServe starts again."
        except Exception:
            with job.step("Take it back") as step:
                steps.server.scale(target, found.workers_wanted, CALL_TIMEOUT)
                step.detail = f"{found.workers_wanted} as before."
            raise
        return f"{target} has {count(workers, 'worker')}."

    return scale


def prepare_retirement(steps: Steps, target: ModelVersion) -> Work:
    """Let a version take no new tiles, answer what it was asked, and be forgotten."""
    default = steps.records.defaults().get(target.model)
    row = steps.records.deployment(target)
    found = steps.describe(target)
    # one that TorchServe lost, whose archive is gone perhaps, can be retired too
    if found is None and (row is None or row.wanted != "served"):
        raise not_served(target)
    if (found and found.default) or (default and default.name == target):
        raise NotPossible(
            f"{target} is the default and cannot be retired. Promote another version first."
        )

    def retire(job: Running) -> str:
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

    return retire


def drain(steps: Steps, target: ModelVersion) -> None:
    """Return when a closed version has answered all it was asked; ChangeFailed after 30 s."""
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
                f"{target} still has {under_way} tiles under way and {waiting} in its queue after "
                f"{DRAIN_TIMEOUT:g} s. It is served as before; try again."
            )
        steps.pause()

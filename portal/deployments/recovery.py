"""What becomes of a change whose end nobody has noted, as the portal ended during it.

What is recorded wins: a change that had recorded its result is finished, any other one is taken
back. So each change records its result in one transaction, as late as it can be true:

- A deploy notes the version as "deploying" before TorchServe hears of it, and as "served", perhaps
  as the default, when it has passed everything. In between it is taken back: unregistered, and the
  recorded default made the default again.
- A promotion or a roll back notes the default after TorchServe has it and has answered with it.
  Before that, the recorded default is made the default again.
- Scaling notes the number of workers when they are ready. Before that, the ``Reconciler`` gives
  the version the recorded number again.
- A retirement notes the version as "withdrawn" when it is drained, before it is unregistered.
  Before that, the version stays served; after that, it is drained again and unregistered.

What TorchServe refuses meanwhile is no reason to wait: the job ends as failed, and the
``Reconciler`` goes on towards what is recorded.
"""

import logging

from sqlalchemy.orm import Session

from portal.deployments import gates
from portal.deployments.changes import drain
from portal.deployments.records import Audit, Deployment
from portal.deployments.steps import CALL_TIMEOUT, Steps, count
from portal.errors import ChangeFailed, ModelServerDown, PortalError
from portal.jobs import Ended, JobRow, Jobs

log = logging.getLogger("portal.deployments.recovery")


def settle(steps: Steps, jobs: Jobs, job: JobRow) -> None:
    """Finish a change or take it back, and say so in its job and in the audit.

    The lock of its model must be held: that is how it is known that the change does not go on.

    Raises:
        ModelServerDown, StateUnavailable: nothing is settled; to be tried again.
    """
    state: Ended = "done"
    try:
        found = _ENDS[job.action](steps, job)
    except ModelServerDown:
        raise
    except PortalError as error:
        state, found = "failed", str(error)
    running = (step["name"] for step in job.steps if step["state"] == "running")
    at = next((f" (at the step: {name})" for name in running), "")
    mine = job.owner == jobs.owner
    why = "could not write into its database at the end of" if mine else "ended during"
    reason = f"The portal {why} this change{at}. {found}"

    def end(session: Session, state: Ended, reason: str) -> None:
        session.add(Audit(job.operator, job.action, job.model, job.version, state, reason))
        gates.forget(session, job.target)

    jobs.settle(job, state, reason, end)
    log.warning("%s %s %s: %s", job.action, job.target, state, reason)


def take_back(steps: Steps, deployment: Deployment) -> None:
    """Leave nothing of a deploy that did not end; a PortalError if TorchServe refuses that."""
    default = steps.records.defaults().get(deployment.model)
    if default is not None and steps.default(deployment.model) == deployment.name:
        steps.server.set_default(default.name, CALL_TIMEOUT)
    steps.remove(deployment.name)
    steps.records.withdraw(deployment.name)


def _deploy(steps: Steps, job: JobRow) -> str:
    row = steps.records.deployment(job.target)
    if row is not None and row.wanted == "served" and row.deployed_at >= job.started:
        default = steps.records.defaults().get(job.model)
        is_default = default is not None and default.name == job.target
        return f"{job.target} is served{' and is the default' if is_default else ''}."
    if row is None or row.wanted != "deploying":
        raise ChangeFailed("Nothing of it was kept; try again.")
    take_back(steps, row)
    raise ChangeFailed("It was taken back; try again.")


def _promotion(steps: Steps, job: JobRow) -> str:
    default = steps.records.defaults().get(job.model)
    if default is not None and default.name == job.target:
        return f"{job.target} is the default."
    served = steps.default(job.model)
    if default is None or served == default.name:
        raise ChangeFailed(f"{served or 'No version'} is the default, as before; try again.")
    if steps.describe(default.name) is not None:
        steps.server.set_default(default.name, CALL_TIMEOUT)
    raise ChangeFailed(f"{default.name} is the default again; try again.")


def _scaling(steps: Steps, job: JobRow) -> str:
    row = steps.records.deployment(job.target)
    if row is None or row.wanted != "served":
        raise ChangeFailed("How many workers it is to have was not recorded; try again.")
    if row.workers == job.wish["workers"]:
        return f"{job.target} has {count(row.workers, 'worker')}."
    raise ChangeFailed(f"It is to have {count(row.workers, 'worker')}, as before; try again.")


def _retirement(steps: Steps, job: JobRow) -> str:
    row = steps.records.deployment(job.target)
    served = steps.describe(job.target) is not None
    if served and (row is None or row.wanted != "withdrawn"):
        raise ChangeFailed("It is served as before; try again.")
    if served:
        with steps.gates.closed(job.target):
            drain(steps, job.target)
            steps.remove(job.target)
    return f"{job.target} is retired."


_ENDS = {
    "deploy": _deploy,
    "promote": _promotion,
    "roll back": _promotion,
    "scale": _scaling,
    "retire": _retirement,
}

"""Scaling: a version gets another number of workers."""

from handlers.contract.names import ModelVersion
from portal.deployments.steps import CALL_TIMEOUT, Steps, count
from portal.errors import BadRequest
from portal.jobs import Running, Work
from portal.serving.model_server import ServedVersion

MOST_WORKERS = 16  # of one version; each costs half a gigabyte


def check_workers(workers: int) -> None:
    """Refuse a number of workers that no version has.

    Raises:
        BadRequest: it is not 1 to 16.
    """
    if not 1 <= workers <= MOST_WORKERS:
        raise BadRequest(
            f"A version has 1 to {MOST_WORKERS} workers, found {workers}. To have none, retire it."
        )


def prepare_scaling(steps: Steps, target: ModelVersion, operator: str, workers: int) -> Work:
    """Check what can be said at once; see ``Deployments.scale``."""
    check_workers(workers)
    found = steps.served(target)
    return lambda job: _scale(steps, job, found, workers, operator)


def _scale(steps: Steps, job: Running, found: ServedVersion, workers: int, operator: str) -> str:
    target = found.name
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

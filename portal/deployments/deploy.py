"""The deploy: from an archive in the model store to a served version, or to what was before."""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime

from handlers.contract.names import ModelVersion
from portal.deployments import acceptance
from portal.deployments.changes import check_workers
from portal.deployments.steps import CALL_TIMEOUT, Steps, row_of
from portal.errors import NotPossible
from portal.jobs import Running, Work

log = logging.getLogger("portal.deployments.deploy")


@dataclass(frozen=True)
class Wish:
    """How a version is to be deployed.

    Attributes:
        default: it answers requests that name no version, at once.
        workers: None: as many as its archive asks for.
        unreported: it may have no report, so that nobody knows how good it is.
    """

    default: bool = False
    workers: int | None = None
    unreported: bool = False


def prepare_deploy(steps: Steps, target: ModelVersion, operator: str, wish: Wish) -> Work:
    """Check what can be said at once; see ``Deployments.deploy``."""
    if wish.workers is not None:
        check_workers(wish.workers)
    archive = steps.archives.get(target)
    known = acceptance.of_archive(steps, archive, unreported=wish.unreported)
    if steps.describe(target) is not None:
        raise NotPossible(
            f"{target} is served already. Retire it first, or give the new archive another version."
        )

    def deploy(job: Running) -> str:
        with job.step("Check the archive") as step:
            step.detail = (
                f"{archive.file}, {archive.size_bytes / 1e6:.2f} MB, "
                f"sha256 {archive.sha256[:12]}, {len(archive.labels)} classes."
            )
        workers = wish.workers or archive.workers
        deployment = row_of(archive, "deploying", workers, operator)
        former = steps.default(target.model)
        default = wish.default or former in (None, target)
        with steps.gates.trial(target):
            steps.records.save(deployment)
            try:
                with job.step("Register it with TorchServe") as step:
                    since = steps.log.end()
                    steps.server.register(target, workers, CALL_TIMEOUT)
                    step.detail = "TorchServe has accepted it."
                with job.step("Load it") as step:
                    step.detail = steps.wait_until_ready(target, workers, since)
                with job.step("Ask for the golden tiles") as step:
                    step.detail = acceptance.check(steps.server, target, known, archive.labels)
                if default:
                    steps.switch(job, target)
                steps.confirm(job, target, default=default)
                with job.step("Record") as step:
                    deployment.wanted = "served"
                    deployment.deployed_at = datetime.now(UTC)
                    steps.records.serve(deployment, default=default)
                    step.detail = "It comes back whenever TorchServe starts again."
            except Exception:
                _take_back(steps, job, target, former)
                raise
        return f"{target} is served" + (" and is the default." if default else ".")

    return deploy


def _take_back(
    steps: Steps, job: Running, target: ModelVersion, former: ModelVersion | None
) -> None:
    """Leave nothing of a deploy that failed; what cannot be done now, ``Reconciler`` does."""
    try:
        with job.step("Take it back") as step:
            if former and former != target and steps.default(target.model) == target:
                steps.server.set_default(former, CALL_TIMEOUT)
            steps.remove(target)
            steps.records.withdraw(target)
            kept = f" {former.version} is the default, as before." if former else ""
            step.detail = f"Nothing of it is registered any more.{kept}"
    except Exception:
        log.exception("%s could not be taken back; it is tried again", target)

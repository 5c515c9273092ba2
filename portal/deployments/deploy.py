"""The deploy: from an archive in the model store to a served version, or to what was before."""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime

from handlers.contract.names import ModelVersion
from portal.catalog.archive_inspection import Archive
from portal.catalog.golden import Golden
from portal.deployments import acceptance
from portal.deployments.changes import check_workers
from portal.deployments.records import Deployment
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
    return _Deploy(steps, archive, known, wish, operator).run


@dataclass(frozen=True)
class _Deploy:
    """One deploy; ``known`` is what the report of its archive promises."""

    steps: Steps
    archive: Archive
    known: Golden | None
    wish: Wish
    operator: str

    def run(self, job: Running) -> str:
        """Do it, or take it back."""
        archive, steps, target = self.archive, self.steps, self.archive.name
        with job.step("Check the archive") as step:
            step.detail = (
                f"{archive.file}, {archive.size_bytes / 1e6:.2f} MB, "
                f"sha256 {archive.sha256[:12]}, {len(archive.labels)} classes."
            )
        workers = self.wish.workers or archive.workers
        deployment = row_of(archive, "deploying", workers, self.operator)
        former = steps.default(target.model)
        with steps.gates.trial(target):
            steps.records.save(deployment)
            try:
                default = self._introduce(job, deployment, former)
            except Exception:
                self._take_back(job, former)
                raise
        return f"{target} is served" + (" and is the default." if default else ".")

    def _introduce(self, job: Running, deployment: Deployment, former: ModelVersion | None) -> bool:
        """Go from an archive to a recorded version; returns whether it is the default."""
        archive, steps = self.archive, self.steps
        target, workers = archive.name, deployment.workers
        with job.step("Register it with TorchServe") as step:
            since = steps.log.end()
            steps.server.register(target, workers, CALL_TIMEOUT)
            step.detail = "TorchServe has accepted it."
        with job.step("Load it") as step:
            step.detail = steps.wait_until_ready(target, workers, since)
        with job.step("Ask for the golden tiles") as step:
            step.detail = acceptance.check(steps.server, target, self.known, archive.labels)
        default = self.wish.default or former in (None, target)
        if default:
            steps.switch(job, target)
        steps.confirm(job, target, default=default)
        with job.step("Record") as step:
            deployment.wanted = "served"
            deployment.deployed_at = datetime.now(UTC)
            steps.records.serve(deployment, default=default)
            step.detail = "It comes back whenever TorchServe starts again."
        return default

    def _take_back(self, job: Running, former: ModelVersion | None) -> None:
        """Leave nothing of a deploy that failed; what cannot be done now, ``Reconciler`` does."""
        target, steps = self.archive.name, self.steps
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

"""The deploy: from an archive in the model store to a served version, or to what was before."""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime

from portal import golden, promises
from portal.archive_content import Archive
from portal.errors import NotPossible
from portal.golden import Golden
from portal.jobs import Running, Work
from portal.scaling import check_workers
from portal.serving import CALL_TIMEOUT, Serving, row_of
from portal.state import Deployment

log = logging.getLogger("portal.deploy")


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


def prepare_deploy(serving: Serving, model: str, version: str, operator: str, wish: Wish) -> Work:
    """Check what can be said at once; see ``Deployments.deploy``."""
    if wish.workers is not None:
        check_workers(wish.workers)
    archive = serving.archives.get(model, version)
    known = promises.of_archive(serving, archive, unreported=wish.unreported)
    if serving.describe(model, version) is not None:
        raise NotPossible(
            f"{model} {version} is served already. Retire it first, or give the new "
            "archive another version."
        )
    return _Deploy(serving, archive, known, wish, operator).run


@dataclass(frozen=True)
class _Deploy:
    """One deploy; ``known`` is what the report of its archive promises."""

    serving: Serving
    archive: Archive
    known: Golden | None
    wish: Wish
    operator: str

    def run(self, job: Running) -> str:
        """Do it, or take it back."""
        archive, serving = self.archive, self.serving
        model, version = archive.model, archive.version
        with job.step("Check the archive") as step:
            step.detail = (
                f"{archive.file}, {archive.size_bytes / 1e6:.2f} MB, "
                f"sha256 {archive.sha256[:12]}, {len(archive.labels)} classes."
            )
        workers = self.wish.workers or archive.workers
        deployment = row_of(archive, "deploying", workers, self.operator)
        former = serving.default(model)
        serving.state.save(deployment)
        with serving.server.traffic.trial(model, version):
            try:
                default = self._introduce(job, deployment, former)
            except Exception:
                self._take_back(job, former)
                raise
        return f"{model} {version} is served" + (" and is the default." if default else ".")

    def _introduce(self, job: Running, deployment: Deployment, former: str | None) -> bool:
        """Go from an archive to a recorded version; returns whether it is the default."""
        archive, serving = self.archive, self.serving
        model, version, workers = archive.model, archive.version, deployment.workers
        with job.step("Register it with TorchServe") as step:
            since = serving.log.end()
            serving.server.register(model, archive.file, workers, CALL_TIMEOUT)
            step.detail = "TorchServe has accepted it."
        with job.step("Load it") as step:
            step.detail = serving.wait_until_ready(model, version, workers, since)
        with job.step("Ask for the golden tiles") as step:
            step.detail = golden.check(serving.server, model, version, self.known, archive.labels)
        default = self.wish.default or former in (None, version)
        if default:
            serving.switch(job, model, version)
        serving.confirm(job, model, version, default=default)
        with job.step("Record") as step:
            deployment.wanted = "served"
            deployment.deployed_at = datetime.now(UTC)
            serving.state.serve(deployment, default=default)
            step.detail = "It comes back whenever TorchServe starts again."
        return default

    def _take_back(self, job: Running, former: str | None) -> None:
        """Leave nothing of a deploy that failed; what cannot be done now, ``Keeper`` does."""
        model, version, serving = self.archive.model, self.archive.version, self.serving
        try:
            with job.step("Take it back") as step:
                if former not in (None, version) and serving.default(model) == version:
                    serving.server.set_default(model, str(former), CALL_TIMEOUT)
                serving.remove(model, version)
                serving.state.withdraw(model, version)
                kept = f" {former} is the default, as before." if former else ""
                step.detail = f"Nothing of it is registered any more.{kept}"
        except Exception:
            log.exception("%s %s could not be taken back; it is tried again", model, version)

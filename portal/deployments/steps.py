"""What is served, as every change of it sees and handles it: model server, archives, record."""

import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from handlers.contract.names import ModelVersion
from portal.catalog.archive_inspection import Archive
from portal.catalog.archives import Archives
from portal.catalog.reports import Reports
from portal.deployments.gates import Gates
from portal.deployments.records import Deployment, Records, Wanted
from portal.deployments.worker_log import WorkerLog
from portal.errors import ChangeFailed, PortalError, UnknownModel
from portal.jobs import Running
from portal.serving.model_server import ModelServer, ServedVersion
from portal.serving.probe_tile import PROBE_TILE
from portal.serving.worker_startup import WorkerStartup

CALL_TIMEOUT = 10.0  # seconds for one call that changes something
POLL = 0.25  # seconds between two looks
GONE_TIMEOUT = 10.0  # seconds until a version that was unregistered is not described any more


@dataclass(frozen=True)
class Steps:
    """The model server, and what is known of its versions; the steps that changes share.

    Every method raises ModelServerDown or BadAnswer when the server cannot be asked.
    """

    server: ModelServer
    reports: Reports
    archives: Archives
    records: Records
    log: WorkerLog
    gates: Gates

    def describe(self, target: ModelVersion) -> ServedVersion | None:
        """A version as it is now; None if it is not registered."""
        return self.server.describe(target, CALL_TIMEOUT)

    def served(self, target: ModelVersion) -> ServedVersion:
        """A version as it is now; UnknownModel if it is not registered."""
        found = self.describe(target)
        if found is None:
            raise not_served(target)
        return found

    def default(self, model: str) -> ModelVersion | None:
        """What the server has as the default version of a model."""
        found = self.server.default(model, CALL_TIMEOUT)
        return found.name if found is not None else None

    def switch(self, job: Running, target: ModelVersion) -> None:
        """The step that makes a version the default."""
        with job.step("Make it the default") as step:
            self.server.set_default(target, CALL_TIMEOUT)
            step.detail = "Requests that name no version get it."

    def confirm(self, job: Running, target: ModelVersion, *, default: bool) -> None:
        """The step that looks once more, and asks for one prediction the way clients do.

        Raises:
            ChangeFailed: it is not the default, or is it, unlike ``default`` says; or another
                version answered.
        """
        with job.step("Confirm") as step:
            found = self.served(target)
            if found.default != default:
                says = self.default(target.model)
                raise ChangeFailed(
                    f"TorchServe says that {says.version if says else None} is the default of "
                    f"{target.model}."
                )
            asked = self.server.default_version(target.model) if default else target
            answer = self.server.predict(PROBE_TILE, asked)
            if answer.version != target.version:
                raise ChangeFailed(
                    f"{target.model} {answer.version} answered instead of {target.version}."
                )
            step.detail = f"{count(found.workers_ready, 'worker')} ready, one prediction made." + (
                " It is the default." if default else ""
            )

    def wait_until_ready(self, target: ModelVersion, workers: int, since: int) -> str:
        """Return, with a sentence, when all workers are ready and no more are left than those.

        Args:
            since: where the log ended before they were started.

        Raises:
            ChangeFailed: they crash again and again, or are not ready in time.
        """
        startup = WorkerStartup()
        while True:
            found = self.describe(target)
            if found is None:
                raise ChangeFailed(f"TorchServe has forgotten {target} meanwhile.")
            if found.workers_ready == len(found.workers) == workers:
                return f"{count(workers, 'worker')} ready after {startup.seconds:.1f} s."
            if (reason := startup.problem(found)) is not None:
                error = self.log.last_error(target, since)
                said = f" The last error in its log: {error}." if error else ""
                raise ChangeFailed(f"{target} does not load: {reason}.{said}")
            self.pause()

    def remove(self, target: ModelVersion) -> None:
        """Unregister a version that no client asks, and see that it is gone, else ChangeFailed."""
        self.server.unregister(target, CALL_TIMEOUT)
        deadline = time.monotonic() + GONE_TIMEOUT
        while self.describe(target) is not None:
            if time.monotonic() > deadline:
                raise ChangeFailed(
                    f"TorchServe still has {target}, {GONE_TIMEOUT:g} s after it was "
                    "told to forget it. See its log."
                )
            self.pause()

    def pause(self) -> None:
        """Between two looks at something that changes."""
        time.sleep(POLL)

    def adopted(self, found: ServedVersion, operator: str) -> Deployment:
        """What is recorded of a served version, or is to be from now on."""
        known = self.records.deployment(found.name)
        if known is not None:
            known.wanted = "served"
            return known
        archive: Archive | ModelVersion = found.name
        with suppress(PortalError):  # loaded from elsewhere, or not as ours are
            archive = self.archives.get(found.name)
        return row_of(archive, "served", max(found.workers_wanted, 1), operator)


def row_of(archive: Archive | ModelVersion, wanted: Wanted, workers: int, by: str) -> Deployment:
    """What is recorded of an archive or, where that is not at hand, of a version."""
    name = archive.name if isinstance(archive, Archive) else archive
    return Deployment(
        model=name.model,
        version=name.version,
        wanted=wanted,
        archive=name.archive,
        sha256=archive.sha256 if isinstance(archive, Archive) else "",
        size_bytes=archive.size_bytes if isinstance(archive, Archive) else 0,
        workers=workers,
        deployed_by=by,
        deployed_at=datetime.now(UTC),
    )


def not_served(target: ModelVersion) -> UnknownModel:
    """The error for a version that the server does not have."""
    return UnknownModel(f"{target} is not served. See /models for what is.")


def count(number: int, noun: str) -> str:
    """``1 worker``, ``2 workers``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

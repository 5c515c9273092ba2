"""Changes of what is served, each a transaction: it ends whole, or everything is as before."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO

from portal import golden
from portal.archive_content import NAME, Archive
from portal.archives import Archives, file_name
from portal.errors import (
    BadArchive,
    BadRequest,
    ChangeFailed,
    ModelBusy,
    NotPossible,
    PortalError,
    UnknownModel,
)
from portal.golden import Golden
from portal.jobs import Job, Jobs, Progress, Running
from portal.model_server import ModelServer, ServedVersion
from portal.reports import Reports
from portal.startup import Startup
from portal.state import Deployment, Outcome, State, Wanted
from portal.synthetic import SYNTHETIC_TILE

log = logging.getLogger("portal.deployments")

CALL_TIMEOUT = 10.0  # seconds for one call that changes something
POLL = 0.25  # seconds between two looks
DRAIN_TIMEOUT = 30.0  # seconds until a version has answered what it was asked
GONE_TIMEOUT = 10.0  # seconds until a version that was unregistered is not described any more
MOST_WORKERS = 16  # of one version; each costs half a gigabyte

Work = Callable[[Running], str]


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


class Deployments:
    """Deploy, promote, roll back, scale and retire versions, one change of a model at a time.

    Each call checks what can be said at once, and raises it; the rest is a job. Every call is
    audited, whether it is done, fails or is refused. Safe to use from many threads.
    """

    def __init__(
        self, server: ModelServer, reports: Reports, archives: Archives, state: State
    ) -> None:
        self.jobs = Jobs()
        self.locks = ModelLocks()
        self._server = server
        self._reports = reports
        self._archives = archives
        self._state = state

    def deploy(self, model: str, version: str, operator: str, wish: Wish) -> Job:
        """Load an archive of the model store; it is served only if it answers as it must.

        Raises:
            UnknownArchive, BadArchive: there is no usable archive.
            NotPossible: the version is served already.
            ModelBusy: another change of the model is under way.
        """

        def prepare() -> Work:
            if wish.workers is not None:
                _check_workers(wish.workers)
            archive = self._archives.get(model, version)
            known = self._golden(archive, unreported=wish.unreported)
            if self._describe(model, version) is not None:
                raise NotPossible(
                    f"{model} {version} is served already. Retire it first, or give the new "
                    "archive another version."
                )
            return lambda job: self._deploy(job, archive, known, wish, operator)

        return self._begin("deploy", model, version, operator, prepare)

    def promote(self, model: str, version: str, operator: str) -> Job:
        """Make a served version the default, after it has answered the golden tiles.

        Raises:
            UnknownModel: it is not served.
            NotPossible: it is the default, or has no worker ready.
            ModelBusy: another change of the model is under way.
        """
        return self._begin(
            "promote", model, version, operator, lambda: self._to(model, version, operator)
        )

    def roll_back(self, model: str, operator: str) -> Job:
        """Make the previous default the default again.

        Raises:
            NotPossible: there is none, or it has no worker ready.
            ModelBusy: another change of the model is under way.
        """
        default = self._state.defaults().get(model)
        previous = default.previous if default is not None else None
        if previous is None:
            reason = (
                f"{model} has no previous default to go back to: none was promoted, or it was "
                "retired. Promote the version that is to answer."
            )
            self._state.record(operator, "roll back", model, None, "refused", reason)
            raise NotPossible(reason)
        return self._begin(
            "roll back", model, previous, operator, lambda: self._to(model, previous, operator)
        )

    def scale(self, model: str, version: str, operator: str, workers: int) -> Job:
        """Give a version another number of workers, 1 to 16.

        Raises:
            BadRequest: another number.
            UnknownModel: it is not served.
            ModelBusy: another change of the model is under way.
        """

        def prepare() -> Work:
            _check_workers(workers)
            found = self._served(model, version)
            return lambda job: self._scale(job, found, workers, operator)

        return self._begin("scale", model, version, operator, prepare)

    def retire(self, model: str, version: str, operator: str) -> Job:
        """Serve a version no more, after it has answered what it was asked.

        Raises:
            UnknownModel: it is not served.
            NotPossible: it is the default.
            ModelBusy: another change of the model is under way.
        """

        def prepare() -> Work:
            default = self._state.defaults().get(model)
            row = self._state.deployment(model, version)
            found = self._describe(model, version)
            # one that TorchServe lost, whose archive is gone perhaps, can be retired too
            if found is None and (row is None or row.wanted != "served"):
                raise _not_served(model, version)
            default_now = found is not None and found.default
            if default_now or (default is not None and default.version == version):
                raise NotPossible(
                    f"{model} {version} is the default and cannot be retired. "
                    "Promote another version first."
                )
            return lambda job: self._retire(job, model, version)

        return self._begin("retire", model, version, operator, prepare)

    def upload(self, stream: IO[bytes], name: str, operator: str) -> Archive:
        """Check an archive and put it into the model store; it is not served by that.

        Raises:
            BadArchive: it is not as `make archive` builds it.
            NotPossible: its version is served, with another content.
            ModelBusy: a change of the model is under way.
            StoreUnavailable: the model store cannot be written.
        """
        known = NAME.fullmatch(name)
        model, version = (known["model"], known["version"]) if known else ("", "")
        try:
            self.locks.take(model)
            try:
                row = self._state.deployment(model, version)
                served = row is not None and row.wanted != "withdrawn"
                if known and not served:
                    served = self._describe(model, version) is not None
                archive = self._archives.add(stream, name, replace=not served)
                if not served:
                    self._state.save(self._row(archive, "withdrawn", archive.workers, operator))
            finally:
                self.locks.free(model)
        except PortalError as error:
            self._state.record(
                operator, "upload", model or None, version or None, "refused", str(error)
            )
            raise
        self._state.record(
            operator, "upload", model, version, "done", f"{name}, sha256 {archive.sha256[:12]}"
        )
        return archive

    def remove(self, model: str, version: str) -> None:
        """Unregister a version that no client asks, and see that it is gone.

        Raises:
            ChangeFailed: it is still there.
        """
        self._server.unregister(model, version, CALL_TIMEOUT)
        deadline = time.monotonic() + GONE_TIMEOUT
        while self._describe(model, version) is not None:
            if time.monotonic() > deadline:
                raise ChangeFailed(
                    f"TorchServe still has {model} {version}, {GONE_TIMEOUT:g} s after it was "
                    "told to forget it. See its log."
                )
            time.sleep(POLL)

    # --- the transactions ---

    def _deploy(
        self, job: Running, archive: Archive, known: Golden | None, wish: Wish, operator: str
    ) -> str:
        model, version = archive.model, archive.version
        with job.step("Check the archive") as step:
            step.detail = (
                f"{archive.file}, {archive.size_bytes / 1e6:.2f} MB, "
                f"sha256 {archive.sha256[:12]}, {len(archive.labels)} classes."
            )
        deployment = self._row(archive, "deploying", wish.workers or archive.workers, operator)
        former = self._default(model)
        self._state.save(deployment)
        with self._server.traffic.trial(model, version):
            try:
                default = self._introduce(job, archive, known, wish, deployment, former)
            except Exception:
                self._take_back(job, model, version, former)
                raise
        return f"{model} {version} is served" + (" and is the default." if default else ".")

    def _introduce(
        self,
        job: Running,
        archive: Archive,
        known: Golden | None,
        wish: Wish,
        deployment: Deployment,
        former: str | None,
    ) -> bool:
        """Go from an archive to a recorded version; returns whether it is the default."""
        model, version, workers = archive.model, archive.version, deployment.workers
        with job.step("Register it with TorchServe") as step:
            self._server.register(model, archive.file, workers, CALL_TIMEOUT)
            step.detail = "TorchServe has accepted it."
        with job.step("Load it") as step:
            step.detail = self._wait_until_ready(model, version, workers)
        with job.step("Ask for the golden tiles") as step:
            step.detail = golden.check(self._server, model, version, known, archive.labels)
        default = wish.default or former in (None, version)
        if default:
            self._switch(job, model, version)
        with job.step("Confirm") as step:
            step.detail = self._confirm(model, version, default=default)
        with job.step("Record") as step:
            deployment.wanted = "served"
            deployment.deployed_at = datetime.now(UTC)
            self._state.serve(deployment, default=default)
            step.detail = "It comes back whenever TorchServe starts again."
        return default

    def _take_back(self, job: Running, model: str, version: str, former: str | None) -> None:
        """Leave nothing of a deploy that failed; what cannot be done now, ``Keeper`` does."""
        try:
            with job.step("Take it back") as step:
                if former not in (None, version) and self._default(model) == version:
                    self._server.set_default(model, str(former), CALL_TIMEOUT)
                self.remove(model, version)
                self._state.withdraw(model, version)
                kept = f" {former} is the default, as before." if former else ""
                step.detail = f"Nothing of it is registered any more.{kept}"
        except Exception:
            log.exception("%s %s could not be taken back; it is tried again", model, version)

    def _to(self, model: str, version: str, operator: str) -> Work:
        """Prepare to make a served version the default."""
        found = self._served(model, version)
        if found.default:
            raise NotPossible(f"{model} {version} is the default already. Choose another version.")
        if found.workers_ready == 0 and not self._server.traffic.is_asleep(model, version):
            raise NotPossible(
                f"{model} {version} has no worker ready. Wait until it has, or retire it."
            )
        known = self._promised(model, version)
        labels = self._labels(model, version, known)
        return lambda job: self._promote(job, found, known, labels, operator)

    def _promote(
        self,
        job: Running,
        found: ServedVersion,
        known: Golden | None,
        labels: tuple[str, ...],
        operator: str,
    ) -> str:
        model, version = found.model, found.version
        former = self._default(model)
        with job.step("Ask for the golden tiles") as step:
            step.detail = golden.check(self._server, model, version, known, labels)
        try:
            self._switch(job, model, version)
            with job.step("Confirm") as step:
                step.detail = self._confirm(model, version, default=True)
            with job.step("Record") as step:
                self._state.serve(self.adopted(found, operator), default=True)
                step.detail = f"The previous default, {former}, stays served for a roll back."
        except Exception:
            with job.step("Take it back") as step:
                if former is not None:
                    self._server.set_default(model, former, CALL_TIMEOUT)
                step.detail = f"{former} is the default, as before."
            raise
        return f"{model} {version} is the default; before it was {former}."

    def _switch(self, job: Running, model: str, version: str) -> None:
        with job.step("Make it the default") as step:
            self._server.set_default(model, version, CALL_TIMEOUT)
            step.detail = "Requests that name no version get it."

    def _scale(self, job: Running, found: ServedVersion, workers: int, operator: str) -> str:
        model, version = found.model, found.version
        deployment = self.adopted(found, operator)
        try:
            with job.step("Start or end workers") as step:
                self._server.scale(model, version, workers, CALL_TIMEOUT)
                step.detail = self._wait_until_ready(model, version, workers)
            with job.step("Record") as step:
                deployment.workers = workers
                self._state.save(deployment)
                step.detail = "It has so many whenever TorchServe starts again."
        except Exception:
            with job.step("Take it back") as step:
                self._server.scale(model, version, found.workers_wanted, CALL_TIMEOUT)
                step.detail = f"{found.workers_wanted} as before."
            raise
        return f"{model} {version} has {_count(workers, 'worker')}."

    def _retire(self, job: Running, model: str, version: str) -> str:
        traffic = self._server.traffic
        traffic.close(model, version)
        try:
            with job.step("Drain it") as step:
                self._drain(model, version)
                step.detail = "It takes no tiles any more and has answered all it was sent."
            with job.step("Unregister it") as step:
                # Before the call: a portal that ends now does not bring it back.
                self._state.withdraw(model, version)
                self.remove(model, version)
                step.detail = "TorchServe has forgotten it; its archive stays in the model store."
        finally:
            traffic.open(model, version)
        return f"{model} {version} is retired."

    # --- their steps ---

    def _wait_until_ready(self, model: str, version: str, workers: int) -> str:
        """Return when all workers are ready, and no more are left than those."""
        startup = Startup()
        while True:
            found = self._describe(model, version)
            if found is None:
                raise ChangeFailed(f"TorchServe has forgotten {model} {version} meanwhile.")
            if found.workers_ready == len(found.workers) == workers:
                return f"{_count(workers, 'worker')} ready after {startup.seconds:.1f} s."
            if (reason := startup.problem(found)) is not None:
                raise ChangeFailed(f"{model} {version} does not load: {reason}.")
            time.sleep(POLL)

    def _drain(self, model: str, version: str) -> None:
        deadline = time.monotonic() + DRAIN_TIMEOUT
        quiet = 0
        while True:
            found = self._describe(model, version)
            waiting = found.waiting if found is not None else 0
            under_way = self._server.traffic.in_flight(model, version)
            quiet = quiet + 1 if waiting == under_way == 0 else 0
            if quiet == 2:
                return
            if time.monotonic() > deadline:
                raise ChangeFailed(
                    f"{model} {version} still has {under_way} tiles under way and {waiting} in "
                    f"its queue after {DRAIN_TIMEOUT:g} s. It is served as before; try again."
                )
            time.sleep(POLL)

    def _confirm(self, model: str, version: str, *, default: bool) -> str:
        """Look once more, and ask for one prediction the way clients do."""
        found = self._served(model, version)
        if found.default != default:
            says = self._default(model)
            raise ChangeFailed(f"TorchServe says that {says} is the default of {model}.")
        answer = self._server.predict(SYNTHETIC_TILE, model, None if default else version)
        if answer.version != version:
            raise ChangeFailed(f"{model} {answer.version} answered instead of {version}.")
        return f"{_count(found.workers_ready, 'worker')} ready, one prediction made." + (
            " It is the default." if default else ""
        )

    # --- what they know ---

    def _begin(
        self,
        action: str,
        model: str,
        version: str,
        operator: str,
        prepare: Callable[[], Work],
    ) -> Job:
        """Check, then start the job; the model is locked from here to its end."""
        try:
            self.locks.take(model)
            try:
                work = prepare()
            except BaseException:
                self.locks.free(model)
                raise
        except PortalError as error:
            self._state.record(operator, action, model, version, "refused", str(error))
            raise

        def end(state: Progress, reason: str) -> None:
            try:
                outcome: Outcome = "done" if state == "done" else "failed"
                self._state.record(operator, action, model, version, outcome, reason)
            finally:
                self.locks.free(model)

        return self.jobs.start(action, model, version, operator, work, end)

    def _golden(self, archive: Archive, *, unreported: bool) -> Golden | None:
        """The golden tiles of an archive's report, which must be about these very weights."""
        promises = self._reports.golden(archive.model, archive.version)
        if not promises:
            if not unreported:
                raise NotPossible(
                    f"{archive.model} {archive.version} has no report, so nobody knows how good "
                    "it is. Evaluate and release it, or confirm that it is to be served "
                    "unmeasured (field `unreported`)."
                )
            other = self._default_archive(archive.model)
            if other is not None and set(other.labels) != set(archive.labels):
                raise BadArchive(
                    f"{archive.file} has {len(archive.labels)} classes, the default version "
                    f"{other.version} has {len(other.labels)}: not the same ones. Give a model "
                    "with other classes another name."
                )
            return None
        known = golden.of_weights(promises, archive.model_sha256)
        if known is None:
            measured = ", ".join(promise.model_sha256[:12] for promise in promises)
            raise BadArchive(
                f"{archive.file} holds other weights (sha256 {archive.model_sha256[:12]}) than "
                f"its report was measured on ({measured}). Build the archive from its release, or "
                "evaluate it again."
            )
        promised = set(known.tiles[0].probabilities)
        if promised != set(archive.labels):
            raise BadArchive(
                f"{archive.file} has {len(archive.labels)} classes, its report {len(promised)}: "
                "not the same ones. Build the archive from its release."
            )
        return known

    def _default_archive(self, model: str) -> Archive | None:
        """The archive of the default version, as far as it can be read."""
        default = self._default(model)
        if default is None:
            return None
        try:
            return self._archives.get(model, default)
        except PortalError:
            return None

    def _promised(self, model: str, version: str) -> Golden | None:
        """What the report promises of a served version; None without a report."""
        promises = self._reports.golden(model, version)
        try:
            archive = self._archives.get(model, version)
        except PortalError:  # loaded from elsewhere: which of the files it has is not known
            return promises[0] if promises else None
        return golden.of_weights(promises, archive.model_sha256)

    def _labels(self, model: str, version: str, known: Golden | None) -> tuple[str, ...]:
        """The classes that a served version answers with; empty if nothing says them."""
        if known is not None:
            return tuple(known.tiles[0].probabilities)
        try:
            return self._archives.get(model, version).labels
        except PortalError:
            return ()

    def adopted(self, found: ServedVersion, operator: str) -> Deployment:
        """What is recorded of a served version, or is to be from now on."""
        known = self._state.deployment(found.model, found.version)
        if known is not None:
            known.wanted = "served"
            return known
        try:
            archive = self._archives.get(found.model, found.version)
            sha256, size = archive.sha256, archive.size_bytes
        except PortalError:
            sha256, size = "", 0  # loaded from elsewhere, or not as ours are
        return Deployment(
            model=found.model,
            version=found.version,
            wanted="served",
            archive=file_name(found.model, found.version),
            sha256=sha256,
            size_bytes=size,
            workers=max(found.workers_wanted, 1),
            deployed_by=operator,
            deployed_at=datetime.now(UTC),
        )

    @staticmethod
    def _row(archive: Archive, wanted: Wanted, workers: int, operator: str) -> Deployment:
        return Deployment(
            model=archive.model,
            version=archive.version,
            wanted=wanted,
            archive=archive.file,
            sha256=archive.sha256,
            size_bytes=archive.size_bytes,
            workers=workers,
            deployed_by=operator,
            deployed_at=datetime.now(UTC),
        )

    def _describe(self, model: str, version: str) -> ServedVersion | None:
        return self._server.describe(model, version, CALL_TIMEOUT)

    def _served(self, model: str, version: str) -> ServedVersion:
        found = self._describe(model, version)
        if found is None:
            raise _not_served(model, version)
        return found

    def _default(self, model: str) -> str | None:
        """What TorchServe has as the default version of a model."""
        found = self._server.describe(model, None, CALL_TIMEOUT)
        return found.version if found is not None else None


class ModelLocks:
    """One lock for each model: at most one change of it at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: set[str] = set()

    def take(self, model: str) -> None:
        """Lock a model; any thread may free it again.

        Raises:
            ModelBusy: it is locked.
        """
        with self._lock:
            if model in self._taken:
                raise ModelBusy(
                    f"Another change of {model} is under way. Wait until it has ended; /models "
                    "shows it."
                )
            self._taken.add(model)

    def free(self, model: str) -> None:
        """Unlock a model."""
        with self._lock:
            self._taken.discard(model)


def _not_served(model: str, version: str) -> UnknownModel:
    return UnknownModel(f"{model} {version} is not served. See /models for what is.")


def _check_workers(workers: int) -> None:
    if not 1 <= workers <= MOST_WORKERS:
        raise BadRequest(
            f"A version has 1 to {MOST_WORKERS} workers, found {workers}. To have none, retire it."
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

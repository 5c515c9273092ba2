"""Changes of what is served, each a transaction: it ends whole, or everything is as before."""

from collections.abc import Callable
from functools import partial
from typing import IO, Any

from sqlalchemy.orm import Session

from handlers.contract.names import BadName, ModelVersion
from portal.catalog.archive_inspection import Archive
from portal.deployments import changes
from portal.deployments.deploy import Wish, prepare_deploy
from portal.deployments.locks import ModelLocks
from portal.deployments.records import Audit
from portal.deployments.steps import Steps, row_of
from portal.errors import ModelBusy, NotPossible, PortalError
from portal.jobs import Ended, Job, Jobs, Work


class Deployments:
    """Deploy, promote, roll back, scale and retire versions, one change of a model at a time.

    Each call checks what can be said at once, and raises it: UnknownModel where the version is not
    served, NotPossible where its state does not allow the change, ModelBusy while another change of
    the model is under way. The rest is a job. Every call is audited, whether it is done, fails or
    is refused. Safe to use from many threads.
    """

    def __init__(self, steps: Steps, jobs: Jobs, locks: ModelLocks) -> None:
        self.jobs = jobs
        self.locks = locks
        self._steps = steps
        self._records = steps.records

    def deploy(self, target: ModelVersion, operator: str, wish: Wish) -> Job:
        """Load an archive of the model store; it is served only if it answers as it must.

        Raises:
            UnknownArchive, BadArchive: there is no usable archive.
        """
        work = partial(prepare_deploy, self._steps, target, operator, wish)
        return self._begin("deploy", target, operator, work)

    def promote(self, target: ModelVersion, operator: str) -> Job:
        """Make a served version the default, after it has answered the golden tiles."""
        work = partial(changes.prepare_promotion, self._steps, target, operator)
        return self._begin("promote", target, operator, work)

    def roll_back(self, model: str, operator: str) -> Job:
        """Make the previous default the default again."""
        try:
            previous = changes.previous_default(self._steps, model)
        except NotPossible as error:
            line = Audit(operator, "roll back", model, None, "refused", str(error))
            self._records.record(line)
            raise
        work = partial(changes.prepare_promotion, self._steps, previous, operator)
        return self._begin("roll back", previous, operator, work)

    def scale(self, target: ModelVersion, operator: str, workers: int) -> Job:
        """Give a version another number of workers; raises BadRequest if it is not 1 to 16."""
        work = partial(changes.prepare_scaling, self._steps, target, operator, workers)
        return self._begin("scale", target, operator, work, {"workers": workers})

    def retire(self, target: ModelVersion, operator: str) -> Job:
        """Serve a version that is not the default no more; it answers first what it was asked."""
        work = partial(changes.prepare_retirement, self._steps, target)
        return self._begin("retire", target, operator, work)

    def upload(self, stream: IO[bytes], name: str, operator: str) -> Archive:
        """Check an archive and put it into the model store; it is not served by that.

        Raises:
            BadArchive: it is not as `make archive` builds it.
            StoreUnavailable: the model store cannot be written.
        """
        try:
            target = ModelVersion.of_archive(name)
        except BadName:  # ``Archives.add`` tells it
            target = None
        model, version = (target.model, target.version) if target else (None, None)
        locked = model or ""
        try:
            self.locks.take(locked)
            try:
                served = target is not None and self._is_served(target)
                archive = self._steps.archives.add(stream, name, replace=not served)
                if not served:
                    self._records.save(row_of(archive, "withdrawn", archive.workers, operator))
            finally:
                self.locks.free(locked)
        except PortalError as error:
            self._records.record(Audit(operator, "upload", model, version, "refused", str(error)))
            raise
        said = f"{name}, sha256 {archive.sha256[:12]}"
        self._records.record(Audit(operator, "upload", model, version, "done", said))
        return archive

    def _is_served(self, target: ModelVersion) -> bool:
        row = self._records.deployment(target)
        recorded = row is not None and row.wanted != "withdrawn"
        return recorded or self._steps.describe(target) is not None

    def _begin(
        self,
        action: str,
        target: ModelVersion,
        operator: str,
        prepare: Callable[[], Work],
        wish: dict[str, Any] | None = None,
    ) -> Job:
        """Check, then start the job; the model is locked from here to its end."""
        model, version = target.model, target.version

        def end(session: Session, state: Ended, reason: str) -> None:
            session.add(Audit(operator, action, model, version, state, reason))

        try:
            self.locks.take(model)
            try:
                if self.jobs.unfinished(model):
                    raise ModelBusy(
                        f"How a change of {model} ended is not known yet: it is being finished "
                        "or taken back. Try again in a few seconds; /models shows it."
                    )
                work = prepare()
                return self.jobs.start(
                    action, target, operator, wish or {}, work, end, lambda: self.locks.free(model)
                )
            except BaseException:
                self.locks.free(model)
                raise
        except PortalError as error:
            self._records.record(Audit(operator, action, model, version, "refused", str(error)))
            raise

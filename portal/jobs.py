"""Changes that take their time: each a job with steps, which pages and scripts look at.

A job is a row, so that it outlives the portal: one whose owner has ended is no more than what it
had written, and whoever finds it says how it ended (``Jobs.settle``).
"""

import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import JSON, String, Text, Update, delete, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from handlers.contract.names import ModelVersion
from portal.errors import ChangeFailed, PortalError, StateUnavailable, UnknownJob
from portal.storage.database import Base, Database, UtcDateTime
from portal.storage.heartbeat import Heartbeat, Owned

log = logging.getLogger("portal.jobs")

JOBS_KEPT = 200  # jobs that are remembered; the audit has all of them
UNEXPECTED = "Something went wrong in the portal; its log has the details."

Ended = Literal["done", "failed"]
Progress = Literal["running", "done", "failed"]


@dataclass
class Step:
    """One step of a job; ``detail`` is a sentence, empty while it runs."""

    name: str
    state: Progress = "running"
    detail: str = ""


@dataclass
class Job:
    """A change under way, or its end.

    Attributes:
        reason: one sentence about the end: what happened, or which step failed and why.
        started, finished: UTC.
    """

    id: str
    action: str
    model: str
    version: str
    operator: str
    started: datetime
    state: Progress = "running"
    reason: str = ""
    finished: datetime | None = None
    steps: list[Step] = field(default_factory=list)


class JobRow(Owned, Base):
    """A job as it is kept.

    Attributes:
        wish: what was asked for, beside the model and the version.
        steps: a list of objects with the fields of ``Step``.
    """

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    action: Mapped[str] = mapped_column(String(32))
    model: Mapped[str] = mapped_column(String(64))
    version: Mapped[str] = mapped_column(String(64))
    operator: Mapped[str] = mapped_column(String(64))
    wish: Mapped[dict[str, Any]] = mapped_column(JSON)
    started: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    state: Mapped[str] = mapped_column(String(16), index=True)
    reason: Mapped[str] = mapped_column(Text)
    finished: Mapped[datetime | None] = mapped_column(UtcDateTime)
    steps: Mapped[list[dict[str, Any]]] = mapped_column(JSON)

    @property
    def target(self) -> ModelVersion:
        """Which version it changes."""
        return ModelVersion(self.model, self.version)


class Running:
    """A job as the change itself sees it."""

    def __init__(self, keep: Callable[[list[Step]], None]) -> None:
        self._keep = keep
        self._steps: list[Step] = []

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Surround one step; set the step's ``detail`` to say what was found.

        Raises:
            ChangeFailed: another portal took this one for dead, and the change over.
        """
        step = Step(name)
        self._steps.append(step)
        self._keep(self._steps)
        try:
            yield step
            step.state = "done"
        except BaseException as error:
            step.state = "failed"
            step.detail = str(error) if isinstance(error, PortalError) else UNEXPECTED
            raise
        finally:
            self._keep(self._steps)

    @property
    def failed_step(self) -> str:
        """Name of the first step that failed."""
        return next((step.name for step in self._steps if step.state == "failed"), "")


Work = Callable[[Running], str]  # a change; returns one sentence about what happened
End = Callable[[Session, Ended, str], None]  # writes more about an end, in its transaction


class Jobs:
    """The jobs of every portal on this database. Safe to use from many threads.

    Every method raises StateUnavailable when the database cannot be used.

    Attributes:
        owner: this process, as the rows of its jobs name it.
    """

    def __init__(self, database: Database, heartbeat: Heartbeat) -> None:
        self.owner = heartbeat.owner
        self._database = database
        self._heartbeat = heartbeat

    def get(self, job: str) -> Job:
        """A copy of a job as it is now.

        Raises:
            UnknownJob: there is none with this id.
        """
        with self._database.transaction() as session:
            found = session.get(JobRow, job)
        if found is None:
            raise UnknownJob(
                f"There is no such job: the last {JOBS_KEPT} are kept. "
                "/models has the state of every version, and what was done to it."
            )
        return _job(found)

    def recent(self) -> list[Job]:
        """Copies of all jobs, the newest first."""
        with self._database.transaction() as session:
            order = select(JobRow).order_by(JobRow.started.desc(), JobRow.id)
            return [_job(row) for row in session.scalars(order)]

    def unfinished(self, model: str | None = None) -> list[JobRow]:
        """The jobs under way, of one model or of all, the oldest first."""
        order = select(JobRow).where(JobRow.state == "running").order_by(JobRow.started)
        if model is not None:
            order = order.where(JobRow.model == model)
        with self._database.transaction() as session:
            return list(session.scalars(order))

    def start(
        self,
        action: str,
        target: ModelVersion,
        operator: str,
        wish: dict[str, Any],
        work: Work,
        end: End,
        ended: Callable[[], None],
    ) -> Job:
        """Do ``work`` in a thread of its own.

        Args:
            wish: what was asked for, for whoever finds the job unfinished.
            end: called with how and why, in the transaction that writes the job's end.
            ended: called after that, whether it could be written or not.
        """
        now = datetime.now(UTC)
        job = Job(uuid.uuid4().hex[:12], action, target.model, target.version, operator, now)
        row = JobRow(owner=self.owner, heartbeat=now, wish=wish, **asdict(job))
        newest = select(JobRow.id).order_by(JobRow.started.desc()).limit(JOBS_KEPT)
        old = delete(JobRow).where(JobRow.state != "running", JobRow.id.not_in(newest))
        with self._database.transaction() as session:
            session.add(row)
            session.execute(old)

        def run() -> None:
            running = Running(lambda steps: self._keep(job.id, steps))
            state: Ended = "failed"
            reason = UNEXPECTED
            try:
                reason = work(running)
                state = "done"
            except PortalError as error:
                step = running.failed_step
                reason = f"{step}: {error}" if step else str(error)
            except Exception:  # a mistake of ours must not pass for a change that was made
                log.exception("job %s (%s %s) failed", job.id, action, target)
            try:
                self.settle(row, state, reason, end)
            except Exception:
                # It still says that it runs: as after an end of the portal, it is settled.
                log.exception("the end of job %s was not recorded", job.id)
            finally:
                self._heartbeat.end()
                ended()

        self._heartbeat.begin()
        threading.Thread(target=run, name=f"job-{action}", daemon=True).start()
        return job

    def settle(self, job: JobRow, state: Ended, reason: str, end: End) -> None:
        """Say how a job ended; nothing if that is known meanwhile.

        Whoever calls this holds the lock of its model, and so knows that it does not run any more.

        Args:
            end: as of ``start``.
        """
        ending = _running(job.id, job.owner).returning(JobRow)
        with self._database.transaction() as session:
            row = session.scalar(
                ending.values(state=state, reason=reason, finished=datetime.now(UTC))
            )
            if row is None:
                log.warning("job %s was ended by another portal", job.id)
                return
            unknown = {"state": "failed", "detail": "Its end is not known."}
            row.steps = [
                step | unknown if step["state"] == "running" else step for step in row.steps
            ]
            end(session, state, reason)

    def _keep(self, job: str, steps: list[Step]) -> None:
        """Write the steps down; what cannot be written now is with the next ones."""
        content = [asdict(step) for step in steps]
        kept = _running(job, self.owner).values(steps=content, heartbeat=datetime.now(UTC))
        try:
            with self._database.transaction() as session:
                found = session.scalar(kept.returning(JobRow.id))
        except StateUnavailable as error:
            log.warning("the steps of job %s are not recorded: %s", job, error)
            return
        if found is None:
            raise ChangeFailed(
                "Another portal took this one for dead and has finished this change, or taken it "
                "back. See /models for what is served."
            )


def _running(job: str, owner: str) -> Update:
    """The update of a job as long as it is its owner's and under way."""
    return update(JobRow).where(JobRow.id == job, JobRow.owner == owner, JobRow.state == "running")


def _job(row: JobRow) -> Job:
    kept = {field.name: getattr(row, field.name) for field in fields(Job)}
    return Job(**kept | {"steps": [Step(**step) for step in row.steps]})

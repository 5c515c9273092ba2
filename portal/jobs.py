"""Changes that take their time: each a job with steps, which pages and scripts look at."""

import logging
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from handlers.contract.names import ModelVersion
from portal.errors import PortalError, UnknownJob

log = logging.getLogger("portal.jobs")

KEPT = 200  # jobs that are remembered; the audit has all of them
UNEXPECTED = "Something went wrong in the portal; its log has the details."

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
        version: None for a roll back until it is known where to.
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


class Running:
    """A job as the change itself sees it."""

    def __init__(self, job: Job, lock: threading.Lock) -> None:
        self._job = job
        self._lock = lock

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Surround one step; set the step's ``detail`` to say what was found."""
        step = Step(name)
        with self._lock:
            self._job.steps.append(step)
        try:
            yield step
        except BaseException as error:
            with self._lock:
                step.state = "failed"
                step.detail = str(error) if isinstance(error, PortalError) else UNEXPECTED
            raise
        with self._lock:
            step.state = "done"

    @property
    def failed_step(self) -> str:
        """Name of the first step that failed."""
        return next((step.name for step in self._job.steps if step.state == "failed"), "")


Work = Callable[[Running], str]  # a change; returns one sentence about what happened


class Jobs:
    """The jobs of this process. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: OrderedDict[str, Job] = OrderedDict()

    def get(self, job: str) -> Job:
        """A copy of a job as it is now.

        Raises:
            UnknownJob: there is none with this id.
        """
        with self._lock:
            found = deepcopy(self._jobs.get(job))
        if found is None:
            raise UnknownJob(
                "There is no such job: jobs are forgotten when the portal starts again. "
                "/models has the state of every version, and what was done to it."
            )
        return found

    def recent(self) -> list[Job]:
        """Copies of all jobs, the newest first."""
        with self._lock:
            return [deepcopy(job) for job in reversed(self._jobs.values())]

    def start(
        self,
        action: str,
        target: ModelVersion,
        operator: str,
        work: Work,
        end: Callable[[Progress, str], None],
    ) -> Job:
        """Do ``work`` in a thread of its own.

        Args:
            work: the change.
            end: called before the job is seen as ended, with how and why.
        """
        job = Job(
            uuid.uuid4().hex[:12], action, target.model, target.version, operator, datetime.now(UTC)
        )
        with self._lock:
            self._jobs[job.id] = job
            while len(self._jobs) > KEPT:
                self._jobs.popitem(last=False)

        def run() -> None:
            running = Running(job, self._lock)
            state: Progress = "failed"
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
                end(state, reason)
            except Exception:
                log.exception("the end of job %s was not recorded", job.id)
            with self._lock:
                job.state, job.reason, job.finished = state, reason, datetime.now(UTC)

        threading.Thread(target=run, name=f"job-{action}", daemon=True).start()
        return self.get(job.id)

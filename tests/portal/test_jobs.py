import threading
import time
from typing import NoReturn

import pytest
from sqlalchemy.orm import Session

from handlers.contract.names import ModelVersion
from portal import jobs as module
from portal.errors import ChangeFailed, StateUnavailable, UnknownJob
from portal.jobs import Ended, Job, Jobs, Running, Step
from portal.storage import heartbeat as heartbeats
from portal.storage.database import Database
from portal.storage.heartbeat import Heartbeat
from tests.support.databases import database, execute, url
from tests.support.postgres import postgres

__all__ = ["database", "postgres", "url"]  # fixtures


class Portal:
    """One of perhaps several on a database: its jobs, and how they ended for it."""

    def __init__(self, database: Database) -> None:
        self.heartbeat = Heartbeat(database)
        self.jobs = Jobs(database, self.heartbeat)
        self.go_on = threading.Event()
        self.ended = threading.Event()
        self.ends: list[tuple[Ended, str]] = []

    def note(self, _session: Session, state: Ended, reason: str) -> None:
        self.ends.append((state, reason))

    def start(self, model: str = "baseline") -> Job:
        """A job that stands in its second step until ``go_on``."""

        def work(running: Running) -> str:
            with running.step("First") as step:
                step.detail = "done it"
            with running.step("Second"):
                assert self.go_on.wait(30)
            return "Fine."

        return self.jobs.start(
            "scale", ModelVersion(model, "1.0"), "operator", {"workers": 2}, work, self.note,
            self.ended.set,
        )  # fmt: skip

    def end(self) -> None:
        self.go_on.set()
        for thread in threading.enumerate():
            if thread.name.startswith("job-"):
                thread.join(30)
        assert self.ended.is_set()


@pytest.fixture
def portal(database: Database) -> Portal:
    return Portal(database)


def wait_for(jobs: Jobs, job: Job, steps: int) -> Job:
    deadline = time.monotonic() + 30
    while len((found := jobs.get(job.id)).steps) < steps:
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
    return found


def test_a_job_is_seen_by_every_portal_while_it_runs_and_after(
    portal: Portal, database: Database
) -> None:
    other = Portal(database)
    started = portal.start()
    found = wait_for(other.jobs, started, 2)
    assert found.steps == [Step("First", "done", "done it"), Step("Second")]
    assert (found.state, found.finished, found.operator) == ("running", None, "operator")
    (unfinished,) = other.jobs.unfinished("baseline")
    assert (unfinished.id, unfinished.wish) == (started.id, {"workers": 2})
    assert other.jobs.unfinished("resnet18") == []
    portal.end()
    found = other.jobs.get(started.id)
    assert (found.state, found.reason) == ("done", "Fine.")
    assert found.steps[1].state == "done"
    assert found.finished is not None
    assert found.started <= found.finished
    assert portal.ends == [("done", "Fine.")]
    assert other.jobs.unfinished() == []


def test_an_unknown_job(portal: Portal) -> None:
    with pytest.raises(UnknownJob, match="the last 200 are kept"):
        portal.jobs.get("0123456789ab")


def test_the_newest_are_kept(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JOBS_KEPT", 3)
    portal.go_on.set()
    started = []
    for _ in range(5):
        portal.ended.clear()
        started.append(portal.start().id)
        portal.end()
    assert [job.id for job in portal.jobs.recent()] == started[:1:-1]


def test_a_job_that_runs_is_kept(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JOBS_KEPT", 1)
    first, second = portal.start("a"), portal.start("b")
    assert {job.id for job in portal.jobs.recent()} == {first.id, second.id}
    portal.end()


def test_the_owner_beats_while_a_job_runs(
    portal: Portal, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeats, "BEAT_EVERY", 0.05)
    wait_for(portal.jobs, portal.start(), 2)
    (first,) = portal.jobs.unfinished()
    assert first.owner == portal.heartbeat.owner
    deadline = time.monotonic() + 10
    while portal.jobs.unfinished()[0].heartbeat <= first.heartbeat:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    portal.end()
    time.sleep(0.2)  # a beat that had begun
    beat = execute(url, "SELECT heartbeat FROM jobs")
    time.sleep(0.2)
    assert execute(url, "SELECT heartbeat FROM jobs") == beat


def test_a_job_of_a_dead_portal_is_settled_once(portal: Portal, database: Database) -> None:
    """The dead one lives, in truth: what it does from then on is not heard."""
    job = portal.start()
    wait_for(portal.jobs, job, 2)
    other = Portal(database)
    (row,) = other.jobs.unfinished()
    other.jobs.settle(row, "failed", "The portal ended.", other.note)
    other.jobs.settle(row, "done", "It went well.", other.note)
    assert other.ends == [("failed", "The portal ended.")]
    portal.end()
    found = portal.jobs.get(job.id)
    assert (found.state, found.reason) == ("failed", "The portal ended.")
    assert found.steps[1] == Step("Second", "failed", "Its end is not known.")
    assert portal.ends == []


def test_a_portal_taken_for_dead_does_no_further_step(portal: Portal, database: Database) -> None:
    failed: list[ChangeFailed] = []

    def work(running: Running) -> str:
        with running.step("First"):
            (row,) = portal.jobs.unfinished()
            portal.jobs.settle(row, "failed", "The portal ended.", portal.note)
        return never()

    def never() -> NoReturn:
        raise AssertionError

    def watched(running: Running) -> str:
        try:
            return work(running)
        except ChangeFailed as error:
            failed.append(error)
            raise

    target = ModelVersion("baseline", "1.0")
    portal.jobs.start("scale", target, "token", {}, watched, portal.note, portal.ended.set)
    portal.end()
    assert "took this one for dead" in str(failed[0])
    assert portal.ends == [("failed", "The portal ended.")]


def test_a_step_that_cannot_be_written_does_not_end_a_change(
    portal: Portal, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = portal.start()
    wait_for(portal.jobs, job, 2)

    def fail() -> NoReturn:
        raise StateUnavailable("locked")

    with monkeypatch.context() as patch:
        patch.setattr(database, "transaction", fail)
        portal.end()
    (row,) = portal.jobs.unfinished()  # its end could not be written either: it is settled later
    portal.jobs.settle(row, "done", "Fine.", portal.note)
    assert portal.jobs.get(job.id).state == "done"


def test_nothing_starts_that_cannot_be_recorded(
    portal: Portal, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> NoReturn:
        raise StateUnavailable("locked")

    monkeypatch.setattr(database, "transaction", fail)
    with pytest.raises(StateUnavailable):
        portal.start()
    assert not portal.ended.is_set()

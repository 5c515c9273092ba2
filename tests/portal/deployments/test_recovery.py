"""A portal that ends during a change, at each of its steps, and the one that starts after it."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from handlers.contract.names import ModelVersion
from portal.credentials import token_hash
from portal.deployments.deploy import Wish
from portal.errors import ModelBusy, ModelServerDown
from portal.jobs import Job
from portal.services import Services
from portal.storage import heartbeat as heartbeats
from tests.support.archive_files import write_archive
from tests.support.databases import execute, url
from tests.support.fake_torchserve import FakeTorchServe
from tests.support.managed_models import archive, end, last, own, quickly, report, two, versions
from tests.support.paths import ROOT
from tests.support.postgres import postgres
from tests.support.product import free_ports
from tests.support.report_content import write_release

__all__ = ["archive", "own", "postgres", "quickly", "two", "url"]  # fixtures

# The thread of a change that dies says nothing, but pytest does.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception in thread job-:pytest.PytestUnhandledThreadExceptionWarning"
)

SECOND = ModelVersion("baseline", "1.1")
Begin = Callable[[Services], Job]


def deploy(own: Services) -> Job:
    return own.deployments.deploy(SECOND, "operator", Wish())


def deploy_as_default(own: Services) -> Job:
    return own.deployments.deploy(SECOND, "operator", Wish(default=True))


def promote(own: Services) -> Job:
    return own.deployments.promote(SECOND, "operator")


def scale(own: Services) -> Job:
    return own.deployments.scale(SECOND, "operator", 3)


def retire(own: Services) -> Job:
    return own.deployments.retire(SECOND, "operator")


@pytest.fixture
def die(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Job]]:
    """Begins a change whose thread ends without a word when it writes for the nth time.

    Each step writes when it begins and when it ends. The portal holds its lock, but its heart has
    stopped long ago for whoever looks.
    """
    dead: list[Services] = []

    def begin(own: Services, change: Begin, writes: int) -> Job:
        left = [writes]
        jobs = own.deployments.jobs
        keep = jobs._keep

        def kept(*arguments: Any) -> None:
            keep(*arguments)
            left[0] -= 1
            if left[0] == 0:
                raise SystemExit

        monkeypatch.setattr(jobs, "_keep", kept)
        job = change(own)
        for thread in threading.enumerate():
            if thread.name.startswith("job-"):
                thread.join(30)
        monkeypatch.setattr(heartbeats, "DEAD_AFTER", -1.0)
        dead.append(own)
        return job

    yield begin
    for portal in dead:
        portal.deployments.jobs._heartbeat._ended.set()


def restarted(own: Services) -> Services:
    return Services(own.settings, own.torchserve)


def settled(own: Services, job: Job) -> tuple[Services, Job]:
    """The portal after the restart, and how it settled the job; whole and told once."""
    again = restarted(own)
    lines = len(again.records.audit(100))
    assert again.deployments.jobs.get(job.id).state == "running"
    again.reconciler.look()
    found = again.deployments.jobs.get(job.id)
    assert found.finished is not None
    assert all(step.state != "running" for step in found.steps)
    told = again.records.audit(100)[: -lines or None]
    (line,) = [line for line in told if line.actor == "operator"]
    assert (line.action, line.model, line.version, line.outcome, line.reason) == (
        job.action, "baseline", job.version, found.state, found.reason,
    )  # fmt: skip
    assert found.reason.startswith("The portal ended during this change")
    again.reconciler.look()
    assert len(again.records.audit(100)) == lines + len(told)
    again.deployments.locks.take("baseline", patience=0)
    again.deployments.locks.free("baseline")
    assert execute(own.settings.database_url.get_secret_value(), "SELECT * FROM gates") == []
    return again, found


@pytest.mark.parametrize("writes", range(1, 13))
@pytest.mark.usefixtures("archive")
def test_a_deploy(
    own: Services, torchserve: FakeTorchServe, die: Callable[..., Job], writes: int
) -> None:
    again, job = settled(own, die(own, deploy, writes))
    row = again.records.deployment(SECOND)
    if writes == 12:  # "Record" has ended
        assert (job.state, versions(torchserve)) == ("done", {"1.0": True, "1.1": False})
        assert job.reason.endswith("baseline 1.1 is served.")
        assert row is not None
        assert row.wanted == "served"
        return
    assert (job.state, versions(torchserve)) == ("failed", {"1.0": True})
    assert row is None or row.wanted == "withdrawn"
    taken_back = "Nothing of it was kept" if writes <= 2 else "It was taken back"
    assert job.reason.endswith(f" {taken_back}; try again.")
    if writes % 2 == 1:  # it stood in a step
        assert f"(at the step: {job.steps[-1].name})" in job.reason
        assert job.steps[-1].detail == "Its end is not known."


@pytest.mark.parametrize("writes", range(9, 15))
@pytest.mark.usefixtures("archive")
def test_a_deploy_as_default(
    own: Services, torchserve: FakeTorchServe, die: Callable[..., Job], writes: int
) -> None:
    again, job = settled(own, die(own, deploy_as_default, writes))
    default = again.records.defaults()["baseline"]
    if writes == 14:
        assert job.reason.endswith("baseline 1.1 is served and is the default.")
        assert versions(torchserve) == {"1.0": False, "1.1": True}
        assert (default.version, default.previous) == ("1.1", "1.0")
    else:
        assert job.state == "failed"
        assert versions(torchserve) == {"1.0": True}
        assert (default.version, default.previous) == ("1.0", None)


@pytest.mark.parametrize("writes", range(1, 9))
def test_a_promotion(
    two: Services, torchserve: FakeTorchServe, die: Callable[..., Job], writes: int
) -> None:
    again, job = settled(two, die(two, promote, writes))
    default = again.records.defaults()["baseline"]
    if writes == 8:
        assert job.reason.endswith("baseline 1.1 is the default.")
        assert versions(torchserve) == {"1.0": False, "1.1": True}
        assert (default.version, default.previous) == ("1.1", "1.0")
    else:
        assert job.state == "failed"
        assert "baseline 1.0 is the default" in job.reason
        assert versions(torchserve) == {"1.0": True, "1.1": False}
        assert (default.version, default.previous) == ("1.0", None)


def test_a_roll_back(two: Services, torchserve: FakeTorchServe, die: Callable[..., Job]) -> None:
    end(two, promote(two))
    job = die(two, lambda own: own.deployments.roll_back("baseline", "operator"), 4)
    assert versions(torchserve) == {"1.0": True, "1.1": False}  # but not recorded
    _, found = settled(two, job)
    assert (found.action, found.state) == ("roll back", "failed")
    assert found.reason.endswith("baseline 1.1 is the default again; try again.")
    assert versions(torchserve) == {"1.0": False, "1.1": True}


@pytest.mark.parametrize("writes", range(1, 5))
def test_scaling(
    two: Services, torchserve: FakeTorchServe, die: Callable[..., Job], writes: int
) -> None:
    again, job = settled(two, die(two, scale, writes))
    row = again.records.deployment(SECOND)
    assert row is not None
    (found,) = [found for found in torchserve.versions if found.name == SECOND]
    if writes == 4:
        assert job.reason.endswith("baseline 1.1 has 3 workers.")
        assert (row.workers, found.workers_wanted) == (3, 3)
    else:
        assert job.reason.endswith("It is to have 2 workers, as before; try again.")
        assert (row.workers, found.workers_wanted) == (2, 2)


@pytest.mark.parametrize("writes", range(1, 5))
def test_a_retirement(
    two: Services, torchserve: FakeTorchServe, die: Callable[..., Job], writes: int
) -> None:
    again, job = settled(two, die(two, retire, writes))
    row = again.records.deployment(SECOND)
    assert row is not None
    if writes == 4:
        assert (job.state, row.wanted) == ("done", "withdrawn")
        assert versions(torchserve) == {"1.0": True}
    else:
        assert job.reason.endswith("It is served as before; try again.")
        assert row.wanted == "served"
        assert versions(torchserve) == {"1.0": True, "1.1": False}


def test_a_retirement_that_was_recorded_is_finished(
    two: Services, torchserve: FakeTorchServe, die: Callable[..., Job],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def vanish(*_arguments: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(torchserve, "unregister", vanish)
        job = die(two, retire, 0)
    assert versions(torchserve) == {"1.0": True, "1.1": False}
    _, found = settled(two, job)
    assert (found.state, found.reason.endswith(" baseline 1.1 is retired.")) == ("done", True)
    assert versions(torchserve) == {"1.0": True}


@pytest.mark.usefixtures("archive")
def test_no_change_before_the_last_one_is_settled(
    own: Services, torchserve: FakeTorchServe, die: Callable[..., Job]
) -> None:
    job = die(own, deploy, 5)
    again = restarted(own)
    with pytest.raises(ModelBusy, match="How a change of baseline ended is not known yet"):
        promote(again)
    assert last(again) == ("promote", "1.1", "refused")
    torchserve.served_error = ModelServerDown("down")
    with pytest.raises(ModelServerDown):
        again.reconciler.look()
    assert again.deployments.jobs.get(job.id).state == "running"
    torchserve.served_error = None
    again.reconciler.look()
    assert end(again, deploy(again)).state == "done"


@pytest.mark.usefixtures("archive")
def test_what_cannot_be_taken_back_is_told_and_tried_again(
    own: Services, torchserve: FakeTorchServe, die: Callable[..., Job]
) -> None:
    job = die(own, deploy, 5)
    torchserve.refused.add("unregister")
    again = restarted(own)
    again.reconciler.look()
    found = again.deployments.jobs.get(job.id)
    assert found.reason.endswith("(at the step: Load it). TorchServe refused: no.")
    assert versions(torchserve) == {"1.0": True, "1.1": False}
    torchserve.refused.clear()
    again.reconciler._failed.clear()  # a minute later
    again.reconciler.look()
    assert versions(torchserve) == {"1.0": True}
    assert again.records.audit(1)[0].reason == (
        "This deploy did not end well. It was taken back now; try again."
    )


@pytest.mark.usefixtures("archive")
def test_an_end_that_could_not_be_written_is_settled_by_the_same_portal(
    own: Services, torchserve: FakeTorchServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: Any) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(own.deployments.jobs, "settle", fail)
        job = deploy(own)
        for thread in threading.enumerate():
            if thread.name.startswith("job-"):
                thread.join(30)
    own.reconciler.look()
    assert own.deployments.jobs.get(job.id).reason == (
        "The portal could not write into its database at the end of this change. "
        "baseline 1.1 is served."
    )
    assert last(own) == ("deploy", "1.1", "done")


PORTAL = """
import dataclasses, json, sys, threading
from pathlib import Path
from flask import Flask
from werkzeug.serving import make_server
from portal.settings import Settings
from portal.web.app import create_app
from tests.support.fake_torchserve import FakeTorchServe, served

stands_at, port, said = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
for name in ("reports_dir", "model_store"):
    said[name] = Path(said[name])

class TorchServe(FakeTorchServe):
    def register(self, *arguments):
        super().register(*arguments)
        if stands_at == "Load it":  # it never becomes ready
            self.versions = [
                dataclasses.replace(found, workers=()) if not found.default else found
                for found in self.versions
            ]

torchserve = TorchServe()
if stands_at == "":  # it outlived the portal before this one
    torchserve.versions = [*torchserve.versions, served("1.1", default=False)]
app = create_app(Settings(**said), torchserve)
own = app.extensions["portal"]
if stands_at == "the end":
    own.deployments.jobs.settle = lambda *arguments: threading.Event().wait()
own.database.open()
own.reconciler.look()
own.reconciler.start()
make_server("127.0.0.1", port, app, threaded=True).serve_forever()
"""
TOKEN = "t0ken"


class Portals:
    """Portals on ports, one after the other, on one database."""

    def __init__(self, url: str, folder: Path) -> None:
        self._folder = folder
        self._said = {
            "database_url": url,
            "model_store": str(folder / "store"),
            "reports_dir": str(folder / "releases"),
            "token_hash": token_hash(TOKEN),
        }
        write_archive(folder / "store")
        write_release(folder / "releases", report("1.1"))
        self.started: list[subprocess.Popen[bytes]] = []
        self._api = ""

    def start(self, stands_at: str) -> None:
        (port,) = free_ports(1)
        command = [sys.executable, "-c", PORTAL, stands_at, str(port), json.dumps(self._said)]
        with (self._folder / "log").open("ab") as log:
            self.started.append(subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log))
        self._api = f"http://127.0.0.1:{port}/api"
        self.wait_for("models", lambda found: bool(found["models"]))

    def kill(self) -> None:
        self.started[-1].kill()
        self.started[-1].wait()

    def deploy(self) -> str:
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        url = f"{self._api}/models/baseline/1.1/deploy"
        answer = requests.post(url, headers=bearer, timeout=30)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["job"]["id"])

    def wait_for(self, path: str, fits: Callable[[Any], bool]) -> Any:
        deadline = time.monotonic() + 60
        found: Any = None
        while found is None or not fits(found):
            assert time.monotonic() < deadline, (found, (self._folder / "log").read_text())
            try:
                found = requests.get(f"{self._api}/{path}", timeout=10).json()
            except requests.ConnectionError:
                time.sleep(0.1)
            time.sleep(0.05)
        return found

    def stands_at(self, job: str, step: str, state: str) -> None:
        def fits(found: Any) -> bool:
            steps = found["job"]["steps"]
            return bool(steps) and (steps[-1]["name"], steps[-1]["state"]) == (step, state)

        self.wait_for(f"jobs/{job}", fits)


@pytest.fixture
def portals(url: str, tmp_path: Path) -> Iterator[Portals]:
    made = Portals(url, tmp_path)
    yield made
    for process in made.started:
        process.kill()
        process.wait()


def told_of(portals: Portals, job: str) -> tuple[str, str, list[str]]:
    """How a job that is settled ended, and which versions are served."""
    found = portals.wait_for(f"jobs/{job}", lambda found: found["job"]["state"] != "running")["job"]
    audit = portals.wait_for("audit", bool)["audit"]
    (line,) = [line for line in audit if line["action"] == "deploy"]
    assert (line["actor"], line["outcome"], line["reason"]) == (
        "token", found["state"], found["reason"],
    )  # fmt: skip
    models = portals.wait_for("models", bool)["models"]
    return (
        found["state"],
        found["reason"].removeprefix("The portal ended during this change"),
        [line["version"] for model in models for line in model["versions"]],
    )


def test_a_portal_that_is_killed_while_a_version_loads(portals: Portals, url: str) -> None:
    portals.start("Load it")
    job = portals.deploy()
    portals.stands_at(job, "Load it", "running")
    assert len(execute(url, "SELECT * FROM gates")) == len(execute(url, "SELECT * FROM locks")) == 1
    portals.kill()
    portals.start("")
    taken_back = " (at the step: Load it). It was taken back; try again."
    assert told_of(portals, job) == ("failed", taken_back, ["1.0"])
    withdrawn = "SELECT wanted FROM deployments WHERE version = '1.1'"
    assert execute(url, withdrawn) == [("withdrawn",)]
    assert execute(url, "SELECT * FROM gates") == execute(url, "SELECT * FROM locks") == []


def test_a_portal_that_is_killed_before_it_notes_the_end(portals: Portals, url: str) -> None:
    portals.start("the end")
    job = portals.deploy()
    portals.stands_at(job, "Record", "done")
    portals.kill()
    portals.start("")
    assert told_of(portals, job) == ("done", ". baseline 1.1 is served.", ["1.1", "1.0"])

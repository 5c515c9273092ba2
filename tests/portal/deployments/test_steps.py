from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from handlers.contract.names import ModelVersion
from portal.deployments import steps as steps_module
from portal.deployments.records import Deployment
from portal.deployments.steps import Steps, count, not_served, row_of
from portal.deployments.worker_log import WorkerLog
from portal.errors import ChangeFailed, ModelServerDown, UnknownModel
from portal.jobs import Running, Step
from portal.services import Services
from portal.serving.model_server import Prediction, ServedVersion
from portal.serving.probe_tile import PROBE_TILE
from tests.support.fake_torchserve import FakeTorchServe, served
from tests.support.managed_models import archive, own, quickly

__all__ = ["archive", "own", "quickly"]  # fixtures

FIRST, SECOND = ModelVersion("baseline", "1.0"), ModelVersion("baseline", "1.1")


@pytest.fixture
def steps(own: Services) -> Steps:
    return own.steps


@pytest.fixture
def both(torchserve: FakeTorchServe) -> FakeTorchServe:
    """Baseline 1.0, the default, and 1.1 are served."""
    torchserve.versions = [served(), served("1.1", default=False, pids=(21, 22), wanted=2)]
    return torchserve


@pytest.fixture
def kept() -> list[Step]:
    """What a job has kept of its steps."""
    return []


@pytest.fixture
def job(kept: list[Step]) -> Running:
    def keep(found: list[Step]) -> None:
        kept[:] = found

    return Running(keep)


# --- what is there


def test_a_version_is_described(steps: Steps, both: FakeTorchServe) -> None:
    assert steps.describe(SECOND) == steps.served(SECOND) == both.versions[1]
    assert steps.default("baseline") == FIRST


def test_what_is_not_served(steps: Steps) -> None:
    assert steps.describe(SECOND) is None
    with pytest.raises(UnknownModel, match=r"^baseline 1\.1 is not served\. See /models"):
        steps.served(SECOND)
    assert steps.default("vit") is None


def test_a_server_that_is_down_is_told(steps: Steps, torchserve: FakeTorchServe) -> None:
    torchserve.served_error = ModelServerDown("It is down.")
    for ask in (steps.describe, steps.served, steps.remove, lambda name: steps.default(name.model)):
        with pytest.raises(ModelServerDown):
            ask(FIRST)


# --- switch and confirm


def test_a_switch_is_a_step(
    steps: Steps, both: FakeTorchServe, job: Running, kept: list[Step]
) -> None:
    steps.switch(job, SECOND)
    assert kept == [Step("Make it the default", "done", "Requests that name no version get it.")]
    assert both.changes == [("set_default", "baseline", "1.1")]
    assert steps.default("baseline") == SECOND


def test_a_refused_switch_is_a_failed_step(
    steps: Steps, both: FakeTorchServe, job: Running, kept: list[Step]
) -> None:
    both.refused.add("set_default")
    with pytest.raises(ChangeFailed, match="refused"):
        steps.switch(job, SECOND)
    assert [(step.name, step.state) for step in kept] == [("Make it the default", "failed")]
    assert steps.default("baseline") == FIRST


@pytest.mark.parametrize(
    ("target", "default", "detail"),
    [
        (FIRST, True, "1 worker ready, one prediction made. It is the default."),
        (SECOND, False, "2 workers ready, one prediction made."),
    ],
)
def test_a_version_is_confirmed(
    steps: Steps,
    both: FakeTorchServe,
    job: Running,
    kept: list[Step],
    target: ModelVersion,
    detail: str,
    *,
    default: bool,
) -> None:
    steps.confirm(job, target, default=default)
    assert kept == [Step("Confirm", "done", detail)]
    assert both.asked == [(PROBE_TILE, "baseline", target.version)]


@pytest.mark.parametrize(("target", "default"), [(SECOND, True), (FIRST, False)])
def test_another_default_than_was_said(
    steps: Steps,
    both: FakeTorchServe,
    job: Running,
    kept: list[Step],
    target: ModelVersion,
    *,
    default: bool,
) -> None:
    words = r"^TorchServe says that 1\.0 is the default of baseline\.$"
    with pytest.raises(ChangeFailed, match=words):
        steps.confirm(job, target, default=default)
    assert [(step.name, step.state) for step in kept] == [("Confirm", "failed")]
    assert both.asked == []


def test_no_default_at_all(steps: Steps, both: FakeTorchServe, job: Running) -> None:
    both.versions = [replace(one, default=False) for one in both.versions]
    with pytest.raises(ChangeFailed, match="says that None is the default"):
        steps.confirm(job, FIRST, default=True)


def test_a_version_that_is_gone_is_not_confirmed(steps: Steps, job: Running) -> None:
    with pytest.raises(UnknownModel, match=r"^baseline 1\.1 is not served\."):
        steps.confirm(job, SECOND, default=False)


class Confused(FakeTorchServe):
    """Has another version answer than the one that was asked."""

    def predict(
        self, image: bytes, served: ModelVersion, timeout: float | None = None
    ) -> Prediction:
        return replace(super().predict(image, served, timeout), version="0.9")


class TestConfused:
    @pytest.fixture
    def torchserve(self) -> Confused:
        return Confused()

    def test_another_version_that_answers_is_told(self, steps: Steps, job: Running) -> None:
        with pytest.raises(ChangeFailed, match=r"^baseline 0\.9 answered instead of 1\.0\.$"):
            steps.confirm(job, FIRST, default=True)


# --- waiting


class Starting(FakeTorchServe):
    """Has at each look another state of baseline 1.1, in turn; the last one stays."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[ServedVersion | None] = []

    def describe(self, served: ModelVersion, timeout: float) -> ServedVersion | None:
        if served != SECOND:
            return super().describe(served, timeout)
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]


class TestStarting:
    @pytest.fixture
    def torchserve(self) -> Starting:
        return Starting()

    def test_all_workers_must_be_ready(self, steps: Steps, torchserve: Starting) -> None:
        one, two = served("1.1", pids=(21,)), served("1.1", pids=(21, 22))
        torchserve.looks = [
            served("1.1", pids=()), served("1.1", pids=(21, 22), ready=False), one, two,
        ]  # fmt: skip
        said = steps.wait_until_ready(SECOND, 2, 0)
        assert said.startswith("2 workers ready after ")
        assert said.endswith(" s.")
        assert torchserve.looks == [two]

    def test_workers_that_are_too_many_must_be_gone(
        self, steps: Steps, torchserve: Starting
    ) -> None:
        one = served("1.1", pids=(21,))
        ending = replace(one, workers=(*one.workers, *served(pids=(22,), ready=False).workers))
        torchserve.looks = [served("1.1", pids=(21, 22)), ending, one]
        assert steps.wait_until_ready(SECOND, 1, 0).startswith("1 worker ready after ")
        assert torchserve.looks == [one]

    def test_a_version_may_be_forgotten_meanwhile(self, steps: Steps, torchserve: Starting) -> None:
        torchserve.looks = [served("1.1", ready=False), None]
        with pytest.raises(ChangeFailed, match=r"^TorchServe has forgotten baseline 1\.1 meanwh"):
            steps.wait_until_ready(SECOND, 1, 0)

    def test_workers_that_are_not_ready_in_time(self, steps: Steps, torchserve: Starting) -> None:
        torchserve.looks = [replace(served("1.1", ready=False), startup_timeout=0.05)]
        words = r"^baseline 1\.1 does not load: no worker became ready within 0\.05 s\.$"
        with pytest.raises(ChangeFailed, match=words):
            steps.wait_until_ready(SECOND, 1, 0)

    def test_workers_that_crash_and_the_last_error_since(
        self, steps: Steps, torchserve: Starting, tmp_path: Path
    ) -> None:
        log = tmp_path / "model_log.log"
        line = "x INFO  W-9000-baseline_1.1-stdout: {}\n"
        log.write_text(line.format("ValueError: of a former deploy"))
        logged = replace(steps, log=WorkerLog(log))
        since = logged.log.end()
        torchserve.looks = [served("1.1", pids=(pid,), ready=False) for pid in range(11, 15)]
        with pytest.raises(ChangeFailed, match=r"again and again; see TorchServe's model log\.$"):
            logged.wait_until_ready(SECOND, 1, since)
        with log.open("a") as file:
            file.write(line.format("RuntimeError: no memory"))
        torchserve.looks = [served("1.1", pids=(pid,), ready=False) for pid in range(11, 15)]
        with pytest.raises(ChangeFailed, match=r"in its log: RuntimeError: no memory\.$"):
            logged.wait_until_ready(SECOND, 1, since)

    def test_a_version_is_removed_when_it_is_gone(self, steps: Steps, torchserve: Starting) -> None:
        torchserve.looks = [served("1.1"), served("1.1", pids=()), None]
        steps.remove(SECOND)
        assert torchserve.changes == [("unregister", "baseline", "1.1")]
        assert torchserve.looks == [None]

    def test_a_version_that_stays_is_told(
        self, steps: Steps, torchserve: Starting, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(steps_module, "GONE_TIMEOUT", 0.05)
        torchserve.looks = [served("1.1", pids=())]
        with pytest.raises(ChangeFailed, match=r"still has baseline 1\.1, 0\.05 s after it was"):
            steps.remove(SECOND)


def test_a_refused_removal_is_told(steps: Steps, both: FakeTorchServe) -> None:
    both.refused.add("unregister")
    with pytest.raises(ChangeFailed, match="refused"):
        steps.remove(SECOND)


# --- what is recorded


def is_recent(at: datetime) -> bool:
    return timedelta(0) <= datetime.now(UTC) - at < timedelta(minutes=1)


def test_what_was_known_is_served_again(steps: Steps, archive: Path) -> None:
    known = row_of(steps.archives.get(SECOND), "withdrawn", 3, "somebody")
    steps.records.save(known)
    found = steps.adopted(served("1.1", wanted=1), "operator")
    assert (found.wanted, found.workers, found.deployed_by) == ("served", 3, "somebody")
    kept = steps.records.deployment(SECOND)
    assert kept is not None
    assert kept.wanted == "withdrawn"  # nothing is written yet


def test_what_was_not_known_is_recorded_with_its_archive(steps: Steps, archive: Path) -> None:
    found = steps.adopted(served("1.1", pids=(21, 22), wanted=2), "model server")
    content = archive.read_bytes()
    assert (found.name, found.wanted, found.archive) == (SECOND, "served", "baseline-1.1.mar")
    assert (found.sha256, found.size_bytes) == (sha256(content).hexdigest(), len(content))
    assert (found.workers, found.deployed_by) == (2, "model server")
    assert is_recent(found.deployed_at)


@pytest.mark.parametrize("content", [None, b"no archive"])
def test_without_a_usable_archive_its_digest_is_not_known(
    own: Services, content: bytes | None
) -> None:
    if content is not None:
        own.settings.model_store.mkdir()
        (own.settings.model_store / "baseline-1.1.mar").write_bytes(content)
    found = own.steps.adopted(served("1.1", pids=(), wanted=0), "model server")
    assert (found.archive, found.sha256, found.size_bytes) == ("baseline-1.1.mar", "", 0)
    assert found.workers == 1  # when it is awake


def test_the_row_of_an_archive(steps: Steps, archive: Path) -> None:
    found = row_of(steps.archives.get(SECOND), "deploying", 4, "token")
    content = archive.read_bytes()
    expected: dict[str, Any] = {
        "model": "baseline",
        "version": "1.1",
        "wanted": "deploying",
        "archive": "baseline-1.1.mar",
        "sha256": sha256(content).hexdigest(),
        "size_bytes": len(content),
        "workers": 4,
        "deployed_by": "token",
    }
    assert found == Deployment(**expected, deployed_at=found.deployed_at)
    assert is_recent(found.deployed_at)


# --- words


def test_words() -> None:
    assert [count(number, "worker") for number in (0, 1, 2)] == [
        "0 workers",
        "1 worker",
        "2 workers",
    ]
    assert str(not_served(SECOND)) == "baseline 1.1 is not served. See /models for what is."

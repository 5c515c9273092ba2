"""A portal that manages models: fixtures and helpers of the tests about changes."""

import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from handlers.contract.names import ModelVersion
from portal.deployments import steps
from portal.deployments.deploy import Wish
from portal.jobs import Job
from portal.services import Services
from tests.support.archive_files import WEIGHTS, write_archive
from tests.support.fake_torchserve import PROBABILITIES, FakeTorchServe
from tests.support.report_content import int8_content, report_content, write_release

IN_THE_ARCHIVE = sha256(WEIGHTS).hexdigest()
JPEG = "/9j/"  # what a tile begins with, in base64


def report(version: str, **changes: Any) -> dict[str, Any]:
    content = report_content(version=version)
    content["model_sha256"] = IN_THE_ARCHIVE
    content["probe"] = [
        {"file": f"River_{number}.jpg", "jpeg": JPEG, "probabilities": dict(PROBABILITIES)}
        for number in range(3)
    ]
    return content | changes


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "POLL", 0.01)


@pytest.fixture
def own(app: Flask) -> Services:
    found = app.extensions["portal"]
    assert isinstance(found, Services)
    found.reconciler.look()  # takes over what the fake serves
    return found


@pytest.fixture
def archive(own: Services, reports_dir: Path) -> Path:
    """Of baseline 1.1, with its report."""
    write_release(reports_dir, report("1.1"))
    return write_archive(own.settings.model_store)


@pytest.fixture
def released(own: Services, reports_dir: Path) -> Services:
    """Baseline 1.1 has a report on both files; the archive in the model store is in int8."""
    content = report_content(version="1.1")
    content["int8"] = {**int8_content(), "model_sha256": IN_THE_ARCHIVE}
    tile = {"file": "River_1.jpg", "probabilities": dict(PROBABILITIES)}
    content["probe"] = [{**tile, "jpeg": JPEG}]
    content["int8"]["probe"] = [tile]
    write_release(reports_dir, content)
    write_archive(own.settings.model_store)
    return own


def end(own: Services, job: Job) -> Job:
    deadline = time.monotonic() + 60
    while (found := own.deployments.jobs.get(job.id)).state == "running":
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
    return found


def state_of(job: Job) -> list[tuple[str, str]]:
    return [(step.name, step.state) for step in job.steps]


def last(own: Services) -> tuple[str, str | None, str]:
    line = own.records.audit(1)[0]
    return line.action, line.version, line.outcome


def versions(torchserve: FakeTorchServe) -> dict[str, bool]:
    return {found.name.version: found.default for found in torchserve.versions}


@pytest.fixture
def two(own: Services, archive: Path, reports_dir: Path) -> Services:
    """Baseline 1.0, the default, and 1.1 are served."""
    write_release(reports_dir, report("1.0"))
    assert (
        end(own, own.deployments.deploy(ModelVersion("baseline", "1.1"), "operator", Wish())).state
        == "done"
    )
    return own

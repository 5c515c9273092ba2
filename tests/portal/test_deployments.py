import io
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from portal import deployments as module
from portal.deployments import Deployments, Wish
from portal.errors import (
    BadArchive,
    BadRequest,
    ModelBusy,
    ModelServerDown,
    NotPossible,
    PortalError,
    UnknownArchive,
    UnknownModel,
)
from portal.jobs import Job
from portal.services import Services
from tests.portal.archive_files import WEIGHTS, write_archive
from tests.portal.fake_torchserve import PROBABILITIES, FakeTorchServe, served
from tests.portal.report_content import report_content, write_release

JPEG = "/9j/"  # what a tile begins with, in base64


def report(version: str, **changes: Any) -> dict[str, Any]:
    content = report_content(version=version)
    content["model_sha256"] = sha256(WEIGHTS).hexdigest()
    content["probe"] = [
        {"file": f"River_{number}.jpg", "jpeg": JPEG, "probabilities": dict(PROBABILITIES)}
        for number in range(3)
    ]
    return content | changes


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL", 0.01)


@pytest.fixture
def own(app: Flask) -> Services:
    found = app.extensions["portal"]
    assert isinstance(found, Services)
    found.keeper.look()  # takes over what the fake serves
    return found


@pytest.fixture
def deployments(own: Services) -> Deployments:
    return own.deployments


@pytest.fixture
def archive(own: Services, reports_dir: Path) -> Path:
    """Of baseline 1.1, with its report."""
    write_release(reports_dir, report("1.1"))
    return write_archive(own.settings.model_store)


def end(own: Services, job: Job) -> Job:
    deadline = time.monotonic() + 60
    while (found := own.deployments.jobs.get(job.id)).state == "running":
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
    return found


def state_of(job: Job) -> list[tuple[str, str]]:
    return [(step.name, step.state) for step in job.steps]


def last(own: Services) -> tuple[str, str | None, str]:
    line = own.state.audit(1)[0]
    return line.action, line.version, line.outcome


def versions(torchserve: FakeTorchServe) -> dict[str, bool]:
    return {found.version: found.default for found in torchserve.versions}


def test_a_deploy(own: Services, torchserve: FakeTorchServe, archive: Path) -> None:
    job = end(own, own.deployments.deploy("baseline", "1.1", "operator", Wish()))
    assert (job.state, job.reason) == ("done", "baseline 1.1 is served.")
    assert [name for name, state in state_of(job) if state == "done"] == [
        "Check the archive",
        "Register it with TorchServe",
        "Load it",
        "Ask for the golden tiles",
        "Confirm",
        "Record",
    ]
    assert torchserve.changes == [("register", "baseline-1.1.mar", "2")]
    assert versions(torchserve) == {"1.0": True, "1.1": False}
    row = own.state.deployment("baseline", "1.1")
    assert row is not None
    assert (row.wanted, row.workers, row.deployed_by) == ("served", 2, "operator")
    assert row.sha256 == sha256(archive.read_bytes()).hexdigest()
    assert last(own) == ("deploy", "1.1", "done")


def test_a_deploy_as_default(own: Services, torchserve: FakeTorchServe, archive: Path) -> None:
    wish = Wish(default=True, workers=1)
    assert end(own, own.deployments.deploy("baseline", "1.1", "token", wish)).state == "done"
    assert versions(torchserve) == {"1.0": False, "1.1": True}
    default = own.state.defaults()["baseline"]
    assert (default.version, default.previous) == ("1.1", "1.0")


def test_the_first_version_of_a_model_is_its_default(
    own: Services, torchserve: FakeTorchServe, reports_dir: Path
) -> None:
    write_archive(own.settings.model_store, "1.0", "vit")
    write_release(reports_dir, report("1.0") | {"model": "vit"})
    job = end(own, own.deployments.deploy("vit", "1.0", "operator", Wish()))
    assert job.reason == "vit 1.0 is served and is the default."
    assert own.state.defaults()["vit"].version == "1.0"


@pytest.mark.parametrize(
    ("spoil", "step", "reason"),
    [
        (lambda fake: fake.refused.add("register"), "Register it with TorchServe", "refused: no"),
        (lambda fake: setattr(fake, "crashing", True), "Load it", "crashes again and again"),
        (
            lambda fake: fake.probabilities.update(River=0.25, SeaLake=0.0),
            "Ask for the golden tiles",
            "differ from its report by up to 0.25",
        ),
        (
            lambda fake: fake.probabilities.pop("River"),
            "Ask for the golden tiles",
            "with 2 classes, its archive promises 3",
        ),
        (
            lambda fake: setattr(fake, "predict_error", PortalError("no answer")),
            "Ask for the golden tiles",
            "did not answer River_0.jpg: no answer",
        ),
        (lambda fake: fake.refused.add("set_default"), "Make it the default", "refused: no"),
    ],
)
def test_a_deploy_that_fails_leaves_nothing(
    own: Services,
    torchserve: FakeTorchServe,
    archive: Path,
    spoil: Callable[[FakeTorchServe], None],
    step: str,
    reason: str,
) -> None:
    spoil(torchserve)
    job = end(own, own.deployments.deploy("baseline", "1.1", "operator", Wish(default=True)))
    assert job.state == "failed"
    assert job.reason.startswith(f"{step}: ")
    assert reason in job.reason
    assert (step, "failed") in state_of(job)
    assert state_of(job)[-1] == ("Take it back", "done")
    assert versions(torchserve) == {"1.0": True}
    row = own.state.deployment("baseline", "1.1")
    assert row is not None
    assert row.wanted == "withdrawn"
    default = own.state.defaults()["baseline"]
    assert (default.version, default.previous) == ("1.0", None)
    line = own.state.audit(1)[0]
    assert (line.outcome, line.reason) == ("failed", job.reason)


def test_a_mistake_of_ours_is_taken_back_too(
    own: Services, torchserve: FakeTorchServe, archive: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torchserve.predict_error = RuntimeError("secret")
    job = end(own, own.deployments.deploy("baseline", "1.1", "operator", Wish()))
    assert job.state == "failed"
    assert "secret" not in job.reason
    assert versions(torchserve) == {"1.0": True}
    assert "RuntimeError: secret" in caplog.text


def test_what_cannot_be_taken_back_is_tried_again(
    own: Services, torchserve: FakeTorchServe, archive: Path
) -> None:
    torchserve.refused.add("unregister")
    torchserve.crashing = True
    job = end(own, own.deployments.deploy("baseline", "1.1", "operator", Wish()))
    assert state_of(job)[-1] == ("Take it back", "failed")
    assert versions(torchserve) == {"1.0": True, "1.1": False}
    torchserve.refused.clear()
    own.keeper.look()
    assert versions(torchserve) == {"1.0": True}


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"model_sha256": "ab" * 32}, BadArchive, "holds other weights"),
        (
            {"probe": [{"file": "a", "jpeg": JPEG, "probabilities": {"A": 0.5, "B": 0.5}}]},
            BadArchive,
            "has 3 classes, its report 2",
        ),
        ({"probe": []}, PortalError, "probe has 0 tiles"),
        ({"probe": [{"file": "a"}]}, PortalError, "golden tiles of baseline 1.1 cannot be read"),
    ],
)
def test_a_report_that_does_not_fit_is_refused(
    own: Services,
    torchserve: FakeTorchServe,
    reports_dir: Path,
    changes: dict[str, Any],
    error: type[PortalError],
    reason: str,
) -> None:
    write_release(reports_dir, report("1.1", **changes))
    write_archive(own.settings.model_store)
    with pytest.raises(error, match=reason):
        own.deployments.deploy("baseline", "1.1", "operator", Wish())
    assert last(own) == ("deploy", "1.1", "refused")
    assert torchserve.changes == []


def test_an_unmeasured_archive_needs_a_word(own: Services, torchserve: FakeTorchServe) -> None:
    write_archive(own.settings.model_store)
    with pytest.raises(NotPossible, match="has no report"):
        own.deployments.deploy("baseline", "1.1", "operator", Wish())
    job = end(own, own.deployments.deploy("baseline", "1.1", "operator", Wish(unreported=True)))
    assert job.state == "done"


def test_an_unmeasured_archive_has_the_classes_of_the_default(own: Services) -> None:
    write_archive(own.settings.model_store, "1.0")
    config = b"spec: {labels: [AnnualCrop, River]}"
    write_archive(
        own.settings.model_store,
        change=lambda entries: entries.update({"model-config.yaml": config}),
    )
    with pytest.raises(BadArchive, match=r"has 2 classes, the default version 1\.0 has 3"):
        own.deployments.deploy("baseline", "1.1", "operator", Wish(unreported=True))


def test_what_cannot_begin(own: Services, torchserve: FakeTorchServe, archive: Path) -> None:
    refused: list[tuple[Callable[[], object], type[PortalError]]] = [
        (lambda: own.deployments.deploy("baseline", "1.2", "o", Wish()), UnknownArchive),
        (lambda: own.deployments.deploy("baseline", "1.1", "o", Wish(workers=17)), BadRequest),
        (lambda: own.deployments.promote("baseline", "1.0", "o"), NotPossible),
        (lambda: own.deployments.promote("baseline", "1.1", "o"), UnknownModel),
        (lambda: own.deployments.roll_back("baseline", "o"), NotPossible),
        (lambda: own.deployments.roll_back("none", "o"), NotPossible),
        (lambda: own.deployments.scale("baseline", "1.0", "o", 0), BadRequest),
        (lambda: own.deployments.scale("baseline", "1.1", "o", 1), UnknownModel),
        (lambda: own.deployments.retire("baseline", "1.0", "o"), NotPossible),
        (lambda: own.deployments.retire("baseline", "1.1", "o"), UnknownModel),
    ]
    for number, (call, error) in enumerate(refused):
        with pytest.raises(error):
            call()
        assert own.state.audit(1)[0].outcome == "refused", number
    torchserve.versions.append(served("1.1", default=False))
    with pytest.raises(NotPossible, match="is served already"):
        own.deployments.deploy("baseline", "1.1", "o", Wish())
    torchserve.served_error = ModelServerDown("x")
    with pytest.raises(ModelServerDown):
        own.deployments.deploy("baseline", "1.1", "o", Wish())
    assert torchserve.changes == []
    own.deployments.locks.take("baseline")  # nothing above kept it


def test_one_change_of_a_model_at_a_time(own: Services, archive: Path) -> None:
    own.deployments.locks.take("baseline")
    with pytest.raises(ModelBusy, match="Another change of baseline"):
        own.deployments.deploy("baseline", "1.1", "operator", Wish())
    own.deployments.locks.free("baseline")
    assert end(own, own.deployments.deploy("baseline", "1.1", "operator", Wish())).state == "done"


@pytest.fixture
def two(own: Services, archive: Path, reports_dir: Path) -> Services:
    """Baseline 1.0, the default, and 1.1 are served."""
    write_release(reports_dir, report("1.0"))
    assert end(own, own.deployments.deploy("baseline", "1.1", "operator", Wish())).state == "done"
    return own


def test_promote_and_roll_back(two: Services, torchserve: FakeTorchServe) -> None:
    job = end(two, two.deployments.promote("baseline", "1.1", "operator"))
    assert job.reason == "baseline 1.1 is the default; before it was 1.0."
    assert versions(torchserve) == {"1.0": False, "1.1": True}
    assert end(two, two.deployments.roll_back("baseline", "operator")).version == "1.0"
    assert versions(torchserve) == {"1.0": True, "1.1": False}
    default = two.state.defaults()["baseline"]
    assert (default.version, default.previous) == ("1.0", "1.1")


def test_a_promote_that_fails_changes_nothing(two: Services, torchserve: FakeTorchServe) -> None:
    torchserve.probabilities.update(River=0.25, SeaLake=0.0)
    assert end(two, two.deployments.promote("baseline", "1.1", "operator")).state == "failed"
    assert versions(torchserve) == {"1.0": True, "1.1": False}
    assert two.state.defaults()["baseline"].version == "1.0"


def test_a_version_without_a_worker_is_not_promoted(
    two: Services, torchserve: FakeTorchServe
) -> None:
    torchserve.versions[1] = served("1.1", default=False, ready=False)
    with pytest.raises(NotPossible, match="has no worker ready"):
        two.deployments.promote("baseline", "1.1", "operator")


def test_scale(two: Services, torchserve: FakeTorchServe) -> None:
    assert end(two, two.deployments.scale("baseline", "1.1", "operator", 3)).state == "done"
    assert len(torchserve.versions[1].workers) == 3
    row = two.state.deployment("baseline", "1.1")
    assert row is not None
    assert row.workers == 3


def test_retire(two: Services, torchserve: FakeTorchServe) -> None:
    assert end(two, two.deployments.retire("baseline", "1.1", "operator")).state == "done"
    assert versions(torchserve) == {"1.0": True}
    row = two.state.deployment("baseline", "1.1")
    assert row is not None
    assert row.wanted == "withdrawn"
    two.keeper.look()
    assert versions(torchserve) == {"1.0": True}


def test_a_version_that_is_lost_can_be_retired(two: Services, torchserve: FakeTorchServe) -> None:
    torchserve.versions.pop()
    assert end(two, two.deployments.retire("baseline", "1.1", "operator")).state == "done"
    two.keeper.look()
    assert versions(torchserve) == {"1.0": True}


def test_retire_waits_for_what_is_under_way(two: Services, torchserve: FakeTorchServe) -> None:
    let_go = threading.Event()

    def client() -> None:
        with torchserve.traffic.passing("baseline", "1.1", 1e12):
            let_go.wait(5)

    thread = threading.Thread(target=client)
    thread.start()
    job = two.deployments.retire("baseline", "1.1", "operator")
    time.sleep(0.1)
    assert versions(torchserve) == {"1.0": True, "1.1": False}
    let_go.set()
    thread.join()
    assert end(two, job).state == "done"
    assert versions(torchserve) == {"1.0": True}


def test_a_version_that_never_is_quiet_stays(
    two: Services, torchserve: FakeTorchServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DRAIN_TIMEOUT", 0.1)
    with torchserve.traffic.passing("baseline", "1.1", 1e12):
        job = end(two, two.deployments.retire("baseline", "1.1", "operator"))
    assert (job.state, state_of(job)) == ("failed", [("Drain it", "failed")])
    assert "1 tiles under way" in job.reason
    assert versions(torchserve) == {"1.0": True, "1.1": False}
    with torchserve.traffic.passing("baseline", "1.1", 1e12):
        pass  # it takes tiles again


def test_an_upload_is_stored_and_not_served(
    own: Services, torchserve: FakeTorchServe, tmp_path: Path
) -> None:
    content = write_archive(tmp_path / "elsewhere").read_bytes()
    own.deployments.upload(io.BytesIO(content), "baseline-1.1.mar", "operator")
    assert last(own) == ("upload", "1.1", "done")
    torchserve.versions.append(served("1.1", default=False))  # TorchServe loads all it finds
    own.keeper.look()
    assert versions(torchserve) == {"1.0": True}
    with pytest.raises(BadArchive):
        own.deployments.upload(io.BytesIO(content), "x.mar", "operator")
    assert own.state.audit(1)[0].outcome == "refused"


def test_an_upload_never_changes_what_is_served(two: Services, tmp_path: Path) -> None:
    content = write_archive(
        tmp_path / "elsewhere", change=lambda entries: entries.update({"x.txt": b""})
    ).read_bytes()
    with pytest.raises(NotPossible, match="served with another content"):
        two.deployments.upload(io.BytesIO(content), "baseline-1.1.mar", "operator")

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from handlers.contract.names import ModelVersion
from portal.deployments.deploy import Wish
from portal.errors import BadArchive, NotPossible, PortalError
from portal.services import Services
from portal.settings import Settings
from tests.support.archive_files import write_archive
from tests.support.fake_torchserve import FakeTorchServe
from tests.support.managed_models import (
    JPEG,
    archive,
    end,
    last,
    own,
    quickly,
    report,
    state_of,
    versions,
)
from tests.support.report_content import write_release

__all__ = ["archive", "own", "quickly"]  # fixtures


def test_a_deploy(own: Services, torchserve: FakeTorchServe, archive: Path) -> None:
    job = end(own, own.deployments.deploy(ModelVersion("baseline", "1.1"), "operator", Wish()))
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
    row = own.records.deployment(ModelVersion("baseline", "1.1"))
    assert row is not None
    assert (row.wanted, row.workers, row.deployed_by) == ("served", 2, "operator")
    assert row.sha256 == sha256(archive.read_bytes()).hexdigest()
    assert last(own) == ("deploy", "1.1", "done")


def test_a_deploy_as_default(own: Services, torchserve: FakeTorchServe, archive: Path) -> None:
    wish = Wish(default=True, workers=1)
    assert (
        end(own, own.deployments.deploy(ModelVersion("baseline", "1.1"), "token", wish)).state
        == "done"
    )
    assert versions(torchserve) == {"1.0": False, "1.1": True}
    default = own.records.defaults()["baseline"]
    assert (default.version, default.previous) == ("1.1", "1.0")


def test_the_first_version_of_a_model_is_its_default(
    own: Services, torchserve: FakeTorchServe, reports_dir: Path
) -> None:
    write_archive(own.settings.model_store, "1.0", "vit")
    write_release(reports_dir, report("1.0") | {"model": "vit"})
    job = end(own, own.deployments.deploy(ModelVersion("vit", "1.0"), "operator", Wish()))
    assert job.reason == "vit 1.0 is served and is the default."
    assert own.records.defaults()["vit"].version == "1.0"


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
    job = end(
        own, own.deployments.deploy(ModelVersion("baseline", "1.1"), "operator", Wish(default=True))
    )
    assert job.state == "failed"
    assert job.reason.startswith(f"{step}: ")
    assert reason in job.reason
    assert (step, "failed") in state_of(job)
    assert state_of(job)[-1] == ("Take it back", "done")
    assert versions(torchserve) == {"1.0": True}
    row = own.records.deployment(ModelVersion("baseline", "1.1"))
    assert row is not None
    assert row.wanted == "withdrawn"
    default = own.records.defaults()["baseline"]
    assert (default.version, default.previous) == ("1.0", None)
    line = own.records.audit(1)[0]
    assert (line.outcome, line.reason) == ("failed", job.reason)


class TestWithTheLog:
    @pytest.fixture
    def settings(self, settings: Settings, tmp_path: Path) -> Settings:
        return settings.model_copy(update={"torchserve_model_log": tmp_path / "model_log.log"})

    @pytest.mark.usefixtures("archive")
    def test_the_reason_of_a_crash_is_told(
        self, own: Services, torchserve: FakeTorchServe, settings: Settings
    ) -> None:
        assert settings.torchserve_model_log is not None
        log = settings.torchserve_model_log
        log.write_text("x INFO  W-9000-baseline_1.1-stdout: ValueError: of a former deploy\n")
        torchserve.crashing = True
        register = torchserve.register

        def crash(name: ModelVersion, workers: int, timeout: float) -> None:
            register(name, workers, timeout)
            with log.open("a") as file:
                file.write("x INFO  W-9000-baseline_1.1-stdout: RuntimeError: no memory\n")

        torchserve.register = crash  # type: ignore[method-assign]
        job = end(own, own.deployments.deploy(ModelVersion("baseline", "1.1"), "operator", Wish()))
        assert job.reason.endswith(" The last error in its log: RuntimeError: no memory.")


def test_a_mistake_of_ours_is_taken_back_too(
    own: Services, torchserve: FakeTorchServe, archive: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torchserve.predict_error = RuntimeError("secret")
    job = end(own, own.deployments.deploy(ModelVersion("baseline", "1.1"), "operator", Wish()))
    assert job.state == "failed"
    assert "secret" not in job.reason
    assert versions(torchserve) == {"1.0": True}
    assert "RuntimeError: secret" in caplog.text


def test_what_cannot_be_taken_back_is_tried_again(
    own: Services, torchserve: FakeTorchServe, archive: Path
) -> None:
    torchserve.refused.add("unregister")
    torchserve.crashing = True
    job = end(own, own.deployments.deploy(ModelVersion("baseline", "1.1"), "operator", Wish()))
    assert state_of(job)[-1] == ("Take it back", "failed")
    assert versions(torchserve) == {"1.0": True, "1.1": False}
    torchserve.refused.clear()
    own.reconciler.look()
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
        own.deployments.deploy(ModelVersion("baseline", "1.1"), "operator", Wish())
    assert last(own) == ("deploy", "1.1", "refused")
    assert torchserve.changes == []


def test_an_unmeasured_archive_needs_a_word(own: Services, torchserve: FakeTorchServe) -> None:
    write_archive(own.settings.model_store)
    with pytest.raises(NotPossible, match="has no report"):
        own.deployments.deploy(ModelVersion("baseline", "1.1"), "operator", Wish())
    job = end(
        own,
        own.deployments.deploy(ModelVersion("baseline", "1.1"), "operator", Wish(unreported=True)),
    )
    assert job.state == "done"


def test_an_unmeasured_archive_has_the_classes_of_the_default(own: Services) -> None:
    write_archive(own.settings.model_store, "1.0")
    config = b"spec: {labels: [AnnualCrop, River]}"
    write_archive(
        own.settings.model_store,
        change=lambda entries: entries.update({"model-config.yaml": config}),
    )
    with pytest.raises(BadArchive, match=r"has 2 classes, the default version 1\.0 has 3"):
        own.deployments.deploy(ModelVersion("baseline", "1.1"), "operator", Wish(unreported=True))

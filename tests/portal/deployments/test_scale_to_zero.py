import time

import pytest

from handlers.contract.names import ModelVersion
from portal.deployments.reconciler import Reconciler
from portal.errors import ModelNotReady
from portal.services import Services
from portal.settings import Settings
from tests.support.fake_torchserve import FakeTorchServe, served
from tests.support.recorded_models import kept, own

__all__ = ["kept", "own"]  # fixtures


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"lazy": frozenset({"baseline-1.0"}), "lazy_idle": 0.05})


@pytest.fixture
def asleep(kept: Services, torchserve: FakeTorchServe) -> Reconciler:
    time.sleep(0.06)
    kept.reconciler.look()
    assert torchserve.changes == [("scale", "baseline", "1.0", "0")]
    kept.reconciler.look()
    assert torchserve.gate.is_asleep(ModelVersion("baseline", "1.0"))
    return kept.reconciler


@pytest.mark.usefixtures("asleep")
def test_it_sleeps_and_wakes(torchserve: FakeTorchServe) -> None:
    with torchserve.gate.passing(ModelVersion("baseline", "1.0"), time.monotonic() + 5):
        assert torchserve.versions[0].workers_ready == 1
    assert not torchserve.gate.is_asleep(ModelVersion("baseline", "1.0"))


@pytest.mark.usefixtures("asleep")
def test_health_tells_it_from_a_broken_one(kept: Services, torchserve: FakeTorchServe) -> None:
    assert kept.health.report().status == "ok"
    torchserve.versions[1] = served("1.1", pids=(), wanted=0)
    report = kept.health.report()
    assert (report.status, report.failures[0].version) == ("degraded", "1.1")


@pytest.mark.usefixtures("asleep")
def test_one_that_wakes_too_late_is_told(torchserve: FakeTorchServe) -> None:
    torchserve.scale = lambda *_: None  # type: ignore[method-assign]
    soon = time.monotonic() + 0.2
    with (
        pytest.raises(ModelNotReady, match="is waking") as refused,
        torchserve.gate.passing(ModelVersion("baseline", "1.0"), soon),
    ):
        pass
    assert refused.value.retry_after


@pytest.mark.usefixtures("asleep")
def test_one_that_another_process_needs_wakes_and_stays_awake(
    kept: Services, torchserve: FakeTorchServe
) -> None:
    needed = {ModelVersion("baseline", "1.0")}
    kept.scale_to_zero._needed = lambda: needed
    for _ in range(3):
        kept.reconciler.look()
        time.sleep(0.06)
    assert torchserve.versions[0].workers_ready == 1
    assert torchserve.changes[1:] == [("scale", "baseline", "1.0", "1")]
    needed.clear()
    kept.reconciler.look()
    assert torchserve.versions[0].workers_ready == 0


def test_it_is_restored_asleep(kept: Services, torchserve: FakeTorchServe) -> None:
    torchserve.versions = []
    kept.reconciler.look()
    assert torchserve.changes == [
        ("register", "baseline-1.1.mar", "1"),
        ("register", "baseline-1.0.mar", "0"),
    ]

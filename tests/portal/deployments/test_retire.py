import threading
import time

import pytest

from handlers.contract.names import ModelVersion
from portal.deployments import changes as module
from portal.services import Services
from tests.support.fake_torchserve import FakeTorchServe
from tests.support.managed_models import archive, end, own, quickly, state_of, two, versions

__all__ = ["archive", "own", "quickly", "two"]  # fixtures


def test_retire(two: Services, torchserve: FakeTorchServe) -> None:
    assert (
        end(two, two.deployments.retire(ModelVersion("baseline", "1.1"), "operator")).state
        == "done"
    )
    assert versions(torchserve) == {"1.0": True}
    row = two.records.deployment(ModelVersion("baseline", "1.1"))
    assert row is not None
    assert row.wanted == "withdrawn"
    two.reconciler.look()
    assert versions(torchserve) == {"1.0": True}


def test_a_version_that_is_lost_can_be_retired(two: Services, torchserve: FakeTorchServe) -> None:
    torchserve.versions.pop()
    assert (
        end(two, two.deployments.retire(ModelVersion("baseline", "1.1"), "operator")).state
        == "done"
    )
    two.reconciler.look()
    assert versions(torchserve) == {"1.0": True}


def test_retire_waits_for_what_is_under_way(two: Services, torchserve: FakeTorchServe) -> None:
    let_go = threading.Event()

    def client() -> None:
        with torchserve.gate.passing(ModelVersion("baseline", "1.1"), 1e12):
            let_go.wait(5)

    thread = threading.Thread(target=client)
    thread.start()
    job = two.deployments.retire(ModelVersion("baseline", "1.1"), "operator")
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
    with torchserve.gate.passing(ModelVersion("baseline", "1.1"), 1e12):
        job = end(two, two.deployments.retire(ModelVersion("baseline", "1.1"), "operator"))
    assert (job.state, state_of(job)) == ("failed", [("Drain it", "failed")])
    assert "1 tiles under way" in job.reason
    assert versions(torchserve) == {"1.0": True, "1.1": False}
    with torchserve.gate.passing(ModelVersion("baseline", "1.1"), 1e12):
        pass  # it takes tiles again

import pytest

from handlers.contract.names import ModelVersion
from portal.errors import NotPossible
from portal.services import Services
from tests.support.fake_torchserve import FakeTorchServe, served
from tests.support.managed_models import archive, end, own, quickly, two, versions

__all__ = ["archive", "own", "quickly", "two"]  # fixtures


def test_promote_and_roll_back(two: Services, torchserve: FakeTorchServe) -> None:
    job = end(two, two.deployments.promote(ModelVersion("baseline", "1.1"), "operator"))
    assert job.reason == "baseline 1.1 is the default; before it was 1.0."
    assert versions(torchserve) == {"1.0": False, "1.1": True}
    assert end(two, two.deployments.roll_back("baseline", "operator")).version == "1.0"
    assert versions(torchserve) == {"1.0": True, "1.1": False}
    default = two.records.defaults()["baseline"]
    assert (default.version, default.previous) == ("1.0", "1.1")


def test_a_promote_that_fails_changes_nothing(two: Services, torchserve: FakeTorchServe) -> None:
    torchserve.probabilities.update(River=0.25, SeaLake=0.0)
    assert (
        end(two, two.deployments.promote(ModelVersion("baseline", "1.1"), "operator")).state
        == "failed"
    )
    assert versions(torchserve) == {"1.0": True, "1.1": False}
    assert two.records.defaults()["baseline"].version == "1.0"


def test_a_version_without_a_worker_is_not_promoted(
    two: Services, torchserve: FakeTorchServe
) -> None:
    torchserve.versions[1] = served("1.1", default=False, ready=False)
    with pytest.raises(NotPossible, match="has no worker ready"):
        two.deployments.promote(ModelVersion("baseline", "1.1"), "operator")

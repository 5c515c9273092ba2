from handlers.contract.names import ModelVersion
from portal.services import Services
from tests.support.fake_torchserve import FakeTorchServe
from tests.support.managed_models import archive, end, own, quickly, two

__all__ = ["archive", "own", "quickly", "two"]  # fixtures


def test_scale(two: Services, torchserve: FakeTorchServe) -> None:
    assert (
        end(two, two.deployments.scale(ModelVersion("baseline", "1.1"), "operator", 3)).state
        == "done"
    )
    assert len(torchserve.versions[1].workers) == 3
    row = two.records.deployment(ModelVersion("baseline", "1.1"))
    assert row is not None
    assert row.workers == 3

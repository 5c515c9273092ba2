import io
from collections.abc import Callable
from pathlib import Path

import pytest

from handlers.contract.names import ModelVersion
from portal.deployments.deploy import Wish
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
from portal.services import Services
from tests.support.archive_files import write_archive
from tests.support.fake_torchserve import FakeTorchServe, served
from tests.support.managed_models import archive, end, last, own, quickly, two, versions

__all__ = ["archive", "own", "quickly", "two"]  # fixtures


def test_what_cannot_begin(own: Services, torchserve: FakeTorchServe, archive: Path) -> None:
    refused: list[tuple[Callable[[], object], type[PortalError]]] = [
        (
            lambda: own.deployments.deploy(ModelVersion("baseline", "1.2"), "o", Wish()),
            UnknownArchive,
        ),
        (
            lambda: own.deployments.deploy(ModelVersion("baseline", "1.1"), "o", Wish(workers=17)),
            BadRequest,
        ),
        (lambda: own.deployments.promote(ModelVersion("baseline", "1.0"), "o"), NotPossible),
        (lambda: own.deployments.promote(ModelVersion("baseline", "1.1"), "o"), UnknownModel),
        (lambda: own.deployments.roll_back("baseline", "o"), NotPossible),
        (lambda: own.deployments.roll_back("none", "o"), NotPossible),
        (lambda: own.deployments.scale(ModelVersion("baseline", "1.0"), "o", 0), BadRequest),
        (lambda: own.deployments.scale(ModelVersion("baseline", "1.1"), "o", 1), UnknownModel),
        (lambda: own.deployments.retire(ModelVersion("baseline", "1.0"), "o"), NotPossible),
        (lambda: own.deployments.retire(ModelVersion("baseline", "1.1"), "o"), UnknownModel),
    ]
    for number, (call, error) in enumerate(refused):
        with pytest.raises(error):
            call()
        assert own.records.audit(1)[0].outcome == "refused", number
    torchserve.versions.append(served("1.1", default=False))
    with pytest.raises(NotPossible, match="is served already"):
        own.deployments.deploy(ModelVersion("baseline", "1.1"), "o", Wish())
    torchserve.served_error = ModelServerDown("x")
    with pytest.raises(ModelServerDown):
        own.deployments.deploy(ModelVersion("baseline", "1.1"), "o", Wish())
    assert torchserve.changes == []
    own.deployments.locks.take("baseline")  # nothing above kept it


def test_one_change_of_a_model_at_a_time(own: Services, archive: Path) -> None:
    own.deployments.locks.take("baseline")
    with pytest.raises(ModelBusy, match="Another change of baseline"):
        own.deployments.deploy(ModelVersion("baseline", "1.1"), "operator", Wish())
    own.deployments.locks.free("baseline")
    assert (
        end(own, own.deployments.deploy(ModelVersion("baseline", "1.1"), "operator", Wish())).state
        == "done"
    )


def test_an_upload_is_stored_and_not_served(
    own: Services, torchserve: FakeTorchServe, tmp_path: Path
) -> None:
    content = write_archive(tmp_path / "elsewhere").read_bytes()
    own.deployments.upload(io.BytesIO(content), "baseline-1.1.mar", "operator")
    assert last(own) == ("upload", "1.1", "done")
    torchserve.versions.append(served("1.1", default=False))  # TorchServe loads all it finds
    own.reconciler.look()
    assert versions(torchserve) == {"1.0": True}
    with pytest.raises(BadArchive):
        own.deployments.upload(io.BytesIO(content), "x.mar", "operator")
    assert own.records.audit(1)[0].outcome == "refused"


def test_an_upload_never_changes_what_is_served(two: Services, tmp_path: Path) -> None:
    content = write_archive(
        tmp_path / "elsewhere", change=lambda entries: entries.update({"x.txt": b""})
    ).read_bytes()
    with pytest.raises(NotPossible, match="served with another content"):
        two.deployments.upload(io.BytesIO(content), "baseline-1.1.mar", "operator")

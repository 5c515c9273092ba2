import sqlite3
from contextlib import closing

import pytest

from handlers.contract.names import ModelVersion
from portal.deployments import reconciler as module
from portal.errors import ModelServerDown
from portal.services import Services
from tests.support.archive_files import write_archive
from tests.support.fake_torchserve import FakeTorchServe, served
from tests.support.recorded_models import kept, own

__all__ = ["kept", "own"]  # fixtures


def versions(torchserve: FakeTorchServe) -> dict[str, bool]:
    return {found.name.version: found.default for found in torchserve.versions}


def actions(own: Services) -> list[tuple[str, str | None, str]]:
    return [(line.action, line.version, line.outcome) for line in reversed(own.records.audit(50))]


def test_the_first_look_takes_over_what_is_served(
    kept: Services, torchserve: FakeTorchServe
) -> None:
    assert [row.version for row in kept.records.deployments()] == ["1.0", "1.1"]
    assert kept.records.defaults()["baseline"].version == "1.1"
    assert actions(kept) == [("adopt", "1.0", "done"), ("adopt", "1.1", "done")]
    kept.reconciler.look()
    assert torchserve.changes == []
    assert len(actions(kept)) == 2


def test_a_look_that_finds_no_difference_writes_nothing(
    kept: Services,
) -> None:
    path = kept.settings.database_url.get_secret_value().removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # whoever writes would wait for it
        kept.reconciler.look()


def test_an_empty_server_gets_everything_back(kept: Services, torchserve: FakeTorchServe) -> None:
    torchserve.versions = []
    kept.reconciler.look()
    # the default first, so that it is the default at once
    assert torchserve.changes == [
        ("register", "baseline-1.1.mar", "1"),
        ("register", "baseline-1.0.mar", "1"),
    ]
    assert versions(torchserve) == {"1.1": True, "1.0": False}
    assert actions(kept)[2:] == [("restore", "1.1", "done"), ("restore", "1.0", "done")]


def test_another_default_is_corrected_when_ours_can_answer(
    kept: Services, torchserve: FakeTorchServe
) -> None:
    torchserve.versions = [served("1.0"), served("1.1", default=False, ready=False)]
    kept.reconciler.look()
    assert versions(torchserve) == {"1.0": True, "1.1": False}
    torchserve.versions = [served("1.0"), served("1.1", default=False)]
    kept.reconciler.look()
    assert versions(torchserve) == {"1.0": False, "1.1": True}


def test_what_was_retired_goes_again(kept: Services, torchserve: FakeTorchServe) -> None:
    kept.records.withdraw(ModelVersion("baseline", "1.0"))
    torchserve.versions = [served("1.0"), served("1.1", default=False)]
    kept.reconciler.look()
    kept.reconciler.look()
    assert versions(torchserve) == {"1.1": True}


def test_a_version_registered_by_hand_is_left_alone(
    kept: Services, torchserve: FakeTorchServe
) -> None:
    torchserve.versions.append(served("9.9", default=False))
    kept.reconciler.look()
    assert torchserve.changes == []
    assert kept.records.deployment(ModelVersion("baseline", "9.9")) is None


def test_workers_are_as_recorded(kept: Services, torchserve: FakeTorchServe) -> None:
    kept.records.change(ModelVersion("baseline", "1.0"), workers=2)
    kept.reconciler.look()
    assert torchserve.changes == [("scale", "baseline", "1.0", "2")]


def test_a_deploy_that_was_cut_off_is_taken_back(
    kept: Services, torchserve: FakeTorchServe
) -> None:
    kept.records.change(ModelVersion("baseline", "1.0"), wanted="deploying")
    kept.reconciler.look()
    assert versions(torchserve) == {"1.1": True}
    assert actions(kept)[-1] == ("deploy", "1.0", "failed")
    row = kept.records.deployment(ModelVersion("baseline", "1.0"))
    assert row is not None
    assert row.wanted == "withdrawn"


def test_a_change_under_way_is_not_disturbed(kept: Services, torchserve: FakeTorchServe) -> None:
    torchserve.versions = []
    kept.deployments.locks.take("baseline")
    kept.reconciler.look()
    assert torchserve.changes == []
    kept.deployments.locks.free("baseline")
    kept.reconciler.look()
    assert len(torchserve.changes) == 2


def test_a_missing_archive_is_told_once_and_tried_again(
    kept: Services, torchserve: FakeTorchServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = kept.settings.model_store / "baseline-1.0.mar"
    content = path.read_bytes()
    path.unlink()
    torchserve.versions = [served("1.1")]
    kept.reconciler.look()
    kept.reconciler.look()
    assert actions(kept)[2:] == [("restore", "1.0", "failed")]
    path.write_bytes(content)
    monkeypatch.setattr(module, "RETRY", 0)
    kept.reconciler.look()
    assert actions(kept)[3:] == [("restore", "1.0", "done")]


def test_an_archive_built_anew_is_told(kept: Services, torchserve: FakeTorchServe) -> None:
    write_archive(
        kept.settings.model_store, "1.0", change=lambda entries: entries.update({"a.txt": b""})
    )
    torchserve.versions = [served("1.1")]
    kept.reconciler.look()
    assert "built anew" in kept.records.audit(1)[0].reason
    row = kept.records.deployment(ModelVersion("baseline", "1.0"))
    assert row is not None
    assert row.sha256 == kept.archives.get(ModelVersion("baseline", "1.0")).sha256


def test_a_server_that_is_down_changes_nothing(kept: Services, torchserve: FakeTorchServe) -> None:
    torchserve.served_error = ModelServerDown("x")
    with pytest.raises(ModelServerDown):
        kept.reconciler.look()
    assert len(kept.records.deployments()) == 2

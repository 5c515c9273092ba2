import time
from dataclasses import dataclass, field

import pytest

from handlers.contract.names import ModelVersion
from portal.deployments.gates import Gates
from portal.errors import StateUnavailable, UnknownModel
from portal.serving.version_gate import VersionGate
from portal.storage import heartbeat as heartbeats
from portal.storage.database import Database
from portal.storage.heartbeat import Heartbeat
from tests.support.databases import database, execute, url
from tests.support.postgres import postgres

__all__ = ["database", "postgres", "url"]  # fixtures

OLD, NEW = ModelVersion("baseline", "1.0"), ModelVersion("baseline", "1.1")


@dataclass
class Portal:
    """One of two on a database."""

    database: Database
    gate: VersionGate = field(default_factory=VersionGate)

    def __post_init__(self) -> None:
        self.gates = Gates(self.database, Heartbeat(self.database), self.gate)

    def lets_pass(self, target: ModelVersion) -> bool:
        try:
            with self.gate.passing(target, time.monotonic() + 1):
                return True
        except UnknownModel:
            return False


@pytest.fixture
def here(database: Database) -> Portal:
    return Portal(database)


@pytest.fixture
def there(database: Database) -> Portal:
    return Portal(database)


def test_another_portal_closes_a_version_too(here: Portal, there: Portal, url: str) -> None:
    with here.gates.closed(OLD):
        there.gates.follow()
        here.gates.follow()
        assert [here.lets_pass(OLD), there.lets_pass(OLD), there.lets_pass(NEW)] == [
            False, False, True,
        ]  # fmt: skip
    assert here.lets_pass(OLD)
    there.gates.follow()
    assert there.lets_pass(OLD)
    assert execute(url, "SELECT * FROM gates") == []


def test_another_portal_has_a_version_on_trial_too(here: Portal, there: Portal) -> None:
    with here.gates.trial(NEW):
        there.gates.follow()
        assert [here.gate.is_on_trial(NEW), there.gate.is_on_trial(NEW)] == [True, True]
        assert there.lets_pass(NEW)
    there.gates.follow()
    assert [here.gate.is_on_trial(NEW), there.gate.is_on_trial(NEW)] == [False, False]


def test_a_dead_portal_closes_nothing(
    here: Portal, there: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with here.gates.closed(OLD):
        monkeypatch.setattr(heartbeats, "DEAD_AFTER", -1.0)
        there.gates.follow()
        assert there.lets_pass(OLD)


def test_what_raises_opens_the_gate_again(here: Portal, url: str) -> None:
    with pytest.raises(KeyError), here.gates.closed(OLD):
        raise KeyError
    assert here.lets_pass(OLD)
    assert execute(url, "SELECT * FROM gates") == []


def test_a_gate_that_cannot_be_told_is_not_closed(
    here: Portal, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise StateUnavailable("locked")

    monkeypatch.setattr(database, "transaction", fail)
    with pytest.raises(StateUnavailable), here.gates.closed(OLD):
        pass
    assert here.lets_pass(OLD)


def test_a_gate_that_stays_behind_does_not_spoil_the_change(
    here: Portal, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise StateUnavailable("locked")

    with here.gates.closed(OLD):
        monkeypatch.setattr(database, "transaction", fail)
    assert here.lets_pass(OLD)

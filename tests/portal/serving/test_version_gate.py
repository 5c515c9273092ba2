import time

import pytest

from portal.errors import ModelNotReady, UnknownModel
from portal.serving.version_gate import VersionGate

LATER = 1e12


def test_predictions_are_counted_while_they_pass() -> None:
    gate = VersionGate()
    with gate.passing("a", "1.0", LATER), gate.passing("a", "1.0", LATER):
        assert gate.in_flight("a", "1.0") == 2
        assert gate.in_flight("a", "1.1") == 0
    with pytest.raises(KeyError), gate.passing("a", "1.0", LATER):
        raise KeyError
    assert gate.in_flight("a", "1.0") == 0


def test_a_closed_version_takes_none() -> None:
    gate = VersionGate()
    gate.close("a", "1.0")
    with pytest.raises(UnknownModel, match="being retired"), gate.passing("a", "1.0", LATER):
        pass
    assert gate.in_flight("a", "1.0") == 0
    gate.open("a", "1.0")
    with gate.passing("a", "1.0", LATER):
        pass


def test_a_sleeping_version_is_woken_first() -> None:
    gate = VersionGate()
    woken = []
    gate.on_wake(lambda *what: woken.append(what))
    gate.set_lazy("a", {"1.0": True, "1.1": False})
    for version in ("1.0", "1.1", "1.2"):
        with gate.passing("a", version, LATER):
            pass
    assert woken == [("a", "1.0", LATER)]
    gate.awake("a", "1.0")
    assert not gate.is_asleep("a", "1.0")


def test_one_that_does_not_wake_is_not_counted() -> None:
    gate = VersionGate()

    def fail(_model: str, _version: str, _deadline: float) -> None:
        raise ModelNotReady("x")

    gate.on_wake(fail)
    gate.set_lazy("a", {"1.0": True})
    with pytest.raises(ModelNotReady), gate.passing("a", "1.0", LATER):
        pass
    assert gate.in_flight("a", "1.0") == 0


def test_only_an_idle_lazy_version_falls_asleep() -> None:
    gate = VersionGate()
    gate.set_lazy("a", {"1.0": False, "1.1": True})
    assert not gate.fall_asleep("a", "1.0", idle=60)
    assert not gate.fall_asleep("a", "1.1", idle=0)  # it sleeps
    assert not gate.fall_asleep("a", "1.2", idle=0)  # it never may
    with gate.passing("a", "1.0", LATER):
        assert not gate.fall_asleep("a", "1.0", idle=0)
    time.sleep(0.01)
    assert gate.fall_asleep("a", "1.0", idle=0.005)
    assert gate.is_asleep("a", "1.0")


def test_a_model_that_is_lazy_no_more() -> None:
    gate = VersionGate()
    gate.set_lazy("a", {"1.0": True})
    gate.set_lazy("b", {"1.0": True})
    gate.set_lazy("a", {})
    assert not gate.is_lazy("a", "1.0")
    assert gate.is_lazy("b", "1.0")


def test_a_trial() -> None:
    gate = VersionGate()
    with gate.trial("a", "1.0"):
        assert gate.is_on_trial("a", "1.0")
    assert not gate.is_on_trial("a", "1.0")

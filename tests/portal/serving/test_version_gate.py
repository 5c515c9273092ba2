import time

import pytest

from handlers.contract.names import ModelVersion
from portal.errors import ModelNotReady, UnknownModel
from portal.serving.version_gate import VersionGate

LATER = 1e12


def test_predictions_are_counted_while_they_pass() -> None:
    gate = VersionGate()
    with (
        gate.passing(ModelVersion("a", "1.0"), LATER),
        gate.passing(ModelVersion("a", "1.0"), LATER),
    ):
        assert gate.in_flight(ModelVersion("a", "1.0")) == 2
        assert gate.in_flight(ModelVersion("a", "1.1")) == 0
    with pytest.raises(KeyError), gate.passing(ModelVersion("a", "1.0"), LATER):
        raise KeyError
    assert gate.in_flight(ModelVersion("a", "1.0")) == 0


def test_a_closed_version_takes_none() -> None:
    gate = VersionGate()
    gate.close(ModelVersion("a", "1.0"))
    with (
        pytest.raises(UnknownModel, match="being retired"),
        gate.passing(ModelVersion("a", "1.0"), LATER),
    ):
        pass
    assert gate.in_flight(ModelVersion("a", "1.0")) == 0
    gate.open(ModelVersion("a", "1.0"))
    with gate.passing(ModelVersion("a", "1.0"), LATER):
        pass


def test_a_sleeping_version_is_woken_first() -> None:
    gate = VersionGate()
    woken = []
    gate.waker = lambda *what: woken.append(what)
    gate.set_lazy("a", {ModelVersion("a", "1.0"): True, ModelVersion("a", "1.1"): False})
    for version in ("1.0", "1.1", "1.2"):
        with gate.passing(ModelVersion("a", version), LATER):
            pass
    assert woken == [(ModelVersion("a", "1.0"), LATER)]
    gate.awake(ModelVersion("a", "1.0"))
    assert not gate.is_asleep(ModelVersion("a", "1.0"))


def test_one_that_does_not_wake_is_not_counted() -> None:
    gate = VersionGate()

    def fail(_served: ModelVersion, _deadline: float) -> None:
        raise ModelNotReady("x")

    gate.waker = fail
    gate.set_lazy("a", {ModelVersion("a", "1.0"): True})
    with pytest.raises(ModelNotReady), gate.passing(ModelVersion("a", "1.0"), LATER):
        pass
    assert gate.in_flight(ModelVersion("a", "1.0")) == 0


def test_only_an_idle_lazy_version_falls_asleep() -> None:
    gate = VersionGate()
    gate.set_lazy("a", {ModelVersion("a", "1.0"): False, ModelVersion("a", "1.1"): True})
    assert not gate.fall_asleep(ModelVersion("a", "1.0"), idle=60)
    assert not gate.fall_asleep(ModelVersion("a", "1.1"), idle=0)  # it sleeps
    assert not gate.fall_asleep(ModelVersion("a", "1.2"), idle=0)  # it never may
    with gate.passing(ModelVersion("a", "1.0"), LATER):
        assert not gate.fall_asleep(ModelVersion("a", "1.0"), idle=0)
    time.sleep(0.01)
    assert gate.fall_asleep(ModelVersion("a", "1.0"), idle=0.005)
    assert gate.is_asleep(ModelVersion("a", "1.0"))


def test_a_model_that_is_lazy_no_more() -> None:
    gate = VersionGate()
    gate.set_lazy("a", {ModelVersion("a", "1.0"): True})
    gate.set_lazy("b", {ModelVersion("b", "1.0"): True})
    gate.set_lazy("a", {})
    assert not gate.is_lazy(ModelVersion("a", "1.0"))
    assert gate.is_lazy(ModelVersion("b", "1.0"))


def test_a_trial() -> None:
    gate = VersionGate()
    with gate.trial(ModelVersion("a", "1.0")):
        assert gate.is_on_trial(ModelVersion("a", "1.0"))
    assert not gate.is_on_trial(ModelVersion("a", "1.0"))

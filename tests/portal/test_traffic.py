import time

import pytest

from portal.errors import ModelNotReady, UnknownModel
from portal.traffic import Traffic

LATER = 1e12


def test_predictions_are_counted_while_they_pass() -> None:
    traffic = Traffic()
    with traffic.passing("a", "1.0", LATER), traffic.passing("a", "1.0", LATER):
        assert traffic.in_flight("a", "1.0") == 2
        assert traffic.in_flight("a", "1.1") == 0
    with pytest.raises(KeyError), traffic.passing("a", "1.0", LATER):
        raise KeyError
    assert traffic.in_flight("a", "1.0") == 0


def test_a_closed_version_takes_none() -> None:
    traffic = Traffic()
    traffic.close("a", "1.0")
    with pytest.raises(UnknownModel, match="being retired"), traffic.passing("a", "1.0", LATER):
        pass
    assert traffic.in_flight("a", "1.0") == 0
    traffic.open("a", "1.0")
    with traffic.passing("a", "1.0", LATER):
        pass


def test_a_sleeping_version_is_woken_first() -> None:
    traffic = Traffic()
    woken = []
    traffic.on_wake(lambda *what: woken.append(what))
    traffic.set_lazy("a", {"1.0": True, "1.1": False})
    for version in ("1.0", "1.1", "1.2"):
        with traffic.passing("a", version, LATER):
            pass
    assert woken == [("a", "1.0", LATER)]
    traffic.awake("a", "1.0")
    assert not traffic.is_asleep("a", "1.0")


def test_one_that_does_not_wake_is_not_counted() -> None:
    traffic = Traffic()

    def fail(_model: str, _version: str, _deadline: float) -> None:
        raise ModelNotReady("x")

    traffic.on_wake(fail)
    traffic.set_lazy("a", {"1.0": True})
    with pytest.raises(ModelNotReady), traffic.passing("a", "1.0", LATER):
        pass
    assert traffic.in_flight("a", "1.0") == 0


def test_only_an_idle_lazy_version_falls_asleep() -> None:
    traffic = Traffic()
    traffic.set_lazy("a", {"1.0": False, "1.1": True})
    assert not traffic.fall_asleep("a", "1.0", idle=60)
    assert not traffic.fall_asleep("a", "1.1", idle=0)  # it sleeps
    assert not traffic.fall_asleep("a", "1.2", idle=0)  # it never may
    with traffic.passing("a", "1.0", LATER):
        assert not traffic.fall_asleep("a", "1.0", idle=0)
    time.sleep(0.01)
    assert traffic.fall_asleep("a", "1.0", idle=0.005)
    assert traffic.is_asleep("a", "1.0")


def test_a_model_that_is_lazy_no_more() -> None:
    traffic = Traffic()
    traffic.set_lazy("a", {"1.0": True})
    traffic.set_lazy("b", {"1.0": True})
    traffic.set_lazy("a", {})
    assert not traffic.is_lazy("a", "1.0")
    assert traffic.is_lazy("b", "1.0")


def test_a_trial() -> None:
    traffic = Traffic()
    with traffic.trial("a", "1.0"):
        assert traffic.is_on_trial("a", "1.0")
    assert not traffic.is_on_trial("a", "1.0")

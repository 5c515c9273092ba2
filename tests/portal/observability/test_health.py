import logging
import sqlite3
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from handlers.contract.names import ModelVersion
from portal.errors import BadAnswer, ModelServerDown, TooSlow
from portal.observability import health as health_module
from portal.observability.health import Failure, Health
from portal.serving.model_server import Prediction, ServedVersion
from portal.serving.probe_tile import PROBE_TILE
from portal.storage.database import Database
from tests.support.fake_torchserve import FakeTorchServe, served


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "portal.db"


@pytest.fixture
def health(torchserve: FakeTorchServe, path: Path) -> Health:
    database = Database(f"sqlite:///{path}")
    database.open()
    return Health(torchserve, "baseline", database)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of health's times a hundredth."""
    for name in ("PROBE_WAIT", "PROBE_REFRESH", "PROBE_MAX_AGE"):
        monkeypatch.setattr(health_module, name, getattr(health_module, name) / 100)


def reasons(health: Health) -> list[tuple[str | None, str | None, str]]:
    return [(f.model, f.version, f.reason) for f in health.report().failures]


def test_ok_means_that_a_synthetic_prediction_was_made(
    health: Health, torchserve: FakeTorchServe
) -> None:
    report = health.report()
    assert (report.status, report.ready, report.failures) == ("ok", True, [])
    assert report.versions == torchserve.versions
    assert torchserve.asked == [(PROBE_TILE, "baseline", "1.0")]


def test_only_default_versions_are_probed(health: Health, torchserve: FakeTorchServe) -> None:
    torchserve.versions = [
        served(),
        served("2.0", default=False),
        served("3.0", model="resnet18", pids=(5,)),
    ]
    assert health.report().status == "ok"
    asked = {(model, version) for _, model, version in torchserve.asked}
    assert asked == {("baseline", "1.0"), ("resnet18", "3.0")}


def test_a_recent_probe_is_not_repeated(health: Health, torchserve: FakeTorchServe) -> None:
    for _ in range(5):
        health.report()
    assert len(torchserve.asked) == 1


@pytest.mark.usefixtures("short")
def test_an_old_probe_is_repeated(health: Health, torchserve: FakeTorchServe) -> None:
    health.report()
    time.sleep(0.35)
    torchserve.predict_error = BadAnswer("nonsense")
    failure = Failure("baseline", "1.0", "a synthetic prediction failed: nonsense")
    assert health.report().failures == [failure]


def test_a_new_process_is_probed_anew(health: Health, torchserve: FakeTorchServe) -> None:
    health.report()
    torchserve.versions = [served(pids=(12,))]
    torchserve.predict_error = TooSlow("late")
    assert health.report().status == "degraded"


@pytest.mark.usefixtures("short")
def test_a_failed_probe_is_made_good_by_the_next(
    health: Health, torchserve: FakeTorchServe
) -> None:
    torchserve.predict_error = TooSlow("late")
    assert (health.report().status, health.report().ready) == ("degraded", False)
    torchserve.predict_error = None
    time.sleep(0.15)
    assert health.report().status == "ok"


def test_a_mistake_of_ours_is_no_healthy_model(
    health: Health, torchserve: FakeTorchServe, caplog: pytest.LogCaptureFixture
) -> None:
    torchserve.predict_error = ZeroDivisionError()
    assert health.report().status == "degraded"
    assert "ZeroDivisionError" in caplog.text


class Hanging(FakeTorchServe):
    """Does not answer a prediction until told to."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def predict(
        self, image: bytes, served: ModelVersion, timeout: float | None = None
    ) -> Prediction:
        assert self.go.wait(10)
        return super().predict(image, served, timeout)


class TestHanging:
    @pytest.fixture
    def torchserve(self) -> Iterator[Hanging]:
        hanging = Hanging()
        yield hanging
        hanging.go.set()

    def test_health_does_not_wait_for_long(self, health: Health) -> None:
        started = time.monotonic()
        assert reasons(health) == [
            ("baseline", "1.0", "a synthetic prediction has not been answered yet")
        ]
        assert time.monotonic() - started < 1.5

    @pytest.mark.usefixtures("short")
    def test_two_reports_share_one_probe(self, health: Health, torchserve: Hanging) -> None:
        health.report()
        health.report()
        probes = [t for t in threading.enumerate() if t.name == "portal-probe"]
        assert len(probes) == 1
        torchserve.go.set()
        probes[0].join(10)
        assert health.report().status == "ok"

    @pytest.mark.usefixtures("short")
    def test_a_good_probe_holds_only_for_its_age(self, health: Health, torchserve: Hanging) -> None:
        torchserve.go.set()
        assert health.report().status == "ok"
        torchserve.go.clear()
        time.sleep(0.15)
        assert health.report().status == "ok"  # the next probe hangs, the former still counts
        time.sleep(0.3)
        assert health.report().status == "degraded"


def test_loading(health: Health, torchserve: FakeTorchServe) -> None:
    torchserve.versions = [served(ready=False)]
    report = health.report()
    assert (report.status, report.ready) == ("loading", False)
    assert reasons(health) == [("baseline", "1.0", "its worker is loading")]
    assert torchserve.asked == []


def test_a_crash_loop_is_told_from_loading(health: Health, torchserve: FakeTorchServe) -> None:
    statuses = []
    for pid in (-1, 11, -1, 12, 13, 13):
        torchserve.versions = [served(ready=False, pids=(pid,))]
        statuses.append(health.report().status)
    assert statuses == ["loading"] * 4 + ["degraded"] * 2
    assert "crashes again and again" in reasons(health)[0][2]
    torchserve.versions = [served(pids=(13,))]
    assert health.report().status == "ok"
    torchserve.versions = [served(ready=False, pids=(14,))]
    assert health.report().status == "loading"


def test_a_version_that_stays_unready_is_broken(
    health: Health, torchserve: FakeTorchServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    torchserve.versions = [served(ready=False)]
    assert health.report().status == "loading"
    later = time.monotonic() + 61
    monkeypatch.setattr("portal.observability.health.time.monotonic", lambda: later)
    assert reasons(health) == [("baseline", "1.0", "no worker became ready within 60 s")]


def test_a_version_without_workers_is_broken(health: Health, torchserve: FakeTorchServe) -> None:
    torchserve.versions = [served(pids=(), wanted=0)]
    assert reasons(health) == [("baseline", "1.0", "no worker is started for it")]


def test_a_broken_version_that_is_no_default_counts(
    health: Health, torchserve: FakeTorchServe
) -> None:
    torchserve.versions = [served(), served("2.0", default=False, ready=False)]
    report = health.report()
    assert (report.status, report.ready) == ("loading", True)


@pytest.mark.parametrize("versions", [[], [served(model="resnet18")]])
def test_a_missing_default_model_is_a_failure(
    health: Health, torchserve: FakeTorchServe, versions: list[ServedVersion]
) -> None:
    torchserve.versions = versions
    report = health.report()
    assert (report.status, report.ready) == ("degraded", False)
    assert [(failure.model, failure.version) for failure in report.failures] == [("baseline", None)]


def test_down_and_up_again(health: Health, torchserve: FakeTorchServe) -> None:
    health.report()
    torchserve.served_error = ModelServerDown("no answer")
    report = health.report()
    assert (report.status, report.ready, report.versions) == ("down", False, [])
    assert report.failures == [Failure(None, None, "no answer")]
    torchserve.served_error = None
    assert health.report().status == "ok"
    assert len(torchserve.asked) == 2  # what was proven before counts no more


def test_a_change_is_logged_once(
    health: Health, torchserve: FakeTorchServe, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "portal.observability.health")
    health.report()
    torchserve.served_error = ModelServerDown("no answer")
    health.report()
    health.report()
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert "health is down; None None: no answer" in caplog.text


def test_what_was_seen_lately_is_remembered(
    health: Health, torchserve: FakeTorchServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert health.lately() is None
    health.report()
    assert health.lately() == "ok"
    torchserve.served_error = ModelServerDown("x")
    health.report()
    assert health.lately() == "down"
    monkeypatch.setattr(health_module, "PROBE_MAX_AGE", 0)
    assert health.lately() is None


class TestTheDatabase:
    def test_that_is_gone_is_told_at_once(self, health: Health, path: Path) -> None:
        assert health.report().status == "ok"
        path.unlink()
        report = health.report()
        assert (report.status, report.ready, health.lately()) == ("degraded", True, "database")
        (failure,) = report.failures
        assert (failure.model, failure.version) == (None, None)
        assert failure.reason.startswith("The portal's database is gone: its file was there")
        assert not path.exists()

    def test_that_is_locked_is_told_within_a_second(self, health: Health, path: Path) -> None:
        health.report()
        with closing(sqlite3.connect(path, isolation_level=None)) as locker:
            locker.execute("BEGIN IMMEDIATE")
            started = time.monotonic()
            (failure,) = health.report().failures
            assert time.monotonic() - started < 1
        assert failure.reason.startswith("The portal's database is locked: another program")
        assert health.report().status == "ok"

    def test_that_is_replaced_is_used(self, health: Health, path: Path) -> None:
        path.unlink()
        path.touch()
        assert health.report().status == "ok"

    def test_that_hangs_keeps_nobody_waiting(
        self, health: Health, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        go_on = threading.Event()
        monkeypatch.setattr(health._database, "check", go_on.wait)
        monkeypatch.setattr(health_module, "DATABASE_WAIT", 0.05)
        for _ in range(3):
            assert "not answered within 0.05 s" in health.report().failures[0].reason
        looks = [t for t in threading.enumerate() if t.name == "portal-database-probe"]
        go_on.set()
        for thread in looks:
            thread.join()
        assert len(looks) == 1
        assert health.report().status == "ok"

    def test_and_a_server_that_is_down(
        self, health: Health, torchserve: FakeTorchServe, path: Path
    ) -> None:
        torchserve.served_error = ModelServerDown("x")
        path.unlink()
        report = health.report()
        assert (report.status, health.lately()) == ("down", "down")
        server, database = report.failures
        assert server.reason == "x"
        assert database.reason.startswith("The portal's database is gone")


def test_a_version_on_trial_is_nobodys_loss(health: Health, torchserve: FakeTorchServe) -> None:
    torchserve.versions.append(served("1.1", default=False, ready=False))
    with torchserve.gate.trial(ModelVersion("baseline", "1.1")):
        report = health.report()
    assert (report.status, [found.name.version for found in report.versions]) == ("ok", ["1.0"])
    assert [found.name.version for found in report.on_trial] == ["1.1"]


def test_the_synthetic_tile_is_a_png_with_correct_checksums() -> None:
    assert PROBE_TILE.startswith(b"\x89PNG\r\n\x1a\n")
    rest, chunks = PROBE_TILE[8:], {}
    while rest:
        (length,) = struct.unpack(">I", rest[:4])
        kind, data = rest[4:8], rest[8 : 8 + length]
        assert struct.unpack(">I", rest[8 + length : 12 + length]) == (zlib.crc32(kind + data),)
        chunks[kind], rest = data, rest[12 + length :]
    assert chunks[b"IHDR"] == struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)
    rows = zlib.decompress(chunks[b"IDAT"])
    assert len(rows) == 64 * (1 + 64 * 3)
    assert rows[:7] == bytes([0, 60, 80, 70, 61, 80, 70])

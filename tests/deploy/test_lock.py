import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

import pytest

from deploy import CannotServe
from deploy.child import Child, end, marked
from deploy.lock import lock_file, only_one, stop, supervisor, take
from deploy.settings import Settings
from tests.support.paths import ROOT

HOLDER = """
import signal, sys, time
from pathlib import Path
from deploy.lock import only_one
from deploy.settings import Settings
root = Path(sys.argv[1])
def asked(*_):
    raise SystemExit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if "deaf" in sys.argv else asked)
with only_one(Settings(root, root / "config.properties", root / "run", "127.0.0.1", 8000)):
    print("HELD", flush=True)
    time.sleep(60)
"""

PARENT = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
"""


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    made = Settings(tmp_path, tmp_path / "config.properties", tmp_path / "run", "127.0.0.1", 8000)
    yield made
    end(f"{made.run_dir}:", grace=0)


@contextmanager
def holder(settings: Settings, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the run folder, as a supervisor does."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(settings.root), *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == "HELD\n"
            yield program
        finally:
            program.kill()


def leave_behind(settings: Settings) -> Path:
    """What a supervisor that was killed leaves: a program, keys and a temporary folder."""
    settings.logs.mkdir(parents=True, exist_ok=True)
    left = Child("torchserve", settings.run_dir)
    left.start([sys.executable, "-c", PARENT], settings.run_dir, {})
    while left.running:
        time.sleep(0.02)
    settings.key_file.write_text("{}")
    temporary = Path(tempfile.mkdtemp(dir=settings.root))
    settings.temp_link.symlink_to(temporary)
    assert len(marked(f"{settings.run_dir}:")) == 1
    return temporary


def is_clean(settings: Settings, temporary: Path) -> bool:
    kept = settings.key_file, settings.temp_link
    return (
        marked(f"{settings.run_dir}:") == []
        and not any(os.path.lexists(path) for path in kept)
        and not temporary.exists()
    )


def test_who_holds_the_folder_is_told(settings: Settings) -> None:
    with only_one(settings):
        assert supervisor(settings) == os.getpid()
        words = rf"already runs \(process {os.getpid()}\)\. End it with `make stop`"
        with pytest.raises(CannotServe, match=words), only_one(settings):
            pytest.fail("two at a time")


def test_the_folder_is_free_again_whatever_happened(settings: Settings) -> None:
    with pytest.raises(ZeroDivisionError), only_one(settings):
        raise ZeroDivisionError
    with only_one(settings):
        pass


def test_a_longer_number_is_written_over(settings: Settings) -> None:
    settings.run_dir.mkdir()
    lock_file(settings).write_text("4194304999")
    with only_one(settings):
        assert supervisor(settings) == os.getpid()


def test_until_its_number_is_written_the_supervisor_is_0(settings: Settings) -> None:
    settings.run_dir.mkdir()
    lock_file(settings).touch()
    assert supervisor(settings) == 0


def test_a_lock_has_one_holder(settings: Settings) -> None:
    settings.run_dir.mkdir()
    lock_file(settings).touch()
    with lock_file(settings).open() as first, lock_file(settings).open() as second:
        assert take(first)
        assert not take(second)
        first.close()
        assert take(second)


def test_what_was_left_behind_ends_before_anything_begins(settings: Settings) -> None:
    temporary = leave_behind(settings)
    with only_one(settings):
        assert is_clean(settings, temporary)


def test_a_second_supervisor_touches_nothing_of_the_first(settings: Settings) -> None:
    with only_one(settings):
        temporary = leave_behind(settings)
        with pytest.raises(CannotServe), only_one(settings):
            pytest.fail("two at a time")
        assert len(marked(f"{settings.run_dir}:")) == 1
        assert temporary.exists()
        assert settings.key_file.exists()


def test_to_stop_nothing_is_no_error(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "serve")
    assert stop(settings) == 0
    assert "Nothing is running" in caplog.text
    assert not settings.run_dir.exists()


def test_to_stop_ends_what_was_left_behind_and_nobody_else(settings: Settings) -> None:
    temporary = leave_behind(settings)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as stranger:
        try:
            lock_file(settings).write_text(f"{stranger.pid:<10}")  # once that of the supervisor
            assert stop(settings) == 0
            assert stranger.poll() is None
        finally:
            stranger.kill()
    assert is_clean(settings, temporary)


def test_to_stop_asks_the_supervisor_and_waits_for_its_end(settings: Settings) -> None:
    with holder(settings) as program:
        assert supervisor(settings) == program.pid
        assert stop(settings) == 0
        assert program.wait(20) == 0


def test_a_supervisor_is_asked_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    really = os.kill

    def kill(pid: int, number: int) -> None:
        asked.append((pid, number))
        Timer(0.5, really, (pid, signal.SIGKILL)).start()

    with holder(settings) as program:
        monkeypatch.setattr(os, "kill", kill)
        assert stop(settings) == 0
        assert asked == [(program.pid, signal.SIGTERM)]


def test_a_supervisor_that_does_not_end_is_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with holder(settings, "deaf") as program:
        now = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: now() * 200)  # a minute in 0.3 s
        with pytest.raises(CannotServe, match=rf"^Process {program.pid} does not end: see .*logs"):
            stop(settings)
        assert program.poll() is None

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deploy import child as child_module
from deploy.child import MARK, Child, end, marked

# Says READY once a signal to end it changes nothing any more.
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('READY', flush=True); time.sleep(60)"
)
# Ends at once, and leaves a program behind.
PARENT = (
    "import subprocess, sys; "
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); print('READY')"
)


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "logs").mkdir()
    yield tmp_path
    end(f"{tmp_path}:", grace=0)


@pytest.fixture
def child(run_dir: Path) -> Child:
    return Child("portal", run_dir)


def start(child: Child, program: str, **environ: str) -> None:
    child.start([sys.executable, "-c", program], child.log.parent, environ)


def wait_for(child: Child, text: str) -> None:
    deadline = time.monotonic() + 20
    while text not in child.log.read_text():
        assert time.monotonic() < deadline, child.log.read_text()
        time.sleep(0.02)


def wait_until_ended(child: Child) -> None:
    deadline = time.monotonic() + 20
    while child.running:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_program_has_the_environment_that_it_is_given_and_its_mark(
    child: Child, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTAL_SECRET_KEY", "secret")
    words = "import os; print(sorted(os.environ.items())); print(os.getcwd()); print(os.getsid(0))"
    start(child, words, GIVEN="word")
    wait_until_ended(child)
    environ, folder, session = child.log.read_text().splitlines()
    assert "('GIVEN', 'word')" in environ
    assert f"('{MARK}', '{run_dir}:portal')" in environ
    assert "secret" not in environ
    assert Path(folder) == run_dir / "logs"
    assert int(session) != os.getsid(0)  # Ctrl-C does not reach it


def test_what_it_says_stands_in_its_log(child: Child, run_dir: Path) -> None:
    assert child.log == run_dir / "logs" / "portal.log"
    for word in ("first", "second"):
        start(child, f"import sys; print('{word}'); sys.exit('{word} error')")
        wait_until_ended(child)
    assert sorted(child.log.read_text().splitlines()) == [
        "first",
        "first error",
        "second",
        "second error",
    ]


def test_nothing_can_be_typed_into_it(child: Child) -> None:
    start(child, "import sys; print(repr(sys.stdin.read()))")
    wait_until_ended(child)
    assert child.log.read_text() == "''\n"


def test_a_log_that_has_grown_large_begins_anew(
    child: Child, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_module, "LOG_LIMIT", 10)
    former = run_dir / "logs" / "portal.1.log"
    child.log.write_bytes(b"x" * 10)
    start(child, "print('first')")
    wait_until_ended(child)
    assert not former.exists()
    start(child, "print('second')")
    wait_until_ended(child)
    assert child.log.read_text() == "second\n"
    assert former.read_text() == "xxxxxxxxxxfirst\n"


def test_running_is_the_program_itself(child: Child) -> None:
    assert not child.running
    start(child, PARENT)
    wait_until_ended(child)
    assert len(marked(child.mark)) == 1  # what it left behind
    assert not child.running
    start(child, "import time; time.sleep(60)")
    assert child.running
    child.stop(grace=5)
    assert not child.running


def test_what_a_program_left_behind_ends_with_it(child: Child) -> None:
    start(child, PARENT)
    wait_until_ended(child)
    (left,) = marked(child.mark)
    child.stop(grace=5)
    assert marked(child.mark) == []
    assert not left.is_running() or left.status() == psutil.STATUS_ZOMBIE


def test_a_program_that_does_not_end_is_killed_after_its_grace(child: Child) -> None:
    start(child, STUBBORN)
    wait_for(child, "READY")
    started = time.monotonic()
    child.stop(grace=0.5)
    assert 0.5 <= time.monotonic() - started < 5
    assert not child.running


def test_a_program_has_its_grace_to_end_in_order(child: Child) -> None:
    start(
        child,
        "import signal, sys, time\n"
        "def end(*_):\n    time.sleep(0.3)\n    print('in order')\n    sys.exit()\n"
        "signal.signal(signal.SIGTERM, end)\nprint('READY', flush=True)\ntime.sleep(60)",
    )
    wait_for(child, "READY")
    child.stop(grace=20)
    assert child.log.read_text() == "READY\nin order\n"


def test_to_stop_what_was_never_started_is_no_error(child: Child) -> None:
    child.stop(grace=5)


def test_only_what_carries_the_mark_is_ended(child: Child, run_dir: Path) -> None:
    other = Child("torchserve", run_dir)
    start(child, "import time; time.sleep(60)")
    start(other, "import time; time.sleep(60)")
    assert {process.pid for process in marked(f"{run_dir}:")} == {
        process.pid for part in (child, other) for process in marked(part.mark)
    }
    end(child.mark, grace=5)
    assert (child.running, other.running) == (False, True)
    assert marked(f"{run_dir}-2:") == []
    end(f"{run_dir}:", grace=5)
    assert not other.running


def test_whoever_asks_is_not_among_the_marked(run_dir: Path) -> None:
    asked = subprocess.run(
        [sys.executable, "-c", f"from deploy.child import marked; print(marked('{run_dir}'))"],
        env={**os.environ, MARK: f"{run_dir}:portal"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout == "[]\n"

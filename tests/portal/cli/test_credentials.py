import os
import pty
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from werkzeug.security import check_password_hash

from portal.cli.credentials import SHORTEST, write_secret
from portal.credentials import token_hash
from tests.support.paths import ROOT

PASSWORD = "correct horse battery"


def command(what: str, run_dir: Path) -> list[str]:
    return [sys.executable, "-m", "portal.cli.credentials", what, "--run-dir", str(run_dir)]


def type_passwords(run_dir: Path, *lines: str) -> tuple[int, str]:
    """Run `make password` in a terminal; return its exit status and all that was shown."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, command("password", run_dir))
    shown = b""
    left = [*lines]
    while True:
        try:
            block = os.read(terminal, 1000)
        except OSError:  # how a terminal says that nobody writes to it any more
            break
        if not block:
            break
        shown += block
        if left and shown.endswith((b"Password: ", b"Once more: ")):
            os.write(terminal, f"{left.pop(0)}\n".encode())
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()


def test_a_password_is_asked_twice_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    status, shown = type_passwords(tmp_path / "run", PASSWORD, PASSWORD)
    assert status == 0
    assert PASSWORD not in shown
    path = tmp_path / "run" / "password_hash"
    assert str(path) in shown
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert check_password_hash(path.read_text().strip(), PASSWORD)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ((PASSWORD, PASSWORD + "!"), "The two differ"),
        (("x" * (SHORTEST - 1),), f"at least {SHORTEST} are needed"),
    ],
)
def test_a_bad_password_changes_nothing(
    tmp_path: Path, lines: tuple[str, ...], reason: str
) -> None:
    status, shown = type_passwords(tmp_path, *lines)
    assert status == 1
    assert reason in shown
    assert "Traceback" not in shown
    assert list(tmp_path.iterdir()) == []


def test_a_token_is_shown_once_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    shown = []
    for _ in range(2):
        done = subprocess.run(
            command("token", tmp_path), cwd=ROOT, capture_output=True, text=True, check=True
        )
        shown.append(done.stdout.splitlines()[-1])
    assert shown[0] != shown[1]
    assert all(re.fullmatch(r"[\w-]{43}", token) for token in shown)
    path = tmp_path / "token_hash"
    assert path.read_text().strip() == token_hash(shown[1])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["token_hash"]


def test_the_place_is_that_which_the_portal_reads(tmp_path: Path) -> None:
    environment = {**os.environ, "PORTAL_TOKEN_FILE": str(tmp_path / "elsewhere")}
    environment["PORTAL_TOKEN_HASH"] = "0" * 64
    done = subprocess.run(
        command("token", tmp_path / "run"),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (tmp_path / "elsewhere").exists()
    assert not (tmp_path / "run").exists()
    assert "PORTAL_TOKEN_HASH is set too" in done.stdout


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    done = subprocess.run(
        command("token", tmp_path / "run"), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"Cannot write {tmp_path / 'run' / 'token_hash'}: ")


def test_a_file_that_others_could_read_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "token_hash"
    path.write_text("old")
    path.chmod(0o644)
    write_secret(path, "new")
    assert path.read_text() == "new\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_command_loads_no_server(tmp_path: Path) -> None:
    script = (
        "import sys; from portal.cli import credentials\n"
        f"sys.argv = ['credentials', 'token', '--run-dir', {str(tmp_path)!r}]\n"
        "assert credentials.main() == 0\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}\n"
        "    & {'flask', 'werkzeug', 'sqlalchemy', 'pydantic', 'requests', 'alembic', 'torch'}),\n"
        "    [name for name in sys.modules if name.startswith('portal.serving')])"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert said.stdout.splitlines()[-1] == "[] []"

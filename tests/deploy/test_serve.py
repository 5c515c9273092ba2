"""The supervisor as its user meets it: started as a program, with closed standard input."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import psutil
import pytest

from deploy import serve
from deploy.child import marked
from deploy.settings import Settings
from tests.support.paths import ROOT, SAMPLES


def command(settings: Settings, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "deploy.serve", "--port", str(settings.port)),
        *("--config", str(settings.config), "--run-dir", str(settings.run_dir), *more),
    ]


@dataclass
class Supervisor:
    settings: Settings
    program: subprocess.Popen[bytes]
    output: Path

    def wait_for(self, text: str, seconds: float = 180) -> None:
        """Return when the supervisor has printed the text."""
        deadline = time.monotonic() + seconds
        while text not in self.output.read_text():
            assert self.program.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.1)

    def get(self, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        """Ask the portal: status, headers and body of the answer."""
        tile = (SAMPLES / "Forest.jpg").read_bytes() if method == "POST" else None
        with closing(HTTPConnection("127.0.0.1", self.settings.port, timeout=15)) as portal:
            portal.request(method, path, tile)
            answer = portal.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()

    def processes(self) -> list[psutil.Process]:
        return marked(f"{self.settings.run_dir}:")


def start(settings: Settings, output: Path) -> Supervisor:
    with output.open("wb") as out:
        program = subprocess.Popen(
            ["sh", "-c", 'exec "$@" <&-', "sh", *command(settings)],
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    return Supervisor(settings, program, output)


@pytest.fixture(scope="module")
def supervisor(
    settings_for: Callable[[str], Settings], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Supervisor]:
    """A supervisor that has announced that the product is ready."""
    started = start(settings_for("served"), tmp_path_factory.mktemp("output") / "output.txt")
    try:
        started.wait_for("make stop")
        yield started
    finally:
        started.program.terminate()
        assert started.program.wait(60) == 0, started.output.read_text()
        assert started.processes() == []


def test_the_printed_curl_works_as_printed(supervisor: Supervisor) -> None:
    printed = supervisor.output.read_text()
    (line,) = [line for line in printed.splitlines() if line.startswith("Try:")]
    shown = subprocess.run(
        line.removeprefix("Try:"), shell=True, cwd=ROOT, capture_output=True, check=True
    )
    assert json.loads(shown.stdout)["class_name"] == "River"


def test_a_second_start_says_that_the_product_runs(supervisor: Supervisor) -> None:
    second = subprocess.run(
        command(supervisor.settings), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert second.returncode == 1
    assert f"already runs (process {supervisor.program.pid})" in second.stderr
    assert "make stop" in second.stderr
    assert supervisor.get("/api/health/live")[0] == 200


def test_a_killed_torchserve_is_reported_and_comes_back(supervisor: Supervisor) -> None:
    assert supervisor.get("/api/predict", "POST")[0] == 200
    for process in supervisor.processes():
        if "org.pytorch.serve.ModelServer" in process.cmdline():
            process.kill()
    killed = time.monotonic()

    status, _, body = supervisor.get("/api/health")
    while status == 200:
        assert time.monotonic() - killed < 2
        status, _, body = supervisor.get("/api/health")
    assert time.monotonic() - killed < 2
    assert status == 503
    assert json.loads(body)["status"] != "ok"
    status, headers, body = supervisor.get("/api/predict", "POST")
    assert status == 503
    assert int(headers["Retry-After"]) > 0
    assert json.loads(body)["error"]["code"]

    supervisor.wait_for("TorchServe ended by itself; starting it again")
    deadline = killed + 120
    while supervisor.get("/api/predict", "POST")[0] != 200:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    while supervisor.get("/api/health")[0] != 200:
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_a_killed_worker_of_scenes_comes_back(supervisor: Supervisor) -> None:
    def workers() -> list[psutil.Process]:
        found = supervisor.processes()
        return [process for process in found if "portal.scenes.worker" in process.cmdline()]

    (worker,) = workers()
    worker.kill()
    supervisor.wait_for("The worker of scenes ended by itself; starting it again in 1 s", 10)
    deadline = time.monotonic() + 30
    while not [found for found in workers() if found.pid != worker.pid]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert supervisor.get("/api/health")[0] == 200


def test_ctrl_c_while_torchserve_loads_leaves_no_process(
    settings_for: Callable[[str], Settings], tmp_path: Path
) -> None:
    started = start(settings_for("interrupted"), tmp_path / "output.txt")
    while not any("model_service_worker" in " ".join(p.cmdline()) for p in started.processes()):
        assert started.program.poll() is None, started.output.read_text()
        time.sleep(0.1)
    temporary = started.settings.temp_link.readlink()
    assert temporary.is_dir()
    started.program.send_signal(signal.SIGINT)
    assert started.program.wait(60) == 0
    assert started.processes() == []
    assert not temporary.exists()
    assert not started.settings.key_file.exists()


def test_stop_ends_what_a_killed_supervisor_left(
    settings_for: Callable[[str], Settings], tmp_path: Path
) -> None:
    started = start(settings_for("orphaned"), tmp_path / "output.txt")
    while len(started.processes()) < 3:
        assert started.program.poll() is None, started.output.read_text()
        time.sleep(0.1)
    started.program.kill()
    started.program.wait()
    assert started.processes() != []
    subprocess.run(command(started.settings, "--stop"), cwd=ROOT, check=True)
    assert started.processes() == []
    assert not os.path.lexists(started.settings.temp_link)


def test_stop_ends_a_running_supervisor(
    settings_for: Callable[[str], Settings], tmp_path: Path
) -> None:
    started = start(settings_for("stopped"), tmp_path / "output.txt")
    while not started.processes():
        assert started.program.poll() is None, started.output.read_text()
        time.sleep(0.1)
    subprocess.run(command(started.settings, "--stop"), cwd=ROOT, check=True)
    assert started.program.wait(10) == 0
    assert started.processes() == []


def test_a_portal_that_dies_ends_torchserve_too(
    settings_for: Callable[[str], Settings], tmp_path: Path
) -> None:
    started = start(settings_for("headless"), tmp_path / "output.txt")
    while not (portal := [p for p in started.processes() if "gunicorn" in p.cmdline()]):
        assert started.program.poll() is None, started.output.read_text()
        time.sleep(0.1)
    for process in portal:
        process.kill()
    assert started.program.wait(60) == 1
    assert "The portal ended" in started.output.read_text()
    assert "portal.log" in started.output.read_text()
    assert started.processes() == []


def test_stop_without_a_start_is_no_error(tmp_path: Path) -> None:
    settings = Settings(ROOT, ROOT / "config.properties", tmp_path, "127.0.0.1", 8000)
    stopped = subprocess.run(
        command(settings, "--stop"), cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "Nothing is running" in stopped.stderr


class Failing:
    """A product whose worker of scenes ends at once, whenever it is started."""

    def __init__(self) -> None:
        self.starts = 0
        self.scenes = self
        self.log = Path("scenes.log")
        self.running = False

    def start_scenes(self) -> None:
        self.starts += 1

    def stop(self, grace: float) -> None:
        assert grace == 0


def test_a_worker_that_cannot_run_is_left_alone_for_a_while(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    product = Failing()
    keeper = serve.SceneKeeper(product)  # type: ignore[arg-type]
    started = []
    for _ in range(200):
        before = product.starts
        keeper.look()
        if product.starts > before:
            started.append(now[0] - 1000)
        now[0] += 0.5
    assert started == pytest.approx([1, 3.5, 8, 16.5, 33], abs=0.6)
    assert caplog.text.count("The portal goes on; scenes wait until it is tried again.") == 1
    now[0] += serve.RESTART_WINDOW
    for _ in range(4):
        keeper.look()
        now[0] += 0.5
    assert product.starts == 6

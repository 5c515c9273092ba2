"""The product and its peers as running servers on free ports of this machine."""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import requests
from model_archiver import ModelArchiver, ModelArchiverConfig

from deploy.java import find_java
from deploy.product import Product
from deploy.settings import Settings
from tests.bench.models import Subject, write_plain
from tests.support.paths import ROOT
from tests.support.product import free_ports, own_settings, running_product
from training.archive import build

PEERS = ROOT / "tests" / "bench" / "peers"
READY_WITHIN = 120  # seconds
IDLE_BELOW = 10  # % of all cores
IDLE_WITHIN = 20  # seconds

logger = logging.getLogger(__name__)


@dataclass
class Target:
    """Something that answers tiles.

    Attributes:
        form: True for a server that takes no raw body but a form.
        idles: False for a server that burns the CPU while it waits: it is stopped meanwhile.
    """

    name: str
    port: int
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    form: bool = False
    idles: bool = True

    def load(self, bodies: Path, clients: int, seconds: float) -> dict[str, Any]:
        """What ``tests.bench.load`` measures."""
        job = {
            "host": "127.0.0.1", "port": self.port, "path": self.path, "headers": self.headers,
            "clients": clients, "seconds": seconds, "bodies": str(bodies), "form": self.form,
        }  # fmt: skip
        result = subprocess.run(
            [sys.executable, "-m", "tests.bench.load"],
            cwd=ROOT,
            input=json.dumps(job),
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds + 60,
        )
        if result.returncode:
            raise RuntimeError(f"{self.name}: {result.stderr.strip()[-500:]}")
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    def wait(self, tile: bytes) -> None:
        """Return when it answers; RuntimeError when it ended or does not within READY_WITHIN."""
        deadline = time.monotonic() + READY_WITHIN
        headers = {"Content-Type": "application/octet-stream", **self.headers}
        found = "nothing"
        while time.monotonic() < deadline:
            if self.process is not None and self.process.poll() is not None:
                break
            try:
                url = f"http://127.0.0.1:{self.port}{self.path}"
                if self.form:
                    answer = requests.post(url, files={"file": tile}, timeout=30)
                else:
                    answer = requests.post(url, tile, headers=headers, timeout=30)
            except requests.RequestException as error:
                found = type(error).__name__
            else:
                if answer.status_code == 200:
                    return
                found = f"{answer.status_code} {answer.text[:200]}"
            time.sleep(0.3)
        raise RuntimeError(f"{self.name} does not answer: {found}")

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Let a server that was stopped run, and stop it again."""
        if self.idles or self.process is None:
            yield
            return
        os.killpg(self.process.pid, signal.SIGCONT)
        time.sleep(0.2)
        try:
            yield
        finally:
            os.killpg(self.process.pid, signal.SIGSTOP)


def wait_until_idle() -> None:
    """Return when the machine has nothing to do, so that who was measured before disturbs nobody.

    A slow server goes on with what was still queued when its clients left, for seconds.
    """
    deadline = time.monotonic() + IDLE_WITHIN
    while (busy := psutil.cpu_percent(interval=0.25)) > IDLE_BELOW:
        if time.monotonic() > deadline:
            logger.warning("the machine is busy: %.0f %% after %d s", busy, IDLE_WITHIN)
            return


def store_of(subjects: list[Subject], work: Path) -> Path:
    """A model store with the archives of the subjects, int8, as `make archive` builds them."""
    store = work / "model_store"
    if not store.is_dir():
        for subject in subjects:
            build(subject.folder, store)
    return store


def settings_of(work: Path, store: Path) -> Settings:
    """The product's own settings with free ports, this store and a run folder of its own."""
    return own_settings(Path(tempfile.mkdtemp(dir=work)), store)


@contextmanager
def product(settings: Settings, subjects: list[Subject], tile: bytes) -> Iterator[Product]:
    """The product, ready with every subject; ended afterwards."""
    with running_product(settings) as started:
        for subject in subjects:
            portal_of(settings, subject).wait(tile)
        yield started


def portal_of(settings: Settings, subject: Subject) -> Target:
    """The portal's own way to a subject."""
    return Target("portal", settings.port, f"/api/predict?model={subject.name}")


def direct_of(settings: Settings, subject: Subject) -> Target:
    """TorchServe without the portal."""
    key = json.loads(settings.key_file.read_text())["inference"]["key"]
    port = int(settings.properties["inference_address"].rpartition(":")[2])
    headers = {"Authorization": f"Bearer {key}"}
    return Target("TorchServe direct", port, f"/predictions/{subject.name}", headers)


def start(
    stack: ExitStack, command: list[str], environ: Mapping[str, str], log: Path, cwd: Path = ROOT
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own; the stack ends it with all its descendants."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    stack.callback(_end, process)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        tree = []
    for number in (signal.SIGCONT, signal.SIGTERM):
        for member in tree:
            if member.is_running():
                member.send_signal(number)
    _, left = psutil.wait_procs(tree, timeout=5)
    for member in left:
        member.kill()
    process.wait()


def peers(stack: ExitStack, subject: Subject, work: Path, tile: bytes) -> list[Target]:
    """FastAPI, LitServe and Flask with the subject's int8 file; all of them answer.

    LitServe is stopped between its turns, as it burns the CPU while it waits.
    """
    python = [sys.executable, "-W", "ignore", "-m"]
    environ = {"BENCH_FOLDER": str(subject.folder.resolve()), "OMP_NUM_THREADS": "1"}
    fast_1, fast_2, lit, gunicorn, waitress = free_ports(5)
    uvicorn = [*python, "uvicorn", "tests.bench.peers.fastapi_app:app", "--no-access-log"]
    flask = "tests.bench.peers.flask_app:app"
    commands = {
        ("FastAPI, 1 process", fast_1): [*uvicorn, "--port", str(fast_1)],
        ("FastAPI, 2 processes", fast_2): [*uvicorn, "--workers", "2", "--port", str(fast_2)],
        ("LitServe", lit): [*python, "tests.bench.peers.litserve_app", str(lit)],
        ("Flask on gunicorn", gunicorn): [
            *(*python, "gunicorn", flask, "--bind", f"127.0.0.1:{gunicorn}", "--workers", "2"),
            *("--worker-class", "gthread", "--threads", "4", "--no-control-socket"),
        ],
        ("Flask on waitress", waitress): [
            *(*python, "waitress", f"--listen=127.0.0.1:{waitress}", "--threads=4", flask)
        ],
    }
    targets = []
    for (name, port), command in commands.items():
        log = work / f"{subject.name}-{name.split(',')[0].replace(' ', '-')}.log"
        process = start(stack, command, environ, log)
        lit_serve = name == "LitServe"
        target = Target(
            name, port, "/predict", process=process, form=lit_serve, idles=not lit_serve
        )
        # One after the other: torch takes seconds to import, and all at once minutes.
        target.wait(tile)
        if not target.idles:
            os.killpg(process.pid, signal.SIGSTOP)
        targets.append(target)
    return targets


def usual_torchserve(stack: ExitStack, subject: Subject, work: Path, tile: bytes) -> Target:
    """A TorchServe as its tutorials start it: its defaults, VisionHandler, scripted fp32."""
    folder = Path(tempfile.mkdtemp(dir=work))
    store = folder / "model_store"
    store.mkdir(parents=True)
    write_plain(subject, folder)
    ModelArchiver.generate_model_archive(
        ModelArchiverConfig(
            model_name="usual",
            version="1.0",
            handler=str(PEERS / "usual_handler.py"),
            serialized_file=str(folder / "plain.pt"),
            export_path=str(store),
        )
    )
    inference, management, metrics, grpc, grpc_management = free_ports(5)
    (folder / "config.properties").write_text(
        # Where it listens, and that it may be asked without a key; everything else is its default.
        f"inference_address=http://127.0.0.1:{inference}\n"
        f"management_address=http://127.0.0.1:{management}\n"
        f"metrics_address=http://127.0.0.1:{metrics}\n"
        f"grpc_inference_port={grpc}\ngrpc_management_port={grpc_management}\n"
        "disable_token_authorization=true\n"
    )
    # Short, as the paths of sockets are; and its pid file must not meet another TorchServe's.
    temp = tempfile.mkdtemp(prefix="bench-")
    process = start(
        stack,
        [
            *(sys.executable, "-m", "ts.model_server", "--start", "--foreground", "--ncs"),
            *("--ts-config", "config.properties", "--model-store", str(store)),
            *("--models", "usual=usual.mar"),
        ],
        {
            "JAVA_HOME": str(find_java(os.environ)),
            "PYTHONPATH": "",
            "TMPDIR": temp,
            "TEMP": temp,
            "LOG_LOCATION": str(folder),
            "METRICS_LOCATION": str(folder),
        },
        folder / "console.log",
        cwd=folder,
    )
    target = Target("usual TorchServe handler", inference, "/predictions/usual", process=process)
    target.wait(tile)
    return target

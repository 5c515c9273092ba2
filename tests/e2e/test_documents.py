"""The commands of the READMEs do what they say, typed as they stand there.

Which of them run, and how, tests/support/documents.py says. Only ports are others than documented.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from deploy.child import MARK, end
from tests.support import real_archives
from tests.support.documents import URL, Command, Way, commands_to, fenced, read
from tests.support.paths import ROOT, SAMPLES
from tests.support.product import RunningProduct, own_settings

RELEASES = sorted(path.name for path in (ROOT / "training/releases").glob("*-*"))
NEW_RUN = "baseline-3.0"  # what the README of the training makes
PASSWORD = "only of this test"
CURLRC = "fail\nsilent\nshow-error\nmax-time = 60\n"  # an error's status is an error
LEFT_OUT = shutil.ignore_patterns(
    ".*", "__pycache__", "*.mar", "data", "runs", "build", "logs", "key_file.json"
)
# The one whose answer the first README shows.
FIRST = commands_to(Way.PRODUCT)[0]
(ANSWER,) = (json.loads(block) for block in fenced(read("README.md"), "json"))


@dataclass
class Checkout:
    """A copy of the checkout, with ports of its own, in which commands may write."""

    folder: Path
    environ: dict[str, str]
    ports: Mapping[str, str]  # documented address -> that of this copy

    def localized(self, text: str) -> str:
        for documented, found in self.ports.items():
            text = text.replace(documented, found)
        return text

    def run(self, commands: list[Command], typed: str = "") -> str:
        """Run them in one shell, until one fails; what they said."""
        assert commands
        script = "\n".join(self.localized(command.text) for command in commands)
        log = self.folder / "commands.log"
        # no pipe: what a command leaves running would keep it open
        with log.open("w") as output:
            ended = subprocess.run(
                ["bash", "-c", f"set -euo pipefail\nset -x\n{script}"],
                cwd=self.folder,
                env=self.environ,
                input=typed,
                text=True,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=400,
                start_new_session=True,  # no terminal: a password is read from what is typed
                check=False,
            )
        assert ended.returncode == 0, log.read_text()
        return log.read_text()


@pytest.fixture
def checkout(model_store: Path, tmp_path: Path) -> Iterator[Checkout]:
    folder = tmp_path / "checkout"
    shutil.copytree(ROOT, folder, ignore=LEFT_OUT, symlinks=True)
    settings = own_settings(folder, Path("model_store"))
    _link_environment(folder / ".venv")
    store = folder / "model_store"
    (store / ".precision").write_text("int8\n")
    for archive in model_store.glob("*.mar"):
        shutil.copyfile(archive, store / archive.name)  # newer than its sources for make
    environ = {
        name: value
        for name, value in os.environ.items()
        # what the make that runs these tests was told is not for the makes in them
        if not name.startswith(("PORTAL_", "MAKE")) and name != "MFLAGS"
    }
    temp = tempfile.mkdtemp(prefix="eurosat-")  # TorchServe's sockets need a short path
    Path(temp, ".curlrc").write_text(CURLRC)
    environ |= {"PORT": str(settings.port), "TMPDIR": temp, "TEMP": temp, "CURL_HOME": temp}
    ports = {
        URL: settings.url,
        "http://127.0.0.1:8080": settings.properties["inference_address"],
        "http://127.0.0.1:8081": settings.properties["management_address"],
    }
    try:
        yield Checkout(folder, {**environ, MARK: f"{folder}/by hand"}, ports)
    finally:
        end(f"{folder}/", grace=0)
        shutil.rmtree(temp, ignore_errors=True)


def _link_environment(folder: Path) -> None:
    """The virtual environment that runs the tests, as one that needs no installation."""
    folder.mkdir()
    for entry in Path(sys.prefix).iterdir():
        if not entry.name.startswith(".installed"):
            (folder / entry.name).symlink_to(entry)
    for extra in ("serve", "test", "bench"):
        (folder / f".installed-{extra}").touch()


@pytest.mark.parametrize("command", commands_to(Way.PRODUCT), ids=str)
def test_a_request_is_answered(command: Command, product: RunningProduct, tmp_path: Path) -> None:
    (tmp_path / ".curlrc").write_text(CURLRC)
    ended = subprocess.run(
        ["bash", "-c", command.text.replace(URL, product.url)],
        cwd=ROOT,
        env={**os.environ, "CURL_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, (ended.stdout, ended.stderr)
    assert ended.stdout
    if "/api/" in command.text:
        assert "error" not in json.loads(ended.stdout)
    if command == FIRST:
        told, found = ANSWER, json.loads(ended.stdout)
        assert told.keys() == found.keys()
        for same in ("class_name", "model", "version", "uncertain"):
            assert told[same] == found[same]
        assert told["probabilities"].keys() <= found["probabilities"].keys()
        assert told["confidence"] == pytest.approx(found["confidence"], abs=0.005)
        likely = list(found["probabilities"].items())[: len(told["probabilities"])]
        assert list(told["probabilities"]) == [label for label, _ in likely]


@contextmanager
def served(checkout: Checkout, command: Command) -> Iterator[str]:
    """The product that `make serve` starts: what was said until it was ready."""
    log = checkout.folder / "serve.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command.text.split(),
            cwd=checkout.folder,
            env=checkout.environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + 240
    try:
        while "Ready:" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        yield log.read_text()
        assert process.wait(30) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def defaults(url: str) -> dict[str, bool]:
    """Of each version that is served, whether it is the default of its model."""
    content = requests.get(f"{url}/api/models", timeout=10).json()
    return {
        f"{model['model']}-{line['version']}": line["default"]
        for model in content["models"]
        for line in model["versions"]
    }


def test_models_are_managed(checkout: Checkout, model_store: Path) -> None:
    releases, store = checkout.folder / "training" / "releases", checkout.folder / "model_store"
    for name in RELEASES:
        (releases / name).rename(checkout.folder / name)
        (store / f"{name}.mar").unlink()
    real_archives.release(releases, "1.0")
    real_archives.archive(store, model_store / f"{real_archives.RELEASE.name}.mar", "1.0")
    commands = commands_to(Way.MANAGED)
    serve = [command for command in commands if command.text == "make serve"]
    stop = [command for command in commands if command.text == "make stop"]
    manage = [command for command in commands if command not in serve + stop]
    with served(checkout, serve[0]) as told:
        printed = re.search(r"^Try: +(curl .*)$", told, flags=re.MULTILINE)
        assert printed
        answer = checkout.run([Command("make serve", printed[1])])
        assert re.search(r'"version": ?"1\.0"', answer), answer
        # those that are deployed come, as by `make release` and `make archive`
        texts = "\n".join(command.text for command in manage)
        named = ["-".join(pair) for pair in re.findall(r"MODEL=(\S+) VERSION=(\S+)", texts)]
        assert set(named) <= set(RELEASES)
        for name in dict.fromkeys(named):
            (checkout.folder / name).rename(releases / name)
            shutil.copyfile(model_store / f"{name}.mar", store / f"{name}.mar")
        typed = f"{PASSWORD}\n{PASSWORD}\n"
        assert "The password is set" in checkout.run(manage, typed)
        expected = {"baseline-1.0": False, **dict.fromkeys(named, True)}
        deadline = time.monotonic() + 120
        while (found := defaults(checkout.localized(URL))) != expected:  # the last one is a job
            assert time.monotonic() < deadline, found
            time.sleep(0.5)
        checkout.run(stop)


def test_torchserve_runs_by_hand(checkout: Checkout) -> None:
    commands = commands_to(Way.BY_HAND)
    (start,) = (n for n, command in enumerate(commands) if "--start" in command.text)
    checkout.run(commands[: start + 1])
    url = checkout.localized("http://127.0.0.1:8080")
    tile, status = (SAMPLES / "River.jpg").read_bytes(), 0
    deadline = time.monotonic() + 180
    while status != 200:
        assert time.monotonic() < deadline, (checkout.folder / "logs/ts_log.log").read_text()
        time.sleep(0.5)
        with contextlib.suppress(OSError, ValueError):  # no keys yet, or nobody listens
            key = json.loads((checkout.folder / "key_file.json").read_text())["inference"]["key"]
            status = requests.post(
                f"{url}/predictions/baseline",
                data=tile,
                headers={"Authorization": f"Bearer {key}"},
                timeout=30,
            ).status_code
    told = checkout.run(commands[start + 1 :])
    assert '"River"' in told


def test_a_run_is_released_and_archived(checkout: Checkout) -> None:
    """What the training would have made, from the release whose version it has not."""
    run = checkout.folder / "training" / "runs" / NEW_RUN
    shutil.copytree(real_archives.RELEASE, run, ignore=shutil.ignore_patterns("*-spatial*", "*.md"))
    report = json.loads((run / "report.json").read_text())
    report |= {"version": NEW_RUN.rpartition("-")[2], "git_commit": "unknown"}
    # released with FORCE=1, perhaps, which no command here says
    report["int8"]["calibration"]["ece"] = report["calibration"]["ece"]
    (run / "report.json").write_text(json.dumps(report))
    checkout.run(commands_to(Way.OFFLINE))
    assert (checkout.folder / "training" / "releases" / NEW_RUN / "MODEL_CARD.md").is_file()
    assert (checkout.folder / "model_store" / f"{NEW_RUN}.mar").is_file()
    assert NEW_RUN.replace("-", " ") in (checkout.folder / "README.md").read_text()

"""Deploy, promote, roll back, retire; broken archives; a TorchServe that forgot everything."""

import hashlib
import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests
from werkzeug.security import generate_password_hash

from deploy.child import end
from deploy.java import find_java
from deploy.product import Product
from deploy.settings import Settings
from tests.support import real_archives as archives
from tests.support.manager import TOKEN, Manager
from tests.support.paths import SAMPLES
from tests.support.product import RunningProduct

if TYPE_CHECKING:
    from playwright.sync_api import Browser

log = logging.getLogger("tests.models")  # pytest --log-cli-level=INFO shows it

PASSWORD = "only of these tests"
TILE = SAMPLES / "River.jpg"


@dataclass
class Managed:
    """A product with its own model store and reports, and an operator's client."""

    product: RunningProduct
    store: Path
    reports: Path
    manager: Manager

    @property
    def source(self) -> Path:
        return self.store / "baseline-1.0.mar"

    def registered(self) -> set[str]:
        """Versions of the baseline that TorchServe itself has."""
        key = json.loads(self.product.key_file.read_text())["management"]["key"]
        answer = requests.get(
            f"{self.product.management_url}/models/baseline/all",
            headers={"Authorization": f"Bearer {key}"},
            timeout=10,
        )
        return {line["modelVersion"] for line in answer.json()}

    def wait_for(self, defaults: dict[str, bool]) -> None:
        """Return when exactly these versions are ready, each the default or not."""
        deadline = time.monotonic() + 300
        found: dict[str, bool] = {}
        while True:
            try:
                served = self.manager.served()
            except requests.RequestException:
                served = {}
            found = {version: line["default"] for version, line in served.items()}
            if found == defaults and {line["state"] for line in served.values()} == {"ready"}:
                assert self.registered() == set(defaults)
                return
            assert time.monotonic() < deadline, (served, f"logs in {self.product.logs}")
            time.sleep(0.5)


@pytest.fixture(scope="module")
def managed(
    settings_for: Callable[[str], Settings],
    model_store: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Managed]:
    folder = tmp_path_factory.mktemp("managed")
    store, reports = folder / "model_store", folder / "releases"
    store.mkdir()
    archives.archive(store, model_store / f"{archives.RELEASE.name}.mar", "1.0")
    archives.release(reports, "1.0")
    settings = settings_for("models")
    text = settings.config.read_text()
    settings.config.write_text(text.replace(f"model_store={model_store}", f"model_store={store}"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PORTAL_REPORTS_DIR", str(reports))
        patch.setenv("PORTAL_LAZY", "baseline-1.4")
        patch.setenv("PORTAL_LAZY_IDLE", "3")
        patch.setenv("PORTAL_PASSWORD_HASH", generate_password_hash(PASSWORD))
        patch.setenv("PORTAL_TOKEN_HASH", hashlib.sha256(TOKEN.encode()).hexdigest())
        started = Product(settings, find_java(os.environ))
        try:
            started.start_torchserve()
            started.start_portal()
            running = RunningProduct(started)
            running.wait_until_ready()
            yield Managed(running, store, reports, Manager(settings.url))
        finally:
            started.stop()
            end(f"{settings.run_dir}:", grace=0)


def test_deploy_promote_roll_back_retire(managed: Managed) -> None:
    manager = managed.manager
    archives.release(managed.reports, "1.1")
    archives.archive(managed.store, managed.source, "1.1")
    job = manager.done("models/baseline/1.1/deploy")
    assert [step["state"] for step in job["steps"]] == ["done"] * len(job["steps"])
    assert manager.default() == "1.0"
    managed.wait_for({"1.0": True, "1.1": False})
    manager.done("models/baseline/1.1/promote")
    assert manager.default() == "1.1"
    answer = requests.post(f"{manager.url}/api/predict", data=TILE.read_bytes(), timeout=15)
    assert answer.json()["version"] == "1.1"
    assert manager.post("models/baseline/1.1/retire").status_code == 409
    manager.done("models/baseline/rollback")
    assert manager.default() == "1.0"
    manager.done("models/baseline/1.1/retire")
    assert set(manager.served()) == {"1.0"}
    lines = [(line["action"], line["version"], line["outcome"]) for line in manager.audit()]
    assert lines[:5] == [
        ("retire", "1.1", "done"),
        ("roll back", "1.0", "done"),
        ("retire", "1.1", "refused"),
        ("promote", "1.1", "done"),
        ("deploy", "1.1", "done"),
    ]


KINDS = {
    "raises_at_import": "does not load: its worker crashes again and again",
    "crashes_in_init": "does not load: its worker crashes again and again",
    "exits_in_init": "does not load: its worker crashes again and again",
    "is_too_slow_in_init": "does not load: no worker became ready within 5 s",
    "answers_nan": "did not answer",
    "answers_otherwise": "differ from its report",
    "outputs_fewer_classes": "did not answer",
    "promises_fewer_classes": "has 9 classes, its report 10",
    "has_no_weights": "as the manifest has it, is missing",
    "has_other_weights": "holds other weights",
    "has_no_handlers": "there is no handlers/ package",
    "is_no_python": "is no valid Python: see line 1",
    "says_another_version": "its manifest says baseline 7.7, its file name baseline 2.",
    "says_another_model": "its manifest says resnet18",
    "has_no_manifest": "there is no MAR-INF/MANIFEST.json",
    "leaves_its_folder": "is no plain file inside the archive",
    "is_cut_off": "is no zip file, or a damaged one",
}
ROUNDS = int(os.environ.get("BROKEN_ROUNDS", "1"))  # 3 make the 51 deploys of a release check


@pytest.mark.parametrize("turn", range(ROUNDS))
@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_archive_leaves_nothing(managed: Managed, kind: str, turn: int) -> None:
    manager = managed.manager
    version = f"2.{list(KINDS).index(kind)}.{turn}"
    archives.release(managed.reports, version)
    if kind == "is_cut_off":
        path = archives.archive(managed.store, managed.source, version)
        path.write_bytes(path.read_bytes()[:-5000])
    else:
        archives.archive(managed.store, managed.source, version, getattr(archives, kind))
    before = manager.served()
    answer = manager.post(f"models/baseline/{version}/deploy", default=True)
    if answer.status_code == 202:
        assert requests.get(f"{manager.url}/api/health", timeout=5).status_code == 200
        job = manager.end_of(answer.json()["job"]["id"])
        assert job["state"] == "failed"
        assert job["steps"][-1]["name"] == "Take it back"
        assert job["steps"][-1]["state"] == "done"
        reason, outcome = job["reason"], "failed"
    else:
        assert answer.status_code == 422, answer.text
        reason, outcome = answer.json()["error"]["message"], "refused"
    log.info("%s: %s", kind, reason)
    assert KINDS[kind] in reason
    line = manager.audit()[0]
    assert (line["action"], line["version"], line["outcome"]) == ("deploy", version, outcome)
    assert line["reason"] == reason
    assert manager.served() == before
    assert manager.default() == "1.0"
    assert managed.registered() == {"1.0"}
    assert requests.get(f"{manager.url}/api/health", timeout=5).status_code == 200


def test_promotes_and_roll_backs_lose_no_request(managed: Managed) -> None:
    """PROMOTES=20 PROMOTE_REQUESTS=5000 make the long form."""
    promotes = int(os.environ.get("PROMOTES", "4"))
    least = int(os.environ.get("PROMOTE_REQUESTS", "400"))
    manager = managed.manager
    archives.release(managed.reports, "1.2")
    archives.archive(managed.store, managed.source, "1.2")
    manager.done("models/baseline/1.2/deploy")
    tile = TILE.read_bytes()
    answers: list[tuple[int, str]] = []
    ended = threading.Event()

    def client() -> None:
        session = requests.Session()
        while not ended.is_set() or len(answers) < least:
            answer = session.post(f"{manager.url}/api/predict", data=tile, timeout=30)
            answers.append((answer.status_code, answer.json().get("version", answer.text)))

    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(client) for _ in range(8)]
        try:
            for turn in range(promotes):
                if turn % 2:
                    manager.done("models/baseline/rollback")
                else:
                    manager.done("models/baseline/1.2/promote")
                version = "1.0" if turn % 2 else "1.2"
                assert manager.default() == version
                pinned = requests.post(
                    f"{manager.url}/api/predict?version={version}", data=tile, timeout=30
                )
                assert pinned.json()["version"] == version
        finally:
            ended.set()
        for done in clients:
            done.result()
    counts = Counter(answers)
    log.info("%d promotes and roll backs, %d requests: %s", promotes, len(answers), dict(counts))
    assert set(counts) == {(200, "1.0"), (200, "1.2")}
    assert len(answers) >= least
    manager.done("models/baseline/1.2/retire")
    assert managed.registered() == {"1.0"}


def test_a_torchserve_that_forgot_everything_gets_it_back(managed: Managed) -> None:
    manager = managed.manager
    archives.release(managed.reports, "1.3")
    archives.archive(managed.store, managed.source, "1.3")
    manager.done("models/baseline/1.3/deploy", default=True)
    managed.product.kill_torchserve()
    managed.product.start_torchserve_with(["none"])
    managed.wait_for({"1.0": False, "1.3": True})
    # another set: what was retired is loaded, what is served is not
    managed.product.kill_torchserve()
    managed.product.start_torchserve_with(["baseline-1.2.mar", "baseline-1.0.mar"])
    managed.wait_for({"1.0": False, "1.3": True})
    # a portal that starts again changes nothing
    managed.product.restart_portal()
    managed.wait_for({"1.0": False, "1.3": True})
    assert manager.audit()[0]["actor"] == "portal"
    manager.done("models/baseline/rollback")
    manager.done("models/baseline/1.3/retire")
    assert managed.registered() == {"1.0"}


def test_a_portal_that_is_killed_in_a_deploy_leaves_nothing_of_it(managed: Managed) -> None:
    manager = managed.manager
    archives.release(managed.reports, "1.6")
    archives.archive(managed.store, managed.source, "1.6")
    answer = manager.post("models/baseline/1.6/deploy", default=True)
    assert answer.status_code == 202, answer.text
    deadline = time.monotonic() + 60
    while managed.registered() != {"1.0", "1.6"}:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    managed.product.restart_portal(grace=0)
    managed.product.wait_until_ready()
    job = manager.end_of(answer.json()["job"]["id"])
    assert job["state"] == "failed"
    assert job["reason"].startswith("The portal ended during this change (at the step: ")
    line = next(line for line in manager.audit() if line["version"] == "1.6")
    assert (line["actor"], line["action"], line["outcome"]) == ("token", "deploy", "failed")
    assert line["reason"] == job["reason"]
    managed.wait_for({"1.0": True})
    manager.done("models/baseline/1.6/deploy")  # the model is free again
    manager.done("models/baseline/1.6/retire")


def test_a_lazy_version_sleeps_and_wakes(managed: Managed) -> None:
    manager = managed.manager
    archives.release(managed.reports, "1.4")
    archives.archive(managed.store, managed.source, "1.4")
    manager.done("models/baseline/1.4/deploy")
    deadline = time.monotonic() + 60
    while manager.served()["1.4"]["state"] != "sleeping":
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert manager.served()["1.4"]["workers_ready"] == 0
    assert requests.get(f"{manager.url}/api/health", timeout=5).status_code == 200
    deadline = time.monotonic() + 120
    while True:  # a machine at its limit starts no worker within the deadline of a prediction
        answer = requests.post(
            f"{manager.url}/api/predict?version=1.4", data=TILE.read_bytes(), timeout=30
        )
        if answer.status_code == 200:
            break
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5"), answer.text
        assert time.monotonic() < deadline
        time.sleep(1)
    assert answer.json()["version"] == "1.4"
    manager.done("models/baseline/1.4/retire")


@pytest.mark.parametrize("scripts", [True, False])
def test_an_operator_in_the_browser(managed: Managed, browser: "Browser", *, scripts: bool) -> None:
    from playwright.sync_api import expect

    version = f"1.5.{int(scripts)}"
    archives.release(managed.reports, version)
    archives.archive(managed.store, managed.source, version)
    page = browser.new_page(java_script_enabled=scripts)
    page.set_default_timeout(60_000)
    title = page.locator("#job-title")

    def done() -> None:
        expect(title).to_have_text("Done", timeout=300_000)
        page.click("text=Back to the models")

    page.goto(f"{managed.manager.url}/models")
    page.click("main >> text=Log in")
    page.fill("#password", PASSWORD)
    page.keyboard.press("Enter")
    stored = page.locator("#archives .version-line", has_text=f"baseline {version}")
    stored.get_by_role("button", name="Deploy").click()
    done()
    served = page.locator("section.model:first-of-type .version-line", has_text=version)
    served.get_by_role("button", name="Make it the default").click()
    done()
    expect(served.locator(".tag")).to_have_text("default")
    page.click("text=Roll back to 1.0")
    done()
    served.locator("summary").click()
    served.get_by_role("button", name=f"Retire baseline {version}").click()
    done()
    expect(served).to_have_count(0)
    page.close()
    assert managed.registered() == {"1.0"}

"""Deploy, promote, roll back, retire; broken archives; a TorchServe that forgot everything."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from deploy.child import end
from deploy.java import find_java
from deploy.product import Product
from deploy.settings import Settings
from tests.e2e import archives
from tests.e2e.conftest import RunningProduct
from tests.e2e.managed import TOKEN, Manager

TILE = Path(__file__).resolve().parents[2] / "portal/static/samples/River.jpg"


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


@pytest.fixture(scope="module")
def managed(
    settings_for: Callable[[str], Settings],
    model_store: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Managed]:
    folder = tmp_path_factory.mktemp("managed")
    store, reports = folder / "model_store", folder / "releases"
    store.mkdir()
    shutil.copy(model_store / "baseline-1.0.mar", store)
    shutil.copytree(archives.RELEASE, reports / "baseline-1.0")
    settings = settings_for("models")
    text = settings.config.read_text()
    settings.config.write_text(text.replace(f"model_store={model_store}", f"model_store={store}"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PORTAL_REPORTS_DIR", str(reports))
        patch.setenv("PORTAL_TOKEN", TOKEN)
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
    print(job)
    assert [step["state"] for step in job["steps"]] == ["done"] * len(job["steps"])
    assert manager.default() == "1.0"
    assert manager.served()["1.1"]["state"] == "ready"
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

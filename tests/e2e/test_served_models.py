"""What is served is what was measured, and each archive runs its own code."""

import csv
import json
import os
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import pytest
import requests

from tests.support.paths import ROOT, SAMPLES
from tests.support.real_archives import RELEASE
from training.dataset.eurosat import find_tiles

RELEASES = ROOT / "training/releases"
TILE = SAMPLES / "River.jpg"
ASKED = 500  # tiles of a release's test split, spread over all of it


class Product(Protocol):
    """The part of the session fixture that these tests need."""

    url: str
    inference_url: str
    management_url: str
    key_file: Path


def released() -> list[Path]:
    return sorted(path.parent for path in RELEASES.glob("*/model.pt"))


def key(product: Product, name: str) -> dict[str, str]:
    return {
        "Authorization": f"Bearer {json.loads(product.key_file.read_text())[name]['key']}",
        "Content-Type": "application/octet-stream",
    }


def test_every_release_is_served(product: Product) -> None:
    health = requests.get(f"{product.url}/api/health", timeout=5).json()
    served = {f"{line['model']}-{line['version']}" for line in health["models_loaded"]}
    assert served == {folder.name for folder in released()}
    assert served


def test_management_needs_its_token(product: Product) -> None:
    assert requests.get(f"{product.management_url}/models", timeout=5).status_code == 400
    wrong = requests.get(
        f"{product.management_url}/models", headers=key(product, "inference"), timeout=5
    )
    assert wrong.status_code == 400
    right = requests.get(
        f"{product.management_url}/models", headers=key(product, "management"), timeout=5
    )
    assert right.status_code == 200
    assert {line["modelName"] for line in right.json()["models"]} >= {"baseline"}


@pytest.mark.parametrize("folder", released(), ids=lambda folder: folder.name)
def test_served_labels_are_the_reports(product: Product, folder: Path) -> None:
    if not os.environ.get("EUROSAT_DIR"):
        pytest.skip("needs the EuroSAT tiles: set EUROSAT_DIR")
    tiles = find_tiles()
    with (folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows = rows[:: len(rows) // ASKED]
    assert len(rows) >= ASKED
    model, _, version = folder.name.rpartition("-")
    session = requests.Session()
    url = f"{product.url}/api/predict?model={model}&version={version}"

    def label(row: dict[str, str]) -> str:
        answer = session.post(url, data=tiles.read(row["file"]), timeout=30)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["class_name"])

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(label, rows))
    # The archives of the tests are those of `make archive`: int8, where there is one.
    assert found == [row.get("predicted_int8", row["predicted"]) for row in rows]


@pytest.fixture
def other_version(product: Product, model_store: Path) -> Iterator[str]:
    """Baseline 9.9: the released one, but its own copy of the code refuses every image."""
    archive = model_store / "baseline-9.9.mar"
    source = model_store / f"{RELEASE.name}.mar"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(archive, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "handlers/reading.py":
                assert b"MIN_SIDE = 8" in content
                content = content.replace(b"MIN_SIDE = 8", b"MIN_SIDE = 800")
            if name == "MAR-INF/MANIFEST.json":
                manifest = json.loads(content)
                manifest["model"]["modelVersion"] = "9.9"
                content = json.dumps(manifest).encode()
            new.writestr(name, content)
    headers = key(product, "management")
    models = f"{product.management_url}/models"
    query = "initial_workers=1&synchronous=true"
    answer = requests.post(f"{models}?url={archive.name}&{query}", headers=headers, timeout=120)
    assert answer.status_code == 200, answer.text
    yield "9.9"
    requests.delete(f"{models}/baseline/9.9", headers=headers, timeout=30).raise_for_status()
    archive.unlink()


def test_an_archive_runs_its_own_copy_of_the_handler(product: Product, other_version: str) -> None:
    headers = key(product, "inference")
    url = f"{product.inference_url}/predictions/baseline"
    refused = requests.post(
        f"{url}/{other_version}", data=TILE.read_bytes(), headers=headers, timeout=30
    )
    assert refused.status_code == 422
    assert "expected at least 800" in refused.json()["error"]["message"]
    assert requests.post(url, data=TILE.read_bytes(), headers=headers, timeout=30).ok

"""TorchServe dies under a running portal, and comes back."""

import time
from typing import Protocol

import requests

from tests.support.paths import SAMPLES

TILE = SAMPLES / "River.jpg"


class Product(Protocol):
    """The part of the session fixture that these tests need."""

    url: str

    def kill_torchserve(self) -> None: ...
    def start_torchserve(self) -> None: ...
    def wait_until_ready(self) -> None: ...


def test_a_dead_torchserve_is_told_at_once_and_recovers(product: Product) -> None:
    assert requests.get(f"{product.url}/api/health", timeout=5).status_code == 200
    product.kill_torchserve()
    try:
        asked = time.monotonic()
        health = requests.get(f"{product.url}/api/health", timeout=5)
        assert time.monotonic() - asked < 2
        assert (health.status_code, health.json()["status"]) == (503, "down")
        answer = requests.post(f"{product.url}/api/predict", data=TILE.read_bytes(), timeout=15)
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.json()["error"]["message"]
        assert requests.get(f"{product.url}/", timeout=5).status_code == 200
        metrics = requests.get(f"{product.url}/metrics", timeout=5)
        assert metrics.status_code == 200
        assert "\nlanduse_model_server_up 0.0\n" in metrics.text
    finally:
        product.start_torchserve()
        product.wait_until_ready()
    deadline = time.monotonic() + 20
    while (health := requests.get(f"{product.url}/api/health", timeout=5)).status_code != 200:
        assert time.monotonic() < deadline, health.text
        time.sleep(0.5)
    assert health.json()["failures"] == []

"""What Prometheus reads of the running product."""

from typing import Protocol

import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.support.paths import SAMPLES

TILE = SAMPLES / "River.jpg"


class Product(Protocol):
    """The part of the session fixture that these tests need."""

    url: str


def scrape(product: Product) -> dict[str, list[tuple[dict[str, str], float]]]:
    answer = requests.get(f"{product.url}/metrics", timeout=5)
    assert answer.status_code == 200
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(answer.text):
        assert family.name not in found, "the portal's and TorchServe's names must differ"
        found[family.name] = [(sample.labels, sample.value) for sample in family.samples]
    return found


def rivers(product: Product) -> float:
    return sum(
        value
        for labels, value in scrape(product).get("landuse_predictions", [])
        if labels.get("class_name") == "River" and labels["model"] == "baseline"
    )


def test_a_prediction_is_counted_by_the_portal_and_by_torchserve(product: Product) -> None:
    before = rivers(product)
    answer = requests.post(f"{product.url}/api/predict", data=TILE.read_bytes(), timeout=15)
    assert answer.json()["class_name"] == "River"
    assert rivers(product) == before + 1
    found = scrape(product)
    assert found["landuse_model_server_up"] == [({}, 1)]
    (labels, count), *_ = found["ts_inference_requests"]
    assert labels["model_name"] == "baseline"
    assert count >= 1

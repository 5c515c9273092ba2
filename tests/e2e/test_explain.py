"""Explanations on the real TorchServe, beside predictions in the same queue."""

import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import pytest
import requests

from tests.support.paths import SAMPLES

RIVER = (SAMPLES / "River.jpg").read_bytes()
# The places of that tile in which the river is: from the upper middle to the lower right.
ON_THE_RIVER = {
    (row, column)
    for row in range(16)
    for column in range(16)
    if abs(column - (5.5 + row * 6 / 15)) <= 1.5
}


class Product(Protocol):
    """The part of the session fixture that these tests need."""

    url: str
    inference_url: str
    key_file: Path


def explained(product: Product, image: bytes) -> Any:
    """An explanation; the portal's refusal for being busy is obeyed."""
    deadline = time.monotonic() + 60
    while True:
        answer = requests.post(f"{product.url}/api/explain", data=image, timeout=30)
        if answer.status_code != 503 or time.monotonic() > deadline:
            break
        time.sleep(int(answer.headers["Retry-After"]))
    assert answer.status_code == 200, answer.text
    return answer.json()


def predicted(product: Product, image: bytes) -> Any:
    answer = requests.post(f"{product.url}/api/predict", data=image, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_river_is_seen_where_it_flows(product: Product) -> None:
    answer = explained(product, RIVER)
    assert answer["class_name"] == "River"
    assert answer["confidence"] == predicted(product, RIVER)["confidence"]
    heat = {(y, x): v for y, row in enumerate(answer["heat"]) for x, v in enumerate(row)}
    assert len(heat) == 256
    assert all(math.isfinite(value) for value in heat.values())
    on = [heat[place] for place in ON_THE_RIVER]
    beside = [heat[place] for place in heat.keys() - ON_THE_RIVER]
    assert sum(on) / len(on) > sum(beside) / len(beside) + 0.15


def test_predictions_beside_explanations_are_what_they_were(product: Product) -> None:
    images = [sample.read_bytes() for sample in sorted(SAMPLES.glob("*.jpg"))]
    expected = [predicted(product, image) for image in images]
    with ThreadPoolExecutor(6) as pool:
        maps = [pool.submit(explained, product, RIVER) for _ in range(2)]
        answers = list(pool.map(lambda image: predicted(product, image), images * 4))
        assert {tuple(map(tuple, found.result()["heat"])) for found in maps}
    for answer, wanted in zip(answers, expected * 4, strict=True):
        assert answer["class_name"] == wanted["class_name"]
        assert answer["probabilities"] == pytest.approx(wanted["probabilities"], abs=1e-5)


def test_a_bad_image_cannot_be_explained(product: Product) -> None:
    answer = requests.post(f"{product.url}/api/explain", data=RIVER[:-200], timeout=30)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "unusable_image")


@pytest.mark.parametrize(
    ("kind", "field"), [("predictions", "probabilities"), ("explanations", "heat")]
)
@pytest.mark.parametrize("header", ["True", "False"])
def test_the_address_decides_what_is_asked_and_no_header_of_a_client(
    product: Product, kind: str, field: str, header: str
) -> None:
    key = json.loads(product.key_file.read_text())["inference"]["key"]
    headers = {
        "Authorization": f"Bearer {key}",
        "Content-Type": "application/octet-stream",
        "explain": header,
    }
    url = f"{product.inference_url}/{kind}/baseline"
    answer = requests.post(url, data=RIVER, headers=headers, timeout=30)
    assert answer.status_code == 200
    assert field in answer.json()

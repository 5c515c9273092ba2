"""Many tiles in one request to the real product."""

import time
from typing import Protocol

import requests

from tests.support.paths import SAMPLES

TILES = sorted(SAMPLES.glob("*.jpg"))
MOST = 256


class Product(Protocol):
    """The part of the session fixture that a batch needs."""

    url: str


def test_a_full_batch_with_broken_tiles_in_it(product: Product) -> None:
    images = [TILES[i % len(TILES)].read_bytes() for i in range(MOST)]
    images[7] = images[7][:700]  # truncated
    images[100] = b"no image"
    alone = {}
    for image in set(images):
        answer = requests.post(f"{product.url}/api/predict", data=image, timeout=30)
        alone[image] = (answer.status_code, answer.json().get("class_name"))
    files = [("files", (f"{i}.jpg", image)) for i, image in enumerate(images)]
    started = time.monotonic()
    answer = requests.post(f"{product.url}/api/predict/batch", files=files, timeout=90)
    assert time.monotonic() - started < 60
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [result["name"] for result in results] == [f"{i}.jpg" for i in range(MOST)]
    found = [
        (result["error"]["status"], None)
        if result["error"]
        else (200, result["prediction"]["class_name"])
        for result in results
    ]
    assert found == [alone[image] for image in images]
    assert [found[7][0], found[100][0]] == [422, 415]

"""Many clients at once: each gets its own answer, and nobody is refused."""

from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import requests

from tests.support.paths import SAMPLES

TILES = sorted(SAMPLES.glob("*.jpg"))
CLIENTS = 32
TURNS = 8


class Product(Protocol):
    """The part of the session fixture that clients need."""

    url: str


def test_many_clients_get_their_own_answers(product: Product) -> None:
    images = [path.read_bytes() for path in TILES]
    images += [images[0][:700], b"\xff\xd8\xff no image at all"]  # truncated, and only begins so
    address = f"{product.url}/api/predict?model=resnet18"

    def ask(session: requests.Session, image: bytes, number: str) -> tuple[int, object]:
        headers = {"X-Request-ID": number}
        answer = session.post(address, data=image, headers=headers, timeout=60)
        content = answer.json()
        assert answer.headers["X-Request-ID"] == number
        assert content.get("error", content)["request_id"] == number
        if answer.status_code != 200:
            return answer.status_code, content["error"]["code"]
        assert content["model"] == "resnet18"
        return answer.status_code, content["class_name"]

    with requests.Session() as session:
        alone = [ask(session, image, "alone") for image in images]
    assert {status for status, _ in alone} == {200, 415, 422}
    assert len(set(alone)) > 5

    def client(number: int) -> list[tuple[int, object]]:
        with requests.Session() as session:
            return [
                ask(session, images[(number + turn) % len(images)], f"client-{number}-{turn}")
                for turn in range(TURNS)
            ]

    with ThreadPoolExecutor(CLIENTS) as pool:
        found = list(pool.map(client, range(CLIENTS)))
    for number, answers in enumerate(found):
        assert answers == [alone[(number + turn) % len(images)] for turn in range(TURNS)]

"""Clients that stop in the middle of a request do not silence the portal."""

import socket
import time
from contextlib import ExitStack
from typing import Protocol
from urllib.parse import urlsplit

import requests

from deploy.gunicorn_conf import READ_TIMEOUT
from deploy.product import SPARE_THREADS
from portal.settings import Settings

THREADS = Settings().max_in_flight + SPARE_THREADS


class Product(Protocol):
    """The part of the session fixture that these tests need."""

    url: str


def test_health_answers_after_as_many_stalled_clients_as_threads(product: Product) -> None:
    address = urlsplit(product.url)
    assert address.hostname
    assert address.port
    head = b"POST /api/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
    with ExitStack() as stack:
        for number in range(THREADS):
            client = stack.enter_context(
                socket.create_connection((address.hostname, address.port), timeout=5)
            )
            # half of them stop in their headers, half in their body
            client.sendall(head if number % 2 else head + b"Content-Length: 1000\r\n\r\nx")
        time.sleep(0.5)
        answer = requests.get(f"{product.url}/api/health/live", timeout=READ_TIMEOUT + 10)
    assert answer.json() == {"status": "alive"}

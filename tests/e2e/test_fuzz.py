"""What the OpenAPI document allows, and what it does not, is sent to the real product.

FUZZ_EXAMPLES sets how many requests each operation gets of either kind; 6 take about half a minute.
"""

import os
from collections.abc import Callable
from typing import Any, Protocol

import hypothesis
import pytest
import schemathesis
from hypothesis import strategies
from schemathesis import GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.openapi import DOCUMENT
from tests.support.paths import SAMPLES

TILES = sorted(SAMPLES.glob("*.jpg"))
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "6"))
CHECKS = [
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
]
OPERATIONS = [
    (path, method, kind)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
    for kind in GenerationMode
    # where nothing can be given, nothing can be wrong
    if kind.is_positive or {"parameters", "requestBody"} & operation.keys()
]


class Product(Protocol):
    """The part of the session fixture that these tests need."""

    url: str


@pytest.fixture(scope="module")
def document(product: Product) -> Any:
    """The served document, with images for what is described as one."""
    tiles = [sample.read_bytes() for sample in TILES]
    damaged = strategies.builds(
        lambda tile, cut, noise: tile[:cut] + noise,
        strategies.sampled_from(tiles),
        strategies.integers(0, 2000),
        strategies.binary(max_size=64),
    )
    images = strategies.sampled_from(tiles) | damaged | strategies.binary(max_size=100)
    schemathesis.openapi.format("binary", images)
    return schemathesis.openapi.from_url(f"{product.url}/openapi.json")


@pytest.mark.parametrize(
    ("path", "method", "kind"),
    OPERATIONS,
    ids=[f"{method} {path} {kind.value}" for path, method, kind in OPERATIONS],
)
def test_every_answer_is_as_documented(
    document: Any, path: str, method: str, kind: GenerationMode
) -> None:
    operation = document[path][method.upper()]
    statuses = []

    @hypothesis.settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=kind))
    def send(case: Any) -> None:
        answer = case.call(timeout=30)
        statuses.append(answer.status_code)
        assert answer.status_code < 500 or answer.status_code in (503, 504), answer.text
        case.validate_response(answer, checks=CHECKS)

    run: Callable[[], None] = send
    run()
    assert statuses

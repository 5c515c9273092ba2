"""Answers held against the OpenAPI document."""

from typing import Any

from jsonschema import Draft202012Validator
from werkzeug.test import TestResponse

from portal.web.api.docs import openapi

DOCUMENT = openapi()


def conforms(response: TestResponse, path: str, method: str, status: int) -> Any:
    """The body of a response, after it was held against the document."""
    assert response.status_code == status
    answers = DOCUMENT["paths"][path][method]["responses"]
    assert str(status) in answers, f"{path} does not document {status}"
    assert response.mimetype == "application/json"
    schema = answers[str(status)]["content"]["application/json"]["schema"]
    body = response.get_json()
    Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(body)
    for header in answers[str(status)].get("headers", {}):
        assert header in response.headers
    return body

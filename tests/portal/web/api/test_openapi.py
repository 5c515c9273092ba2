import dataclasses
import io
import re
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator
from pydantic import SecretStr
from werkzeug.test import TestResponse

from handlers.contract.image_body import LOOKS, SCALES
from portal import errors
from portal.credentials import token_hash
from portal.services import Services
from portal.serving.model_server import Prediction
from portal.settings import Settings
from portal.web.app import create_app
from tests.support.fake_torchserve import WARNING, FakeTorchServe
from tests.support.openapi import DOCUMENT, conforms
from tests.support.report_content import CARD, report_content, write_release

OPERATIONS = {
    (path, method): operation
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}


def predict(client: FlaskClient, image: bytes, **fields: str) -> TestResponse:
    return client.post("/api/predict", data={"file": (io.BytesIO(image), "a.jpg"), **fields})


def batch(client: FlaskClient, *images: bytes, **fields: str) -> TestResponse:
    files = [(io.BytesIO(image), "a.jpg") for image in images]
    return client.post("/api/predict/batch", data={"files": files, **fields})


def test_operations_are_sorted_by_what_they_are_about() -> None:
    operations = [operation for path in DOCUMENT["paths"].values() for operation in path.values()]
    tags = {tag for operation in operations for tag in operation["tags"]}
    assert tags == {"Predict", "Scenes", "Health", "Reports", "Models"}


def test_the_document_is_served(client: FlaskClient) -> None:
    response = client.get("/openapi.json")
    assert response.get_json() == DOCUMENT
    assert DOCUMENT["openapi"].startswith("3.1")


def test_every_schema_is_one() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_every_route_of_the_api_is_documented_and_no_other(app: Flask) -> None:
    routes = {
        (re.sub(r"<(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/api/")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    documented = {
        (path, method) for path in DOCUMENT["paths"] for method in DOCUMENT["paths"][path]
    }
    assert routes == documented


def test_the_ways_in_are_described(app: Flask) -> None:
    schemes = DOCUMENT["components"]["securitySchemes"]
    assert schemes["token"]["scheme"] == "bearer"
    assert schemes["login"]["name"] == app.config["SESSION_COOKIE_NAME"]
    ways = [way for operation in OPERATIONS.values() for way in operation.get("security", [])]
    assert {name for way in ways for name in way} == set(schemes)


def test_what_changes_something_is_locked_and_nothing_else(app: Flask) -> None:
    locked = {key for key, operation in OPERATIONS.items() if operation.get("security")}
    asking = ("/api/predict", "/api/explain", "/api/scenes")  # or for whoever asks alone
    assert locked == {
        (path, method)
        for path, method in OPERATIONS
        if method != "get" and not path.startswith(asking)
    }
    assert "security" not in DOCUMENT


def test_every_operation_is_named_and_told() -> None:
    names = [operation["operationId"] for operation in OPERATIONS.values()]
    assert len(set(names)) == len(OPERATIONS)
    for operation in OPERATIONS.values():
        assert operation["summary"]
        assert "<br/>" not in operation.get("description", "")
        assert len(operation["tags"]) == 1


def test_every_answer_has_an_example_that_is_one() -> None:
    for operation in OPERATIONS.values():
        for answer in operation["responses"].values():
            content = answer["content"].get("application/json", {})
            if not content.get("schema"):  # a file
                continue
            schema = {**content["schema"], "components": DOCUMENT["components"]}
            Draft202012Validator(schema).validate(content["example"])


def test_an_example_of_an_error_has_a_code_of_its_status() -> None:
    codes = {
        (str(kind.status), kind.code)
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.PortalError)
    }
    for operation in OPERATIONS.values():
        for status, answer in operation["responses"].items():
            example = answer["content"].get("application/json", {}).get("example", {})
            if "error" in example:
                assert (status, example["error"]["code"]) in codes


@pytest.mark.parametrize("path", ["/api/predict", "/api/explain"])
def test_an_image_is_binary_whatever_its_type(path: str) -> None:
    bodies = dict(OPERATIONS[path, "post"]["requestBody"]["content"])
    assert set(bodies) == {
        "multipart/form-data",
        *(f"image/{kind}" for kind in ("jpeg", "png", "gif", "tiff", "webp", "bmp", "avif", "jp2")),
        "application/octet-stream",
        "application/json",
    }
    fields = bodies.pop("multipart/form-data")["schema"]
    binary = {"type": "string", "format": "binary"}
    assert fields["properties"]["file"] == binary
    encoded = bodies.pop("application/json")["schema"]
    assert encoded["required"] == ["image"]
    assert encoded["properties"]["image"]["type"] == "string"
    assert [body["schema"] for body in bodies.values()] == [binary] * 9


def test_a_batch_is_a_form_with_many_files() -> None:
    bodies = OPERATIONS["/api/predict/batch", "post"]["requestBody"]["content"]
    files = bodies["multipart/form-data"]["schema"]["properties"]["files"]
    assert (files["type"], files["minItems"], files["maxItems"]) == ("array", 1, 256)
    assert files["items"] == {"type": "string", "format": "binary"}


def test_no_name_is_made_up_for_a_field_that_may_be_left_out() -> None:
    """Swagger UI fills in what a pattern, a default or an example allows."""
    for path in ("/api/predict", "/api/explain", "/api/predict/batch"):
        operation = OPERATIONS[path, "post"]
        form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
        for name in ("model", "version"):
            (parameter,) = [each for each in operation["parameters"] if each["name"] == name]
            assert not parameter.get("required")
            assert parameter["schema"] == {"type": "string"}
            assert name not in form["required"]
            assert form["properties"][name].keys() == {"type", "description", "examples"}
            assert form["properties"][name]["examples"] == [""]


def test_what_can_be_said_of_the_values_is_listed() -> None:
    for path in ("/api/predict", "/api/explain", "/api/predict/batch"):
        operation = OPERATIONS[path, "post"]
        form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
        parameters = {each["name"]: each["schema"] for each in operation["parameters"]}
        for name, known in (("scale", SCALES), ("look", LOOKS)):
            for schema in (parameters[name], form["properties"][name]):
                assert tuple(schema["enum"]) == known
                assert schema["default"] == "auto"
            for value in known:
                assert value in form["properties"][name]["description"]


def test_the_answer_for_an_image_is_the_prediction_that_is_served() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    fields = {field.name for field in dataclasses.fields(Prediction)}
    assert set(schemas["Prediction"]["required"]) == fields
    assert set(schemas["PredictionAnswer"]["required"]) == fields | {"request_id"}
    assert schemas["PredictionAnswer"]["additionalProperties"] is False


class TestClosed:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(
            update={"public": False, "token_hash": SecretStr(token_hash("of-the-test"))}
        )

    @pytest.mark.parametrize(
        "path", sorted(DOCUMENT["paths"].keys() - {"/api/health/live", "/api/health/ready"})
    )
    def test_a_stranger_is_told_as_documented(self, client: FlaskClient, path: str) -> None:
        for method in DOCUMENT["paths"][path]:
            called = path.replace("{model}", "baseline").replace("{version}", "1.0")
            conforms(client.open(called, method=method), path, method, 401)
            other = {"Host": "evil.example"}
            conforms(client.open(called, method=method, headers=other), path, method, 400)

    def test_the_document_says_what_is_locked(self, client: FlaskClient) -> None:
        bearer = {"Authorization": "Bearer of-the-test"}
        document = client.get("/openapi.json", headers=bearer).get_json()
        assert document == DOCUMENT | {"security": [{"token": []}, {"login": []}]}
        for path in ("/api/health/live", "/api/health/ready"):
            assert document["paths"][path]["get"]["security"] == []

    def test_a_closed_portal_without_any_way_in_says_so(self, reports_dir: Path) -> None:
        settings = Settings(reports_dir=reports_dir, public=False)
        client = create_app(settings, FakeTorchServe()).test_client()
        conforms(client.get("/api/reports"), "/api/reports", "get", 403)


def test_predict(client: FlaskClient, torchserve: FakeTorchServe, tile: bytes) -> None:
    path = "/api/predict"
    conforms(predict(client, tile), path, "post", 200)
    conforms(predict(client, b""), path, "post", 400)
    conforms(predict(client, tile, version="x"), path, "post", 404)
    conforms(predict(client, tile + bytes(20_000)), path, "post", 413)
    conforms(predict(client, b"text"), path, "post", 415)
    torchserve.told = {"prediction_set": None, "warnings": (WARNING,), "assumed": {"look": "l1c"}}
    conforms(predict(client, tile), path, "post", 200)
    for error, status in (
        (errors.NothingToSee("x"), 422),
        (RuntimeError("x"), 500),
        (errors.TakesNoHints("x"), 501),
        (errors.BadAnswer("x"), 502),
        (errors.ModelNotReady("x"), 503),
        (errors.TooSlow("x"), 504),
    ):
        torchserve.predict_error = error
        conforms(predict(client, tile), path, "post", status)


def test_explain(app: Flask, client: FlaskClient, torchserve: FakeTorchServe, tile: bytes) -> None:
    path = "/api/explain"

    def explain(image: bytes, **fields: str) -> TestResponse:
        return client.post(path, data={"file": (io.BytesIO(image), "a.jpg"), **fields})

    body = conforms(explain(tile), path, "post", 200)
    assert len(body["heat"]) == 16
    conforms(explain(b""), path, "post", 400)
    conforms(explain(tile, version="x"), path, "post", 404)
    conforms(explain(tile + bytes(20_000)), path, "post", 413)
    conforms(explain(b"text"), path, "post", 415)
    for error, status in (
        (errors.UnusableImage("x"), 422),
        (RuntimeError("x"), 500),
        (errors.NoExplanations("x"), 501),
        (errors.BadAnswer("x"), 502),
        (errors.ModelNotReady("x"), 503),
        (errors.TooSlow("x"), 504),
    ):
        torchserve.explain_error = error
        conforms(explain(tile), path, "post", status)
    own = app.extensions["portal"]
    assert isinstance(own, Services)
    with own.predictor.explanations, own.predictor.explanations:
        conforms(explain(tile), path, "post", 503)


def test_batch(client: FlaskClient, torchserve: FakeTorchServe, tile: bytes) -> None:
    path = "/api/predict/batch"
    body = conforms(batch(client, tile, b"text"), path, "post", 200)
    assert len(body["results"]) == 2
    conforms(batch(client), path, "post", 400)
    conforms(batch(client, tile, model="No"), path, "post", 404)
    conforms(batch(client, *[bytes(30_000)] * 4), path, "post", 413)
    for error, status in (
        (errors.BadAnswer("x"), 502),
        (errors.ModelServerDown("x"), 503),
        (errors.TooSlow("x"), 504),
    ):
        torchserve.predict_error = error
        conforms(batch(client, tile), path, "post", status)


def test_health(client: FlaskClient, torchserve: FakeTorchServe) -> None:
    for path in ("/api/health", "/api/health/ready", "/api/health/live"):
        conforms(client.get(path), path, "get", 200)
    torchserve.served_error = errors.ModelServerDown("x")
    for path in ("/api/health", "/api/health/ready"):
        conforms(client.get(path), path, "get", 503)


def test_reports(client: FlaskClient, reports_dir: Path) -> None:
    one = "/api/reports/{model}/{version}"
    content = report_content("plain")
    del content["test_time_augmentation"]
    write_release(reports_dir, content)
    write_release(reports_dir, report_content(), spatial=report_content(), card=CARD)
    (reports_dir / "notes").mkdir()
    body = conforms(client.get("/api/reports"), "/api/reports", "get", 200)
    assert (len(body["reports"]), len(body["unreadable"])) == (2, 1)
    conforms(client.get("/api/reports/baseline/1.0"), one, "get", 200)
    conforms(client.get("/api/reports/plain/1.0"), one, "get", 200)
    conforms(client.get("/api/reports/none/1.0"), one, "get", 404)


def test_a_busy_portal(app: Flask, client: FlaskClient, tile: bytes) -> None:
    own = app.extensions["portal"]
    assert isinstance(own, Services)
    with own.predictor.in_flight, own.predictor.in_flight:
        conforms(predict(client, tile), "/api/predict", "post", 503)


def test_the_page_has_its_assets_here(client: FlaskClient) -> None:
    page = client.get("/docs").text
    assert 'data-url="/openapi.json"' in page
    for address in re.findall(r'(?:src|href)="([^"#]+)"', page):
        assert address.startswith("/")
        with client.get(address) as response:
            assert response.status_code == 200
    with client.get("/docs/swagger-ui.css") as response:
        assert response.headers["Cache-Control"] != "no-store"


@pytest.mark.parametrize("file", ["index.css", "oauth2-redirect.html", "..%2F__init__.py"])
def test_no_other_file_of_the_package_is_given(client: FlaskClient, file: str) -> None:
    assert client.get(f"/docs/{file}").status_code == 404

import pytest
from flask.testing import FlaskClient

from portal.errors import ModelServerDown
from tests.support.fake_torchserve import FakeTorchServe


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/api", 404, "not_found"),
        ("GET", "/api/", 404, "not_found"),
        ("GET", "/api/nothing", 404, "not_found"),
        ("POST", "/api/nothing", 404, "not_found"),
        ("GET", "/api/predict", 405, "method_not_allowed"),
        ("DELETE", "/api/health", 405, "method_not_allowed"),
    ],
)
def test_under_api_an_error_is_json(
    client: FlaskClient, method: str, path: str, status: int, code: str
) -> None:
    response = client.open(path, method=method)
    assert response.status_code == status
    assert response.content_type == "application/json"
    assert response.get_json()["error"]["code"] == code


def test_head_has_the_headers_of_an_error(client: FlaskClient) -> None:
    for path, status in [("/api/nothing", 404), ("/api/predict", 405)]:
        response = client.head(path)
        assert (response.status_code, response.content_type) == (status, "application/json")
        assert response.data == b""


def test_405_says_what_is_allowed(client: FlaskClient) -> None:
    assert set(client.get("/api/predict").headers["Allow"].split(", ")) == {"POST", "OPTIONS"}


@pytest.mark.parametrize("path", ["/nothing", "/apiary", "/static/nothing.css"])
def test_elsewhere_an_error_is_a_page(client: FlaskClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert response.content_type.startswith("text/html")
    assert "Not found" in response.text
    assert response.headers["X-Request-ID"] in response.text


def test_a_page_has_retry_after_too(
    client: FlaskClient, torchserve: FakeTorchServe, tile: bytes
) -> None:
    torchserve.predict_error = ModelServerDown("It is down. Wait.")
    response = client.post("/", data=tile)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
    assert "It is down. Wait." in response.text


def test_a_message_is_escaped_in_a_page(
    client: FlaskClient, torchserve: FakeTorchServe, tile: bytes
) -> None:
    torchserve.predict_error = ModelServerDown("<script>x</script>")
    assert "<script>x" not in client.post("/", data=tile).text

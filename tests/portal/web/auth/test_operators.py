import io
import logging
import re
import time
from pathlib import Path

import pytest
from flask import Flask, render_template_string
from flask.testing import FlaskClient
from pydantic import SecretStr
from werkzeug.security import generate_password_hash

from portal.credentials import token_hash
from portal.settings import Settings
from portal.web.app import create_app
from portal.web.auth.operators import operator_name, operator_required
from tests.support.fake_torchserve import FakeTorchServe
from tests.support.operators import (
    BEARER,
    PASSWORD,
    TOKEN,
    WRONG_BEARER,
    form_token,
    log_in,
    password_hash,
    settings,
)

__all__ = ["password_hash", "settings"]  # fixtures

FORM = '<input name="csrf_token" value="{{ csrf_token() }}">'


@pytest.fixture
def done() -> list[str]:
    """Who did what the views behind the decorator do."""
    return []


def with_views(app: Flask, done: list[str]) -> FlaskClient:
    """A client of the app with two views for operators, a page and one of the API."""

    @operator_required
    def manage() -> str:
        done.append(operator_name())
        return render_template_string(FORM)

    app.add_url_rule("/manage", "manage", manage, methods=["GET", "POST"])
    app.add_url_rule("/api/manage", "api_manage", manage, methods=["GET", "POST"])
    return app.test_client()


@pytest.fixture
def client(app: Flask, done: list[str]) -> FlaskClient:
    return with_views(app, done)


def error_code(client: FlaskClient, path: str, **request: object) -> tuple[int, str]:
    answer = client.open(path, **request)  # type: ignore[arg-type]
    return answer.status_code, answer.get_json()["error"]["code"]


def test_without_proof_the_api_answers_401(client: FlaskClient, done: list[str]) -> None:
    answer = client.post("/api/manage")
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (401, "not_logged_in")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert done == []


def test_without_proof_a_page_leads_to_the_login_and_back(
    client: FlaskClient, done: list[str]
) -> None:
    answer = client.get("/manage?of=baseline")
    assert answer.status_code == 303
    assert answer.headers["Location"] == "/login?next=/manage?of%3Dbaseline"
    form = client.get(answer.headers["Location"]).text
    assert 'name="next" value="/manage?of=baseline"' in form
    assert client.post("/manage").headers["Location"] == "/login"
    assert done == []


def test_the_token_lets_a_script_in_without_a_session(client: FlaskClient, done: list[str]) -> None:
    answer = client.post("/api/manage", headers=BEARER)
    assert answer.status_code == 200
    assert client.post("/manage", headers=BEARER).status_code == 200
    assert done == ["token", "token"]


@pytest.mark.parametrize("given", ["wrong", "", TOKEN[:-1], TOKEN + "x", "\xe9"])
def test_a_wrong_token_is_401(client: FlaskClient, done: list[str], given: str) -> None:
    headers = {"Authorization": f"Bearer {given}"}
    assert error_code(client, "/api/manage", method="POST", headers=headers) == (401, "wrong_token")
    assert done == []


def test_a_wrong_token_is_not_helped_by_a_session(client: FlaskClient, done: list[str]) -> None:
    assert log_in(client) == 303
    assert error_code(client, "/api/manage", headers=WRONG_BEARER) == (401, "wrong_token")
    assert done == []


def test_the_credentials_of_a_proxy_are_none_of_ours(client: FlaskClient, done: list[str]) -> None:
    proxied = {"Authorization": "Basic dXNlcjp3b3Jk"}
    assert error_code(client, "/api/manage", headers=proxied) == (401, "not_logged_in")
    log_in(client)
    assert client.get("/api/manage", headers=proxied).status_code == 200
    assert done == ["operator"]


def test_a_login_needs_the_token_of_its_form_for_each_change(
    client: FlaskClient, done: list[str]
) -> None:
    assert log_in(client) == 303
    assert client.get("/manage").status_code == 200
    assert error_code(client, "/api/manage", method="POST") == (403, "forged_form")
    assert client.post("/manage", data={"csrf_token": "x"}).status_code == 403
    assert done == ["operator"]
    token = form_token(client, "/manage")
    assert client.post("/manage", data={"csrf_token": token}).status_code == 200
    assert client.post("/api/manage", headers={"X-CSRFToken": token}).status_code == 200
    assert done == ["operator"] * 4


def test_a_form_from_before_the_login_is_refused(client: FlaskClient, done: list[str]) -> None:
    before = form_token(client)
    log_in(client)
    assert client.post("/manage", data={"csrf_token": before}).status_code == 403
    assert done == []


def test_nothing_is_read_of_a_strangers_body(client: FlaskClient) -> None:
    body = io.BytesIO(b"x" * 10_000)
    answer = client.post(
        "/api/manage",
        input_stream=body,
        content_length=10_000,
        content_type="application/x-www-form-urlencoded",
    )
    assert answer.status_code == 401
    assert body.tell() == 0


def test_a_session_ends_after_its_time(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(client)
    assert client.get("/api/manage").status_code == 200
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 12 * 3600 - 60)
    assert client.get("/api/manage").status_code == 200
    monkeypatch.setattr(time, "time", lambda: now + 12 * 3600 + 60)
    assert client.get("/api/manage").status_code == 401


def test_another_password_ends_the_sessions_of_the_first(
    settings: Settings, password_hash: str, tmp_path: Path, done: list[str]
) -> None:
    path = tmp_path / "password_hash"
    path.write_text(password_hash)
    of_a_file = settings.model_copy(update={"password_hash": None, "password_file": path})
    client = with_views(create_app(of_a_file, FakeTorchServe()), done)
    assert log_in(client) == 303
    assert client.get("/api/manage").status_code == 200
    path.write_text(generate_password_hash("another one"))
    assert client.get("/api/manage").status_code == 401
    path.unlink()
    assert client.get("/login").status_code == 403


def test_without_password_and_token_management_is_off_and_says_how_to_turn_it_on(
    reports_dir: Path, done: list[str]
) -> None:
    client = with_views(create_app(Settings(reports_dir=reports_dir), FakeTorchServe()), done)
    for headers in ({}, BEARER):
        answer = client.post("/api/manage", headers=headers)
        assert (answer.status_code, answer.get_json()["error"]["code"]) == (403, "management_off")
        assert "`make password`" in answer.get_json()["error"]["message"]
    page = client.get("/manage")
    assert page.status_code == 403
    assert "PORTAL_PASSWORD_HASH" in page.text
    assert client.get("/login").status_code == 403
    assert "Log in" not in client.get("/").text
    assert done == []


def test_with_a_token_alone_pages_do_not_lead_to_a_login_that_is_not_there(
    reports_dir: Path, done: list[str]
) -> None:
    settings = Settings(reports_dir=reports_dir, token_hash=SecretStr(token_hash(TOKEN)))
    client = with_views(create_app(settings, FakeTorchServe()), done)
    assert client.get("/manage").status_code == 401
    assert client.get("/manage", headers=BEARER).status_code == 200


@pytest.mark.parametrize("path", ["/api/predict", "/"])
def test_predictions_need_no_proof_and_get_no_cookie(
    client: FlaskClient, tile: bytes, path: str
) -> None:
    answer = client.post(path, data={"file": (io.BytesIO(tile), "a.jpg")})
    assert answer.status_code == 200
    assert "Set-Cookie" not in answer.headers
    assert client.post("/api/predict", data=tile, headers=WRONG_BEARER).status_code == 200


def test_predictions_work_with_a_session_too(client: FlaskClient, tile: bytes) -> None:
    log_in(client)
    for path, field in (("/api/predict", "file"), ("/api/predict/batch", "files"), ("/", "file")):
        answer = client.post(path, data={field: (io.BytesIO(tile), "a.jpg")})
        assert answer.status_code == 200


def test_every_change_is_either_a_question_or_protected(app: Flask) -> None:
    client = app.test_client()
    log_in(client)
    questions = {"/", "/api/predict", "/api/explain", "/api/predict/batch"}
    changing = {
        (re.sub(r"<[^>]+>", "1.0", rule.rule), method)
        for rule in app.url_map.iter_rules()
        if rule.rule not in questions
        for method in (rule.methods or set()) & {"POST", "PUT", "PATCH", "DELETE"}
    }
    assert {("/login", "POST"), ("/logout", "POST")} <= changing
    elsewhere = {"Sec-Fetch-Site": "cross-site"}  # as a browser says, of another site's page
    for path, method in changing:
        assert client.open(path, method=method, headers=elsewhere).status_code == 403, path


def test_nothing_secret_is_logged_or_shown(
    settings: Settings, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    log_in(client, "a wrong guess")
    log_in(client)
    client.get("/api/manage", headers=BEARER)
    client.get("/api/manage", headers=WRONG_BEARER)
    client.post("/api/manage")
    assert settings.password_hash
    assert settings.token_hash
    assert settings.secret_key
    kept = [settings.password_hash, settings.token_hash, settings.secret_key]
    secrets = [PASSWORD, TOKEN, *(secret.get_secret_value() for secret in kept)]
    for secret in [*secrets, "a wrong guess"]:
        assert secret not in caplog.text
        assert secret not in repr(settings)
        assert secret not in client.get("/").text


class TestClosed:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"public": False})

    @pytest.mark.parametrize("path", ["/", "/reports", "/docs", "/docs/swagger-ui.css"])
    def test_pages_lead_to_the_login(self, client: FlaskClient, path: str) -> None:
        assert client.get(path).headers["Location"] == f"/login?next={path}"
        log_in(client)
        with client.get(path) as answer:
            assert answer.status_code == 200

    @pytest.mark.parametrize(
        "path", ["/api/health", "/api/reports", "/api/reports/a/1.0", "/openapi.json", "/metrics"]
    )
    def test_the_api_answers_401(self, client: FlaskClient, path: str) -> None:
        assert error_code(client, path) == (401, "not_logged_in")
        assert client.get(path, headers=BEARER).status_code in (200, 404)

    def test_predictions_need_proof(self, client: FlaskClient, tile: bytes) -> None:
        assert error_code(client, "/api/predict", method="POST", data=tile)[0] == 401
        assert client.post("/api/predict", data=tile, headers=BEARER).status_code == 200
        assert client.post("/", data={"sample": "River"}).status_code == 303

    @pytest.mark.parametrize(
        "path", ["/api/health/live", "/api/health/ready", "/static/portal.css", "/login"]
    )
    def test_what_a_stranger_needs_stays_open(self, client: FlaskClient, path: str) -> None:
        with client.get(path) as answer:
            assert answer.status_code in (200, 503)

    def test_the_login_page_asks_for_nothing_that_is_closed(self, client: FlaskClient) -> None:
        page = client.get("/login").text
        assert "health.js" not in page
        assert "/api/health" not in page

    def test_an_address_without_anything_is_still_404(self, client: FlaskClient) -> None:
        assert client.get("/nothing").status_code == 404

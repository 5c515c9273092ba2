from datetime import UTC, datetime, timedelta
from http.cookies import SimpleCookie
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from portal.settings import Settings
from portal.web.app import create_app
from tests.support.databases import execute
from tests.support.fake_torchserve import FakeTorchServe
from tests.support.operators import (
    PASSWORD,
    form_token,
    log_in,
    password_hash,
    settings,
)

__all__ = ["password_hash", "settings"]  # fixtures


def test_the_right_password_begins_a_session_and_out_ends_it(client: FlaskClient) -> None:
    assert "Log in" in client.get("/").text
    assert log_in(client) == 303
    home = client.get("/").text
    assert "Log out" in home
    assert "Log in" not in home
    token = form_token(client, "/")
    assert client.post("/logout").status_code == 403  # another site would not know the token
    assert "Log out" in client.get("/").text
    assert client.post("/logout", data={"csrf_token": token}).headers["Location"] == "/"
    assert "Log in" in client.get("/").text


@pytest.mark.parametrize("given", ["wrong", "", PASSWORD.upper(), "x" * 10_000])
def test_a_wrong_password_is_told_on_the_form(client: FlaskClient, given: str) -> None:
    form = {"csrf_token": form_token(client), "password": given, "next": "/reports"}
    answer = client.post("/login", data=form)
    assert answer.status_code == 401
    assert 'role="alert"' in answer.text
    assert 'value="/reports"' in answer.text
    assert "Log out" not in client.get("/").text


def test_a_login_without_the_forms_token_is_refused(client: FlaskClient) -> None:
    answer = client.post("/login", data={"password": PASSWORD})
    assert answer.status_code == 403
    assert "Open the page again" in answer.text
    assert "Log out" not in client.get("/").text


def test_the_cookie_is_for_this_site_and_for_no_script(client: FlaskClient) -> None:
    form = {"csrf_token": form_token(client), "password": PASSWORD}
    cookie = SimpleCookie(client.post("/login", data=form).headers["Set-Cookie"])["landuse_session"]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Strict"
    assert cookie["path"] == "/"
    assert not cookie["secure"]
    assert cookie["expires"]


def test_a_login_leaves_nothing_of_the_session_before(client: FlaskClient) -> None:
    before = form_token(client)
    with client.session_transaction() as session:
        session["planted"] = "by somebody else"
    log_in(client)
    with client.session_transaction() as session:
        assert "planted" not in session
    assert form_token(client, "/") != before


@pytest.mark.parametrize("path", ["/reports", "/reports/baseline/1.0?a=b&c=%2F", "/"])
def test_the_login_leads_back(client: FlaskClient, path: str) -> None:
    form = {"csrf_token": form_token(client), "password": PASSWORD, "next": path}
    assert client.post("/login", data=form).headers["Location"] == path
    assert client.get("/login", query_string={"next": path}).headers["Location"] == path


@pytest.mark.parametrize(
    "path",
    [
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example/",
        "\\\\evil.example",
        "/\t/evil.example",
        "/\n/evil.example",
        " //evil.example",
        "evil.example",
        "javascript:alert(1)",
        "/reports\r\nSet-Cookie: a=b",
        "/caf\xe9",
        "",
    ],
)
def test_the_login_leads_nowhere_else(client: FlaskClient, path: str) -> None:
    form = {"csrf_token": form_token(client), "password": PASSWORD, "next": path}
    assert client.post("/login", data=form).headers["Location"] == "/"
    assert client.get("/login", query_string={"next": path}).headers["Location"] == "/"


def test_the_sixth_guess_within_a_minute_is_too_much(client: FlaskClient, app: Flask) -> None:
    for _ in range(5):
        assert log_in(client, "wrong") == 401
    form = {"csrf_token": form_token(client), "password": PASSWORD}
    answer = client.post("/login", data=form)
    assert answer.status_code == 429
    assert answer.headers["Retry-After"] == "60"
    assert "in a minute" in answer.text
    elsewhere = {"REMOTE_ADDR": "192.0.2.1"}
    assert client.post("/login", data=form, environ_overrides=elsewhere).status_code == 303


def test_a_success_takes_the_guesses_back(app: Flask) -> None:
    for _ in range(3):
        client = app.test_client()
        for _ in range(4):
            assert log_in(client, "wrong") == 401
        assert log_in(client) == 303


def test_a_restart_takes_no_guess_back(settings: Settings, torchserve: FakeTorchServe) -> None:
    for _ in range(5):
        assert log_in(create_app(settings, torchserve).test_client(), "wrong") == 401
    assert log_in(create_app(settings, torchserve).test_client()) == 429


def test_guesses_are_counted_for_a_minute(client: FlaskClient, settings: Settings) -> None:
    for _ in range(6):
        log_in(client, "wrong")
    ((key, count, expires),) = execute(
        settings.database_url.get_secret_value(), "SELECT * FROM login_attempts"
    )
    assert "127.0.0.1" in str(key)
    assert count == 6
    left = datetime.fromisoformat(str(expires)).replace(tzinfo=UTC) - datetime.now(UTC)
    assert timedelta(seconds=50) < left <= timedelta(seconds=60)
    execute(
        settings.database_url.get_secret_value(),
        "UPDATE login_attempts SET expires = '2026-01-01 00:00:00'",
    )
    elsewhere = {"REMOTE_ADDR": "192.0.2.1"}
    form = {"csrf_token": form_token(client), "password": "wrong"}
    assert client.post("/login", data=form, environ_overrides=elsewhere).status_code == 401
    ((key,),) = execute(settings.database_url.get_secret_value(), "SELECT key FROM login_attempts")
    assert "192.0.2.1" in str(key)  # nothing of what is over is kept
    assert log_in(client) == 303


def test_nobody_logs_in_uncounted(client: FlaskClient, settings: Settings) -> None:
    form = {"csrf_token": form_token(client), "password": PASSWORD}
    client.post("/login", data={**form, "password": "wrong"})
    Path(settings.database_url.get_secret_value().removeprefix("sqlite:///")).unlink()
    answer = client.post("/login", data=form)
    assert answer.status_code == 503
    assert "database is gone" in answer.text
    assert "Log out" not in client.get("/").text


def test_who_changes_the_address_header_gets_no_more_guesses(client: FlaskClient) -> None:
    form = {"csrf_token": form_token(client), "password": "wrong"}
    statuses = [
        client.post("/login", data=form, headers={"X-Forwarded-For": f"192.0.2.{i}"}).status_code
        for i in range(6)
    ]
    assert statuses[-1] == 429


class TestOverHttps:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"cookie_secure": True})

    def test_the_cookie_travels_over_https_only(self, client: FlaskClient) -> None:
        https = "https://localhost"
        page = client.get("/login", base_url=https)
        assert "; Secure;" in page.headers["Set-Cookie"] + ";"
        token = page.text.split('name="csrf_token" value="')[1].split('"')[0]
        form = {"csrf_token": token, "password": PASSWORD}
        # without a Referer, as our own pages send none
        assert client.post("/login", data=form, base_url=https).status_code == 303

"""A portal that has operators: a password and a token, and how clients show them."""

import re

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr
from werkzeug.security import generate_password_hash

from portal.credentials import token_hash
from portal.settings import Settings

PASSWORD, TOKEN = "correct horse battery", "T0ken-of-the-operator"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
WRONG_BEARER = {"Authorization": "Bearer wrong"}


@pytest.fixture(scope="module")
def password_hash() -> str:
    return generate_password_hash(PASSWORD)


@pytest.fixture
def settings(settings: Settings, password_hash: str) -> Settings:
    return settings.model_copy(
        update={
            "password_hash": SecretStr(password_hash),
            "token_hash": SecretStr(token_hash(TOKEN)),
            "secret_key": SecretStr("s" * 32),
        }
    )


def form_token(client: FlaskClient, path: str = "/login") -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', client.get(path).text)
    assert found
    return found[1]


def log_in(client: FlaskClient, password: str = PASSWORD, **fields: str) -> int:
    form = {"csrf_token": form_token(client), "password": password, **fields}
    return client.post("/login", data=form).status_code

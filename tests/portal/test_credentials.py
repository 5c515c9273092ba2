import logging
from pathlib import Path

import pytest
from werkzeug.security import check_password_hash, generate_password_hash

from portal.credentials import PASSWORD_HASH, Credentials, password_hash, token_hash


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    return tmp_path / "password_hash"


@pytest.fixture
def credentials(tmp_path: Path, password_file: Path) -> Credentials:
    return Credentials(password_file=password_file, token_file=tmp_path / "token_hash")


def test_without_files_there_is_no_proof(credentials: Credentials) -> None:
    assert not credentials.any
    assert not credentials.has_password
    assert not credentials.is_password("")
    assert not credentials.is_token("")


def test_a_file_counts_from_the_moment_it_is_there(
    credentials: Credentials, password_file: Path, tmp_path: Path
) -> None:
    password_file.write_text(generate_password_hash("first one") + "\n")
    assert credentials.any
    assert credentials.is_password("first one")
    assert not credentials.is_password("second one")
    mark = credentials.password_mark
    password_file.write_text(generate_password_hash("second one") + "\n")
    assert credentials.is_password("second one")
    assert credentials.password_mark != mark
    password_file.unlink()
    assert not credentials.any
    (tmp_path / "token_hash").write_text(token_hash("of a script"))
    assert credentials.any
    assert not credentials.has_password
    assert credentials.is_token("of a script")


def test_a_setting_wins_over_the_file(password_file: Path) -> None:
    password_file.write_text(generate_password_hash("of the file"))
    fixed = generate_password_hash("of the setting")
    credentials = Credentials(password_hash=fixed, password_file=password_file)
    assert credentials.is_password("of the setting")
    assert not credentials.is_password("of the file")


@pytest.mark.parametrize("content", [b"", b"plain password", b"\xff", b"scrypt:1:1:1$a$b"])
def test_a_file_with_something_else_is_no_proof_and_is_told_once(
    credentials: Credentials,
    password_file: Path,
    content: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    password_file.write_bytes(content)
    assert not credentials.any
    assert not credentials.is_password("plain password")
    assert len(caplog.records) == 1
    assert str(password_file) in caplog.text
    assert "plain password" not in caplog.text


def test_a_hash_is_that_of_werkzeug_with_another_salt_each_time() -> None:
    first, second = password_hash("correct horse"), password_hash("correct horse")
    assert first != second
    for made in (first, second):
        assert PASSWORD_HASH.fullmatch(made)
        assert check_password_hash(made, "correct horse")
        assert Credentials(password_hash=made).is_password("correct horse")
        assert not Credentials(password_hash=made).is_password("correct horse ")

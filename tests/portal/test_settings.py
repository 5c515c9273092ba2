from pathlib import Path

import pytest
from pydantic import SecretStr
from werkzeug.security import generate_password_hash

from portal.settings import BadSetting, Settings

PASSWORD_HASH = generate_password_hash("correct horse battery")
TOKEN_HASH = "0123456789abcdef" * 4


def test_defaults_are_those_of_the_contract() -> None:
    assert Settings.from_environment({}) == Settings(
        torchserve_inference="http://127.0.0.1:8080",
        torchserve_management="http://127.0.0.1:8081",
        torchserve_key_file=Path("key_file.json"),
        predict_timeout=10,
        max_upload_bytes=5_242_880,
        max_in_flight=256,
        max_batch_bytes=33_554_432,
        batch_timeout=60,
        default_model="baseline",
        reports_dir=Path("training/releases"),
        tiles_dir=None,
        torchserve_metrics="http://127.0.0.1:8082",
        password_hash=None,
        password_file=None,
        token_hash=None,
        token_file=None,
        secret_key=None,
        cookie_secure=False,
        public=True,
        allowed_hosts=(),
        scenes_dir=Path(".run/scenes"),
        max_scene_bytes=1_073_741_824,
        scenes_kept_bytes=5_368_709_120,
        scenes_kept_days=7,
        scenes_public=False,
        max_scenes_queued=20,
    )


def test_every_variable_is_read(tmp_path: Path) -> None:
    found = Settings.from_environment(
        {
            "PORTAL_TORCHSERVE_INFERENCE": "http://ts:1/",
            "PORTAL_TORCHSERVE_MANAGEMENT": "https://ts:2/base/",
            "PORTAL_TORCHSERVE_KEY_FILE": "keys/now.json",
            "PORTAL_PREDICT_TIMEOUT": "2.5",
            "PORTAL_MAX_UPLOAD_BYTES": "1000",
            "PORTAL_MAX_IN_FLIGHT": "3",
            "PORTAL_MAX_BATCH_BYTES": "2000",
            "PORTAL_BATCH_TIMEOUT": "20",
            "PORTAL_DEFAULT_MODEL": "resnet18",
            "PORTAL_REPORTS_DIR": "models",
            "PORTAL_TILES_DIR": str(tmp_path),
            "PORTAL_TORCHSERVE_METRICS": "http://ts:3",
            "PORTAL_PASSWORD_HASH": PASSWORD_HASH,
            "PORTAL_PASSWORD_FILE": "kept/password",
            "PORTAL_TOKEN_HASH": TOKEN_HASH,
            "PORTAL_TOKEN_FILE": "kept/token",
            "PORTAL_SECRET_KEY": "k" * 32,
            "PORTAL_COOKIE_SECURE": "true",
            "PORTAL_PUBLIC": "False",
            "PORTAL_ALLOWED_HOSTS": "landuse.example, .lab.example [::2]",
            "PORTAL_DATABASE_URL": "postgresql://me:secret@db/landuse",
            "PORTAL_MODEL_STORE": "store",
            "PORTAL_MAX_ARCHIVE_BYTES": "3000",
            "PORTAL_LAZY": "resnet18, vit-1.0",
            "PORTAL_LAZY_IDLE": "86400",
            "PORTAL_SCENES_DIR": "kept/scenes",
            "PORTAL_MAX_SCENE_BYTES": "4000",
            "PORTAL_SCENES_KEPT_BYTES": "5000",
            "PORTAL_SCENES_KEPT_DAYS": "30",
            "PORTAL_SCENES_PUBLIC": "true",
            "PORTAL_MAX_SCENES_QUEUED": "2",
        }
    )
    assert found == Settings(
        torchserve_inference="http://ts:1",
        torchserve_management="https://ts:2/base",
        torchserve_key_file=Path("keys/now.json"),
        predict_timeout=2.5,
        max_upload_bytes=1000,
        max_in_flight=3,
        max_batch_bytes=2000,
        batch_timeout=20,
        default_model="resnet18",
        reports_dir=Path("models"),
        tiles_dir=tmp_path,
        torchserve_metrics="http://ts:3",
        password_hash=SecretStr(PASSWORD_HASH),
        password_file=Path("kept/password"),
        token_hash=SecretStr(TOKEN_HASH),
        token_file=Path("kept/token"),
        secret_key=SecretStr("k" * 32),
        cookie_secure=True,
        public=False,
        allowed_hosts=("landuse.example", ".lab.example", "[::2]"),
        database_url=SecretStr("postgresql+psycopg://me:secret@db/landuse"),
        model_store=Path("store"),
        max_archive_bytes=3000,
        lazy=frozenset({"resnet18", "vit-1.0"}),
        lazy_idle=86400,
        scenes_dir=Path("kept/scenes"),
        max_scene_bytes=4000,
        scenes_kept_bytes=5000,
        scenes_kept_days=30,
        scenes_public=True,
        max_scenes_queued=2,
    )
    assert "secret@db" not in repr(found)


def test_an_empty_variable_keeps_the_default() -> None:
    assert Settings.from_environment({"PORTAL_PREDICT_TIMEOUT": " "}).predict_timeout == 10


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORTAL_TORCHSERVE_INFERENCE", "127.0.0.1:8080"),
        ("PORTAL_TORCHSERVE_MANAGEMENT", "ftp://127.0.0.1"),
        ("PORTAL_PREDICT_TIMEOUT", "soon"),
        ("PORTAL_PREDICT_TIMEOUT", "nan"),
        ("PORTAL_PREDICT_TIMEOUT", "0"),
        ("PORTAL_PREDICT_TIMEOUT", "inf"),
        ("PORTAL_MAX_UPLOAD_BYTES", "5 MB"),
        ("PORTAL_MAX_IN_FLIGHT", "0"),
        ("PORTAL_MAX_IN_FLIGHT", "-1"),
        ("PORTAL_MAX_BATCH_BYTES", "0"),
        ("PORTAL_BATCH_TIMEOUT", "-1"),
        ("PORTAL_DEFAULT_MODEL", "../baseline"),
        ("PORTAL_TILES_DIR", "no/such/folder"),
        ("PORTAL_TORCHSERVE_METRICS", "8082"),
        ("PORTAL_MAX_ARCHIVE_BYTES", "0"),
        ("PORTAL_LAZY", "Resnet18"),
        ("PORTAL_LAZY", "vit-1.0 resnet"),
        ("PORTAL_LAZY_IDLE", "0"),
        ("PORTAL_MAX_SCENE_BYTES", "1 GiB"),
        ("PORTAL_SCENES_KEPT_DAYS", "0"),
        ("PORTAL_SCENES_PUBLIC", "all"),
        ("PORTAL_COOKIE_SECURE", "yes"),
        ("PORTAL_PUBLIC", "0"),
        ("PORTAL_ALLOWED_HOSTS", "https://landuse.example"),
        ("PORTAL_ALLOWED_HOSTS", "landuse.example:8000"),
        ("PORTAL_ALLOWED_HOSTS", "*"),
    ],
)
def test_a_bad_value_is_named_with_its_variable(name: str, value: str) -> None:
    with pytest.raises(BadSetting) as refused:
        Settings.from_environment({name: value})
    assert name in str(refused.value)
    assert repr(value) in str(refused.value)
    assert "expected" in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORTAL_PASSWORD_HASH", "the password itself"),
        ("PORTAL_PASSWORD_HASH", "pbkdf2:sha256:1$salt$00"),
        ("PORTAL_TOKEN_HASH", "the token itself"),
        ("PORTAL_SECRET_KEY", "too short"),
    ],
)
def test_a_bad_secret_is_refused_without_being_shown(name: str, value: str) -> None:
    with pytest.raises(BadSetting) as refused:
        Settings.from_environment({name: value})
    assert name in str(refused.value)
    assert f"{len(value)} characters" in str(refused.value)
    assert value not in str(refused.value)


def test_every_setting_says_what_it_is_in_one_line() -> None:
    told = {name: field.description or "" for name, field in Settings.model_fields.items()}
    assert [name for name, line in told.items() if not line or "\n" in line] == []


def test_no_secret_is_shown_with_the_settings() -> None:
    secrets = [SecretStr(text) for text in (PASSWORD_HASH, TOKEN_HASH, "k" * 32)]
    shown = repr(Settings(password_hash=secrets[0], token_hash=secrets[1], secret_key=secrets[2]))
    assert PASSWORD_HASH not in shown
    assert TOKEN_HASH not in shown
    assert "k" * 32 not in shown


@pytest.mark.parametrize("url", ["portal.db", "sqlite://", "mysql://me:geheim@db/x", "postgres:x"])
def test_another_database_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(BadSetting, match="PORTAL_DATABASE_URL: expected sqlite:///") as refused:
        Settings.from_environment({"PORTAL_DATABASE_URL": url})
    assert "geheim" not in str(refused.value)

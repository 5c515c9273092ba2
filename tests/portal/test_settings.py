from pathlib import Path

import pytest

from portal.settings import BadSetting, Settings


def test_defaults_are_those_of_the_contract() -> None:
    assert Settings.from_environment({}) == Settings(
        torchserve_inference="http://127.0.0.1:8080",
        torchserve_management="http://127.0.0.1:8081",
        torchserve_key_file=Path("key_file.json"),
        predict_timeout=10,
        max_upload_bytes=5_242_880,
        max_in_flight=12,
        max_batch_bytes=33_554_432,
        batch_timeout=60,
        default_model="baseline",
        reports_dir=Path("training/releases"),
        tiles=None,
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
        tiles=tmp_path,
    )


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
    ],
)
def test_a_bad_value_is_named_with_its_variable(name: str, value: str) -> None:
    with pytest.raises(BadSetting) as refused:
        Settings.from_environment({name: value})
    assert name in str(refused.value)
    assert repr(value) in str(refused.value)
    assert "expected" in str(refused.value)

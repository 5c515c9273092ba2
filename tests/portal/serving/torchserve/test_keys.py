import json
import logging
import os
from pathlib import Path

import pytest

from portal.errors import ModelServerDown
from portal.serving.torchserve.keys import KeyFile


def write(path: Path, inference: str, management: str = "manage00") -> None:
    path.write_text(
        json.dumps({"inference": {"key": inference}, "management": {"key": management}})
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "key_file.json"
    write(path, "first000")
    return path


def test_each_api_has_its_key(path: Path) -> None:
    keys = KeyFile(path)
    assert keys.get("inference") == "first000"
    assert keys.get("management") == "manage00"


def test_a_changed_file_is_read_again(path: Path) -> None:
    keys = KeyFile(path)
    keys.get("inference")
    write(path, "second00")
    os.utime(path, ns=(1, 1))
    assert keys.get("inference") == "second00"


def test_an_unchanged_file_is_read_again_only_when_told_to(path: Path) -> None:
    keys = KeyFile(path)
    keys.get("inference")
    before = path.stat()
    write(path, "second00")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert keys.get("inference") == "first000"
    keys.forget()
    assert keys.get("inference") == "second00"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"inference": {"key": "x"}}', '{"infer'])
def test_a_file_without_keys_means_that_the_server_is_down(path: Path, content: str) -> None:
    path.write_text(content)
    with pytest.raises(ModelServerDown, match="PORTAL_TORCHSERVE_KEY_FILE"):
        KeyFile(path).get("inference")


def test_a_missing_file_is_found_once_it_is_there(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "key_file.json")
    with pytest.raises(ModelServerDown):
        keys.get("inference")
    write(tmp_path / "key_file.json", "late0000")
    assert keys.get("inference") == "late0000"


def test_keys_are_never_logged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    keys = KeyFile(path)
    keys.get("inference")
    path.write_text('{"inference": {"key": "secret00"}}')
    with pytest.raises(ModelServerDown):
        keys.get("management")
    assert "first000" not in caplog.text
    assert "secret00" not in caplog.text

"""The command: tiles are found or downloaded, checked and counted."""

import logging
import sys
from pathlib import Path

import pytest

from tests.support.file_server import FileServer
from tests.support.tiny_eurosat import zipped
from training.dataset import __main__ as module
from training.dataset import eurosat
from training.dataset.eurosat import BadData, find_tiles


def test_the_command_downloads_checks_and_counts(
    server: FileServer,
    tiny_eurosat: Path,
    tmp_path: Path,
    published: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.content = zipped(tiny_eurosat / "2750", tmp_path / "source.zip").read_bytes()
    server.stop_after = len(server.content)
    monkeypatch.setattr(eurosat, "DEFAULT_DIR", tmp_path / "data")
    monkeypatch.setattr(module, "ZIP_URL", server.url)
    monkeypatch.setattr(module, "ZIP_MD5", server.md5)
    monkeypatch.setattr(module, "SPLITS", ("random",))
    monkeypatch.delenv("EUROSAT_DIR", raising=False)
    monkeypatch.setattr(sys, "argv", ["eurosat"])
    with caplog.at_level(logging.INFO):
        module.main()
    said = capsys.readouterr().out
    assert "80 tiles in 4 classes" in said
    assert "split random: train 48, val 16, test 16" in said
    assert "Forest 12, Industrial 12, River 12, SeaLake 12" in said
    pixels = find_tiles(tmp_path / "data").decode(find_tiles(tmp_path / "data").names) / 255
    red = pixels[..., 0]
    assert f"R: mean {red.mean():.4f}, std {red.std():.4f}" in said
    assert "downloading the official zip" in caplog.text


def test_the_command_downloads_nothing_into_a_mistyped_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EUROSAT_DIR", str(tmp_path / "mistyped"))
    monkeypatch.setattr(sys, "argv", ["eurosat"])
    with pytest.raises(BadData, match=r"No tiles in .*mistyped: there is no such"):
        module.main()
    assert not (tmp_path / "mistyped").exists()

"""The command: tiles are found or downloaded, checked and counted."""

import logging
import sys
from pathlib import Path

import pytest

from tests.support.file_server import FileServer
from tests.support.own_tiles import write_own_tiles
from tests.support.tiny_eurosat import zipped
from training.dataset import __main__ as module
from training.dataset import eurosat
from training.dataset.eurosat import BadData, find_tiles


@pytest.fixture
def offered(
    server: FileServer, tiny_eurosat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> FileServer:
    """The tiny EuroSAT, as a zip that the command downloads."""
    source = zipped(tiny_eurosat / "2750", tmp_path.with_suffix(".zip"))
    server.content = source.read_bytes()
    server.stop_after = len(server.content)
    monkeypatch.setattr(module, "ZIP_URL", server.url)
    monkeypatch.setattr(module, "ZIP_MD5", server.md5)
    return server


def test_the_command_downloads_checks_and_counts(
    offered: FileServer,
    tiny_eurosat: Path,
    tmp_path: Path,
    published: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(eurosat, "DEFAULT_DIR", tmp_path / "data")
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


@pytest.mark.parametrize("there", ["notes.txt", "EuroSAT.zip"])
def test_nothing_is_downloaded_into_a_named_folder_that_has_files(
    there: str, offered: FileServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / there).write_bytes(b"the user's own")
    monkeypatch.setenv("EUROSAT_DIR", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["eurosat"])
    with pytest.raises(BadData, match=r"No tiles in|not a complete zip"):
        module.main()
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_bytes() == b"the user's own"
    assert offered.ranges == []


@pytest.mark.parametrize("there", [[], ["EuroSAT.zip.part"]])
def test_an_empty_named_folder_is_filled(
    there: list[str],
    offered: FileServer,
    tmp_path: Path,
    published: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    named = tmp_path / "named"
    named.mkdir()
    for name in there:
        (named / name).write_bytes(offered.content[:1000])
    monkeypatch.setattr(module, "SPLITS", ("random",))
    monkeypatch.setenv("EUROSAT_DIR", str(named))
    monkeypatch.setattr(sys, "argv", ["eurosat"])
    module.main()
    assert "80 tiles in 4 classes" in capsys.readouterr().out
    assert [path.name for path in named.iterdir()] == ["EuroSAT.zip"]


def test_the_command_tells_of_ones_own_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EUROSAT_DIR", str(write_own_tiles(tmp_path, each=20)))
    monkeypatch.setattr(sys, "argv", ["eurosat"])
    module.main()
    said = capsys.readouterr().out
    assert f"60 tiles in 3 classes: {tmp_path}" in said
    assert "split custom: train 42, val 9, test 9" in said
    assert "Dünen & Strand 14, Reben 14, hafen 2 14" in said


def test_the_command_names_what_eurosat_lacks(
    own_eurosat: Path,
    published: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (own_eurosat / "2750" / "River" / "River_7.jpg").unlink()
    monkeypatch.setattr(module, "CLASS_COUNTS", eurosat.CLASS_COUNTS)
    monkeypatch.setenv("EUROSAT_DIR", str(own_eurosat))
    monkeypatch.setattr(sys, "argv", ["eurosat"])
    module.main()
    assert "is not the published EuroSAT:\n  River: expected 20, found 19; missing" in caplog.text
    assert "split custom: train 55, val 12, test 12" in capsys.readouterr().out

"""Downloads from a real server on loopback."""

from pathlib import Path

import pytest

from tests.support.file_server import FileServer
from training.dataset.download import download
from training.dataset.eurosat import BadData


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "data" / "EuroSAT.zip"


def test_a_download_arrives_once(server: FileServer, target: Path) -> None:
    download(server.url, target, server.md5)
    assert target.read_bytes() == server.content
    assert list(target.parent.iterdir()) == [target]
    download(server.url, target, server.md5)
    assert server.ranges == [None]


def test_a_cut_download_goes_on_where_it_stopped(server: FileServer, target: Path) -> None:
    server.stop_after = (2 << 20) + 100_000
    with pytest.raises(BadData, match=r"cannot download http.*What arrived is kept: run the comm"):
        download(server.url, target, server.md5)
    have = target.with_name("EuroSAT.zip.part").stat().st_size
    assert have == 2 << 20  # what is written at once is a MiB
    assert not target.exists()
    server.stop_after = len(server.content)
    download(server.url, target, server.md5)
    assert server.ranges == [None, f"bytes={have}-"]
    assert target.read_bytes() == server.content


def test_a_server_that_knows_no_ranges_starts_over(server: FileServer, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("EuroSAT.zip.part").write_bytes(b"x" * 500)
    server.knows_ranges = False
    download(server.url, target, server.md5)
    assert target.read_bytes() == server.content


def test_a_part_that_is_whole_already_is_taken(server: FileServer, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("EuroSAT.zip.part").write_bytes(server.content)
    download(server.url, target, server.md5)
    assert server.ranges == [f"bytes={len(server.content)}-"]
    assert target.read_bytes() == server.content


def test_a_file_with_another_checksum_is_refused_and_deleted(
    server: FileServer, target: Path
) -> None:
    with pytest.raises(
        BadData, match=rf"expected md5 {'0' * 32}, found {server.md5}; run the command ag"
    ):
        download(server.url, target, "0" * 32)
    assert list(target.parent.iterdir()) == []


def test_an_error_of_the_server_is_told(server: FileServer, target: Path) -> None:
    server.status = 503
    with pytest.raises(BadData, match=r"cannot download http://127.* \(HTTPError\)"):
        download(server.url, target, server.md5)


def test_a_server_that_is_gone_is_told(server: FileServer, target: Path) -> None:
    server.server_close()
    with pytest.raises(BadData, match=rf"\(ConnectionError\).*put the file at {target} yourself"):
        download(server.url, target, server.md5)

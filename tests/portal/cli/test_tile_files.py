"""Which files are tiles, and how their bytes are had."""

import os
import zipfile
from pathlib import Path

import pytest

from portal.cli.tile_files import Tile, UnreadableFile, find_tiles


def names(tiles: list[Tile]) -> list[str]:
    return [tile.name for tile in tiles]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "tiles"
    for name in ("b/2.JPG", "a/1.tif", "a/10.png", "a/.3.jpg", ".hidden/4.jpg", "Thumbs.db"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def zipped(path: Path, *files: str) -> Path:
    with zipfile.ZipFile(path, "w") as content:
        for name in files:
            content.writestr(name, name)
    return path


def test_a_folder_has_all_below_it_by_name(folder: Path) -> None:
    tiles, left_out = find_tiles([folder])
    assert names(tiles) == ["a/1.tif", "a/10.png", "b/2.JPG"]
    assert [tile.read(100) for tile in tiles] == [b"a/1.tif", b"a/10.png", b"b/2.JPG"]
    assert tiles[0].read(3) == b"a/1"
    assert left_out == 1  # hidden ones are not told of


def test_a_zip_is_as_its_folder(tmp_path: Path) -> None:
    files = "2750/b/2.jpg", "2750/a/1.jpg", "__MACOSX/2750/a/1.jpg", "2750/a/.1.jpg", "read.me"
    tiles, left_out = find_tiles([zipped(tmp_path / "EuroSAT.ZIP", *files)])
    assert names(tiles) == ["2750/a/1.jpg", "2750/b/2.jpg"]
    assert tiles[1].read(100) == b"2750/b/2.jpg"
    assert left_out == 1


def test_what_is_named_is_a_tile_whatever_it_is_called(folder: Path, tmp_path: Path) -> None:
    gone, odd = folder / "gone.jpg", folder / "Thumbs.db"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    sources = [odd, gone, pipe, odd, folder, zipped(tmp_path / "z.zip", "1.jpg")]
    tiles, _ = find_tiles(sources)
    below = [f"{folder}/{name}" for name in ("a/1.tif", "a/10.png", "b/2.JPG")]
    assert names(tiles) == [str(odd), str(gone), str(pipe), *below, f"{tmp_path}/z.zip/1.jpg"]
    assert tiles[0].read(100) == b"Thumbs.db"
    for tile, said in ((tiles[1], "No such file"), (tiles[2], "no file")):
        with pytest.raises(UnreadableFile, match=said):
            tile.read(100)


def test_nothing_that_is_there_and_a_damaged_zip_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match="tilez: there is no such file"):
        find_tiles([tmp_path / "tilez"])
    (tmp_path / "bad.zip").write_bytes(b"PK\3\4 cut off")
    with pytest.raises(UnreadableFile, match=r"bad\.zip is no zip"):
        find_tiles([tmp_path / "bad.zip"])


def test_a_damaged_or_encrypted_entry_is_its_own_fault(tmp_path: Path) -> None:
    path = zipped(tmp_path / "z.zip", "1.jpg", "2.jpg")
    content = bytearray(path.read_bytes())
    content[content.index(b"1.jpg1.jpg") + 7] ^= 1  # of its bytes, not of its name
    second = content.index(b"PK\1\2", content.index(b"PK\1\2") + 1)
    content[second + 8] |= 1  # the flag of an encrypted entry
    content[content.index(b"PK\3\4", 4) + 6] |= 1
    path.write_bytes(content)
    tiles, _ = find_tiles([path])
    for tile, said in zip(tiles, ("CRC", "encrypted"), strict=True):
        with pytest.raises(UnreadableFile, match=said):
            tile.read(100)

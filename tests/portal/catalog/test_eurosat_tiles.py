import zipfile
from pathlib import Path

import pytest

from portal.catalog.eurosat_tiles import LARGEST_TILE, TileSource


@pytest.fixture(params=["folder", "zip", "folder with the zip"])
def tiles(request: pytest.FixtureRequest, tmp_path: Path, tile: bytes) -> TileSource:
    content = {"River_1.jpg": tile, "River_2.jpg": bytes(LARGEST_TILE + 1)}
    if request.param != "folder":
        with zipfile.ZipFile(tmp_path / "EuroSAT.zip", "w") as archive:
            for name, image in content.items():
                archive.writestr(f"2750/River/{name}", image)
        return TileSource(tmp_path / "EuroSAT.zip" if request.param == "zip" else tmp_path)
    folder = tmp_path / "tiles" / "2750" / "River"
    folder.mkdir(parents=True)
    for name, image in content.items():
        (folder / name).write_bytes(image)
    return TileSource(tmp_path / "tiles")


def test_a_tile_is_read(tiles: TileSource, tile: bytes) -> None:
    assert tiles.read("River", "River_1.jpg") == tile
    assert tiles.read("River", "River_1.jpg") == tile


def test_none_is_read_that_is_not_there_or_too_large(tiles: TileSource) -> None:
    assert tiles.read("River", "River_3.jpg") is None
    assert tiles.read("SeaLake", "River_1.jpg") is None
    assert tiles.read("River", "River_2.jpg") is None


def test_a_broken_zip_has_no_tiles(tmp_path: Path) -> None:
    (tmp_path / "tiles.zip").write_bytes(b"PK\x03\x04 and no more")
    assert TileSource(tmp_path / "tiles.zip").read("River", "River_1.jpg") is None


def test_tiles_of_ones_own_are_read_by_class_and_file(tmp_path: Path, tile: bytes) -> None:
    for home in ("", "train/"):
        path = tmp_path / home / "Dünen & Strand" / "quay 3.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tile + home.encode())
    tiles = TileSource(tmp_path)
    assert tiles.read("Dünen & Strand", "Dünen & Strand/quay 3.png") == tile + b"train/"


@pytest.mark.parametrize("home", ["", "mine\\", "EuroSAT/", "a/b/"])
def test_a_zip_has_its_class_folders_anywhere(home: str, tmp_path: Path, tile: bytes) -> None:
    separator = home[-1:] or "/"
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
        archive.writestr(f"{home}Du\u0308nen{separator}1.png", tile)  # as macOS writes it
        archive.writestr(f"__MACOSX/{home}Du\u0308nen{separator}._1.png", b"")
    assert TileSource(tmp_path / "mine.zip").read("Dünen", "Dünen/1.png") == tile


def test_of_the_parts_of_a_zip_that_for_training_counts(tmp_path: Path, tile: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
        for part, content in (("test", b"1"), ("train", tile), ("val", b"2")):
            archive.writestr(f"{part}/a/1.png", content)
    assert TileSource(tmp_path / "mine.zip").read("a", "a/1.png") == tile

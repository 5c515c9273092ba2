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

"""Tiles in every form they come in, whole and broken."""

import io
import logging
import re
import shutil
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handlers.reading import read
from handlers.vision import resize
from tests.support.own_tiles import COLOURS, picture, write_own_tiles
from tests.support.tiny_eurosat import zipped
from training.dataset import eurosat
from training.dataset.eurosat import (
    BadData,
    Tiles,
    compare_with_published,
    data_dir,
    find_tiles,
    label_of,
)

# Finding


@pytest.mark.parametrize(
    "layout", ["2750", "EuroSAT_RGB", "EuroSAT", "train", ".", "eurosat/2750", "mine"]
)
def test_tiles_are_found_in_every_known_layout(
    tiny_eurosat: Path, tmp_path: Path, layout: str
) -> None:
    shutil.copytree(tiny_eurosat / "2750", tmp_path / "data" / layout, dirs_exist_ok=True)
    tiles = find_tiles(tmp_path / "data")
    assert tiles.labels == ["Forest", "Industrial", "River", "SeaLake"]
    assert len(tiles.names) == 80


def test_tiles_in_a_zip_are_those_of_the_folder(tiny_eurosat: Path, tmp_path: Path) -> None:
    folder = find_tiles(tiny_eurosat)
    archive = zipped(tiny_eurosat / "2750", tmp_path / "EuroSAT.zip")
    for place in (archive, tmp_path):
        tiles = find_tiles(place)
        assert tiles.names == folder.names
        assert tiles.read("River_3.jpg") == folder.read("River_3.jpg")


def test_tiles_are_sorted_by_class_and_number(tiles: Tiles) -> None:
    assert tiles.names[:3] == ["Forest_1.jpg", "Forest_2.jpg", "Forest_3.jpg"]
    assert tiles.names[9] == "Forest_10.jpg"


def test_an_empty_folder_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"No tiles in .*2750/.*found none.*make data.*EUROSAT_DIR"):
        find_tiles(tmp_path)
    (tmp_path / "2750" / "River").mkdir(parents=True)
    with pytest.raises(BadData, match=r"No tiles in .*: .*make data.*EUROSAT_DIR"):
        find_tiles(tmp_path)


def test_tiles_of_ones_own_are_told_apart_by_class_and_file(tmp_path: Path) -> None:
    folder = write_own_tiles(tmp_path / "anything", each=12)
    tiles = find_tiles(tmp_path)
    assert tiles.location == folder
    assert tiles.labels == sorted(COLOURS)
    assert len(tiles.names) == 36
    assert tiles.names[:4] == [
        f"Dünen & Strand/tile {n}" for n in ("0.jpg", "1.JPG", "2.jpeg", "3.png")
    ]
    assert tiles.names[11] == "Dünen & Strand/tile 11.JPG"
    assert {label_of(name) for name in tiles.names} == set(COLOURS)
    pixels = tiles.decode(["Reben/tile 4.tif", "hafen 2/tile 4.tif"])
    for row, label in zip(pixels, ("Reben", "hafen 2"), strict=True):
        assert np.array_equal(row, read(picture(label, 4, kind="TIFF")).pixels)


def test_a_tile_called_as_in_eurosat_goes_by_that_name(own_eurosat: Path) -> None:
    river = own_eurosat / "2750" / "River"
    shutil.copy(river / "River_1.jpg", river / "one more.jpg")
    shutil.copy(river / "River_1.jpg", river / "Forest_1.jpg")
    names = find_tiles(own_eurosat).names
    assert {"River_1.jpg", "Forest_1.jpg", "River/one more.jpg", "River/Forest_1.jpg"} < set(names)
    assert len(names) == 82


def test_a_zip_of_windows_or_macos_is_read(tmp_path: Path) -> None:
    folder = write_own_tiles(tmp_path / "mine", each=2)
    for separator in "/\\":
        with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
            for path in folder.rglob("*.*"):
                name = unicodedata.normalize("NFD", str(path.relative_to(tmp_path)))
                archive.write(path, name.replace("/", separator))
            archive.writestr("__MACOSX/mine/Reben/._tile 0.jpg", b"")
        tiles = find_tiles(tmp_path / "mine.zip")
        assert tiles.names == find_tiles(folder).names
        assert tiles.read("Dünen & Strand/tile 0.jpg") == picture("Dünen & Strand", 0)
        assert tiles.left_out == {"files in __MACOSX": 1}


def test_of_several_zips_one_must_be_named(tmp_path: Path) -> None:
    zipped(write_own_tiles(tmp_path / "mine", each=5), tmp_path / "a" / "mine.zip")
    assert len(find_tiles(tmp_path / "a").names) == 3  # .jpg alone
    shutil.copy(tmp_path / "a" / "mine.zip", tmp_path / "a" / "other.zip")
    with pytest.raises(BadData, match=r"several zips, mine\.zip and other\.zip; set EUROSAT_DIR"):
        find_tiles(tmp_path / "a")
    shutil.copy(tmp_path / "a" / "mine.zip", tmp_path / "a" / "EuroSAT.zip")
    assert find_tiles(tmp_path / "a").location.name == "EuroSAT.zip"


def test_of_several_sets_one_must_be_named(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_own_tiles(tmp_path / name, each=1)
    with pytest.raises(BadData, match="several folders of class folders, one and two; set EUROSAT"):
        find_tiles(tmp_path)
    assert find_tiles(tmp_path / "two").labels == sorted(COLOURS)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("empty", "class empty has no tiles: put some into its folder, or move that elsewhere"),
        ("=cmd", "a class cannot be called '=cmd'; expected at most 64 characters, none of"),
        ("a" * 65, "a class cannot be called 'a"),
    ],
)
def test_a_class_that_cannot_be_one_is_named(folder: str, message: str, tmp_path: Path) -> None:
    write_own_tiles(tmp_path, each=1)
    (tmp_path / folder).mkdir()
    if folder != "empty":
        (tmp_path / folder / "1.jpg").write_bytes(picture("Reben", 1))
    with pytest.raises(BadData, match=message):
        find_tiles(tmp_path)


def test_one_class_folder_is_none(tmp_path: Path) -> None:
    shutil.rmtree(write_own_tiles(tmp_path, each=1) / "Reben")
    shutil.rmtree(tmp_path / "hafen 2")
    with pytest.raises(
        BadData, match=r"expected two or more folders, .*; found Dünen & Strand\. Run"
    ):
        find_tiles(tmp_path)


def test_what_was_left_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_own_tiles(tmp_path, each=1)
    (tmp_path / "Reben" / ".DS_Store").touch()
    with caplog.at_level(logging.INFO):
        find_tiles(tmp_path)
    assert f"{tmp_path}: left out 1 hidden files" in caplog.text


def test_the_environment_names_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EUROSAT_DIR", str(tmp_path))
    assert data_dir() == tmp_path
    monkeypatch.setenv("EUROSAT_DIR", "")
    assert data_dir() == eurosat.DEFAULT_DIR


def test_half_a_zip_is_refused(tiny_eurosat: Path, tmp_path: Path) -> None:
    archive = zipped(tiny_eurosat / "2750", tmp_path / "EuroSAT.zip")
    archive.write_bytes(archive.read_bytes()[:-2000])
    with pytest.raises(BadData, match=r"EuroSAT\.zip is not a complete zip .*: copy or"):
        find_tiles(tmp_path)


def test_a_zip_damaged_inside_names_the_tile(tiny_eurosat: Path, tmp_path: Path) -> None:
    archive = zipped(tiny_eurosat / "2750", tmp_path / "EuroSAT.zip")
    data = bytearray(archive.read_bytes())
    pixels = data.index((tiny_eurosat / "2750" / "River" / "River_5.jpg").read_bytes())
    data[pixels + 500] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(BadData, match=r"EuroSAT\.zip is damaged at River_5\.jpg .*: copy or"):
        verify_all(find_tiles(archive))


def verify_all(tiles: Tiles) -> None:
    tiles.decode(tiles.names)


# Decoding


def test_a_tile_is_decoded_to_its_pixels(tiles: Tiles) -> None:
    names = ("River_2.jpg", "Forest_1.jpg")
    pixels = tiles.decode(names)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (2, 64, 64, 3)
    for row, name in zip(pixels, names, strict=True):
        assert np.array_equal(row, np.asarray(Image.open(io.BytesIO(tiles.read(name)))))


def test_tiles_of_any_size_are_resized_as_the_handler_does(tmp_path: Path) -> None:
    folder = write_own_tiles(tmp_path, each=3, side=100)
    (folder / "Reben" / "tile 0.jpg").write_bytes(picture("Reben", 0, side=40))
    tiles = find_tiles(folder)
    assert tiles.side() == 100
    pixels = tiles.decode(tiles.names, size=48)
    assert pixels.shape == (9, 48, 48, 3)
    for row, name in zip(pixels, tiles.names, strict=True):
        assert np.array_equal(row, resize(read(tiles.read(name)).pixels[None], 48)[0]), name


def test_every_bad_tile_is_named(own_eurosat: Path) -> None:
    river = own_eurosat / "2750" / "River"
    (river / "River_1.jpg").write_bytes((river / "River_1.jpg").read_bytes()[:2000])
    (river / "River_2.jpg").write_bytes(b"no picture")
    Image.open(river / "River_3.jpg").crop((0, 0, 7, 64)).save(river / "River_3.jpg")
    Image.new("L", (64, 64)).save(river / "River_4.jpg")
    tiles = find_tiles(own_eurosat)
    with pytest.raises(BadData) as caught:
        tiles.decode(tiles.names)
    message = str(caught.value)
    assert message.startswith("4 bad tiles in ")
    assert re.search(r"River_1\.jpg: .*truncated", message)
    assert "River_2.jpg: not an image we read" in message
    assert re.search(r"River_3\.jpg: .*7 x 64 px", message)
    assert "River_4.jpg: single-band image" in message


def test_a_tile_that_is_not_there_is_named(tiles: Tiles) -> None:
    with pytest.raises(BadData, match=r"River_99\.jpg is not in .*make data"):
        tiles.decode(["River_99.jpg"])


# Published or not


def test_the_whole_dataset_is_the_published_one(tiles: Tiles, published: None) -> None:
    assert compare_with_published(tiles) == ""


def test_what_is_missing_or_superfluous_is_named(own_eurosat: Path, published: None) -> None:
    home = own_eurosat / "2750"
    (home / "River" / "River_7.jpg").unlink()
    shutil.rmtree(home / "SeaLake")
    (home / "Desert").mkdir()
    shutil.copy(home / "Forest" / "Forest_1.jpg", home / "Desert" / "a.jpg")
    (home / "Forest" / "Forest_1.jpg").rename(home / "Forest" / "one.jpg")
    assert compare_with_published(find_tiles(own_eurosat)).splitlines() == [
        "",
        "  Desert: expected 0, found 1",
        "  Forest: expected 20, found 20; missing Forest_1.jpg",
        "  River: expected 20, found 19; missing River_7.jpg",
        "  SeaLake: expected 20, found 0; missing SeaLake_1.jpg, SeaLake_2.jpg, SeaLake_3.jpg, "
        "SeaLake_4.jpg, SeaLake_5.jpg ...",
    ]

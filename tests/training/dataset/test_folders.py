"""What is a dataset, and what is none of it."""

from pathlib import Path

import pytest

from training.dataset.folders import DEPTH, sort_out, walk


@pytest.mark.parametrize("home", ["", "2750", "EuroSAT_RGB", "EuroSAT", "train", "a/b"])
def test_class_folders_are_found_wherever_they_lie(home: str) -> None:
    inside = f"{home}/" if home else ""
    paths = [f"{inside}{label}/{label}_1.jpg" for label in ("River", "Forest")]
    found = sort_out(paths)
    assert found.choose() == [home]
    assert found.homes[home] == {"River": [paths[0]], "Forest": [paths[1]]}
    assert found.left_out_with(home) == {}


def test_files_of_every_kind_are_tiles() -> None:
    names = ["1.jpg", "2.jpeg", "3.JPG", "4.png", "5.tif", "6.TIFF", "7 ä.jpg"]
    found = sort_out([*(f"a/{name}" for name in names), "b/1.jpg"])
    assert found.homes[""] == {"a": [f"a/{name}" for name in names], "b": ["b/1.jpg"]}


def test_a_zip_of_windows_has_backslashes() -> None:
    found = sort_out(["data\\a\\1.jpg", "data\\b\\1.jpg", "data\\b\\"])
    assert found.homes["data"] == {"a": ["data\\a\\1.jpg"], "b": ["data\\b\\1.jpg"]}


def test_a_zip_of_macos_has_files_and_names_of_its_own() -> None:
    decomposed = "Wa\u0308lder"
    paths = [f"{decomposed}/1.jpg", "See/1.jpg", "See/.DS_Store", "__MACOSX/See/._1.jpg"]
    found = sort_out(paths)
    assert found.homes[""] == {"Wälder": [paths[0]], "See": [paths[1]]}
    assert found.left_out_with("") == {"hidden files": 1, "files in __MACOSX": 1}


def test_what_is_no_tile_is_counted() -> None:
    found = sort_out(
        [
            *("a/1.jpg", "b/1.jpg", "a/.ipynb_checkpoints/1-checkpoint.jpg", "b/._1.jpg"),
            *("a/Thumbs.db", "labels.csv", "loose.jpg", "a/two\nlines.jpg"),
        ]
    )
    assert found.homes[""] == {"a": ["a/1.jpg"], "b": ["b/1.jpg"]}
    assert found.left_out_with("") == {
        "hidden files": 2,
        "files of another kind": 2,
        "tiles in no class folder": 1,
        "oddly named files": 1,
    }


def test_of_kaggles_two_sets_the_pictures_are_taken() -> None:
    paths = [f"{home}/{label}/{label}_1.{suffix}" for home, suffix in (
        ("EuroSATallBands", "tif"), ("EuroSAT", "jpg")
    ) for label in ("River", "Forest")]  # fmt: skip
    found = sort_out([*paths, "EuroSAT/train.csv", "EuroSAT/label_map.json"])
    assert found.choose() == ["EuroSAT"]
    assert found.left_out_with("EuroSAT") == {
        "files of another kind": 2,
        "tiles in EuroSATallBands": 2,
    }


def test_parts_of_a_dataset_are_no_classes() -> None:
    parts = ("train", "test", "val")
    found = sort_out([f"{part}/{label}/1.png" for part in parts for label in "ab"])
    assert found.choose() == ["train"]
    assert found.left_out_with("train") == {"tiles in test": 2, "tiles in val": 2}
    assert sort_out(["train/1.jpg", "test/2.jpg"]).choose() == []


def test_what_nothing_decides_is_left_open() -> None:
    assert sort_out([f"{home}/{label}/1.jpg" for home in "xy" for label in "ab"]).choose() == [
        "x",
        "y",
    ]
    assert sort_out(["a/1.jpg", "b.txt"]).choose() == []


def test_an_empty_class_folder_is_told_from_a_folder_of_other_files(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "b/1.jpg", "lists/train.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / ".DS_Store").touch()
    assert sort_out(walk(tmp_path)).homes[""] == {"a": ["a/1.jpg"], "b": ["b/1.jpg"], "c": []}
    zipped = ["a/", "a/1.jpg", "b/1.jpg", "c/", "lists/", "lists/train.txt"]
    assert sort_out(zipped).homes[""]["c"] == []
    assert "lists" not in sort_out(zipped).homes[""]


def test_a_folder_is_walked_no_deeper_than_datasets_lie(tmp_path: Path) -> None:
    deep = "/".join(str(level) for level in range(DEPTH + 1))
    for name in ("x/1.jpg", f"{deep}/1.jpg", ".git/objects/ab/1", ".git/config"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    files = [path for path in walk(tmp_path) if not path.endswith("/")]
    assert files == [".git/config", "x/1.jpg"]


def test_links_to_folders_are_followed_and_rings_end(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1.jpg").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "ring").symlink_to(tmp_path / "data")
    assert "a/1.jpg" in set(walk(tmp_path / "data"))

"""Tiles and lists in every form they come in, whole and broken; downloads from a real server."""

import hashlib
import logging
import re
import shutil
import sys
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from handlers.spec import ModelSpec
from handlers.vision import decode, normalize, to_tensor
from training import eurosat
from training.eurosat import (
    CLASS_COUNTS,
    PARTS,
    BadData,
    Split,
    Tiles,
    data_dir,
    download,
    find_tiles,
    label_of,
    load_examples,
    load_split,
    make_random_split,
    verify,
)

COMMITTED_SPLITS = Path(eurosat.__file__).parent / "splits"


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the tiny dataset were the published one."""
    counts = dict.fromkeys(("Forest", "Industrial", "River", "SeaLake"), 20)
    monkeypatch.setattr(eurosat, "CLASS_COUNTS", counts)


def zipped(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*.jpg")):
            archive.write(path, path.relative_to(folder.parent))
    return target


# Finding


@pytest.mark.parametrize("layout", ["2750", "EuroSAT_RGB", ".", "eurosat/2750"])
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
    with pytest.raises(BadData, match=r"No EuroSAT tiles in .*2750/.*make data.*EUROSAT_DIR"):
        find_tiles(tmp_path)
    (tmp_path / "2750" / "River").mkdir(parents=True)
    with pytest.raises(BadData, match=r"No EuroSAT tiles in .*2750: .*make data.*EUROSAT_DIR"):
        find_tiles(tmp_path)


def test_the_environment_names_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EUROSAT_DIR", str(tmp_path))
    assert data_dir() == tmp_path
    monkeypatch.setenv("EUROSAT_DIR", "")
    assert data_dir() == eurosat.DEFAULT_DIR


def test_half_a_zip_is_refused(tiny_eurosat: Path, tmp_path: Path) -> None:
    archive = zipped(tiny_eurosat / "2750", tmp_path / "EuroSAT.zip")
    archive.write_bytes(archive.read_bytes()[:-2000])
    with pytest.raises(BadData, match=r"EuroSAT\.zip is not a complete zip; delete it and run"):
        find_tiles(tmp_path)


def test_a_zip_damaged_inside_names_the_tile(tiny_eurosat: Path, tmp_path: Path) -> None:
    archive = zipped(tiny_eurosat / "2750", tmp_path / "EuroSAT.zip")
    data = bytearray(archive.read_bytes())
    pixels = data.index((tiny_eurosat / "2750" / "River" / "River_5.jpg").read_bytes())
    data[pixels + 500] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(BadData, match=r"EuroSAT\.zip is damaged at River_5\.jpg .*delete it"):
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
        assert np.array_equal(row, np.asarray(decode(tiles.read(name))))


def test_every_bad_tile_is_named(own_eurosat: Path) -> None:
    river = own_eurosat / "2750" / "River"
    (river / "River_1.jpg").write_bytes((river / "River_1.jpg").read_bytes()[:2000])
    (river / "River_2.jpg").write_bytes(b"no picture")
    Image.new("RGB", (32, 64)).save(river / "River_3.jpg")
    Image.new("L", (64, 64)).save(river / "River_4.jpg")
    tiles = find_tiles(own_eurosat)
    with pytest.raises(BadData) as caught:
        tiles.decode(tiles.names)
    message = str(caught.value)
    assert message.startswith("4 bad tiles in ")
    assert re.search(r"River_1\.jpg: cannot be decoded \(.*truncated", message)
    assert "River_2.jpg: cannot be decoded" in message
    assert "River_3.jpg: expected 64 x 64 RGB, found 32 x 64 RGB" in message
    assert "River_4.jpg: expected 64 x 64 RGB, found 64 x 64 L" in message


def test_a_tile_that_is_not_there_is_named(tiles: Tiles) -> None:
    with pytest.raises(BadData, match=r"River_99\.jpg is not in .*make data"):
        tiles.decode(["River_99.jpg"])


# Verifying


def test_the_whole_dataset_passes(tiles: Tiles, published: None) -> None:
    verify(tiles)


def test_a_part_of_the_published_dataset_does_not(tiles: Tiles) -> None:
    with pytest.raises(BadData, match=r"AnnualCrop: expected 3000, found 0; missing AnnualCrop_1"):
        verify(tiles)


def test_a_missing_tile_is_named(own_eurosat: Path, published: None) -> None:
    (own_eurosat / "2750" / "River" / "River_7.jpg").unlink()
    with pytest.raises(BadData, match=r"River: expected 20, found 19; missing River_7\.jpg$"):
        verify(find_tiles(own_eurosat))


def test_a_missing_class_folder_is_named(own_eurosat: Path, published: None) -> None:
    shutil.rmtree(own_eurosat / "2750" / "SeaLake")
    with pytest.raises(BadData, match=r"SeaLake: expected 20, found 0; missing SeaLake_1\.jpg, "):
        verify(find_tiles(own_eurosat))


def test_a_superfluous_class_is_named(own_eurosat: Path, published: None) -> None:
    desert = own_eurosat / "2750" / "Desert"
    shutil.copytree(own_eurosat / "2750" / "River", desert)
    for path in desert.iterdir():
        path.rename(path.with_name(path.name.replace("River", "Desert")))
    with pytest.raises(BadData, match="Desert: expected 0, found 20"):
        verify(find_tiles(own_eurosat))


def test_a_corrupt_tile_is_named(own_eurosat: Path, published: None) -> None:
    (own_eurosat / "2750" / "Forest" / "Forest_9.jpg").write_bytes(b"")
    with pytest.raises(BadData, match=r"1 bad tiles in .*\n  Forest_9\.jpg: cannot be decoded"):
        verify(find_tiles(own_eurosat))


# Splits


def test_the_lists_of_a_split_are_read(tiles: Tiles) -> None:
    split = load_split("random", tiles)
    assert [len(getattr(split, part)) for part in PARTS] == [48, 16, 16]
    assert {label_of(name) for name in split.test} == set(tiles.labels)


def test_an_unknown_split_is_answered_with_the_valid_ones(tiles: Tiles) -> None:
    with pytest.raises(BadData, match="unknown split 'temporal'; valid: random, spatial"):
        load_split("temporal", tiles)


def test_a_missing_list_is_named(own_eurosat: Path) -> None:
    (own_eurosat / "splits" / "random-val.txt").unlink()
    with pytest.raises(BadData, match=r"random-val\.txt is missing; restore it"):
        load_split("random", find_tiles(own_eurosat))


def test_an_empty_list_is_named(own_eurosat: Path) -> None:
    (own_eurosat / "splits" / "random-test.txt").write_text("\n")
    with pytest.raises(BadData, match="split random: the test list is empty; expected tile names"):
        load_split("random", find_tiles(own_eurosat))


def test_a_listed_tile_that_is_not_there_is_named(own_eurosat: Path) -> None:
    shutil.rmtree(own_eurosat / "2750" / "River")
    with pytest.raises(BadData, match=r"20 tiles are not in .*, River_1\.jpg first; run `make da"):
        load_split("random", find_tiles(own_eurosat))


def test_lists_that_overlap_are_refused() -> None:
    with pytest.raises(BadData, match="1 tiles stand in it twice, a_1 first"):
        Split("random", ("a_1", "a_2"), ("a_3",), ("a_1",))


def test_a_damaged_spatial_list_is_refused(own_eurosat: Path) -> None:
    (own_eurosat / "2750" / "eurosat-spatial-train.txt").write_text("River_1.jpg\n")
    with pytest.raises(BadData, match=r"spatial-train\.txt: expected md5 7be3254.*; delete it"):
        load_split("spatial", find_tiles(own_eurosat))


def test_the_committed_lists_are_the_seeded_stratified_split_of_all_tiles() -> None:
    names = [f"{c}_{n}.jpg" for c, count in CLASS_COUNTS.items() for n in range(1, count + 1)]
    split = make_random_split(names)
    for part in PARTS:
        content = (COMMITTED_SPLITS / f"random-{part}.txt").read_bytes()
        assert hashlib.sha256(content).hexdigest() == split.sha256[part]
    assert make_random_split(reversed(names)) == split
    assert make_random_split(names, seed=1) != split
    counts = Counter(label_of(name) for name in split.test)
    assert counts == {label: round(0.15 * count) for label, count in CLASS_COUNTS.items()}


# Examples


@pytest.mark.parametrize("size", [64, 32])
def test_examples_are_what_serving_sees(tiles: Tiles, spec: ModelSpec, size: int) -> None:
    spec = ModelSpec.from_dict(spec.to_dict() | {"image_size": size})
    names = ("SeaLake_4.jpg", "Forest_2.jpg")
    examples = load_examples(tiles, names, spec)
    assert examples.targets.tolist() == [3, 0]
    images = normalize(examples.pixels, spec)
    for image, name in zip(images, names, strict=True):
        assert torch.equal(image, to_tensor(decode(tiles.read(name)), spec))


def test_examples_can_be_changed_before_they_are_resized(tiles: Tiles, spec: ModelSpec) -> None:
    shapes = []

    def blacken(pixels: np.ndarray) -> np.ndarray:
        shapes.append(pixels.shape)
        return np.zeros_like(pixels)

    examples = load_examples(tiles, ("River_1.jpg",), spec, change=blacken)
    assert shapes == [(1, 64, 64, 3)]
    assert examples.pixels.max() == 0


def test_a_class_without_label_is_named(tiles: Tiles, spec: ModelSpec) -> None:
    spec = ModelSpec.from_dict(spec.to_dict() | {"labels": ["Forest", "Industrial"]})
    with pytest.raises(BadData, match="tiles of River, but the labels are Forest, Industrial"):
        load_examples(tiles, ("Forest_1.jpg", "River_1.jpg"), spec)


# Downloading, from a real server on loopback

CONTENT = np.random.default_rng(0).bytes(3 << 20)
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT, in parts when asked to; ``ranges`` is what was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.url = f"http://127.0.0.1:{self.server_port}/EuroSAT.zip"
        self.ranges: list[str | None] = []
        self.stop_after = len(CONTENT)  # bytes of one answer, then the connection is cut
        self.knows_ranges = True
        self.status = 200


class _Answer(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        partial = asked is not None and self.server.knows_ranges
        if self.server.status != 200:
            self.send_error(self.server.status)
        elif partial and start >= len(CONTENT):
            self.send_error(416)
        else:
            rest = CONTENT[start:] if partial else CONTENT
            self.send_response(206 if partial else 200)
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            self.wfile.write(rest[: self.server.stop_after])
        self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        """Keep the output for pytest."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "data" / "EuroSAT.zip"


def test_a_download_arrives_once(server: Server, target: Path) -> None:
    download(server.url, target, MD5)
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]
    download(server.url, target, MD5)
    assert server.ranges == [None]


def test_a_cut_download_goes_on_where_it_stopped(server: Server, target: Path) -> None:
    server.stop_after = (2 << 20) + 100_000
    with pytest.raises(BadData, match=r"cannot download http.*What arrived is kept: run the comm"):
        download(server.url, target, MD5)
    have = target.with_name("EuroSAT.zip.part").stat().st_size
    assert have == 2 << 20  # what is written at once is a MiB
    assert not target.exists()
    server.stop_after = len(CONTENT)
    download(server.url, target, MD5)
    assert server.ranges == [None, f"bytes={have}-"]
    assert target.read_bytes() == CONTENT


def test_a_server_that_knows_no_ranges_starts_over(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("EuroSAT.zip.part").write_bytes(b"x" * 500)
    server.knows_ranges = False
    download(server.url, target, MD5)
    assert target.read_bytes() == CONTENT


def test_a_part_that_is_whole_already_is_taken(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("EuroSAT.zip.part").write_bytes(CONTENT)
    download(server.url, target, MD5)
    assert server.ranges == [f"bytes={len(CONTENT)}-"]
    assert target.read_bytes() == CONTENT


def test_a_file_with_another_checksum_is_refused_and_deleted(server: Server, target: Path) -> None:
    with pytest.raises(BadData, match=rf"expected md5 {'0' * 32}, found {MD5}; run the command ag"):
        download(server.url, target, "0" * 32)
    assert list(target.parent.iterdir()) == []


def test_an_error_of_the_server_is_told(server: Server, target: Path) -> None:
    server.status = 503
    with pytest.raises(BadData, match=r"cannot download http://127.* \(HTTPError\)"):
        download(server.url, target, MD5)


def test_a_server_that_is_gone_is_told(server: Server, target: Path) -> None:
    server.server_close()
    with pytest.raises(BadData, match=rf"\(ConnectionError\).*put the file at {target} yourself"):
        download(server.url, target, MD5)


# The command


def test_the_command_downloads_checks_and_counts(
    server: Server,
    tiny_eurosat: Path,
    tmp_path: Path,
    published: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    archive = zipped(tiny_eurosat / "2750", tmp_path / "source.zip").read_bytes()
    monkeypatch.setitem(globals(), "CONTENT", archive)
    server.stop_after = len(archive)
    monkeypatch.setattr(eurosat, "DEFAULT_DIR", tmp_path / "data")
    monkeypatch.setattr(eurosat, "ZIP_URL", server.url)
    monkeypatch.setattr(eurosat, "ZIP_MD5", hashlib.md5(archive).hexdigest())
    monkeypatch.setattr(eurosat, "SPLITS", ("random",))
    monkeypatch.delenv("EUROSAT_DIR", raising=False)
    monkeypatch.setattr(sys, "argv", ["eurosat"])
    with caplog.at_level(logging.INFO):
        eurosat.main()
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
    with pytest.raises(BadData, match=r"No EuroSAT tiles in .*mistyped"):
        eurosat.main()
    assert not (tmp_path / "mistyped").exists()

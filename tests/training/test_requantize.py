"""An int8 file made anew from what a release holds."""

import json
from pathlib import Path

import pytest

from training.config import BadConfig
from training.dataset.eurosat import Tiles
from training.dataset.examples import load_examples
from training.inference import load_exported, predict
from training.release import release
from training.requantize import requantize
from training.runs import FILES, BadExport


@pytest.fixture
def released(run: Path, tmp_path: Path) -> Path:
    releases = tmp_path / "releases"
    releases.mkdir()
    # By force: of a handful of tiles, int8 may get one wrong.
    return release(run, releases, tmp_path / "no-readme.md", force=True)


def test_the_weights_stay_and_int8_is_new(released: Path, tiles: Tiles, tmp_path: Path) -> None:
    made = requantize(released, "1.1", tmp_path / "new", tiles)
    assert made == tmp_path / "new" / "baseline-1.1"
    for name in FILES["fp32"]:
        assert (made / name).read_bytes() == (released / name).read_bytes()
    facts = json.loads((made / "training.json").read_text())
    before = json.loads((released / "report.json").read_text())["training"]
    assert facts == {**before, "config": {**before["config"], "version": "1.1"}}
    model, spec = load_exported(made, "int8")
    pixels = load_examples(tiles, tuple(tiles.names), spec).pixels
    fp32 = predict(load_exported(made)[0], pixels, spec)
    # a model that has hardly learnt hesitates between classes: there int8 may decide otherwise
    assert (predict(model, pixels, spec).argmax(1) == fp32.argmax(1)).float().mean() >= 0.9


def test_it_overwrites_no_run(released: Path, tiles: Tiles, tmp_path: Path) -> None:
    runs = tmp_path / "new"
    (runs / "baseline-1.1").mkdir(parents=True)
    with pytest.raises(BadExport, match="exists already"):
        requantize(released, "1.1", runs, tiles)
    assert list((runs / "baseline-1.1").iterdir()) == []


def test_a_version_is_two_numbers(released: Path, tiles: Tiles, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="version"):
        requantize(released, "newest", tmp_path / "new", tiles)
    assert not (tmp_path / "new").exists()


def test_what_is_no_release_is_refused(tiles: Tiles, tmp_path: Path) -> None:
    with pytest.raises(BadExport, match=r"expected training\.json"):
        requantize(tmp_path, "1.1", tmp_path / "new", tiles)

import logging
import shutil
import sys
from pathlib import Path

import pytest
import torch

from tests.support.knobs import changed
from tests.support.tiny_eurosat import jpeg
from training import mining
from training.config import BadConfig, TrainConfig
from training.dataset import splits
from training.dataset.eurosat import Tiles, find_tiles
from training.dataset.mined import KEPT
from training.dataset.splits import load_split
from training.export import export
from training.mining import mine, rank_hardness, suspicious_labels, usual_confidence
from training.runs import BadExport
from training.train import train


@pytest.fixture(scope="module")
def good_run(
    tiny_eurosat: Path, config: TrainConfig, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The finished one confuses half of the tiles; this one has learned them. Read only."""
    tiles = find_tiles(tiny_eurosat)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "SPLITS_DIR", tiny_eurosat / "splits")
        folder = train(changed(config, epochs=12), tiles, tmp_path_factory.mktemp("good"))
        export(folder, tiles)
    return folder


def test_the_training_tiles_and_no_others_are_ranked(good_run: Path, tiles: Tiles) -> None:
    mined = mine(good_run, tiles, share=1.0)
    assert {one.tile for one in mined} == set(load_split("random", tiles).train)
    hard = [one for one in mined if not one.suspicious]
    assert hard == mined[: len(hard)]
    assert max(hard, key=lambda one: one.loss) in hard[:2]
    assert min(hard, key=lambda one: abs(one.margin)) in hard[:2]
    tenth = mine(good_run, tiles)
    assert [one for one in tenth if not one.suspicious] == hard[:5]
    assert [one for one in tenth if one.suspicious] == mined[len(hard) :]


def test_wrong_labels_stand_apart(own_eurosat: Path, good_run: Path) -> None:
    before = {one.tile for one in mine(good_run, find_tiles(own_eurosat)) if one.suspicious}
    for number in (3, 8):  # a lake among forests
        path = own_eurosat / "2750" / "Forest" / f"Forest_{number}.jpg"
        path.write_bytes(jpeg("SeaLake", number))
    mined = mine(good_run, find_tiles(own_eurosat))
    after = {one.tile for one in mined if one.suspicious}
    assert after - before == {"Forest_3.jpg", "Forest_8.jpg"}
    assert not {"Forest_3.jpg", "Forest_8.jpg"} & before


def test_a_review_decides_what_is_suspicious(own_eurosat: Path, good_run: Path) -> None:
    (own_eurosat / "2750" / "Forest" / "Forest_3.jpg").write_bytes(jpeg("SeaLake", 3))
    verdicts = own_eurosat / "splits" / "verdicts.csv"
    with verdicts.open("a") as file:
        file.write("Forest_3.jpg,test,Forest,right,,looked at\n")
        file.write("SeaLake_4.jpg,test,SeaLake,doubtful,River,looked at\n")
    mined = {one.tile: one.suspicious for one in mine(good_run, find_tiles(own_eurosat), 1.0)}
    assert not mined["Forest_3.jpg"]
    assert mined["SeaLake_4.jpg"]


def test_the_better_of_two_places_counts() -> None:
    losses = torch.tensor([0.1, 5.0, 0.2, 0.3, 4.0])
    margins = torch.tensor([0.4, 0.3, -0.01, 0.02, 0.35])
    assert rank_hardness(losses, margins).tolist() == [1, 2, 4, 3, 0]


def test_a_label_is_suspicious_if_another_class_is_as_sure_as_usual() -> None:
    probabilities = torch.tensor(
        [
            [0.9, 0.1, 0.0],
            [0.8, 0.1, 0.1],
            [0.1, 0.9, 0.0],  # labelled 0, and as sure of 1 as tiles of 1 are
            [0.1, 0.9, 0.0],
            [0.1, 0.7, 0.2],
            [0.3, 0.6, 0.1],  # labelled 0, less sure of 1 than usual
            [0.1, 0.1, 0.8],
        ]
    )
    targets = torch.tensor([0, 0, 0, 1, 1, 0, 2])
    usual = usual_confidence(probabilities, targets)
    assert usual.tolist() == pytest.approx([0.525, 0.8, 0.8])
    assert suspicious_labels(probabilities, targets, usual).nonzero().flatten().tolist() == [2]


def test_a_list_of_the_command_is_learned_from(
    good_run: Path,
    tiny_eurosat: Path,
    config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "hard.csv"
    monkeypatch.setenv("EUROSAT_DIR", str(tiny_eurosat))
    monkeypatch.setattr(sys, "argv", ["mining", str(good_run), "--out", str(path)])
    with caplog.at_level(logging.INFO):
        mining.main()
    assert capsys.readouterr().out == f"{path}\n"
    assert "5 tiles hard, by label: {" in caplog.text
    tiles = find_tiles(tiny_eurosat)
    hard = changed(config, mining=str(path), mining_share=0.5, version="1.1", schedule="constant")
    first = train(hard, tiles, tmp_path / "whole")
    assert (first / KEPT).read_text() == path.read_text()
    # Whatever becomes of the list, a run that goes on ends as it would have.
    train(changed(hard, epochs=1), tiles, tmp_path / "parts")
    path.unlink()
    second = train(hard, tiles, tmp_path / "parts")
    one, two = (torch.load(run / "last.pt", weights_only=True) for run in (first, second))
    assert all(torch.equal(one["weights"][name], two["weights"][name]) for name in one["weights"])


def test_what_is_missing_is_said(
    run: Path, tiles: Tiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadConfig, match="share: expected more than 0, at most 1, found 0"):
        mine(run, tiles, 0.0)
    monkeypatch.setattr(sys, "argv", ["mining", str(run), "--out", str(tmp_path / "no" / "a.csv")])
    with pytest.raises(BadConfig, match="is no folder; make it first"):
        mining.main()
    shutil.rmtree(run)
    run.mkdir()
    with pytest.raises(BadExport, match="export first"):
        mine(run, tiles)

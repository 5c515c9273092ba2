import shutil
from pathlib import Path

import pytest
import torch

from tests.support.knobs import changed
from training.average import average, mean_weights
from training.config import BadConfig, TrainConfig
from training.dataset.eurosat import Tiles
from training.export import export
from training.runs import BadExport, training_facts
from training.train import train


@pytest.fixture
def two_runs(finished_run: Path, config: TrainConfig, tiles: Tiles, tmp_path: Path) -> list[Path]:
    """A run, and one that went on from it."""
    more = changed(config, version="1.1", weights=str(finished_run / "best.pt"), epochs=1, seed=1)
    return [finished_run, train(more, tiles, tmp_path / "more")]


def test_the_mean_is_a_run_of_its_own(two_runs: list[Path], tiles: Tiles, tmp_path: Path) -> None:
    folder = average(two_runs, "2.0", tiles, tmp_path / "averaged")
    assert folder.name == "baseline-2.0"
    first, second, mean = (
        torch.load(run / "best.pt", weights_only=True) for run in (*two_runs, folder)
    )
    for name in ("head.weight", "stages.0.0.1.running_mean"):
        expected = (first["weights"][name] + second["weights"][name]) / 2
        assert torch.allclose(mean["weights"][name], expected)
        assert not torch.equal(mean["weights"][name], second["weights"][name])
    export(folder, tiles)
    facts = training_facts(folder)
    assert facts["config"]["version"] == "2.0"
    assert facts["weights_origin"].startswith("Mean of the weights of 2 trainings: (1) epoch ")
    assert all(run.name in facts["weights_origin"] for run in two_runs)
    assert 0 <= facts["val_accuracy"] <= 1


def test_counters_are_not_averaged() -> None:
    states = [{"steps": torch.tensor(n), "weight": torch.tensor(float(n))} for n in (3, 5)]
    mean = mean_weights(states)
    assert mean["steps"].item() == 5
    assert mean["weight"].item() == 4


def test_what_does_not_belong_together_is_refused(
    finished_run: Path, config: TrainConfig, tiles: Tiles, tmp_path: Path
) -> None:
    other = train(changed(config, version="1.1", widths=(4, 4, 6), epochs=1), tiles, tmp_path)
    with pytest.raises(BadConfig, match="another widths"):
        average([finished_run, other], "2.0", tiles, tmp_path)
    with pytest.raises(BadConfig, match="two or more"):
        average([finished_run], "2.0", tiles, tmp_path)
    with pytest.raises(BadExport, match="does not exist"):
        average([finished_run, tmp_path], "2.0", tiles, tmp_path)
    copy = shutil.copytree(finished_run, tmp_path / "copy")
    with pytest.raises(BadConfig, match="choose another version"):
        average([finished_run, copy], "1.1", tiles, tmp_path)

"""Two processes, started by torchrun on loopback, learn as one does that accumulates."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.knobs import changed
from tests.support.paths import ROOT
from tests.support.places import write_places
from training import distributed
from training.config import BadConfig, TrainConfig, config_to_dict
from training.dataset import splits
from training.dataset.eurosat import Tiles
from training.dataset.mined import Mined, write_mined
from training.train import train

TOLERANCE = 1e-5  # of losses and weights: sums in another order
CLOCKS = {"seconds", "images_per_second"}


def history_of(run: Path) -> list[dict[str, float]]:
    lines = json.loads((run / "history.json").read_text())
    return [{key: line[key] for key in line if key not in CLOCKS} for line in lines]


def last(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run / "last.pt", weights_only=True)
    return content


@pytest.fixture(scope="module")
def configs(
    config: TrainConfig, finished_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, TrainConfig]:
    """With all that is random. 48 tiles: three steps of two batches, or of four and of one."""
    even = changed(
        config, epochs=4, batch_size=8, ema=0.9, cutmix=1.0, noise=0.02, dropout=0.1, rotation=5.0,
        neighbours=0.5,
    )  # fmt: skip
    hard = tmp_path_factory.mktemp("mined") / "hard.csv"
    write_mined(hard, [Mined("River_5.jpg", 1.0, 0.5, 0.1, suspicious=False)])
    uneven = changed(config, batch_size=10, accumulate=2, optimizer="sgd", mining=str(hard))
    online = changed(even, epochs=2, teacher=str(finished_run), distill_online=True)
    return {"even": even, "uneven": uneven, "killed": even, "online": online}


@pytest.fixture(scope="module")
def together(
    tiny_eurosat: Path, configs: dict[str, TrainConfig], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The runs of two processes. One of them was killed, whereupon torchrun started both again."""
    runs = tmp_path_factory.mktemp("together")
    write_places(runs, {f"Forest_{number}.jpg": (number, 0) for number in range(1, 21)})
    plain = json.dumps({name: config_to_dict(config) for name, config in configs.items()})
    script = str(Path(__file__).with_name("train_together.py"))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ended = subprocess.run(
        [*torchrun, "--max-restarts=1", script, str(tiny_eurosat), str(runs), plain],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return {name: runs / name / "baseline-1.0" for name in configs}


@pytest.mark.parametrize("name", ["even", "uneven", "online"])
def test_two_processes_learn_as_one_that_accumulates_twice_as_much(
    name: str,
    together: dict[str, Path],
    configs: dict[str, TrainConfig],
    tiles: Tiles,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(splits, "DEFAULT_DIR", together[name].parents[1])
    accumulate = 2 * configs[name].optim.accumulate
    alone = train(changed(configs[name], accumulate=accumulate), tiles, tmp_path)
    for one, two in zip(history_of(alone), history_of(together[name]), strict=True):
        assert two == pytest.approx(one, rel=TOLERANCE)
    for kind in ("weights", "averaged"):  # the running statistics are among them
        one, two = last(alone)[kind], last(together[name])[kind]
        torch.testing.assert_close(two, one, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_process_that_is_killed_leaves_no_trace(together: dict[str, Path]) -> None:
    log = (together["killed"] / "train.log").read_text()
    assert "going on behind epoch 2 of" in log
    assert log.count("epoch 3/4: loss") == 1
    assert history_of(together["killed"]) == history_of(together["even"])
    killed, even = last(together["killed"]), last(together["even"])
    for kind in ("weights", "averaged", "optimizer"):
        torch.testing.assert_close(killed[kind], even[kind], rtol=0, atol=0)


def test_the_first_process_alone_writes(together: dict[str, Path]) -> None:
    assert (together["even"] / "train.log").read_text().count("epoch 1/4: loss") == 1
    assert len(list(together["even"].glob("events.*"))) == 1 + 1  # the second start finds it done


def test_as_many_batches_make_a_step_when_a_run_goes_on(
    together: dict[str, Path], configs: dict[str, TrainConfig], tiles: Tiles
) -> None:
    runs = together["uneven"].parent
    with pytest.raises(BadConfig, match=r"other settings: accumulate x processes was 4, is 2\."):
        train(configs["uneven"], tiles, runs)
    train(changed(configs["uneven"], accumulate=4, epochs=4), tiles, runs)
    assert len(history_of(together["uneven"])) == 4


@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_batch_is_somebodys(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "size", lambda: size)
    for length in range(8):
        shares = []
        for rank in range(size):
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            shares.append(distributed.share(length))
        assert [number for share in shares for number in share] == list(range(length))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1

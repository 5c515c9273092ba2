"""Train in processes that are killed (SIGKILL) at given places: run by test_train.py as a script.

Arguments: the tiny EuroSAT's folder, a folder for runs, a config as JSON. One process for each of
KILLS starts the same training in its own folder below runs, named after the place, and dies there.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training import train
from training.config import config_from_dict
from training.dataset import eurosat, splits

# Place -> the function of training.train that kills instead of running, and at which call.
# 3 batches an epoch: the 8th is the second of epoch 3. Each epoch writes its history after
# best.pt and before last.pt.
KILLS = {"in the middle of an epoch": ("augment", 8), "between two files": ("write_json", 2)}


def killing(function: Callable[..., Any], at: int) -> Callable[..., Any]:
    calls = 0

    def call(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)

    return call


def main() -> None:
    root, runs, config = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    splits.SPLITS_DIR = root / "splits"
    tiles = eurosat.find_tiles(root)
    for place, (name, at) in KILLS.items():
        # Forked, as importing torch once is slow enough.
        if not (child := os.fork()):
            setattr(train, name, killing(getattr(train, name), at))
            train.train(config_from_dict(config), tiles, runs / place)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), f"{place}: the training ended by itself"


if __name__ == "__main__":
    main()

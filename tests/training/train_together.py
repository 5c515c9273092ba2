"""Train as one of several processes: run by test_distributed.py through torchrun.

Arguments: the tiny EuroSAT's folder; a folder for runs, in which the places of tiles are; configs
by name of their folder as JSON.
The config called "killed" is killed in its second process, once, in the middle of its third epoch.
"""

import json
import logging
import os
import sys
from pathlib import Path

from tests.training.train_and_die import killing
from training import train
from training.config import config_from_dict
from training.dataset import eurosat, splits
from training.dataset.augment import augment
from training.distributed import joined, rank


def main() -> None:
    logging.basicConfig(level=logging.INFO)
    root, runs, configs = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    splits.SPLITS_DIR = root / "splits"
    vars(splits)["DEFAULT_DIR"] = runs
    tiles = eurosat.find_tiles(root)
    first_start = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    with joined(config_from_dict(configs["killed"]).hardware):
        for name, config in configs.items():
            if name == "killed" and rank() == 1 and first_start:
                vars(train)["augment"] = killing(augment, 8)  # 3 batches an epoch for each
            train.train(config_from_dict(config), tiles, runs / name)


if __name__ == "__main__":
    main()

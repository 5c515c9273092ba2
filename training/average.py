"""Average the best weights of several runs into one model: a model soup.

    python -m training.average training/runs/resnet18-0.2 training/runs/resnet18-0.4 --version 1.0

Runs that went on from the same weights end in one valley of the loss, and the mean of their weights
is often better than each of them, at the cost of one (Wortsman et al., 2022, "Model soups"). The
mean is a run of its own: export, evaluate and release it like any other.
"""

import argparse
import dataclasses
import logging
import shutil
from pathlib import Path

import torch
from torch import Tensor

from handlers.contract.spec import ModelSpec
from training.config import BadConfig, HardwareConfig, config_from_dict, config_to_dict
from training.dataset.eurosat import BadData, Tiles, find_tiles
from training.dataset.examples import load_examples
from training.dataset.splits import keep_split, load_split
from training.models.registry import build_model
from training.runs import (
    RUNS_DIR,
    BadExport,
    git_commit,
    load_best,
    run_command,
    save_checkpoint,
    sha256,
)
from training.train import validate

logger = logging.getLogger(__name__)


def average(runs: list[Path], version: str, tiles: Tiles, runs_dir: Path = RUNS_DIR) -> Path:
    """Write the run whose weights are the mean of the best ones of ``runs``.

    Its configuration is that of the last run, its history too; its validation accuracy is measured.

    Raises:
        BadConfig: fewer than two runs, or runs that do not belong together: in what they differ.
        BadExport: a run has no checkpoint.
        BadData: the validation tiles are missing.
    """
    if len(runs) < 2:
        raise BadConfig(f"expected two or more runs to average, found {len(runs)}")
    checkpoints = [load_best(run) for run in runs]
    configs = [config_from_dict(checkpoint["config"]) for checkpoint in checkpoints]
    for run, config in zip(runs, configs, strict=True):
        # What runs must have in common, or the mean of their weights means nothing.
        for knob in ("model", "split", "image_size", "statistics", "widths", "blocks", "dropout"):
            found, expected = (config_to_dict(each)[knob] for each in (config, configs[0]))
            if found != expected:
                raise BadConfig(
                    f"{run.name} has another {knob} than {runs[0].name}: {found}, expected "
                    f"{expected}; only runs of one architecture and split can be averaged"
                )
    config = dataclasses.replace(configs[-1], version=version)
    folder = runs_dir / config.run_name
    if folder.exists():
        raise BadConfig(f"{folder} exists: choose another version, or move it elsewhere")
    weights = mean_weights([checkpoint["weights"] for checkpoint in checkpoints])
    spec = ModelSpec.from_dict(checkpoints[0]["spec"])
    model = build_model(config.model, len(spec.labels))
    model.load_state_dict(weights)
    if config.hardware.channels_last:
        model = model.to(memory_format=torch.channels_last)
    splits = [load_split(config.data.split, tiles, run) for run in runs]
    for run, split in zip(runs, splits, strict=True):
        if split != splits[0]:
            raise BadConfig(f"{run.name} learned from other tiles than {runs[0].name}")
    val = load_examples(tiles, splits[0].val, spec, "validation tiles")
    loss, accuracy = validate(model, val, spec, HardwareConfig())
    folder.mkdir(parents=True)
    shutil.copy(runs[-1] / "history.json", folder / "history.json")
    keep_split(splits[0], folder)
    teachers = dict.fromkeys(checkpoint.get("teacher_origin", "") for checkpoint in checkpoints)
    origins = "; ".join(
        f"({number}) epoch {each['epoch']} of {run.name} (sha256 {sha256(run / 'best.pt')[:16]}), "
        f"which started so: {each['weights_origin'].rstrip('.')}"
        for number, (run, each) in enumerate(zip(runs, checkpoints, strict=True), start=1)
    )
    checkpoint = {
        "weights": weights,
        "spec": spec.to_dict(),
        "config": config_to_dict(config),
        "epoch": checkpoints[-1]["epoch"],
        "val_accuracy": accuracy,
        "git_commit": git_commit(),
        "weights_origin": f"Mean of the weights of {len(runs)} trainings: {origins}.",
        "teacher_origin": " ".join(filter(None, teachers)),
    }
    save_checkpoint(folder / "best.pt", checkpoint)
    logger.info(
        "%s: validation loss %.4f, accuracy %.2f %%; the runs have %s",
        folder, loss, 100 * accuracy,
        ", ".join(f"{100 * checkpoint['val_accuracy']:.2f} %" for checkpoint in checkpoints),
    )  # fmt: skip
    return folder


def mean_weights(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of every floating tensor of some state dicts; of counters the last value."""
    return {
        name: torch.stack([state[name] for state in states]).mean(0)
        if last.dtype.is_floating_point
        else last
        for name, last in states[-1].items()
    }


def main() -> None:
    """Average the runs named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs that belong together")
    parser.add_argument("--version", required=True, help="of the run that comes out")
    arguments = parser.parse_args()
    print(average(arguments.runs, arguments.version, find_tiles()))


if __name__ == "__main__":
    run_command(main, BadConfig, BadData, BadExport)

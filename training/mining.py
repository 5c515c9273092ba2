"""Rank the training tiles of a run or release: which are hard, and which labels may be wrong.

    python -m training.mining training/runs/baseline-3.0-spatial --out hard.csv
    python -m training.train --config training/configs/baseline.yaml --set mining=hard.csv

Hard is a tile of which the loss is great, or the confidence close to the model's threshold of
doubt. Suspicious is a label that the model sets another class against, surely by what is usual for
that class: such tiles have the greatest losses and would spoil what they teach, so they stand
behind the others, and the sampler draws them no more often than before.
"""

import argparse
import logging
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from handlers.vision import to_probabilities
from training.config import BadConfig
from training.dataset.audit import read_verdicts
from training.dataset.eurosat import BadData, Tiles, find_tiles, label_of
from training.dataset.examples import load_examples
from training.dataset.mined import Mined, write_mined
from training.dataset.splits import CUSTOM, load_split
from training.inference import load_exported, predict
from training.runs import BadExport, run_command, training_facts

logger = logging.getLogger(__name__)


def mine(folder: Path, tiles: Tiles, share: float = 0.1) -> list[Mined]:
    """Ask the model of a run or release for all of its training tiles.

    Args:
        folder: an exported run or a release, which has a temperature and a threshold.
        share: of the training tiles, 0..1, how many are listed as hard; at least one.

    Returns:
        The hardest first; behind these every tile whose label is suspicious, likewise.

    Raises:
        BadConfig, BadData, BadExport: with what is missing.
    """
    if not 0 < share <= 1:
        raise BadConfig(f"share: expected more than 0, at most 1, found {share}")
    model, spec = load_exported(folder)
    split = load_split(training_facts(folder)["config"]["split"], tiles, folder)
    train = load_examples(tiles, split.train, spec, "training tiles")
    val = load_examples(tiles, split.val, spec, "validation tiles")
    usual = usual_confidence(
        to_probabilities(predict(model, val.pixels, spec, "validation"), spec), val.targets
    )
    logits = predict(model, train.pixels, spec, "mine") / spec.temperature
    probabilities = torch.softmax(logits, dim=1)
    losses = functional.cross_entropy(logits, train.targets, reduction="none")
    confidences = probabilities.amax(dim=1)
    margins = confidences - spec.threshold
    suspicious = suspicious_labels(probabilities, train.targets, usual)
    if split.name != CUSTOM:  # what was looked at needs no suspicion
        reviewed = {line.file: line.verdict != "right" for line in read_verdicts()}
        for number, name in enumerate(split.train):
            suspicious[number] = reviewed.get(name, bool(suspicious[number]))
    ranked = [
        Mined(
            split.train[number],
            losses[number].item(),
            confidences[number].item(),
            margins[number].item(),
            bool(suspicious[number]),
        )
        for number in rank_hardness(losses, margins).tolist()
    ]
    hard = [one for one in ranked if not one.suspicious][: max(1, round(share * len(ranked)))]
    return hard + [one for one in ranked if one.suspicious]


def rank_hardness(losses: Tensor, margins: Tensor) -> Tensor:
    """The order of tiles, the hardest first: by the better of two places.

    A sum of both places would find neither: who is surely wrong is far from the threshold.

    Args:
        losses: float (N,).
        margins: float (N,), of the confidences from the threshold, to either side.

    Returns:
        int64 (N,), numbers of tiles.
    """
    by_loss = losses.argsort(descending=True, stable=True)
    by_margin = margins.abs().argsort(stable=True)
    place = torch.minimum(by_loss.argsort(), by_margin.argsort())
    return by_loss[place[by_loss].argsort(stable=True)]


def usual_confidence(probabilities: Tensor, targets: Tensor) -> Tensor:
    """How sure a model is of each class where that is the label.

    Args:
        probabilities: float (N, C), of tiles that were not learned; of learned ones it is surer.
        targets: int64 (N,), every class at least once.

    Returns:
        float (C,), means.
    """
    classes = probabilities.shape[1]
    own = functional.one_hot(targets, classes) * probabilities
    return own.sum(dim=0) / torch.bincount(targets, minlength=classes)


def suspicious_labels(probabilities: Tensor, targets: Tensor, usual: Tensor) -> Tensor:
    """Which labels may be wrong, by confident learning (Northcutt et al., 2021).

    A label is suspicious if the model names another class, as surely as is usual for that class.
    With what is usual for the same tiles these are the labels that cleanlab 2.9.0 finds by
    ``filter_by="confident_learning"``; but of learned tiles those are a third as many.

    Args:
        probabilities: float (N, C).
        targets: int64 (N,).
        usual: float (C,), of ``usual_confidence``.

    Returns:
        bool (N,).
    """
    sure = torch.where(probabilities >= usual, probabilities, -1.0)
    others = (sure.argmax(dim=1) != targets) & (sure.amax(dim=1) >= 0)
    return others & (probabilities.argmax(dim=1) != targets)


def main() -> None:
    """Write the list, and say what is in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of an exported run, or of a release")
    parser.add_argument("--out", type=Path, required=True, help="the list, a CSV file")
    parser.add_argument("--share", type=float, default=0.1, help="of the training tiles (0.1)")
    arguments = parser.parse_args()
    if not arguments.out.parent.is_dir():
        raise BadConfig(f"--out: {arguments.out.parent} is no folder; make it first")
    mined = mine(arguments.folder, find_tiles(), arguments.share)
    write_mined(arguments.out, mined)
    for title, wanted in (("hard", False), ("suspicious", True)):
        names = [one.tile for one in mined if one.suspicious == wanted]
        counts = dict(sorted(Counter(map(label_of, names)).items()))
        logger.info("%d tiles %s, by label: %s", len(names), title, counts)
    print(arguments.out)


if __name__ == "__main__":
    run_command(main, BadConfig, BadData, BadExport)

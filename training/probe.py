"""What a start is worth where labels are few: linear probe and fine-tuning, against a random start.

    python -m training.probe training/runs/pretrain-baseline-1.0-spatial/weights.pt
        --config training/configs/baseline.yaml --set split=spatial --seeds 0 1 2

Prints a Markdown table of the accuracy on validation tiles; test tiles are not looked at. A linear
probe is a logistic regression on the features of the network as it starts. Fine-tuning is a
training by the config, judged behind its last epoch; it passes over a tenth of the labels about
three times an epoch and over a hundredth ten times. Both starts of a seed have the same labels.
The trainings stand in ``training/runs/probe``; started again, what is done is not done again.
"""

import argparse
import itertools
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from handlers.contract.spec import ModelSpec
from handlers.vision import normalize
from training.config import BadConfig, TrainConfig, config_from_dict, load_config
from training.dataset.eurosat import STATISTICS, BadData, Tiles, find_tiles
from training.dataset.examples import Examples, load_examples
from training.dataset.splits import choose_split, draw_labelled, load_split, new_split
from training.hardware import keep_memory
from training.models.registry import build_model
from training.models.weights import is_folded, load_pretrained, recalibrate_batch_norm
from training.runs import RUNS_DIR, BadExport, run_command
from training.simclr import cut_head
from training.train import train

logger = logging.getLogger(__name__)
PROBE, TUNE = "linear probe", "fine-tuning"


@dataclass(frozen=True)
class Row:
    """Validation accuracies, 0..1, a seed each, from the two starts."""

    fraction: float
    tiles: int  # that gave their labels
    way: str
    random: list[float]
    pretrained: list[float]


def measure(
    config: TrainConfig,
    tiles: Tiles,
    fractions: Iterable[float],
    seeds: Iterable[int],
    ways: Iterable[str] = (PROBE, TUNE),
    folder: Path = RUNS_DIR / "probe",
) -> list[Row]:
    """Learn from a part of the labels, from the config's weights and from a random start.

    Args:
        folder: where the trainings are kept.

    Raises:
        BadConfig, BadData, BadExport: as of ``training.train``; or there are no weights.
    """
    if config.model.weights == "none":
        raise BadConfig("weights: found none, expected those that are to be measured")
    split = choose_split(config.data.split, tiles)
    config = config_from_dict({"split": split, "patience": 0}, config)
    seeds, ways, rows = list(seeds), list(ways), []
    for fraction, way in itertools.product(fractions, ways):
        part = {"label_fraction": fraction, "passes": _passes(config, fraction)}
        found: dict[str, list[float]] = {"none": [], config.model.weights: []}
        count = 0
        for seed, weights in itertools.product(seeds, found):
            one = config_from_dict({**part, "seed": seed, "weights": weights}, config)
            start = "random" if weights == "none" else "given"
            if way == PROBE:
                accuracy, count = _probe(one, tiles)
            else:
                accuracy, count = _tune(one, tiles, folder / f"{fraction:g}-{start}-{seed}")
            found[weights].append(accuracy)
            logger.info(
                "%s, %g of the labels, seed %d, %s start: %.2f %%",
                way, fraction, seed, start, 100 * accuracy,
            )  # fmt: skip
        rows.append(Row(fraction, count, way, *found.values()))
    return rows


def _passes(config: TrainConfig, fraction: float) -> int:
    """Over the labelled tiles in an epoch: few are seen more often, but in fewer steps."""
    return round(config.optim.passes * fraction**-0.5)


def _tune(config: TrainConfig, tiles: Tiles, home: Path) -> tuple[float, int]:
    """Validation accuracy behind the last epoch, and how many tiles were learned from."""
    run = train(config, tiles, home)
    history = json.loads((run / "history.json").read_text())
    drawn = run / "labelled.json"
    if drawn.is_file():
        return history[-1]["val_accuracy"], len(json.loads(drawn.read_text()))
    return history[-1]["val_accuracy"], len(load_split(config.data.split, tiles, run).train)


def _probe(config: TrainConfig, tiles: Tiles) -> tuple[float, int]:
    """Validation accuracy of a logistic regression on features, and how many tiles it learned."""
    split = new_split(config.data.split, tiles)
    labelled = draw_labelled(split.train, config.data.label_fraction, config.seed)
    mean_, std = STATISTICS[config.model.statistics]
    spec = ModelSpec(tuple(tiles.labels), config.model.image_size, mean_, std)
    torch.manual_seed(config.seed)
    model = build_model(config.model, len(spec.labels))
    load_pretrained(model, config.model, config.data.split)
    known, asked = (load_examples(tiles, names, spec) for names in (labelled, split.val))
    if is_folded(model):
        recalibrate_batch_norm(model, normalize(known.pixels[:1024], spec))
    cut_head(model)
    model.eval()

    def features(examples: Examples) -> Tensor:
        with torch.inference_mode():
            parts = [model(normalize(part, spec)) for part in examples.pixels.split(256)]
        return torch.cat(parts).double()

    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    regression.fit(features(known), known.targets)
    return float(regression.score(features(asked), asked.targets)), len(labelled)


def table(rows: Iterable[Row]) -> str:
    """In Markdown: means, with the standard deviation over seeds where there are several."""
    lines = [
        "| labels | way | random start | pretrained | points |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        points = 100 * (mean(row.pretrained) - mean(row.random))
        lines.append(
            f"| {100 * row.fraction:g} % ({row.tiles:,} tiles) | {row.way} | {_told(row.random)} | "
            f"{_told(row.pretrained)} | {points:+.2f} |"
        )
    return "\n".join(lines)


def _told(accuracies: list[float]) -> str:
    spread = f" ± {100 * stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
    return f"{100 * mean(accuracies):.2f}{spread} %"


def main() -> None:
    """Read the command line, measure, print the table."""
    layout = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("weights", help="as the knob `weights` of a training takes them")
    parser.add_argument("--config", type=Path, help="YAML file of the training")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one knob")
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.01, 0.1, 1.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--ways", nargs="+", choices=[PROBE, TUNE], default=[PROBE, TUNE])
    parser.add_argument("--folder", type=Path, default=RUNS_DIR / "probe", help="of the trainings")
    words = parser.parse_args()
    config = load_config(words.config, [*words.set, f"weights={words.weights}"])
    keep_memory()
    rows = measure(config, find_tiles(), words.fractions, words.seeds, words.ways, words.folder)
    print(table(rows))


if __name__ == "__main__":
    run_command(main, BadConfig, BadData, BadExport)

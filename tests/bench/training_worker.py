"""One process of the training benchmark: the real loop against the model alone.

    python -m tests.bench.training_worker MODEL ROUNDS SECONDS

The model alone: forward, loss, backward and step on random tensors that lie in memory, with the
precision, layout, batch and optimiser of the loop. Prints JSON: ``loop`` and ``alone``, images/s.
"""

import json
import logging
import sys
import time
from pathlib import Path

import torch
from torch.nn import functional

from training import train as loop
from training.config import config_from_dict, load_config
from training.dataset.eurosat import find_tiles
from training.dataset.examples import Examples
from training.hardware import autocast, choose_precision, keep_memory

CONFIGS = Path(loop.__file__).parent / "configs"


def alone(run: "loop._Run", steps: int) -> float:
    """Images per second of the model on tensors in memory."""
    config, size = run.config, run.config.model.image_size
    images = torch.randn(config.optim.batch_size, size, size, 3).permute(
        0, 3, 1, 2
    )  # channels last
    if not config.hardware.channels_last:
        images = images.contiguous()
    targets = torch.randint(0, len(run.spec.labels), (config.optim.batch_size,))
    run.model.train()
    started = time.perf_counter()
    for _ in range(steps):
        with autocast(config.hardware):
            logits = run.model(images)
        functional.cross_entropy(logits.float(), targets).backward()
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
    return steps * config.optim.batch_size / (time.perf_counter() - started)


def main() -> None:
    """Measure the model named on the command line."""
    name, rounds, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    # As the released configuration has it, but for what needs files that may not be here.
    config = load_config(CONFIGS / f"{name}.yaml", ["weights=none", "teacher=", "head_epochs=0"])
    config = config_from_dict({"precision": choose_precision(config.hardware)}, config)
    keep_memory()
    run = loop._prepare(config, find_tiles())
    everything = run.train_set
    steps = max(2, round(seconds * alone(run, 2) / config.optim.batch_size))
    chosen = torch.randperm(len(everything))[: steps * config.optim.batch_size]
    run.train_set = Examples(
        tuple(everything.names[index] for index in chosen.tolist()),
        everything.pixels[chosen],
        everything.targets[chosen],
    )
    found: dict[str, list[float]] = {"loop": [], "alone": []}
    for number in range(rounds):
        started = time.perf_counter()
        loop._learn(run, number)
        found["loop"].append(len(run.train_set) / (time.perf_counter() - started))
        found["alone"].append(alone(run, steps))
    json.dump(
        {**found, "precision": config.hardware.precision, "image_size": config.model.image_size},
        sys.stdout,
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main()

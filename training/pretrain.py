"""Learn from images without labels (SimCLR); a training starts from what comes out.

    python -m training.pretrain --config training/configs/pretrain.yaml
    python -m training.pretrain --config training/configs/pretrain.yaml --set images=FOLDER
    python -m training.train --config training/configs/baseline.yaml --set split=spatial
        --set weights=training/runs/pretrain-baseline-1.0-spatial/weights.pt

A run lives in ``training/runs/pretrain-<model>-<version>[-spatial]/``: ``config.yaml``,
``weights.pt`` (of the last epoch, without a last layer), ``last.pt`` and ``last-but-one.pt`` (to
resume from), ``history.json``, ``pretrain.log``. Started again, it goes on behind its last finished
epoch and ends with the same weights as one that was not interrupted. Of a dataset only the training
tiles of a split are seen, and a training on another split refuses the weights.
"""

import argparse
import hashlib
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Generator, Tensor, nn
from tqdm import tqdm

from handlers.contract.spec import ModelSpec
from handlers.vision import normalize
from training.config import (
    BadConfig,
    PretrainConfig,
    change_config,
    config_to_dict,
    read_config,
    refuse_other_settings,
)
from training.dataset.eurosat import CLASS_COUNTS, STATISTICS, BadData, find_tiles
from training.dataset.splits import (
    Split,
    choose_split,
    keep_split,
    new_split,
)
from training.dataset.unlabeled import load_images
from training.hardware import autocast, choose_precision, find_device, keep_memory
from training.models.registry import build_model
from training.models.weights import is_folded, load_pretrained, recalibrate_batch_norm
from training.optim import learning_rate_factor, make_optimizer
from training.runs import (
    RUNS_DIR,
    BadExport,
    git_commit,
    load_last,
    logged_in,
    run_command,
    save_checkpoint,
    save_last,
    write_json,
)
from training.simclr import contrast, cut_head, make_view, projection_head

logger = logging.getLogger(__name__)


def pretrain(config: PretrainConfig, runs_dir: Path = RUNS_DIR) -> Path:
    """Run (or resume) one pretraining; returns the run's folder.

    Raises:
        BadConfig, BadData, BadExport (of what to start or resume from): with what to change.
    """
    device = find_device(config.hardware)
    if config.hardware.threads:
        torch.set_num_threads(config.hardware.threads)
    model, origin = _build(config)
    config, pixels, split, told = _load_pixels(config)
    folder = runs_dir / config.run_name
    folder.mkdir(parents=True, exist_ok=True)
    before = load_last(folder)
    precision = before["config"]["precision"] if before else choose_precision(config.hardware)
    if config.hardware.precision == "auto":  # decided once, as in training.train
        config = change_config(config, {"precision": precision})
    digest = hashlib.sha256(pixels.numpy().data).hexdigest()
    if before:
        _refuse_other_settings(before, config, digest, folder)
    if split:
        keep_split(split, folder)
    mean, std = STATISTICS[config.model.statistics]
    spec = ModelSpec(tuple(CLASS_COUNTS), config.model.image_size, mean, std)
    if is_folded(model):
        some = torch.randperm(len(pixels), generator=Generator().manual_seed(config.seed))[:1024]
        recalibrate_batch_norm(model, normalize(pixels[some], spec))
    run = _Run(config, spec, pixels, model.to(device))
    facts = {
        "config": config_to_dict(config),
        "images_sha256": digest,
        "git_commit": git_commit(),
        "weights_origin": origin,
    }
    history: list[dict[str, Any]] = []
    if before:
        run.load(before)
        history, facts["weights_origin"] = before["history"], before["weights_origin"]
    (folder / "config.yaml").write_text(yaml.safe_dump(facts["config"], sort_keys=False))
    with logged_in(folder / "pretrain.log"):
        logger.info("%s, %d steps an epoch, %d epochs done", told, run.steps, len(history))
        for line in _epochs(run, history):
            sentence = (
                f"SimCLR without labels, {line['epoch']} of {config.optim.epochs} epochs, on {told}"
            )
            weights = {"weights": run.model.state_dict(), "epoch": line["epoch"]}
            save_checkpoint(folder / "weights.pt", weights | facts | {"pretraining": sentence})
            write_json(folder / "history.json", history)
            save_last(folder, run.state() | facts | {"history": history})
    return folder


class _Run:
    """Everything that a pretraining moves along."""

    def __init__(
        self, config: PretrainConfig, spec: ModelSpec, pixels: Tensor, model: nn.Module
    ) -> None:
        self.config, self.spec, self.pixels, self.model = config, spec, pixels, model
        device = next(model.parameters()).device
        torch.manual_seed(config.seed)
        self.head = projection_head(cut_head(model), config.simclr.projection).to(device)
        if config.hardware.channels_last:
            self.model = model.to(memory_format=torch.channels_last)
        both = nn.ModuleDict({"model": self.model, "head": self.head})
        self.optimizer = make_optimizer(both, set(), config.optim)
        self.parameters = list(both.parameters())
        self.steps = len(pixels) // config.optim.batch_size  # an epoch; a rest waits for another
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: learning_rate_factor(step / self.steps, config.optim)
        )

    def _parts(self) -> dict[str, Any]:
        return {
            "weights": self.model,
            "head": self.head,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
        }

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs; what is random follows from seed and epoch."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what ``state`` gave; further entries are passed over."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])


def _build(config: PretrainConfig) -> tuple[nn.Module, str]:
    """The model with a last layer, as weights to start from may have one; and their origin."""
    torch.manual_seed(config.seed)
    model = build_model(config.model, len(CLASS_COUNTS))
    _, origin = load_pretrained(model, config.model, config.data.split)
    return model, origin


def _load_pixels(config: PretrainConfig) -> tuple[PretrainConfig, Tensor, Split | None, str]:
    """The config with the split that it is; uint8 (N, S, S, 3); the split, if they are of one; what
    they are in words.
    """
    size, data, split = config.model.image_size, config.data, None
    if data.images:
        location = Path(data.images).expanduser()
        pixels = load_images(location, size, data.stride)
        told = f"{len(pixels):,} images of {location.name}"
    else:
        tiles = find_tiles()
        config = change_config(config, {"split": choose_split(data.split, tiles)})
        split = new_split(config.data.split, tiles)
        pixels = tiles.decode(split.train, "training tiles", size)
        told = f"the {len(pixels):,} training tiles of the split {split.name}"
    if len(pixels) < config.optim.batch_size:
        raise BadConfig(
            f"batch_size: found {len(pixels)} images, expected at least a batch of "
            f"{config.optim.batch_size}; lower it, or give more images"
        )
    return config, torch.from_numpy(pixels), split, told


def _epochs(run: _Run, history: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Go on behind the history; gives each epoch's line, which stands in the history then."""
    epochs = run.config.optim.epochs
    for epoch in range(len(history), epochs):
        started = time.perf_counter()
        loss = _learn(run, epoch)
        seconds = time.perf_counter() - started
        if not math.isfinite(loss):
            raise BadConfig(f"the loss is {loss} in epoch {epoch + 1}; lower lr or use fp32")
        rate = run.steps * run.config.optim.batch_size / seconds
        logger.info("epoch %d/%d: loss %.4f, %.0f images/s", epoch + 1, epochs, loss, rate)
        history.append(
            {
                "epoch": epoch + 1,
                "loss": loss,
                "lr": run.scheduler.get_last_lr()[0],
                "images_per_second": rate,
                "seconds": seconds,
            }
        )
        yield history[-1]


def _learn(run: _Run, epoch: int) -> float:
    """One pass over the images; the mean loss."""
    batch_size, epochs = run.config.optim.batch_size, run.config.optim.epochs
    generator = Generator().manual_seed(run.config.seed * 1_000_003 + epoch)
    batches = torch.randperm(len(run.pixels), generator=generator).split(batch_size)[: run.steps]
    total = torch.zeros((), dtype=torch.float64, device=run.parameters[0].device)
    run.model.train()
    with tqdm(batches, f"epoch {epoch + 1}/{epochs}", unit="batch", mininterval=1) as bar:
        for number, chosen in enumerate(bar, start=1):
            loss = _look_at(run, chosen, generator)
            run.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if run.config.optim.grad_clip:
                nn.utils.clip_grad_norm_(run.parameters, run.config.optim.grad_clip)
            run.optimizer.step()
            run.scheduler.step()
            total += loss.detach()
            if number % 10 == 0:  # to ask a device for its loss is to wait for it
                rate = (bar.format_dict["rate"] or 0) * batch_size
                bar.set_postfix_str(f"loss {total / number:.3f}, {rate:.0f} images/s")
    return float(total) / run.steps


def _look_at(run: _Run, chosen: Tensor, generator: Generator) -> Tensor:
    """The loss of a batch, float32 ()."""
    config, device = run.config, run.parameters[0].device
    pixels = run.pixels[chosen]
    views = [
        normalize(make_view(pixels, config.simclr, config.augment, generator, device), run.spec)
        for _ in range(2)
    ]
    with autocast(config.hardware):
        features = run.model(torch.cat(views))
    first, second = run.head(features.float()).chunk(2)
    return contrast(first, second, config.simclr.temperature)


def _refuse_other_settings(
    checkpoint: dict[str, Any], config: PretrainConfig, digest: str, folder: Path
) -> None:
    before = config_to_dict(change_config(PretrainConfig(), checkpoint["config"]))
    before |= {"images_sha256": checkpoint["images_sha256"]}
    now = config_to_dict(config) | {"images_sha256": digest}
    # Where the same images lie, how long and on which machine a run goes on may change.
    free = {"epochs", "threads", "device", "images"}
    refuse_other_settings(before, now, free, folder)


def main() -> None:
    """Read the command line, pretrain, and say where the weights are."""
    layout = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--config", type=Path, help="YAML file of knobs that differ from defaults")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one knob")
    arguments = parser.parse_args()
    config = read_config(PretrainConfig(), arguments.config, arguments.set)
    keep_memory()
    print(pretrain(config) / "weights.pt")


if __name__ == "__main__":
    run_command(main, BadConfig, BadData, BadExport)

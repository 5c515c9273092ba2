"""Train a model on EuroSAT.

    python -m training.train --config training/configs/baseline.yaml
    python -m training.train --config training/configs/resnet18.yaml --set epochs=2 --set seed=1

A run lives in ``training/runs/<model>-<version>[-spatial]/``: ``config.yaml``, ``best.pt`` (best
validation accuracy), ``last.pt`` and ``last-but-one.pt`` (to resume from), ``history.json``,
``train.log``, TensorBoard events; of one's own tiles also ``split.json``. Started again, a run that
was interrupted goes on behind its last finished epoch and ends with the same weights as one that
was not: all randomness is derived from the seed and the epoch.
"""

import argparse
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Generator, Tensor, nn
from torch.nn import functional
from torch.utils.data import WeightedRandomSampler
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from handlers.contract.spec import ModelSpec
from handlers.vision import normalize
from training.config import (
    BadConfig,
    DataConfig,
    HardwareConfig,
    TrainConfig,
    config_from_dict,
    config_to_dict,
    load_config,
)
from training.dataset.augment import augment, mix
from training.dataset.eurosat import STATISTICS, BadData, Tiles, find_tiles
from training.dataset.examples import Examples, load_examples
from training.dataset.splits import (
    CUSTOM,
    PARTS,
    Split,
    check_classes,
    choose_split,
    draw_split,
    keep_split,
    load_split,
    refuse_known_tiles,
)
from training.distill import ask_teachers, describe_teachers, training_loss
from training.hardware import autocast, choose_precision, find_device, keep_memory
from training.models.registry import build_model
from training.models.weights import is_folded, load_pretrained, recalibrate_batch_norm
from training.optim import WeightAverage, learning_rate_factor, make_optimizer
from training.runs import (
    RUNS_DIR,
    BadExport,
    git_commit,
    load_last,
    run_command,
    save_checkpoint,
    save_last,
    write_json,
)

logger = logging.getLogger(__name__)


def train(config: TrainConfig, tiles: Tiles, runs_dir: Path = RUNS_DIR) -> Path:
    """Run (or resume) one training; returns the run's folder.

    Raises:
        BadConfig, BadData, BadExport (of the teacher): with what to change.
    """
    config = config_from_dict({"split": choose_split(config.data.split, tiles)}, config)
    run = runs_dir / config.run_name
    run.mkdir(parents=True, exist_ok=True)
    # "auto" is decided once: a resumed run learns as it began, whatever is faster by now.
    before = load_last(run)
    if config.hardware.precision == "auto" and before:
        precision = before["config"]["precision"]
    else:
        precision = choose_precision(config.hardware)
    config = config_from_dict({"precision": precision}, config)
    if before:
        _refuse_other_settings(before["config"], config, run)
    log_file = logging.FileHandler(run / "train.log")
    log_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(log_file)
    try:
        _train(config, tiles, run, before)
    finally:
        logging.getLogger().removeHandler(log_file)
        log_file.close()
    return run


@dataclass
class _Run:
    """Everything that a training moves along."""

    config: TrainConfig
    spec: ModelSpec
    split: Split
    train_set: Examples
    val_set: Examples
    model: nn.Module
    averaged: WeightAverage
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LambdaLR
    scaler: torch.amp.GradScaler
    pretrained: set[str]
    origins: dict[str, str]  # of the code, the weights and the teachers, for the checkpoint
    teacher: Tensor | None  # float32 (N, C): what a stronger model says of each training tile
    class_weights: Tensor | None  # float32 (C,)

    def parts(self) -> dict[str, Any]:
        """All whose state a resumed run needs; what is random follows from seed and epoch."""
        return {
            "weights": self.model,
            "averaged": self.averaged.model,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "scaler": self.scaler,
        }


def _prepare(config: TrainConfig, tiles: Tiles, kept: Path | None = None) -> _Run:
    """All that a training needs; what is refused quickly comes before what takes minutes.

    Args:
        kept: the folder of a run that goes on, where a custom split is.
    """
    if config.hardware.threads:
        torch.set_num_threads(config.hardware.threads)
    told = describe_teachers(config.loss, config.data.split, tuple(tiles.labels))
    origins = {"teacher_origin": told}
    origins["git_commit"] = git_commit()  # of the code that runs, whatever is committed meanwhile
    torch.manual_seed(_seed(config, 0))
    device = find_device(config.hardware)
    if config.data.split == CUSTOM and kept is None:
        split = draw_split(tiles.names)
    else:
        split = load_split(config.data.split, tiles, kept)
    check_classes(split, tiles)
    sizes = {part: len(getattr(split, part)) for part in PARTS}
    logger.info(
        "split %s of %s: %s; left out: %s", split.name, tiles.location, sizes, tiles.left_out
    )
    mean, std = STATISTICS[config.model.statistics]
    spec = ModelSpec(tuple(tiles.labels), config.model.image_size, mean, std)
    model = build_model(config.model, len(spec.labels))
    pretrained, origins["weights_origin"] = load_pretrained(model, config.model, config.data.split)
    refuse_known_tiles(config, split, tiles)
    if config.optim.head_epochs and pretrained.issuperset(dict(model.named_parameters())):
        raise BadConfig("head_epochs: expected 0, as every layer came with weights; none is new")
    train_set = load_examples(tiles, split.train, spec, "training tiles")
    val_set = load_examples(tiles, split.val, spec, "validation tiles")
    counts = torch.bincount(train_set.targets, minlength=len(spec.labels))
    logger.info("training tiles: %s", dict(zip(spec.labels, counts.tolist(), strict=True)))
    if is_folded(model):
        some = torch.randperm(len(train_set))[:1024]
        recalibrate_batch_norm(model, normalize(train_set.pixels[some], spec))
    model = model.to(device)
    if config.hardware.channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, pretrained, config.optim)
    steps = math.ceil(len(train_set) / (config.optim.batch_size * config.optim.accumulate))
    averaged = WeightAverage(model, config.optim.ema)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step / steps, config.optim)
    )
    scaler = torch.amp.GradScaler(device.type, enabled=config.hardware.precision == "fp16")
    teacher = class_weights = None
    if config.loss.teacher:
        teacher = ask_teachers(config.loss, config.hardware, tiles, split.train)
    if config.loss.class_weights:
        class_weights = (counts.sum() / (len(counts) * counts)).to(device)
    return _Run(
        config, spec, split, train_set, val_set, model, averaged, optimizer, scheduler, scaler,
        pretrained, origins, teacher, class_weights,
    )  # fmt: skip


def _train(config: TrainConfig, tiles: Tiles, folder: Path, before: dict[str, Any] | None) -> None:
    run = _prepare(config, tiles, folder if before else None)
    history: list[dict[str, Any]] = []
    if before:
        history = _resume(before, run, folder)
    else:
        keep_split(run.split, folder)
        (folder / "config.yaml").write_text(yaml.safe_dump(config_to_dict(config), sort_keys=False))
        for stale in (*folder.glob("events.*"), folder / "history.json"):
            stale.unlink(missing_ok=True)
    with SummaryWriter(str(folder), purge_step=len(history)) as board:
        for epoch in range(len(history), config.optim.epochs):
            if _patience_is_over(history, config.optim.patience):
                logger.info("no better validation accuracy for %d epochs", config.optim.patience)
                break
            line = _one_epoch(run, epoch)
            best = max((line["val_accuracy"] for line in history), default=-1.0)
            history.append(line)
            for key, value in line.items():
                board.add_scalar(key, value, epoch + 1)
            if line["val_accuracy"] > best:
                checkpoint = {
                    "weights": run.averaged.model.state_dict(),
                    "spec": run.spec.to_dict(),
                    "config": config_to_dict(config),
                    "epoch": epoch + 1,
                    "val_accuracy": line["val_accuracy"],
                    **run.origins,
                }
                save_checkpoint(folder / "best.pt", checkpoint)
            write_json(folder / "history.json", history)
            # What to resume from comes last: what it counts as done is on disk then.
            state = {name: part.state_dict() for name, part in run.parts().items()}
            save_last(folder, state | {"history": history, "config": config_to_dict(config)})
    top = max(history, key=lambda line: line["val_accuracy"])
    logger.info(
        "done: best validation accuracy %.2f %% in epoch %d, %s",
        100 * top["val_accuracy"], top["epoch"], folder / "best.pt",
    )  # fmt: skip


def _one_epoch(run: _Run, epoch: int) -> dict[str, Any]:
    """Train, validate, and give the epoch's line of the history."""
    config = run.config
    torch.manual_seed(_seed(config, epoch))
    for name, parameter in run.model.named_parameters():
        parameter.requires_grad_(epoch >= config.optim.head_epochs or name not in run.pretrained)
    started = time.perf_counter()
    loss, accuracy = _learn(run, epoch)
    seconds = time.perf_counter() - started
    val_loss, val_accuracy = validate(run.averaged.model, run.val_set, run.spec, config.hardware)
    rate = len(run.train_set) / seconds
    logger.info(
        "epoch %d/%d: loss %.4f, accuracy %.2f %%, validation loss %.4f, accuracy %.2f %%, "
        "%.0f images/s",
        epoch + 1, config.optim.epochs, loss, 100 * accuracy, val_loss, 100 * val_accuracy, rate,
    )  # fmt: skip
    return {
        "epoch": epoch + 1,
        "loss": loss,
        "accuracy": accuracy,
        "val_loss": val_loss,
        "val_accuracy": val_accuracy,
        "lr": run.scheduler.get_last_lr()[0],
        "images_per_second": rate,
        "seconds": seconds,
    }


def _learn(run: _Run, epoch: int) -> tuple[float, float]:
    """One pass over the training tiles; mean loss and accuracy (of the larger share if mixed)."""
    config, classes = run.config, len(run.spec.labels)
    generator = Generator().manual_seed(_seed(config, epoch))
    batches = _order(run.train_set, config.data, generator).split(config.optim.batch_size)
    device = next(run.model.parameters()).device
    accumulate, total_loss, right, seen = config.optim.accumulate, 0.0, 0, 0
    run.model.train()
    title = f"epoch {epoch + 1}/{config.optim.epochs}"
    bar = tqdm(batches, desc=title, unit="batch", mininterval=1)
    for number, chosen in enumerate(bar):
        pixels = augment(run.train_set.pixels[chosen], config.augment, generator)
        images = normalize(pixels, run.spec)
        targets = functional.one_hot(run.train_set.targets[chosen], classes).float()
        if run.teacher is not None:
            # Both kinds of targets are mixed alike, so they travel side by side.
            targets = torch.cat([targets, run.teacher[chosen]], dim=1)
        images, targets = mix(images, targets, config.augment, generator)
        images, targets = images.to(device), targets.to(device)
        with autocast(config.hardware):
            logits = run.model(images)
        loss = training_loss(logits.float(), targets, config.loss, run.class_weights)
        # The last group of an epoch may be smaller than `accumulate`.
        first_of_group = number // accumulate * accumulate
        run.scaler.scale(loss / min(accumulate, len(batches) - first_of_group)).backward()
        if (number + 1) % accumulate == 0 or number + 1 == len(batches):
            _step(run)
        total_loss += loss.item() * len(chosen)
        right += int((logits.argmax(1) == targets[:, :classes].argmax(1)).sum())
        seen += len(chosen)
        rate = (bar.format_dict["rate"] or 0) * config.optim.batch_size
        figures = f"loss {total_loss / seen:.3f}, accuracy {100 * right / seen:.1f} %"
        bar.set_postfix_str(f"{figures}, {rate:.0f} images/s", refresh=False)
    if not math.isfinite(total_loss):
        raise BadConfig(f"the loss is {total_loss} in epoch {epoch + 1}; lower lr or use fp32")
    return total_loss / seen, right / seen


def _step(run: _Run) -> None:
    if run.config.optim.grad_clip:
        run.scaler.unscale_(run.optimizer)
        nn.utils.clip_grad_norm_(run.model.parameters(), run.config.optim.grad_clip)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.optimizer.zero_grad(set_to_none=True)
    run.scheduler.step()
    run.averaged.update(run.scheduler.last_epoch)


def validate(
    model: nn.Module, examples: Examples, spec: ModelSpec, hardware: HardwareConfig
) -> tuple[float, float]:
    """Mean cross entropy and accuracy (0..1) without augmentation."""
    model.eval()
    device = next(model.parameters()).device
    loss, right = 0.0, 0
    with torch.inference_mode():
        for pixels, targets in zip(
            examples.pixels.split(256), examples.targets.to(device).split(256), strict=True
        ):
            with autocast(hardware):
                logits = model(normalize(pixels, spec).to(device))
            loss += functional.cross_entropy(logits.float(), targets, reduction="sum").item()
            right += int((logits.argmax(1) == targets).sum())
    return loss / len(examples), right / len(examples)


def _order(examples: Examples, config: DataConfig, generator: Generator) -> Tensor:
    if not config.balanced_sampler:
        return torch.randperm(len(examples), generator=generator)
    shares = 1 / torch.bincount(examples.targets)[examples.targets]
    sampler = WeightedRandomSampler(shares.tolist(), len(examples), generator=generator)
    return torch.tensor(list(sampler))


def _seed(config: TrainConfig, epoch: int) -> int:
    return config.seed * 1_000_003 + epoch


def _patience_is_over(history: list[dict[str, Any]], patience: int) -> bool:
    best = max(history, key=lambda line: line["val_accuracy"], default={"epoch": 0})
    return 0 < patience <= len(history) - best["epoch"]


def _refuse_other_settings(was: dict[str, Any], config: TrainConfig, folder: Path) -> None:
    # A knob that is newer than the run had its default.
    before, now = config_to_dict(config_from_dict(was)), config_to_dict(config)
    # How long and on which machine a run goes on may change; what it learns may not.
    free = {"epochs", "patience", "threads", "device"}
    changed = ", ".join(
        f"{key} was {before[key]}, is {value}"
        for key, value in now.items()
        if key not in free and before[key] != value
    )
    if changed:
        raise BadConfig(
            f"{folder} holds a run with other settings: {changed}. Choose another version, or move "
            "the folder elsewhere to start anew."
        )


def _resume(checkpoint: dict[str, Any], run: _Run, folder: Path) -> list[dict[str, Any]]:
    for name, part in run.parts().items():
        part.load_state_dict(checkpoint[name])
    history: list[dict[str, Any]] = checkpoint["history"]
    checkpoint.clear()  # the caller would keep all of it to the end
    logger.info("going on behind epoch %d of %s", len(history), folder)
    return history


def main() -> None:
    """Read the command line, train, and say where the run is."""
    layout = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--config", type=Path, help="YAML file of knobs that differ from defaults")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one knob")
    arguments = parser.parse_args()
    config = load_config(arguments.config, arguments.set)
    keep_memory()
    print(train(config, find_tiles()))


if __name__ == "__main__":
    run_command(main, BadConfig, BadData, BadExport)

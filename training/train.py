"""Train a model on EuroSAT.

    python -m training.train --config training/configs/baseline.yaml
    python -m training.train --config training/configs/resnet18.yaml --set epochs=2 --set seed=1

A run lives in ``training/runs/<model>-<version>[-spatial]/``: ``config.yaml``, ``best.pt`` (best
validation accuracy), ``last.pt`` and ``last-but-one.pt`` (to resume from), ``history.json``,
``train.log``, TensorBoard events; of one's own tiles also ``split.json``, with ``mining`` its list,
``mining.csv``, of a part of the labels ``labelled.json``, the tiles that were drawn. Started again,
a run that was interrupted goes on behind its last finished epoch and ends with the same weights as
one that was not: all randomness is derived from the seed, the epoch and the batch, whichever of the
processes that torchrun may have started learns it.
"""

import argparse
import logging
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
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
    refuse_other_settings,
)
from training.dataset.augment import augment, mix, send
from training.dataset.eurosat import STATISTICS, BadData, Tiles, find_tiles
from training.dataset.examples import Examples, load_examples
from training.dataset.mined import KEPT, Mined, read_mined, write_mined
from training.dataset.neighbours import find_neighbours, move
from training.dataset.splits import (
    PARTS,
    Split,
    check_classes,
    choose_split,
    draw_labelled,
    keep_split,
    load_split,
    new_split,
    refuse_known_tiles,
)
from training.distill import OnlineTeachers, ask_teachers, describe_teachers, training_loss
from training.distributed import (
    StepSum,
    add_up,
    first_here_before_others,
    from_first,
    joined,
    rank,
    share,
    size,
)
from training.hardware import autocast, choose_precision, find_device, keep_memory
from training.models.registry import build_model
from training.models.weights import is_folded, load_pretrained, recalibrate_batch_norm
from training.optim import WeightAverage, learning_rate_factor, make_optimizer
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
    before = from_first(load_last(run) if rank() == 0 else None)
    if config.hardware.precision == "auto" and before:
        precision = before["config"]["precision"]
    else:
        precision = choose_precision(config.hardware)
    config = config_from_dict({"precision": from_first(precision)}, config)
    if before:
        _refuse_other_settings(before, config, run)
    if rank():
        _train(config, tiles, run, before)
        return run
    with logged_in(run / "train.log"):
        _train(config, tiles, run, before)
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
    online: OnlineTeachers | None  # or asked of each batch
    class_weights: Tensor | None  # float32 (C,)
    mined: list[Mined]  # training tiles; those that are not suspicious are drawn more often
    neighbours: Tensor | None  # int64 (N, 4): which training tiles lie side by side

    def parts(self) -> dict[str, Any]:
        """All whose state a resumed run needs; what is random follows from seed and epoch."""
        return {
            "weights": self.model,
            "averaged": self.averaged.model,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "scaler": self.scaler,
        }

    def state(self) -> dict[str, Any]:
        """Of all parts."""
        return {name: part.state_dict() for name, part in self.parts().items()}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what ``state`` gave; further entries are passed over."""
        for name, part in self.parts().items():
            part.load_state_dict(state[name])


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
    name = config.data.split
    split = load_split(name, tiles, kept) if kept else new_split(name, tiles)
    check_classes(split, tiles)
    labelled = draw_labelled(split.train, config.data.label_fraction, config.seed)
    mined = []
    if config.data.mining:
        mined = read_mined(kept / KEPT if kept else Path(config.data.mining).expanduser(), split)
    neighbours = find_neighbours(tiles, labelled) if config.data.neighbours else None
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
    train_set = load_examples(tiles, labelled, spec, "training tiles")
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
    shown = len(train_set) * config.optim.passes
    steps = math.ceil(shown / (config.optim.batch_size * _batches_a_step(config)))
    averaged = WeightAverage(model, config.optim.ema)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step / steps, config.optim)
    )
    scaler = torch.amp.GradScaler(device.type, enabled=config.hardware.precision == "fp16")
    teacher = online = class_weights = None
    if config.loss.distill_online:
        online = OnlineTeachers(config.loss, config.hardware, spec, device)
    elif config.loss.teacher:
        teacher = ask_teachers(config.loss, config.hardware, tiles, labelled)
    if config.loss.class_weights:
        class_weights = (counts.sum() / (len(counts) * counts)).to(device)
    return _Run(
        config, spec, split, train_set, val_set, model, averaged, optimizer, scheduler, scaler,
        pretrained, origins, teacher, online, class_weights, mined, neighbours,
    )  # fmt: skip


def _train(config: TrainConfig, tiles: Tiles, folder: Path, before: dict[str, Any] | None) -> None:
    with first_here_before_others():  # it downloads what is missing, and asks the teachers
        run = _prepare(config, tiles, folder if before else None)
    history = [] if before is None else _resume(before, run, folder)
    if before is None:
        run.load(from_first(run.state()))  # other processors may round otherwise
    if rank():
        deque(_epochs(run, history), maxlen=0)
        return
    if before is None:
        keep_split(run.split, folder)
        if run.mined:
            write_mined(folder / KEPT, run.mined)
        if config.data.label_fraction < 1:
            write_json(folder / "labelled.json", run.train_set.names)
        (folder / "config.yaml").write_text(yaml.safe_dump(config_to_dict(config), sort_keys=False))
        for stale in (*folder.glob("events.*"), folder / "history.json"):
            stale.unlink(missing_ok=True)
    with SummaryWriter(str(folder), purge_step=len(history)) as board:
        for line in _epochs(run, history):
            for key, value in line.items():
                board.add_scalar(key, value, line["epoch"])
            if line == _best(history):
                checkpoint = {
                    "weights": run.averaged.model.state_dict(),
                    "spec": run.spec.to_dict(),
                    "config": config_to_dict(config),
                    "epoch": line["epoch"],
                    "val_accuracy": line["val_accuracy"],
                    **run.origins,
                }
                save_checkpoint(folder / "best.pt", checkpoint)
            write_json(folder / "history.json", history)
            # What to resume from comes last: what it counts as done is on disk then.
            facts = {"history": history, "config": config_to_dict(config), "processes": size()}
            save_last(folder, run.state() | facts)
    top = _best(history)
    logger.info(
        "done: best validation accuracy %.2f %% in epoch %d, %s",
        100 * top["val_accuracy"], top["epoch"], folder / "best.pt",
    )  # fmt: skip


def _epochs(run: _Run, history: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Go on behind the history; gives each epoch's line, which stands in the history then."""
    for epoch in range(len(history), run.config.optim.epochs):
        if _patience_is_over(history, run.config.optim.patience):
            logger.info("no better validation accuracy for %d epochs", run.config.optim.patience)
            break
        history.append(_one_epoch(run, epoch))
        yield history[-1]


def _one_epoch(run: _Run, epoch: int) -> dict[str, Any]:
    """Train, validate, and give the epoch's line of the history."""
    config = run.config
    for name, parameter in run.model.named_parameters():
        parameter.requires_grad_(epoch >= config.optim.head_epochs or name not in run.pretrained)
    started = time.perf_counter()
    loss, accuracy = _learn(run, epoch)
    seconds = time.perf_counter() - started
    val_loss, val_accuracy = validate(run.averaged.model, run.val_set, run.spec, config.hardware)
    rate = len(run.train_set) * config.optim.passes / seconds
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
    config = run.config
    generator = Generator().manual_seed(_seed(config, epoch))
    orders = [
        _order(run.train_set, config.data, generator, run.mined) for _ in range(config.optim.passes)
    ]
    batches = torch.cat(orders).split(config.optim.batch_size)
    # Each batch has a seed of its own, so that it is the same whichever process learns it.
    seeds = torch.randint(2**31, (len(batches),), generator=generator).tolist()
    bring_together = StepSum(run.model)
    # Summed loss, right answers, tiles: on the device, which nobody waits for.
    device = next(run.model.parameters()).device
    totals = torch.zeros(3, dtype=torch.float64, device=device)
    run.model.train()
    title = f"epoch {epoch + 1}/{config.optim.epochs}"
    with tqdm(
        total=len(batches), desc=title, unit="batch", mininterval=1, disable=rank() > 0
    ) as bar:
        for start in range(0, len(batches), _batches_a_step(config)):
            # The last step of an epoch may have fewer batches than the others.
            step = range(start, min(start + _batches_a_step(config), len(batches)))
            for number in (step[place] for place in share(len(step))):
                loss, right = _look_at(run, batches[number], seeds[number])
                run.scaler.scale(loss / len(step)).backward()
                n = len(batches[number])
                totals += torch.stack([loss.detach() * n, right, torch.full_like(right, n)])
            bring_together(len(step))
            _step(run)
            if bar.update(len(step)) or step.stop == len(batches):
                so_far, right_ones, seen = totals.tolist()
                figures = f"loss {so_far / seen:.3f}, accuracy {100 * right_ones / seen:.1f} %"
                rate = (bar.format_dict["rate"] or 0) * config.optim.batch_size
                bar.set_postfix_str(f"{figures}, {rate:.0f} images/s", refresh=False)
    add_up([totals])
    total_loss, right_ones, seen = totals.tolist()
    if not math.isfinite(total_loss):
        raise BadConfig(f"the loss is {total_loss} in epoch {epoch + 1}; lower lr or use fp32")
    return total_loss / seen, right_ones / seen


def _look_at(run: _Run, chosen: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """The loss of a batch, and how many answers are right; float32 () each, on the device.

    Args:
        chosen: int64 (N,), numbers of training tiles.
        seed: of all that is random about the batch.
    """
    config, classes = run.config, len(run.spec.labels)
    device = next(run.model.parameters()).device
    generator = torch.manual_seed(seed)  # dropout draws from this one, too
    pixels, partners, parts = run.train_set.pixels[chosen], chosen, torch.zeros(len(chosen))
    if run.neighbours is not None:
        pixels, partners, parts = move(
            run.train_set.pixels, chosen, run.neighbours, config.data.neighbours, generator
        )
    images = normalize(augment(pixels, config.augment, generator, device), run.spec)
    targets = functional.one_hot(run.train_set.targets[chosen], classes).float()
    if run.teacher is not None:
        # Nobody was asked for what lies between two tiles.
        answers = torch.lerp(run.teacher[chosen], run.teacher[partners], parts[:, None])
        # Both kinds of targets are mixed alike, so they travel side by side.
        targets = torch.cat([targets, answers], dim=1)
    images, targets = mix(images, send(targets, device), config.augment, generator)
    if run.online is not None:
        targets = torch.cat([targets, run.online(images)], dim=1)
    with autocast(config.hardware):
        logits = run.model(images)
    loss = training_loss(logits.float(), targets, config.loss, run.class_weights)
    right = (logits.argmax(1) == targets[:, :classes].argmax(1)).sum()
    return loss, right.float()


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
    pixels, targets = examples.pixels.split(256), examples.targets.split(256)
    totals = torch.zeros(2, dtype=torch.float64, device=device)
    with torch.inference_mode():
        for number in share(len(pixels)):
            wanted = send(targets[number], device)
            with autocast(hardware):
                logits = model(normalize(send(pixels[number], device), spec))
            loss = functional.cross_entropy(logits.float(), wanted, reduction="sum")
            totals += torch.stack([loss, (logits.argmax(1) == wanted).sum()])
    add_up([totals])
    total_loss, right = totals.tolist()
    return total_loss / len(examples), right / len(examples)


def _order(
    examples: Examples, config: DataConfig, generator: Generator, mined: Sequence[Mined] = ()
) -> Tensor:
    """The tiles of an epoch, int64 (N,), as many as there are examples."""
    if config.balanced_sampler:
        shares = 1 / torch.bincount(examples.targets)[examples.targets]
        sampler = WeightedRandomSampler(shares.tolist(), len(examples), generator=generator)
        order = torch.tensor(list(sampler))
    else:
        order = torch.randperm(len(examples), generator=generator)
    wanted = {one.tile for one in mined if not one.suspicious}
    hard = torch.tensor([n for n, name in enumerate(examples.names) if name in wanted])
    if not len(hard):
        return order
    count = round(config.mining_share * len(order))
    rounds = [torch.randperm(len(hard), generator=generator) for _ in range(0, count, len(hard))]
    if rounds:  # each hard tile as often as the others, and at most once more
        order[:count] = hard[torch.cat(rounds)[:count]]
    return order[torch.randperm(len(order), generator=generator)]


def _batches_a_step(config: TrainConfig) -> int:
    """Of all processes together."""
    return config.optim.accumulate * size()


def _seed(config: TrainConfig, epoch: int) -> int:
    return config.seed * 1_000_003 + epoch


def _best(history: list[dict[str, Any]]) -> dict[str, Any]:
    """The line of the best epoch, of equal ones the first."""
    return max(history, key=lambda line: line["val_accuracy"], default={"epoch": 0})


def _patience_is_over(history: list[dict[str, Any]], patience: int) -> bool:
    return 0 < patience <= len(history) - _best(history)["epoch"]


def _refuse_other_settings(checkpoint: dict[str, Any], config: TrainConfig, folder: Path) -> None:
    # A knob that is newer than the run had its default.
    before = config_to_dict(config_from_dict(checkpoint["config"]))
    now = config_to_dict(config)
    # Two processes learn as one does that accumulates twice as many batches.
    for facts, processes in ((before, checkpoint.get("processes", 1)), (now, size())):
        facts["accumulate x processes"] = facts.pop("accumulate") * processes
    # How long and on which machine a run goes on may change; what it learns may not.
    free = {"epochs", "patience", "threads", "device"}
    refuse_other_settings(before, now, free, folder)


def _resume(checkpoint: dict[str, Any], run: _Run, folder: Path) -> list[dict[str, Any]]:
    run.load(checkpoint)
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
    with joined(config.hardware):
        with first_here_before_others():  # it may download them
            tiles = find_tiles()
        run = train(config, tiles)
        if rank() == 0:
            print(run)


if __name__ == "__main__":
    run_command(main, BadConfig, BadData, BadExport)

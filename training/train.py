"""Train a model on EuroSAT.

    python -m training.train --config training/configs/baseline.yaml
    python -m training.train --config training/configs/resnet18.yaml --set epochs=2 --set seed=1

A run lives in ``training/runs/<model>-<version>[-spatial]/``: ``config.yaml``, ``best.pt`` (best
validation accuracy), ``last.pt`` (to resume from), ``history.json``, ``train.log``, TensorBoard
events. Started again, a run that was interrupted goes on behind its last finished epoch and ends
with the same weights as one that was not: all randomness is derived from the seed and the epoch.
"""

import argparse
import ctypes
import dataclasses
import hashlib
import json
import logging
import math
import os
import subprocess
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Generator, Tensor, nn
from torch.nn import functional
from torch.utils.data import WeightedRandomSampler
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from handlers.spec import ModelSpec
from handlers.vision import normalize
from training.augment import augment, mix, turn
from training.config import (
    WEIGHTS_WORDS,
    BadConfig,
    TrainConfig,
    config_to_dict,
    load_config,
    refuse_other_split,
)
from training.eurosat import (
    STATISTICS,
    BadData,
    Examples,
    Tiles,
    find_tiles,
    load_examples,
    load_split,
)
from training.export import BadExport, load_exported, predict, training_facts
from training.models import build_model, is_folded, load_pretrained, recalibrate_batch_norm
from training.thaw import load_released

logger = logging.getLogger(__name__)

RUNS_DIR = Path(__file__).parent / "runs"
TEACHER_DIR = Path(__file__).parent / "data"
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def train(config: TrainConfig, tiles: Tiles, runs_dir: Path = RUNS_DIR) -> Path:
    """Run (or resume) one training; returns the run's folder.

    Raises:
        BadConfig, BadData, BadExport (of the teacher): with what to change.
    """
    run = runs_dir / config.run_name
    run.mkdir(parents=True, exist_ok=True)
    config = dataclasses.replace(config, precision=_precision_of_run(config, run))
    log_file = logging.FileHandler(run / "train.log")
    log_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(log_file)
    try:
        _train(config, tiles, run)
    finally:
        logging.getLogger().removeHandler(log_file)
        log_file.close()
    return run


@dataclass
class _Run:
    """Everything that a training moves along."""

    config: TrainConfig
    spec: ModelSpec
    train_set: Examples
    val_set: Examples
    model: nn.Module
    averaged: "_Average"
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LambdaLR
    scaler: torch.amp.GradScaler
    pretrained: set[str]
    commit: str
    origin: str
    teacher: Tensor | None  # float32 (N, C): what a stronger model says of each training tile
    teacher_origin: str
    class_weights: Tensor | None  # float32 (C,)

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs; what is random follows from seed and epoch."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state(self, state: dict[str, Any]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        return {
            "weights": self.model,
            "averaged": self.averaged.model,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "scaler": self.scaler,
        }


def _prepare(config: TrainConfig, tiles: Tiles) -> _Run:
    if config.threads:
        torch.set_num_threads(config.threads)
    teacher_origin = describe_teachers(config)
    commit = git_commit()  # of the code that runs, whatever is committed meanwhile
    _seed(config.seed, epoch=0)
    device = _find_device(config)
    split = load_split(config.split, tiles)
    spec = ModelSpec(tuple(tiles.labels), config.image_size, *STATISTICS[config.statistics])
    train_set = load_examples(tiles, split.train, spec, "training tiles")
    val_set = load_examples(tiles, split.val, spec, "validation tiles")
    counts = torch.bincount(train_set.targets, minlength=len(spec.labels))
    logger.info("training tiles: %s", dict(zip(spec.labels, counts.tolist(), strict=True)))

    model = build_model(config, len(spec.labels))
    path = Path(config.weights).expanduser()
    released = config.weights not in WEIGHTS_WORDS and path.is_dir()
    pretrained, origin = (load_released if released else load_pretrained)(model, config)
    if config.head_epochs and pretrained.issuperset(name for name, _ in model.named_parameters()):
        raise BadConfig("head_epochs: expected 0, as every layer came with weights; none is new")
    if is_folded(model):
        some = torch.randperm(len(train_set))[:1024]
        recalibrate_batch_norm(model, normalize(train_set.pixels[some], spec))
    model = model.to(device)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, pretrained, config)
    steps = math.ceil(len(train_set) / (config.batch_size * config.accumulate))
    return _Run(
        config=config,
        spec=spec,
        train_set=train_set,
        val_set=val_set,
        model=model,
        averaged=_Average(model, config.ema),
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step / steps, config)
        ),
        scaler=torch.amp.GradScaler(device.type, enabled=config.precision == "fp16"),
        pretrained=pretrained,
        commit=commit,
        origin=origin,
        teacher=_ask_teachers(config, tiles, split.train, spec) if config.teacher else None,
        teacher_origin=teacher_origin,
        class_weights=counts.sum() / (len(counts) * counts) if config.class_weights else None,
    )


def _find_device(config: TrainConfig) -> torch.device:
    try:
        device = torch.device(config.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises either, by kind of device
        raise BadConfig(f"device: {config.device!r} is not here; expected cpu or cuda") from error
    return device


def _train(config: TrainConfig, tiles: Tiles, folder: Path) -> None:
    run = _prepare(config, tiles)
    history: list[dict[str, Any]] = []
    last = folder / "last.pt"
    if last.exists():
        history = _resume(last, run)
    else:
        (folder / "config.yaml").write_text(yaml.safe_dump(config_to_dict(config), sort_keys=False))
        for stale in (*folder.glob("events.*"), folder / "history.json"):
            stale.unlink(missing_ok=True)
    with SummaryWriter(str(folder), purge_step=len(history)) as board:
        for epoch in range(len(history), config.epochs):
            if _patience_is_over(history, config):
                logger.info("no better validation accuracy for %d epochs", config.patience)
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
                    "git_commit": run.commit,
                    "weights_origin": run.origin,
                    "teacher_origin": run.teacher_origin,
                }
                save(folder / "best.pt", checkpoint)
            _write_json(folder / "history.json", history)
            # What to resume from comes last: what it counts as done is on disk then.
            save(last, run.state() | {"history": history, "config": config_to_dict(config)})
    top = max(history, key=lambda line: line["val_accuracy"])
    logger.info(
        "done: best validation accuracy %.2f %% in epoch %d, %s",
        100 * top["val_accuracy"], top["epoch"], folder / "best.pt",
    )  # fmt: skip


def _one_epoch(run: _Run, epoch: int) -> dict[str, Any]:
    """Train, validate, and give the epoch's line of the history."""
    config = run.config
    _seed(config.seed, epoch)
    for name, parameter in run.model.named_parameters():
        parameter.requires_grad_(epoch >= config.head_epochs or name not in run.pretrained)
    started = time.perf_counter()
    loss, accuracy = _learn(run, epoch)
    seconds = time.perf_counter() - started
    val_loss, val_accuracy = validate(run.averaged.model, run.val_set, run.spec, config)
    rate = len(run.train_set) / seconds
    logger.info(
        "epoch %d/%d: loss %.4f, accuracy %.2f %%, validation loss %.4f, accuracy %.2f %%, "
        "%.0f images/s",
        epoch + 1, config.epochs, loss, 100 * accuracy, val_loss, 100 * val_accuracy, rate,
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
    generator = Generator().manual_seed(config.seed * 1_000_003 + epoch)
    batches = _order(run.train_set, config, generator).split(config.batch_size)
    device = next(run.model.parameters()).device
    class_weights = run.class_weights.to(device) if run.class_weights is not None else None
    total_loss, right, seen = 0.0, 0, 0
    run.model.train()
    bar = tqdm(batches, desc=f"epoch {epoch + 1}/{config.epochs}", unit="batch", mininterval=1)
    for number, chosen in enumerate(bar):
        images = normalize(augment(run.train_set.pixels[chosen], config, generator), run.spec)
        targets = functional.one_hot(run.train_set.targets[chosen], classes).float()
        if run.teacher is not None:
            # Both kinds of targets are mixed alike, so they travel side by side.
            targets = torch.cat([targets, run.teacher[chosen]], dim=1)
        images, targets = mix(images, targets, config, generator)
        images, targets = images.to(device), targets.to(device)
        with autocast(config):
            logits = run.model(images)
        loss = _loss(logits.float(), targets, config, class_weights)
        # The last group of an epoch may be smaller than `accumulate`.
        first_of_group = number // config.accumulate * config.accumulate
        run.scaler.scale(loss / min(config.accumulate, len(batches) - first_of_group)).backward()
        if (number + 1) % config.accumulate == 0 or number + 1 == len(batches):
            _step(run)
        total_loss += loss.item() * len(chosen)
        right += int((logits.argmax(1) == targets[:, :classes].argmax(1)).sum())
        seen += len(chosen)
        rate = (bar.format_dict["rate"] or 0) * config.batch_size
        bar.set_postfix_str(
            f"loss {total_loss / seen:.3f}, accuracy {100 * right / seen:.1f} %, "
            f"{rate:.0f} images/s",
            refresh=False,
        )
    if not math.isfinite(total_loss):
        raise BadConfig(f"the loss is {total_loss} in epoch {epoch + 1}; lower lr or use fp32")
    return total_loss / seen, right / seen


def _step(run: _Run) -> None:
    if run.config.grad_clip:
        run.scaler.unscale_(run.optimizer)
        nn.utils.clip_grad_norm_(run.model.parameters(), run.config.grad_clip)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.optimizer.zero_grad(set_to_none=True)
    run.scheduler.step()
    run.averaged.update(run.scheduler.last_epoch)


def make_optimizer(
    model: nn.Module, pretrained: set[str], config: TrainConfig
) -> torch.optim.Optimizer:
    """Two rates (new layers, pretrained layers), and no weight decay on biases and norms."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault((name in pretrained, parameter.ndim > 1), []).append(parameter)
    parameters = [
        {
            "params": members,
            "lr": config.lr * (config.pretrained_lr if came_with_weights else 1),
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (came_with_weights, decays), members in groups.items()
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0
        )
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    return kind(parameters, lr=config.lr)


def learning_rate_factor(epoch: float, config: TrainConfig) -> float:
    """What the learning rate is multiplied by at a (fractional) epoch, counted from 0."""
    if epoch < config.warmup_epochs:
        return epoch / config.warmup_epochs
    if config.schedule == "cosine":
        done = (epoch - config.warmup_epochs) / max(config.epochs - config.warmup_epochs, 1e-9)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    if config.schedule == "step":
        return 0.1 ** sum(epoch >= share * config.epochs for share in (0.6, 0.85))
    return 1.0


def validate(
    model: nn.Module, examples: Examples, spec: ModelSpec, config: TrainConfig
) -> tuple[float, float]:
    """Mean cross entropy and accuracy (0..1) without augmentation."""
    model.eval()
    device = next(model.parameters()).device
    loss, right = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(examples), 256):
            images = normalize(examples.pixels[start : start + 256], spec).to(device)
            targets = examples.targets[start : start + 256].to(device)
            with autocast(config):
                logits = model(images)
            loss += functional.cross_entropy(logits.float(), targets, reduction="sum").item()
            right += int((logits.argmax(1) == targets).sum())
    return loss / len(examples), right / len(examples)


def autocast(config: TrainConfig) -> AbstractContextManager[object]:
    """Mixed precision of the forward pass, as ``config.precision`` says."""
    precision = choose_precision(config)
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(torch.device(config.device).type, _PRECISIONS[precision])


def _precision_of_run(config: TrainConfig, run: Path) -> str:
    """``auto`` is decided once: a resumed run learns as it began, whatever is faster by now."""
    if config.precision == "auto" and (run / "last.pt").exists():
        before = torch.load(run / "last.pt", mmap=True, weights_only=True)
        return str(before["config"]["precision"])
    return choose_precision(config)


def choose_precision(config: TrainConfig) -> str:
    """What ``auto`` means on this machine; any other precision is taken at its word.

    A CPU without bf16 instructions computes it in software, ten times slower than fp32; and having
    them does not tell how fast they are: on a Xeon without AMX the baseline gets 409 images/s, and
    545 in fp32 (2 cores). So a CPU is asked to show it.
    """
    if config.precision != "auto":
        return config.precision
    if _find_device(config).type == "cpu":
        fast = torch.cpu._is_avx512_bf16_supported() and _bf16_wins()  # noqa: SLF001 - no other way
    else:
        fast = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return "bf16" if fast else "fp32"


@cache
@torch.inference_mode(mode=False)  # validation, which needs no gradients, may be the first to ask
def _bf16_wins() -> bool:
    """Whether a convolution, there and back, takes the CPU less time in bf16; 0.1 s."""
    weight = torch.zeros(64, 64, 3, 3, requires_grad=True)
    images = torch.zeros(32, 64, 16, 16).to(memory_format=torch.channels_last)
    images.requires_grad_(True)
    least = dict.fromkeys((torch.float32, torch.bfloat16), math.inf)
    for _ in range(6):
        for precision in least:
            started = time.perf_counter()
            with torch.autocast("cpu", precision, enabled=precision != torch.float32):
                found = functional.conv2d(images, weight, padding=1)
            found.float().sum().backward()
            least[precision] = min(least[precision], time.perf_counter() - started)
    return least[torch.bfloat16] < least[torch.float32]


def keep_memory() -> None:
    """Let glibc reuse the memory of large tensors instead of returning it to the system.

    Each step allocates the same hundreds of megabytes of activations; by default every one of them
    is mapped, zeroed page by page and unmapped again. Measured on 2 cores: 1.15 times the images/s
    of the baseline, 1.25 times those of ResNet-18; jemalloc instead was slower than either.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc only
        for option, value in ((_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, (1 << 31) - 1)):
            libc.mallopt(option, value)


def git_commit() -> str:
    """The checkout's commit, "-dirty" behind it if files differ; "unknown" outside of one."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    try:
        dirty = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("-dirty" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


class _Average:
    """Exponential moving average of the weights; with a decay of 0 simply the model itself."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.source = model
        self.model = model
        if decay:
            self.model = torch.optim.swa_utils.AveragedModel(model).module

    def update(self, step: int) -> None:
        if not self.decay:
            return
        # A short memory at first, or the random start would stay in the average for long.
        decay = min(self.decay, (1 + step) / (10 + step))
        mine, new = self.model.state_dict(), self.source.state_dict()
        with torch.no_grad():
            for name, value in mine.items():
                if value.dtype.is_floating_point:
                    value.lerp_(new[name], 1 - decay)
                else:
                    value.copy_(new[name])


def _loss(
    logits: Tensor, targets: Tensor, config: TrainConfig, class_weights: Tensor | None
) -> Tensor:
    classes = logits.shape[1]
    hard = functional.cross_entropy(
        logits, targets[:, :classes], class_weights, label_smoothing=config.label_smoothing
    )
    if targets.shape[1] == classes:
        return hard
    # Hinton et al., 2015: T^2 keeps the gradients' size when both sides are softened.
    temperature = config.distill_temperature
    soft = functional.kl_div(
        functional.log_softmax(logits / temperature, dim=1),
        targets[:, classes:].clamp_min(1e-8).log(),
        reduction="batchmean",
        log_target=True,
    )
    return (1 - config.distill) * hard + config.distill * temperature**2 * soft


def describe_teachers(config: TrainConfig) -> str:
    """A sentence on each teacher, for the model card.

    Raises:
        BadConfig: a teacher learned on another split, so that it knows test tiles of this one.
    """
    sentences = []
    for folder in _teachers(config):
        try:
            facts = training_facts(folder)
        except BadExport as error:
            raise BadConfig(f"teacher: {error}") from error
        refuse_other_split("teacher", folder.name, facts["config"]["split"], config)
        digest = hashlib.sha256((folder / "model.pt").read_bytes()).hexdigest()[:16]
        sentences.append(
            f"Learned as well from the answers of {folder.name} (sha256 {digest}), whose weights "
            f"were: {facts['weights_origin']}"
        )
    return " ".join(sentences)


def _teachers(config: TrainConfig) -> list[Path]:
    return [Path(folder).expanduser() for folder in config.teacher.split(",") if folder]


def _ask_teachers(
    config: TrainConfig, tiles: Tiles, names: tuple[str, ...], spec: ModelSpec
) -> Tensor:
    """What the teachers say of each training tile, in the mean.

    Returns:
        float32 (N, C), softened probabilities.
    """
    answers = [_ask_teacher(folder, config, tiles, names, spec) for folder in _teachers(config)]
    return torch.stack(answers).mean(0)


def _ask_teacher(
    folder: Path, config: TrainConfig, tiles: Tiles, names: tuple[str, ...], spec: ModelSpec
) -> Tensor:
    """Ask a teacher once for every training tile, as mean over some symmetries of the square.

    Its answers are kept beside the tiles: asking takes minutes, and a resumed run asks again.
    """
    model, teacher_spec = load_exported(folder)
    if teacher_spec.labels != spec.labels:
        raise BadConfig(f"teacher: expected the labels {spec.labels}, found {teacher_spec.labels}")
    key = hashlib.sha256((folder / "model.pt").read_bytes())
    key.update(
        f"{config.distill_temperature} {config.precision} {config.teacher_views} {names}".encode()
    )
    kept = TEACHER_DIR / f"teacher-{key.hexdigest()[:16]}.npy"
    if kept.is_file():
        return torch.from_numpy(np.load(kept, allow_pickle=False))
    pixels = load_examples(tiles, names, teacher_spec).pixels
    with autocast(config):
        views = [
            predict(
                model,
                turn(pixels, view),
                teacher_spec,
                f"{folder.name}, view {view + 1}/{config.teacher_views}",
            )
            for view in range(config.teacher_views)
        ]
    softened = [torch.softmax(logits / config.distill_temperature, dim=1) for logits in views]
    answers = torch.stack(softened).mean(0).float()
    TEACHER_DIR.mkdir(parents=True, exist_ok=True)
    partial = kept.with_suffix(".part")
    with partial.open("wb") as file:
        np.save(file, answers.numpy())
    partial.replace(kept)
    return answers


def _order(examples: Examples, config: TrainConfig, generator: Generator) -> Tensor:
    if not config.balanced_sampler:
        return torch.randperm(len(examples), generator=generator)
    counts = torch.bincount(examples.targets)
    sampler = WeightedRandomSampler(
        (1 / counts[examples.targets]).tolist(), len(examples), generator=generator
    )
    return torch.tensor(list(sampler))


def _seed(seed: int, epoch: int) -> None:
    torch.manual_seed(seed * 1_000_003 + epoch)


def _patience_is_over(history: list[dict[str, Any]], config: TrainConfig) -> bool:
    if not config.patience or not history:
        return False
    best = max(history, key=lambda line: line["val_accuracy"])
    return len(history) - best["epoch"] >= config.patience


def _resume(last: Path, run: _Run) -> list[dict[str, Any]]:
    checkpoint = torch.load(last, map_location="cpu", weights_only=True)
    before, now = checkpoint["config"], config_to_dict(run.config)
    # How long and on which machine a run goes on may change; what it learns may not.
    free = {"epochs", "patience", "threads", "device"}
    changed = [key for key in now if key not in free and before.get(key) != now[key]]
    if changed:
        raise BadConfig(
            f"{last.parent} holds a run with other settings: "
            + ", ".join(f"{key} was {before.get(key)}, is {now[key]}" for key in changed)
            + ". Choose another version, or delete the folder to start anew."
        )
    run.load_state(checkpoint)
    history: list[dict[str, Any]] = checkpoint["history"]
    logger.info("going on behind epoch %d of %s", len(history), last.parent)
    return history


def save(path: Path, state: dict[str, Any]) -> None:
    """Write whole or not at all: a kill in between must leave the old checkpoint."""
    partial = path.with_suffix(".part")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _write_json(path: Path, value: object) -> None:
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(value, indent=1))
    partial.replace(path)


def main() -> None:
    """Read the command line, train, and say where the run is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--config", type=Path, help="YAML file of knobs that differ from defaults")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one knob")
    arguments = parser.parse_args()
    config = load_config(arguments.config, arguments.set)
    keep_memory()
    print(train(config, find_tiles()))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        main()
    except (BadConfig, BadData, BadExport) as problem:
        sys.exit(str(problem))

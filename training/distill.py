"""The loss, and the stronger models (teachers) from whose answers a model learns as well."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from handlers.vision import turn
from training.config import BadConfig, HardwareConfig, LossConfig, refuse_other_split
from training.dataset.eurosat import Tiles
from training.dataset.examples import load_examples
from training.hardware import autocast
from training.inference import load_exported, predict
from training.runs import BadExport, read_spec, sha256, training_facts

TEACHER_DIR = Path(__file__).parent / "data"


def training_loss(
    logits: Tensor, targets: Tensor, config: LossConfig, class_weights: Tensor | None
) -> Tensor:
    """Cross entropy, and the divergence from the teachers' answers if there are any.

    Args:
        logits: float32 (N, C).
        targets: float32 (N, C), class probabilities; or (N, 2 C) with the softened answers of the
            teachers behind them.
        class_weights: float32 (C,).

    Returns:
        float32 (), the mean over the tiles.
    """
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


def describe_teachers(config: LossConfig, split: str, labels: tuple[str, ...]) -> str:
    """A sentence on each teacher, for the model card.

    Raises:
        BadConfig: a teacher learned on another split, so that it knows test tiles of this one, or
            has other labels than these.
    """
    sentences = []
    for folder in _teachers(config):
        try:
            facts, taught = training_facts(folder), read_spec(folder).labels
        except BadExport as error:
            raise BadConfig(f"teacher: {error}") from error
        if taught != labels:
            raise BadConfig(f"teacher: expected the labels {labels}, found {taught}")
        refuse_other_split("teacher", folder.name, facts["config"]["split"], split)
        digest = sha256(folder / "model.pt")[:16]
        sentences.append(
            f"Learned as well from the answers of {folder.name} (sha256 {digest}), whose weights "
            f"were: {facts['weights_origin']}"
        )
    return " ".join(sentences)


def _teachers(config: LossConfig) -> list[Path]:
    return [Path(folder).expanduser() for folder in config.teacher.split(",") if folder]


def ask_teachers(
    config: LossConfig,
    hardware: HardwareConfig,
    tiles: Tiles,
    names: tuple[str, ...],
) -> Tensor:
    """What the teachers say of each training tile, in the mean.

    Returns:
        float32 (N, C), softened probabilities.
    """
    answers = [_ask_teacher(folder, config, hardware, tiles, names) for folder in _teachers(config)]
    return torch.stack(answers).mean(0)


def _ask_teacher(
    folder: Path, config: LossConfig, hardware: HardwareConfig, tiles: Tiles,
    names: tuple[str, ...],
) -> Tensor:  # fmt: skip
    """Ask a teacher once for every training tile, as mean over some symmetries of the square.

    Its answers are kept beside the tiles: asking takes minutes, and a resumed run asks again.
    """
    model, teacher_spec = load_exported(folder)
    temperature, views = config.distill_temperature, config.teacher_views
    key = hashlib.sha256((folder / "model.pt").read_bytes())
    key.update(f"{temperature} {hardware.precision} {views} {names}".encode())
    for name in names:  # other tiles may have the same names
        key.update(tiles.read(name))
    kept = TEACHER_DIR / f"teacher-{key.hexdigest()[:16]}.npy"
    if kept.is_file():
        return torch.from_numpy(np.load(kept, allow_pickle=False))
    pixels = load_examples(tiles, names, teacher_spec).pixels
    softened = []
    with autocast(hardware):
        for view in range(views):
            title = f"{folder.name}, view {view + 1}/{views}"
            logits = predict(model, turn(pixels, view), teacher_spec, title)
            softened.append(torch.softmax(logits / temperature, dim=1))
    answers = torch.stack(softened).mean(0).float()
    TEACHER_DIR.mkdir(parents=True, exist_ok=True)
    partial = kept.with_suffix(".part")
    with partial.open("wb") as file:
        np.save(file, answers.numpy())
    partial.replace(kept)
    return answers

"""The loss, and the stronger models (teachers) from whose answers a model learns as well."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from handlers.contract.spec import ModelSpec
from handlers.model import logits_and_distances
from handlers.vision import normalize, turn
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
        asked = ", image by image," if config.distill_online else ""
        sentences.append(
            f"Learned as well{asked} from the answers of {folder.name} (sha256 {digest}), whose "
            f"weights were: {facts['weights_origin']}"
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


class OnlineTeachers:
    """Teachers that see each batch as the model sees it: changed, mixed, on its device.

    A teacher that saw the same pixels is right about what was cut out or faded, where answers kept
    of whole tiles are wrong (Beyer et al., 2022, "Knowledge distillation: A good teacher is patient
    and consistent").

    Args:
        spec: how the images are normalised that teachers are asked of.
    """

    def __init__(
        self, config: LossConfig, hardware: HardwareConfig, spec: ModelSpec, device: torch.device
    ) -> None:
        self._temperature, self._hardware = config.distill_temperature, hardware
        self._mean = torch.tensor(spec.mean, device=device).view(3, 1, 1)
        self._std = torch.tensor(spec.std, device=device).view(3, 1, 1)
        self._teachers: list[tuple[nn.Module, ModelSpec]] = [
            load_exported(folder, device=device) for folder in _teachers(config)
        ]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Float32 (N, 3, S, S) -> softened probabilities, float32 (N, C), the teachers' mean."""
        pixels = 255 * (images * self._std + self._mean)
        softened = []
        for model, spec in self._teachers:
            size = (spec.image_size, spec.image_size)
            shown = pixels
            if images.shape[2:] != size:  # as ``handlers.vision.resize`` does it
                shown = functional.interpolate(pixels, size, mode="bilinear", antialias=True)
            with autocast(self._hardware):
                logits, _ = logits_and_distances(model(normalize(shown.permute(0, 2, 3, 1), spec)))
            softened.append(torch.softmax(logits.float() / self._temperature, dim=1))
        return torch.stack(softened).mean(0)

"""TrainConfig: every knob of a training run; a YAML file holds only what differs."""

import dataclasses
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from training.runs import VERSION


class BadConfig(ValueError):
    """A knob that does not exist, or a value that it cannot take."""


WEIGHTS_WORDS = ("imagenet", "none")  # of the knob `weights`; anything else there is a path


@dataclass(frozen=True)
class TrainConfig:
    """All knobs with their units; the defaults train something sensible on a laptop's CPU."""

    # What is trained, on what
    model: str = "baseline"  # an entry of training.models.MODELS; also the served name
    version: str = "0.1"  # of the run and the archive that comes out of it
    split: str = "random"  # random: 70/15/15, comparable with papers; spatial: by longitude, honest
    seed: int = 0  # of weights, order, augmentation
    # Architecture
    image_size: int = 64  # px, the native EuroSAT size; 224 for what ImageNet models were made for
    statistics: str = "eurosat"  # mean and std of the channels: eurosat, or imagenet (pretrained)
    widths: tuple[int, ...] = (32, 64, 88)  # channels of the baseline's three stages
    blocks: tuple[int, ...] = (1, 1, 1)  # residual blocks in each of the baseline's stages
    dropout: float = 0.0  # probability, before the last layer
    # imagenet: torchvision's IMAGENET1K_V1, downloaded; none: from scratch; or the path of an .npz
    # of weights, of a checkpoint of ours or of a release's folder (of the same architecture)
    weights: str = "none"
    # Optimisation
    epochs: int = 30
    head_epochs: int = 0  # first epochs in which only the new layers learn
    batch_size: int = 128  # tiles per forward pass
    accumulate: int = 1  # forward passes per step of the optimiser
    optimizer: str = "adamw"  # adam, adamw, sgd
    lr: float = 1e-3  # peak learning rate, of the new layers
    pretrained_lr: float = 1.0  # factor on lr for the layers that came with weights
    momentum: float = 0.9  # sgd only
    weight_decay: float = 0.05  # not on biases and norms
    schedule: str = "cosine"  # cosine: down to 1 % of lr; constant; step: x0.1 at 60 % and 85 %
    warmup_epochs: float = 1.0  # linear, from 0
    grad_clip: float = 0.0  # largest gradient norm; 0 is off
    ema: float = 0.0  # decay per step of the averaged weights that are evaluated; 0 is off
    patience: int = 0  # epochs without a better validation accuracy before stopping; 0 is off
    # Loss
    label_smoothing: float = 0.0  # share of the target spread over all classes
    class_weights: bool = False  # weigh the loss by inverse class frequency
    balanced_sampler: bool = False  # draw every class equally often (WeightedRandomSampler)
    # folder of an exported model (a run or a release) to learn from as well; several, separated by
    # commas, count alike
    teacher: str = ""
    distill: float = 0.5  # share of the teacher in the loss, when there is one
    distill_temperature: float = 2.0  # softens both sides of the distillation loss
    # of the square's 8 symmetries, how many a teacher is asked about for each tile, once
    teacher_views: int = 8
    # Augmentation, training only
    flips: bool = True  # left-right and up-down
    quarter_turns: bool = True
    rotation: float = 0.0  # degrees, largest free rotation to either side, edges reflected
    zoom: float = 0.0  # largest relative change of scale
    shift: float = 0.0  # largest shift, share of the side
    brightness: float = 0.0  # largest relative change of all channels together
    channel_gain: float = 0.0  # largest relative change of each channel (haze, atmosphere, product)
    # largest path radiance added or taken away, share of 0..255 in blue, less in green and red; for
    # half of the tiles. Surface reflectance (L2A) is EuroSAT's L1C less about 0.2.
    haze: float = 0.0
    contrast: float = 0.0  # largest relative change around the tile's mean
    saturation: float = 0.0  # largest relative change around the pixel's grey
    noise: float = 0.0  # largest standard deviation of Gaussian noise, share of 0..255
    # share of tiles that lose what storage and other sensors lose: JPEG, blur, noise or half the
    # resolution, one of them a tile, at its native 64 px
    degrade: float = 0.0
    mixup: float = 0.0  # alpha of the Beta distribution; 0 is off
    cutmix: float = 0.0  # alpha of the Beta distribution; 0 is off
    mix_probability: float = 0.5  # share of batches that are mixed (mixup or cutmix, evenly)
    # Speed
    # of the forward pass: fp32, bf16, fp16, or auto: bf16 where the device is faster at it
    precision: str = "auto"
    channels_last: bool = True  # the layout in which CPU convolutions are fastest
    threads: int = 0  # of torch; 0: as torch likes
    device: str = "cpu"  # cpu, cuda, cuda:1, ...

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if (value := getattr(self, name)) not in allowed:
                raise BadConfig(f"{name}: expected one of {', '.join(allowed)}; found {value!r}")
        for name, (low, high) in _RANGES.items():
            if not low <= (value := getattr(self, name)) <= high:
                raise BadConfig(f"{name}: expected {low} to {high}, found {value}")
        if len(self.widths) != 3 or len(self.blocks) != 3:
            raise BadConfig("widths and blocks: expected three numbers each, one a stage")
        if min(self.widths) < 1 or min(self.blocks) < 0:
            raise BadConfig("expected widths of at least 1 and blocks of at least 0")
        # Evaluation and archives read it from the folder's name, hours later.
        if not re.fullmatch(VERSION, self.version):
            raise BadConfig(
                f"version: expected digits such as 1.0 or 1.0.2, found {self.version!r}"
            )

    @property
    def run_name(self) -> str:
        """Of the run's folder; a spatial run says so, a random one is the usual case."""
        suffix = "" if self.split == "random" else f"-{self.split}"
        return f"{self.model}-{self.version}{suffix}"


_CHOICES: Mapping[str, tuple[str, ...]] = types.MappingProxyType(
    {
        "split": ("random", "spatial"),
        "statistics": ("eurosat", "imagenet"),
        "optimizer": ("adam", "adamw", "sgd"),
        "schedule": ("cosine", "constant", "step"),
        "precision": ("auto", "fp32", "bf16", "fp16"),
    }
)
_ANY = float("inf")
_RANGES: Mapping[str, tuple[float, float]] = types.MappingProxyType(
    {
        "image_size": (8, 1024),
        "dropout": (0, 0.99),
        "epochs": (1, 100_000),
        "head_epochs": (0, 100_000),
        "batch_size": (1, 65_536),
        "accumulate": (1, 65_536),
        "lr": (0, _ANY),
        "pretrained_lr": (0, _ANY),
        "momentum": (0, 0.9999),
        "weight_decay": (0, _ANY),
        "warmup_epochs": (0, _ANY),
        "grad_clip": (0, _ANY),
        "ema": (0, 0.99999),
        "patience": (0, 100_000),
        "label_smoothing": (0, 0.99),
        "distill": (0, 1),
        "distill_temperature": (0.01, 100),
        "teacher_views": (1, 8),
        "rotation": (0, 180),
        "zoom": (0, 0.9),
        "shift": (0, 0.5),
        "brightness": (0, 0.99),
        "channel_gain": (0, 0.99),
        "haze": (0, 1),
        "contrast": (0, 0.99),
        "saturation": (0, 0.99),
        "noise": (0, 1),
        "degrade": (0, 1),
        "mixup": (0, _ANY),
        "cutmix": (0, _ANY),
        "mix_probability": (0, 1),
        "threads": (0, 1024),
    }
)


def load_config(path: Path | None = None, overrides: Iterable[str] = ()) -> TrainConfig:
    """The defaults, then the YAML file, then ``key=value`` words.

    Raises:
        BadConfig: the file cannot be read, a key is unknown or a value of the wrong type; the
            message names the valid keys or the type that was expected.
    """
    values: dict[str, Any] = {}
    hints = typing.get_type_hints(TrainConfig)
    if path:
        try:
            read = yaml.safe_load(path.read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise BadConfig(f"{path} cannot be read as YAML: {error}") from error
        if not isinstance(read, dict):
            raise BadConfig(f"{path}: expected `key: value` lines, found {type(read).__name__}")
        values |= read
    for word in overrides:
        key, equals, value = word.partition("=")
        if not equals:
            raise BadConfig(f"--set {word}: expected key=value")
        # A version such as 1.10 would be the number 1.1 to YAML.
        try:
            values[key] = value if hints.get(key) is str else yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise BadConfig(f"--set {word}: the value cannot be read as YAML") from error
    return config_from_dict(values)


def config_from_dict(values: Mapping[str, Any]) -> TrainConfig:
    """Check keys and types, then make a config.

    Raises:
        BadConfig: as ``load_config``.
    """
    hints = typing.get_type_hints(TrainConfig)
    if unknown := sorted(str(key) for key in values if key not in hints):
        raise BadConfig(f"unknown key {', '.join(unknown)}; valid keys: {', '.join(hints)}")
    return TrainConfig(**{key: _typed(key, value, hints[key]) for key, value in values.items()})


def config_to_dict(config: TrainConfig) -> dict[str, Any]:
    """Every knob with its value, ready for YAML and JSON."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in dataclasses.asdict(config).items()
    }


def describe_config(config: TrainConfig) -> dict[str, Any]:
    """As ``config_to_dict``, for reports: of paths only the last part.

    What lies around a file on one machine is nobody else's business.
    """
    return {
        key: ",".join(Path(part).name for part in value.split(","))
        if key in {"weights", "teacher"}
        else value
        for key, value in config_to_dict(config).items()
    }


def refuse_other_split(knob: str, name: object, split: str, config: TrainConfig) -> None:
    """Keep a model that learned on other tiles from telling a training about its test tiles.

    Args:
        knob: that names the model, such as ``teacher``; ``name``: the model, in the message.
        split: that the model learned on.

    Raises:
        BadConfig: it is not the split of ``config``.
    """
    if split != config.split:
        raise BadConfig(
            f"{knob}: {name} learned on the {split} split, whose training tiles are among the test "
            f"tiles of the {config.split} split; train one on that"
        )


def _typed(key: str, value: Any, kind: Any) -> Any:
    # bool is an int to Python, but `epochs: true` is a mistake; 1e-3 is a string to YAML 1.1.
    if kind is float and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind == tuple[int, ...]:
        if isinstance(value, list | tuple) and all(type(item) is int for item in value):
            return tuple(value)
        raise BadConfig(f"{key}: expected a list of whole numbers, found {value!r}")
    if kind is str and type(value) is float:
        raise BadConfig(
            f'{key}: expected text, found the number {value}; write it in quotes: "1.0"'
        )
    if type(value) is not kind:
        raise BadConfig(
            f"{key}: expected {kind.__name__}, found {value!r} ({type(value).__name__})"
        )
    return value

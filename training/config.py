"""TrainConfig: every knob of a training run, in one group for each room that reads it.

PretrainConfig is the same of a pretraining without labels.

A YAML file holds only what differs from the defaults::

    version: "1.0"
    model: {name: baseline, widths: [32, 64, 88]}
    optim: {epochs: 80, lr: 3.0e-3}

No two groups have a knob of one name, so that a knob may also be named without its group: in YAML,
in ``--set lr=1e-3`` (or ``optim.lr=1e-3``), and in checkpoints and reports, which always do so.
"""

import dataclasses
import types
import typing
from collections.abc import Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml

from handlers.contract.names import MODEL_NAME, VERSION


class BadConfig(ValueError):
    """A knob that does not exist, or a value that it cannot take."""


# A type, and from where to where its values go.
NotNegative = Annotated[float, (0, float("inf"))]
Fraction = Annotated[float, (0, 1)]
LessThanOne = Annotated[float, (0, 0.99)]
Epochs = Annotated[int, (0, 100_000)]
Positive = Annotated[int, (1, 65_536)]


@dataclass(frozen=True)
class ModelConfig:
    """Which architecture, what it sees, and what it starts from."""

    name: str = "baseline"  # an entry of training.models.registry.MODELS
    served_as: str = ""  # name of the run and of what is served; empty: that of the architecture
    image_size: Annotated[int, (8, 1024)] = 64  # px, side; 64: EuroSAT's own, 224: ImageNet models'
    # whose mean and std of the channels
    statistics: Literal["eurosat", "imagenet", "inception"] = "eurosat"
    widths: tuple[int, ...] = (32, 64, 88)  # channels of the baseline's three stages
    blocks: tuple[int, ...] = (1, 1, 1)  # residual blocks in each of the baseline's stages
    dropout: LessThanOne = 0.0  # probability, before the last layer
    # imagenet: torchvision's IMAGENET1K_V1, downloaded (resnet18), or what an installed package
    # brings (efficientnet_lite2); none: from scratch; or the path of an .npz, .pth or .safetensors
    # of weights, of a checkpoint of ours or of a release's folder (of the same architecture)
    weights: str = "none"

    def __post_init__(self) -> None:
        if len(self.widths) != 3 or len(self.blocks) != 3:
            raise BadConfig("widths and blocks: expected three numbers each, one a stage")
        if min(self.widths) < 1 or min(self.blocks) < 0:
            raise BadConfig("expected widths of at least 1 and blocks of at least 0")
        if self.served_as and not MODEL_NAME.fullmatch(self.served_as):
            raise BadConfig(
                "served_as: expected small letters, digits, _ or -, at most 64, "
                f"found {self.served_as!r}"
            )


@dataclass(frozen=True)
class DataConfig:
    """Which tiles, and how often."""

    # random: 70/15/15, as in papers; spatial: by longitude, honest; custom: 70/15/15 of any tiles,
    # which random becomes where EuroSAT's are not all there
    split: Literal["random", "spatial", "custom"] = "random"
    balanced_sampler: bool = False  # draw every class equally often (WeightedRandomSampler)
    mining: str = ""  # list of hard tiles by training.mining; empty: none is drawn more often
    mining_share: Fraction = 0.25  # of the tiles of an epoch, how many come from that list
    # share of the tiles with a neighbour of their class, on the ground and for training, that is
    # shown as a window between both, anew each time
    neighbours: Fraction = 0.0
    # of the training tiles of each class, drawn by the seed, at least one: what few labels give
    label_fraction: Annotated[float, (0.0001, 1)] = 1.0


@dataclass(frozen=True)
class OptimConfig:
    """How long, in which steps, and what is kept of them."""

    epochs: Annotated[int, (1, 100_000)] = 30
    passes: Positive = 1  # over the training tiles in an epoch: of few, many between validations
    head_epochs: Epochs = 0  # first epochs in which only the new layers learn
    batch_size: Positive = 128  # tiles per forward pass
    accumulate: Positive = 1  # forward passes per step of the optimiser
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    lr: NotNegative = 1e-3  # peak learning rate, of the new layers
    pretrained_lr: NotNegative = 1.0  # factor on lr for the layers that came with weights
    momentum: Annotated[float, (0, 0.9999)] = 0.9  # sgd only
    weight_decay: NotNegative = 0.05  # not on biases and norms
    # cosine: down to 1 % of lr; constant; step: x0.1 at 60 % and 85 %
    schedule: Literal["cosine", "constant", "step"] = "cosine"
    warmup_epochs: NotNegative = 1.0  # linear, from 0
    grad_clip: NotNegative = 0.0  # largest gradient norm; 0 is off
    ema: Annotated[float, (0, 0.99999)] = 0.0  # decay per step of the evaluated average; 0 is off
    patience: Epochs = 0  # without a better validation accuracy before stopping; 0 is off


@dataclass(frozen=True)
class LossConfig:
    """What is held against the answers: labels, and teachers."""

    label_smoothing: LessThanOne = 0.0  # share of the target spread over all classes
    class_weights: bool = False  # weigh the loss by inverse class frequency
    teacher: str = ""  # folders of runs or releases to learn from as well, alike; commas between
    distill: Fraction = 0.5  # share of the teacher in the loss, when there is one
    distill_temperature: Annotated[float, (0.01, 100)] = 2.0  # softens both sides of that share
    teacher_views: Annotated[int, (1, 8)] = 8  # symmetries of each tile that teachers are shown
    # ask teachers of every batch as the model sees it, changed and mixed; not of each tile, once
    distill_online: bool = False

    def __post_init__(self) -> None:
        if self.distill_online and not self.teacher:
            raise BadConfig(
                "distill_online: expected a teacher to ask, found none; name one (teacher) or "
                "leave it out"
            )


@dataclass(frozen=True)
class AugmentConfig:
    """What changes the tiles, in training only."""

    flips: bool = True  # left-right and up-down
    quarter_turns: bool = True
    rotation: Annotated[float, (0, 180)] = 0.0  # degrees, largest to either side, edges reflected
    zoom: Annotated[float, (0, 0.9)] = 0.0  # largest relative change of scale
    shift: Annotated[float, (0, 0.5)] = 0.0  # largest shift, share of the side
    brightness: LessThanOne = 0.0  # largest relative change of all channels together
    channel_gain: LessThanOne = 0.0  # the same, of each channel (haze, atmosphere, product)
    # largest relative change of how much air there is over a tile: of the light that it adds, and,
    # as thicker air lets less through, of what is seen of the ground. 0.5: half to one and a half
    # times the path radiance; 1: from none, as surface reflectance (L2A) has it, to twice as much
    air: Fraction = 0.0
    # share of tiles in the brightness of another product: 255 is a reflectance of 0.3558 (true-
    # colour images) or of 0.4 (scripts that multiply by 2.5), evenly, instead of EuroSAT's 0.275
    white: Fraction = 0.0
    # what trainings before `air` had instead: largest path radiance added or taken away, share of
    # 0..255 in blue, less in green and red, for half of the tiles
    haze: Fraction = 0.0
    contrast: LessThanOne = 0.0  # largest relative change around the tile's mean
    saturation: LessThanOne = 0.0  # largest relative change around the pixel's grey
    noise: Fraction = 0.0  # largest standard deviation of Gaussian noise, share of 0..255
    # share of tiles that lose what storage and other sensors lose: JPEG, blur, noise or half the
    # resolution, one of them a tile, at its native 64 px
    degrade: Fraction = 0.0
    mixup: NotNegative = 0.0  # alpha of the Beta distribution; 0 is off
    cutmix: NotNegative = 0.0  # alpha of the Beta distribution; 0 is off
    mix_probability: Fraction = 0.5  # share of batches that are mixed (mixup or cutmix, evenly)


@dataclass(frozen=True)
class HardwareConfig:
    """What computes, and in which numbers."""

    # of the forward pass; auto: bf16 where the device is faster at it
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    channels_last: bool = True  # the layout in which CPU convolutions are fastest
    threads: Annotated[int, (0, 1024)] = 0  # of torch; 0: as torch likes
    device: str = "cpu"  # cpu, cuda, cuda:1, ...


def _check_version(version: str) -> None:
    # Evaluation and archives read it from the folder's name, hours later.
    if not VERSION.fullmatch(version):
        raise BadConfig(f"version: expected digits such as 1.0 or 1.0.2, found {version!r}")


@dataclass(frozen=True)
class TrainConfig:
    """All knobs with their units; the defaults train something sensible on a laptop's CPU."""

    version: str = "0.1"  # of the run and the archive that comes out of it
    seed: int = 0  # of weights, order, augmentation
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    loss: LossConfig = LossConfig()
    augment: AugmentConfig = AugmentConfig()
    hardware: HardwareConfig = HardwareConfig()

    def __post_init__(self) -> None:
        _check_version(self.version)

    @property
    def run_name(self) -> str:
        """Of the run's folder; a spatial run says so, which is never served."""
        suffix = "-spatial" if self.data.split == "spatial" else ""
        return f"{self.model.served_as or self.model.name}-{self.version}{suffix}"


@dataclass(frozen=True)
class ImagesConfig:
    """Which images a pretraining sees; their labels it does not."""

    images: str = ""  # path of a folder, zip or scene; empty: the training tiles of `split`
    split: Literal["random", "spatial", "custom"] = "spatial"  # as of DataConfig
    stride: Positive = 64  # px from one window to the next, where scenes are cut


@dataclass(frozen=True)
class SimclrConfig:
    """How two views of an image are made beside what ``augment`` does, and compared."""

    crop: Annotated[float, (0.01, 1)] = 0.3  # least area of a view, share of the image's
    # px, side of a view; 0: the image's. Work grows by its square, and crops are smaller anyway
    view_size: Annotated[int, (0, 1024)] = 0
    grey: Fraction = 0.1  # share of views without colour
    projection: Positive = 128  # width of what is compared, thrown away behind the pretraining
    temperature: Annotated[float, (0.01, 100)] = 0.2  # of the similarities: low looks at near ones


@dataclass(frozen=True)
class PretrainConfig:
    """All knobs of a pretraining; groups that a training has as well mean the same."""

    version: str = "0.1"
    seed: int = 0
    model: ModelConfig = ModelConfig()
    data: ImagesConfig = ImagesConfig()
    optim: OptimConfig = OptimConfig()
    simclr: SimclrConfig = SimclrConfig()
    augment: AugmentConfig = AugmentConfig()
    hardware: HardwareConfig = HardwareConfig()

    def __post_init__(self) -> None:
        _check_version(self.version)
        if self.optim.batch_size < 2:
            raise BadConfig("batch_size: expected 2 or more, images are told from one another")
        if self.hardware.precision == "fp16":
            raise BadConfig("precision: expected auto, fp32 or bf16 of a pretraining, found fp16")
        values, defaults = config_to_dict(self), config_to_dict(TrainConfig())
        unused = (
            "served_as", "dropout", "passes", "head_epochs", "accumulate", "pretrained_lr", "ema",
            "patience", "mixup", "cutmix", "mix_probability",
        )  # fmt: skip
        for knob in unused:
            if values[knob] != defaults[knob]:
                raise BadConfig(f"{knob}: has no meaning in a pretraining; leave it out")

    @property
    def run_name(self) -> str:
        """Of the run's folder."""
        suffix = "-spatial" if self.data.split == "spatial" and not self.data.images else ""
        return f"pretrain-{self.model.name}-{self.version}{suffix}"


Config = TypeVar("Config", TrainConfig, PretrainConfig)


def _read_knobs(config: type) -> dict[str, tuple[str, str, Any]]:
    """Name without its group -> group (empty at the top), name in it, type."""
    knobs = {}
    for name, kind in typing.get_type_hints(config).items():
        if dataclasses.is_dataclass(kind):
            for inner, inner_kind in typing.get_type_hints(kind, include_extras=True).items():
                knobs[name if inner == "name" else inner] = (name, inner, inner_kind)
        else:
            knobs[name] = ("", name, kind)
    return knobs


def _by_dotted(config: type) -> dict[str, str]:
    """`model.name` -> `model`, its name without its group, which no other knob may have."""
    knobs = _read_knobs(config)
    return {f"{group}.{name}".strip("."): knob for knob, (group, name, _) in knobs.items()}


KNOBS = types.MappingProxyType(_read_knobs(TrainConfig))


def load_config(path: Path | None = None, overrides: Iterable[str] = ()) -> TrainConfig:
    """As ``read_config``, of a training."""
    return read_config(TrainConfig(), path, overrides)


def read_config(base: Config, path: Path | None = None, overrides: Iterable[str] = ()) -> Config:
    """The defaults, then the YAML file, then ``key=value`` words.

    Raises:
        BadConfig: an unreadable file, unknown key or wrong value, with those that are valid.
    """
    knobs, by_dotted = _read_knobs(type(base)), _by_dotted(type(base))
    read: Any = {}
    if path:
        try:
            read = yaml.safe_load(path.read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise BadConfig(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(read, dict):
        raise BadConfig(f"{path}: expected `key: value` lines, found {type(read).__name__}")
    values: dict[str, Any] = {}
    for word in overrides:
        key, equals, value = word.partition("=")
        if not equals:
            raise BadConfig(f"--set {word}: expected key=value")
        *_, kind = knobs.get(by_dotted.get(key, key), [None])
        # A version such as 1.10 would be the number 1.1 to YAML.
        try:
            values[key] = value if kind is str else yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise BadConfig(f"--set {word}: the value cannot be read as YAML") from error
    return change_config(change_config(base, read), values)


def config_from_dict(values: Mapping[str, Any], base: TrainConfig | None = None) -> TrainConfig:
    """As ``change_config``, of a training."""
    return change_config(base or TrainConfig(), values)


def change_config(config: Config, values: Mapping[str, Any]) -> Config:
    """Check keys and types, then make a config.

    Args:
        config: where everything else comes from.
        values: groups with their knobs, or knobs with or without the name of their group; both may
            be mixed, the later one counts.

    Raises:
        BadConfig: as ``load_config``.
    """
    known, by_dotted = _read_knobs(type(config)), _by_dotted(type(config))
    flat: dict[str, Any] = {}
    for key, value in values.items():
        grouped = isinstance(value, Mapping)
        for inner, item in value.items() if grouped else [(key, value)]:
            dotted = f"{key}.{inner}" if grouped else key
            flat[by_dotted.get(dotted, dotted)] = item
    if unknown := sorted(str(key) for key in flat if key not in known):
        raise BadConfig(f"unknown key {', '.join(unknown)}; valid keys: {', '.join(by_dotted)}")
    changes: dict[str, dict[str, Any]] = {}
    for key, value in flat.items():
        group, name, kind = known[key]
        changes.setdefault(group, {})[name] = _checked(f"{group}.{name}".strip("."), value, kind)
    own = changes.pop("", {})
    for group, knobs in changes.items():
        own[group] = dataclasses.replace(getattr(config, group), **knobs)
    return dataclasses.replace(config, **own)


def config_to_dict(config: TrainConfig | PretrainConfig) -> dict[str, Any]:
    """Every knob without its group and its value, ready for YAML and JSON."""
    by_dotted = _by_dotted(type(config))
    values = {knob: attrgetter(dotted)(config) for dotted, knob in by_dotted.items()}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def describe_config(config: TrainConfig) -> dict[str, Any]:
    """As ``config_to_dict``, for reports: of paths, which tell of a machine, only the last part."""
    described = config_to_dict(config)
    for key in ("weights", "teacher", "mining"):
        described[key] = ",".join(Path(part).name for part in described[key].split(","))
    return described


def refuse_other_settings(
    before: Mapping[str, Any], now: Mapping[str, Any], free: Container[str], folder: Path
) -> None:
    """Keep a run from going on otherwise than it began.

    Args:
        before, now: settings by name; those in ``free`` may differ.
        folder: of the run.

    Raises:
        BadConfig: with those that differ.
    """
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


def refuse_other_split(knob: str, name: object, learned_on: str, split: str) -> None:
    """Keep the model ``name``, which ``knob`` names, from telling of the training's test tiles.

    On tiles of one's own these are told tile by tile (``dataset.splits.refuse_known_tiles``).

    Raises:
        BadConfig: it learned on another split than that of the training.
    """
    if split not in ("custom", learned_on):
        raise BadConfig(
            f"{knob}: {name} learned on the {learned_on} split, whose training tiles are among the "
            f"test tiles of the {split} split; train one on that"
        )


def is_of_no_split(config: Mapping[str, Any]) -> bool:
    """Whether weights whose training had that config, written, never met tiles of a split.

    So it is of a pretraining on ``images``, if it did not start from weights that had.
    """
    if not config.get("images"):
        return False
    return config["weights"] in ("none", "imagenet") or config["weights"].endswith(".npz")


def _checked(key: str, value: Any, kind: Any) -> Any:
    """The value as one of that type, which may be a choice or have a range."""
    if typing.get_origin(kind) is Literal:
        if value not in (allowed := typing.get_args(kind)):
            raise BadConfig(f"{key}: expected one of {', '.join(allowed)}; found {value!r}")
        return value
    if typing.get_origin(kind) is Annotated:
        plain, (low, high) = typing.get_args(kind)
        if not low <= (value := _checked(key, value, plain)) <= high:
            raise BadConfig(f"{key}: expected {low} to {high}, found {value}")
        return value
    # bool is an int to Python, but `epochs: true` is a mistake; 1e-3 is a string to YAML 1.1.
    if kind is float and type(value) in (int, str):
        with suppress(ValueError):
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

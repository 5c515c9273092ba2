"""ModelSpec: everything that preprocessing and answers depend on, as one value."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

VIEWS = 8  # the turns and mirror images of a square


class BadSpec(ValueError):
    """The description of a model is incomplete or contradicts itself."""


@dataclass(frozen=True)
class Doubt:
    """Where a model's knowledge ends, as ``training.doubt`` fits it and ``handlers.doubt`` asks it.

    Attributes:
        mean, deviation: of each statistic of training tiles, (D,).
        log_weights, means, factors: a mixture of Gaussians over the standardised statistics: (K,),
            (K, D), and the transposed Cholesky factors of the precisions, (K, D, D).
        colours_limit: scores of the statistics above it are unlike training.
        content_limit: squared distances of the features above it are.
        least: from this probability (0..1) on a class belongs to the prediction set.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    log_weights: tuple[float, ...]
    # What is made of a spec is kept by its hash: hashing these would take 20 to 90 us each time.
    means: tuple[tuple[float, ...], ...] = field(hash=False)
    factors: tuple[tuple[tuple[float, ...], ...], ...] = field(hash=False)
    colours_limit: float
    content_limit: float
    least: float

    def __post_init__(self) -> None:
        size, count = len(self.mean), len(self.log_weights)
        rows = [row for factor in self.factors for row in factor]
        shapes = {len(self.deviation), *map(len, self.means), *map(len, rows)}
        if (
            shapes != {size}
            or not len(self.means) == len(self.factors) == count == len(rows) / size
        ):
            raise BadSpec(f"doubt: expected {count} Gaussians over {size} statistics")
        numbers = (*self.mean, *self.log_weights, *sum(self.means, ()), *sum(rows, ()))
        limits = (self.colours_limit, self.content_limit, self.least)
        if not all(map(math.isfinite, (*numbers, *limits))) or min(self.deviation) <= 0:
            raise BadSpec("doubt: expected finite numbers, and deviations above 0")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Doubt":
        """Read what ``ModelSpec.to_dict`` writes; BadSpec for anything else."""
        try:
            found = {field.name: _frozen(data[field.name]) for field in fields(cls)}
        except (KeyError, TypeError, ValueError) as error:
            raise BadSpec(f"doubt: expected numbers, found {error}") from error
        return cls(**found)


@dataclass(frozen=True)
class ModelSpec:
    """What a model expects and what its outputs mean.

    It travels training config -> checkpoint -> ``model-config.yaml`` in the archive -> handler ->
    TorchServe's describe call -> portal. Nobody else owns a label list or a channel mean.

    Attributes:
        labels: class names in the order of the logits.
        image_size: side of the square input, px.
        mean, std: per channel (R, G, B), of pixel values scaled to 0..1.
        temperature: logits are divided by it before softmax, so that ``confidence`` is calibrated
            (temperature scaling: Guo et al., 2017, "On Calibration of Modern Neural Networks").
        threshold: answers with a confidence below it (0..1) are marked uncertain.
        doubt: where its knowledge ends; None for models that were exported before that was known.

    Raises:
        BadSpec: when made or read, with what was found and what was expected.
    """

    labels: tuple[str, ...]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    temperature: float = 1.0
    threshold: float = 0.0
    doubt: Doubt | None = None

    def __post_init__(self) -> None:
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise BadSpec(f"labels: expected two or more different names, found {self.labels}")
        if not 8 <= self.image_size <= 1024:
            raise BadSpec(f"image_size: expected 8..1024 px, found {self.image_size}")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != 3 or not all(map(math.isfinite, values)):
                raise BadSpec(f"{name}: expected three finite numbers (R, G, B), found {values}")
        if min(self.std) <= 0:
            raise BadSpec(f"std: expected numbers above 0, found {self.std}")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise BadSpec(f"temperature: expected a number above 0, found {self.temperature}")
        if not 0 <= self.threshold <= 1:
            raise BadSpec(f"threshold: expected 0..1, found {self.threshold}")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ModelSpec":
        """Read the form that ``to_dict`` writes."""
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(data) - set(known)):
            raise BadSpec(f"unknown key {', '.join(unknown)}; valid keys: {', '.join(known)}")
        try:
            return cls(
                labels=tuple(map(str, data["labels"])),
                image_size=int(data["image_size"]),
                mean=tuple(map(float, data["mean"])),
                std=tuple(map(float, data["std"])),
                temperature=float(data.get("temperature", 1.0)),
                threshold=float(data.get("threshold", 0.0)),
                doubt=Doubt.from_dict(data["doubt"]) if data.get("doubt") else None,
            )
        except BadSpec:
            raise
        except KeyError as error:
            raise BadSpec(f"missing key {error.args[0]}; valid keys: {', '.join(known)}") from error
        except (TypeError, ValueError) as error:
            raise BadSpec(str(error)) from error

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, ready for YAML and JSON; no doubt is left out."""
        found: dict[str, Any] = _plain(asdict(self))
        return found if self.doubt else {k: v for k, v in found.items() if k != "doubt"}


def views_of(config: Mapping[str, Any]) -> int:
    """In how many views a model sees each picture: ``tta`` of a ``model-config.yaml``, or 1.

    Raises:
        BadSpec: it is neither 1 nor ``VIEWS``.
    """
    found = config.get("tta", 1)
    if type(found) is not int or found not in (1, VIEWS):
        raise BadSpec(
            f"tta: expected 1 (each picture as it is) or {VIEWS} (its turns and mirror images as "
            f"well), found {found!r}"
        )
    return found


def _plain(value: Any) -> Any:
    """Tuples as lists, however deep."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def _frozen(value: Any) -> Any:
    """Lists of numbers as tuples, however deep."""
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else float(value)

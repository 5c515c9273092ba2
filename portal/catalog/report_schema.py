"""What a report says: the one model of ``report.json``.

The JSON is what ``training/evaluate.py`` writes; a field that is not used here is ignored.
``Report.model_json_schema()`` describes the file; with ``mode="serialization"`` what the API tells
of it, in which a figure stands with its interval.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    computed_field,
    model_validator,
)

from handlers.contract.names import LABEL, MOST_LABELS, TILE, ModelVersion
from handlers.contract.report import SCHEMA_VERSION, Precision
from portal.fields import Count, ModelName, Number, Share, Version


class BadReport(ValueError):
    """A report that cannot be used; the message says where, what was found and expected."""


def _must(expected: str, test: Callable[[Any], bool]) -> AfterValidator:
    def check(value: Any) -> Any:
        if not test(value):
            raise ValueError(expected)
        return value

    return AfterValidator(check)


def _time(value: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise ValueError("a date and time (ISO 8601)") from error
    if moment.tzinfo is None:
        raise ValueError("a date and time with its time zone")
    return moment


def _present(what: str) -> BeforeValidator:
    """Of a part that may be missing: null is no way to say so."""

    def check(value: Any) -> Any:
        if value is None:
            raise ValueError(what)
        return value

    return BeforeValidator(check)


_OBJECT = _present("an object")


# JSON can escape halves of characters, which no page could be encoded with.
Text = Annotated[str, _must("a text", lambda text: not re.search("[\ud800-\udfff]", text))]
Truth = Annotated[bool, Strict()]
# No pattern: other regular expressions know no halves of characters.
TileFile = Annotated[
    str,
    _must("the name of a tile", TILE.fullmatch),
    Field(json_schema_extra={"minLength": 1, "maxLength": 320}),
]
Time = Annotated[datetime, BeforeValidator(_time)]
Label = Annotated[  # and of a folder of tiles
    str,
    _must("a class name", LABEL.fullmatch),
    Field(json_schema_extra={"minLength": 1, "maxLength": 64}),
]
Labels = Annotated[
    tuple[Label, ...],
    _must(
        f"2 to {MOST_LABELS} different classes",
        lambda labels: len(set(labels)) == len(labels) and 2 <= len(labels) <= MOST_LABELS,
    ),
    Field(json_schema_extra={"minItems": 2, "maxItems": MOST_LABELS, "uniqueItems": True}),
]
Interval = Annotated[
    tuple[Share, Share], _must("a lower and an upper limit", lambda limits: limits[0] <= limits[1])
]


@dataclass(frozen=True)
class Figure:
    """A share and the limits of its 95 % bootstrap interval."""

    value: Share
    low: Share
    high: Share


@dataclass(frozen=True)
class ClassScore:
    """Figures of one class, and the number of its test tiles."""

    label: Text
    precision: Share
    recall: Share
    f1: Share
    support: Count


@dataclass(frozen=True)
class Bin:
    """One bin of confidence: its limits, its tiles, their mean confidence and their accuracy."""

    low: Share
    high: Share
    count: Count
    confidence: Share
    accuracy: Share


@dataclass(frozen=True)
class Calibration:
    """The temperature, and the expected calibration error without and with it."""

    temperature: Number
    ece_before: Share
    ece: Share
    reliability: tuple[Bin, ...]


@dataclass(frozen=True)
class Uncertainty:
    """What marking answers below ``threshold`` as uncertain costs and gains; all are shares."""

    threshold: Share
    flagged: Share
    errors_caught: Share
    accuracy_of_the_rest: Share
    accuracy_of_flagged: Share


@dataclass(frozen=True)
class Latency:
    """Milliseconds of the model alone for one tile."""

    median_ms: Number
    p95_ms: Number
    threads: Count
    cpu: Text


@dataclass(frozen=True)
class Mistake:
    """A test tile with a wrong answer."""

    file: TileFile
    truth: Text
    predicted: Text
    confidence: Share


@dataclass(frozen=True)
class ShiftFigures:
    """Figures on test tiles that were changed in one way."""

    name: Annotated[Text, Field(validation_alias="shift")]
    accuracy: Share
    macro_f1: Share
    ece: Share


@dataclass(frozen=True)
class Augmented:
    """Figures of the mean over several views of each tile, served by archives with that ``tta``.

    ``ece`` is by the temperature of single views, which is what is served; ``own_ece`` by the one
    that validation tiles would want for the mean. ``latency`` is of all views of one tile.
    """

    views: Count
    accuracy: Share
    macro_f1: Share
    # None: made before they were measured
    ece: Annotated[Share | None, _present("a number")] = None
    own_temperature: Annotated[Number | None, _present("a number")] = None
    own_ece: Annotated[Share | None, _present("a number")] = None
    latency: Annotated[Latency | None, _OBJECT] = None


@dataclass(frozen=True)
class Flagged:
    """Shares of the test tiles that get a warning, by its kind, and that get any."""

    colours: Share
    content: Share
    bright: Share
    any: Share


@dataclass(frozen=True)
class PictureKind:
    """Pictures that are no EuroSAT tiles, ``far`` from them or near.

    ``flagged`` is the share that gets a warning as served; ``at_1`` and ``at_5`` are what is found
    where 1 and 5 % of the test tiles are taken for such pictures.
    """

    kind: Text
    far: Truth
    count: Count
    flagged: Share
    at_1: Share
    at_5: Share


@dataclass(frozen=True)
class UnlikeTraining:
    """Whether pictures that are unlike training are noticed."""

    flagged: Flagged
    kinds: tuple[PictureKind, ...]


@dataclass(frozen=True)
class ClassCoverage:
    """The share of the tiles of a class whose prediction set holds it."""

    label: Text
    coverage: Share


@dataclass(frozen=True)
class PredictionSets:
    """How often the right class is in the prediction set, and how many classes that names."""

    asked: Share
    coverage: Share
    mean_size: Number
    per_class: tuple[ClassCoverage, ...]


@dataclass(frozen=True)
class ReviewedTile:
    """A test tile whose label was looked at again; ``better`` is empty if no class is."""

    file: TileFile
    label: Text
    verdict: Literal["right", "wrong", "doubtful", "undecidable"]
    better: Text
    reason: Text


@dataclass(frozen=True)
class AuditedLabels:
    """Accuracy on labels as a review left them; ``tiles`` of the test tiles count."""

    method: Text
    reviewed: Count
    wrong: Count
    doubtful: Count
    undecidable: Count
    tiles: Count
    accuracy: Share
    lines: tuple[ReviewedTile, ...]
    int8_accuracy: Annotated[Share | None, _present("a number")] = None


@dataclass(frozen=True)
class StrideFigures:
    """Accuracy of cells of so many px, each the mean of the windows that cover it."""

    stride: Count
    accuracy: Share


@dataclass(frozen=True)
class Mosaics:
    """Accuracy on validation tiles where four tiles meet in a corner, as in a scene.

    ``strides`` are of ``cells`` in these tiles; a stride of 64 px is of whole tiles. ``shifted`` is
    of the ``between`` windows half a tile off both ways, where all four tiles share their class.
    """

    corners: Count
    cells: Count
    strides: tuple[StrideFigures, ...]
    between: Count
    shifted: Share


@dataclass(frozen=True)
class DemoScene:
    """What cells of the demo scene are taken for that are all sea, or all land."""

    stride: Count
    sea_cells: Count
    sea_right: Share
    land_cells: Count
    land_as_water: Share


@dataclass(frozen=True)
class Scenes:
    """What maps of scenes are worth, measured of one file."""

    precision: Precision
    mosaics: Mosaics
    demo: tuple[DemoScene, ...]


@dataclass(frozen=True)
class Epoch:
    """Losses and accuracies after one epoch of training; null where one was not measured."""

    epoch: Count
    loss: Number
    val_accuracy: Share
    accuracy: Share | None = None
    val_loss: Number | None = None


@dataclass(frozen=True)
class Training:
    """How the model came into being; ``teacher_origin`` is empty if it had the tiles alone."""

    best_epoch: Annotated[Count, Field(validation_alias="epoch")]
    val_accuracy: Share
    weights_origin: Text
    teacher_origin: Text
    git_commit: Text
    history: tuple[Epoch, ...]


@dataclass(frozen=True)
class Spec:
    """What the model was made for, as far as reports need it."""

    labels: Labels


@dataclass(frozen=True)
class Intervals:
    """The 95 % intervals of figures."""

    accuracy: Interval
    macro_f1: Interval


@dataclass(frozen=True)
class Int8Calibration:
    """The calibration error of the int8 file."""

    ece: Share


class _Part(BaseModel):
    """A part of the file whose form in the API is another one."""

    model_config = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)


class ConfusedPair(_Part):
    """Two classes, and how many tiles of either were taken for the other."""

    classes: tuple[Text, Text] = Field(exclude=True)
    count: Count

    @computed_field  # type: ignore[prop-decorator]
    @property
    def first(self) -> str:
        """One of them."""
        return self.classes[0]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def second(self) -> str:
        """The other one."""
        return self.classes[1]


class SplitFacts(_Part):
    """The split by its name and checksums, and how many tiles each part has."""

    name: Text
    sha256: dict[str, Text]
    counts: dict[str, dict[str, Count]] = Field(exclude=True)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def tiles(self) -> dict[str, Count]:
        """Of each part, the tiles of all classes."""
        return {part: sum(counts.values()) for part, counts in self.counts.items()}


class Measured(_Part):
    """What was measured of one TorchScript file, whichever its precision."""

    size_bytes: Count
    model_sha256: Text
    accuracy_share: Share = Field(validation_alias="accuracy", exclude=True)
    macro_f1_share: Share = Field(validation_alias="macro_f1", exclude=True)
    intervals: Intervals = Field(exclude=True)
    latency: Latency
    # None: made before they were measured
    unlike_training: Annotated[UnlikeTraining | None, _OBJECT] = None
    prediction_sets: Annotated[PredictionSets | None, _OBJECT] = None
    augmented: Annotated[Augmented | None, _OBJECT] = Field(
        default=None, validation_alias="test_time_augmentation"
    )

    @computed_field  # type: ignore[prop-decorator]
    @property
    def accuracy(self) -> Figure:
        """The share of test tiles that are answered rightly."""
        return Figure(self.accuracy_share, *self.intervals.accuracy)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def macro_f1(self) -> Figure:
        """The mean of the F1 of all classes."""
        return Figure(self.macro_f1_share, *self.intervals.macro_f1)


class Int8(Measured):
    """The same model in 8-bit integers, which is what is served by default.

    ``agreement`` is the share of test tiles that it answers with the class that fp32 gives.
    """

    precision: ClassVar[Precision] = "int8"
    agreement: Share
    # None and empty: made before they were told of this file too
    macro_precision: Annotated[Share | None, _present("a number")] = None
    macro_recall: Annotated[Share | None, _present("a number")] = None
    per_class: tuple[ClassScore, ...] = ()
    calibration: Int8Calibration = Field(exclude=True)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ece(self) -> Share:
        """Expected calibration error."""
        return self.calibration.ece


class Report(Measured):
    """What was measured on one model; every figure outside ``int8`` is of the file in fp32."""

    precision: ClassVar[Precision] = "fp32"
    schema_version: Literal[1] = Field(exclude=True)
    model: ModelName
    version: Version
    created: Time
    git_commit: Text
    split: SplitFacts
    spec: Spec = Field(exclude=True)
    macro_precision: Share
    macro_recall: Share
    per_class: tuple[ClassScore, ...]
    confusion: tuple[tuple[Count, ...], ...] = Field(
        description="Rows are the truth, in the order of the labels."
    )
    calibration: Calibration
    uncertainty: Uncertainty
    confused_pairs: tuple[ConfusedPair, ...] = Field(description="The most frequent first.")
    mistakes: tuple[Mistake, ...] = Field(
        validation_alias="errors", description="Every wrong answer, the most certain first."
    )
    robustness: tuple[ShiftFigures, ...] = ()  # empty and None where they were not measured
    int8: Annotated[Int8 | None, _OBJECT] = None  # None: it has fp32 alone
    audited_labels: Annotated[AuditedLabels | None, _OBJECT] = None
    scenes: Annotated[Scenes | None, _OBJECT] = None
    training: Training

    @computed_field  # type: ignore[prop-decorator]
    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of the confusion matrix."""
        return self.spec.labels

    @property
    def name(self) -> ModelVersion:
        """Which version it is about."""
        return ModelVersion(self.model, self.version)

    @property
    def ece(self) -> float:
        """Expected calibration error."""
        return self.calibration.ece

    @property
    def files(self) -> list["Report | Int8"]:
        """Its measured files: that in int8, if there is one, then that in fp32."""
        return [self.int8, self] if self.int8 is not None else [self]

    @model_validator(mode="after")
    def _agrees(self) -> "Report":
        """Refuse a report whose parts contradict each other: one would be shown as true."""
        size = len(self.labels)
        if [len(row) for row in self.confusion] != [size] * size:
            raise ValueError(f"confusion: expected {size} x {size} counts, as there are labels")
        for place, lines in self._by_class():
            if tuple(line.label for line in lines) != self.labels:
                raise ValueError(
                    f"{place}: expected one line for each of spec.labels, in their order"
                )
        if [sum(row) for row in self.confusion] != [score.support for score in self.per_class]:
            raise ValueError("confusion: its rows do not sum to the support of their classes")
        total = sum(map(sum, self.confusion))
        right = sum(self.confusion[i][i] for i in range(size))
        if not total or not math.isclose(self.accuracy_share, right / total, abs_tol=1e-9):
            raise ValueError(f"accuracy: the confusion matrix says {right} of {total}")
        if len(self.mistakes) != total - right:
            raise ValueError(
                f"errors: expected {total - right} tiles, as the confusion matrix says, "
                f"found {len(self.mistakes)}"
            )
        named = [
            (f"errors[{i}].{side}", getattr(mistake, side))
            for i, mistake in enumerate(self.mistakes)
            for side in ("truth", "predicted")
        ]
        named += [
            (f"confused_pairs[{i}].classes", label)
            for i, pair in enumerate(self.confused_pairs)
            for label in pair.classes
        ]
        named += self._reviewed()
        for place, label in named:
            if label not in self.labels:
                raise ValueError(f"{place}: expected one of spec.labels, found {label!a}")
        return self

    def _by_class(self) -> Iterator[tuple[str, tuple[ClassScore | ClassCoverage, ...]]]:
        """Every table with a line for each class, and where."""
        yield "per_class", self.per_class
        if self.int8 is not None and self.int8.per_class:
            yield "int8.per_class", self.int8.per_class
        for file in self.files:
            if file.prediction_sets is not None:
                yield "prediction_sets.per_class", file.prediction_sets.per_class

    def _reviewed(self) -> list[tuple[str, str]]:
        """Every label that the review names, and where."""
        if (audit := self.audited_labels) is None:
            return []
        found = len(audit.lines)
        if found != audit.reviewed:
            raise ValueError(
                f"audited_labels.lines: expected {audit.reviewed} tiles as reviewed says, "
                f"found {found}"
            )
        for verdict in ("wrong", "doubtful", "undecidable"):
            said, found = (
                getattr(audit, verdict),
                sum(line.verdict == verdict for line in audit.lines),
            )
            if said != found:
                raise ValueError(f"audited_labels.{verdict}: its lines say {found}, found {said}")
        return [
            (f"audited_labels.lines[{number}].{side}", label)
            for number, line in enumerate(audit.lines)
            for side, label in (("label", line.label), ("better", line.better or line.label))
        ]


def parse_report(content: Any) -> Report:
    """Read a report's JSON.

    Raises:
        BadReport: with the place, what was found and what was expected.
    """
    try:
        return Report.model_validate(content)
    except ValidationError as refused:
        raise BadReport(first_problem(refused)) from refused


# What is expected, in our words, where pydantic finds another type of error. Every range begins
# with 0, so that the upper limit says it all.
_EXPECTED = {
    "missing": "a value",
    "float_type": "a number",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "greater_than_equal": "a number of 0 or more",
    "less_than_equal": "a number from 0 to {le:.16g}",
    "string_type": "a text",
    "tuple_type": "a list",
    "dict_type": "an object",
    "dataclass_type": "an object",
    "model_type": "an object",
    "literal_error": "{expected}",
    "too_long": "a list of at most {max_length}",
    "value_error": "{error}",
}
_FORMS = {"model": "a model's name", "version": "a version"}


def first_problem(refused: ValidationError) -> str:
    """Where, what was expected and found: "training.history: expected a list, found {}"."""
    errors = refused.errors(include_url=False)
    # Of a report of another schema nothing else is worth saying.
    error = next((each for each in errors if each["loc"] == ("schema_version",)), errors[0])
    value, context = error["input"], error.get("ctx", {})
    if not error["loc"] and error["type"] == "value_error":
        return str(context["error"])  # of ``_agrees``
    place = "".join(f"[{at}]" if isinstance(at, int) else f".{at}" for at in error["loc"])
    if error["type"] == "string_pattern_mismatch":
        expected = _FORMS.get(str(error["loc"][-1]), error["msg"])
    else:
        expected = _EXPECTED.get(error["type"], error["msg"]).format_map(context)
    found = "none" if error["type"] == "missing" else ascii(value)
    found = found if len(found) <= 60 else f"{found[:57]}..."
    newer = error["type"] == "literal_error" and isinstance(value, int) and value > SCHEMA_VERSION
    return (
        f"{place[1:] or 'report'}: expected {expected}, found {found}"
        f"{'; it is newer than this portal' if newer else ''}"
    )

"""What a report says: its parts, and the strict reading of its JSON.

The JSON is what ``training/evaluate.py`` writes. A field that is not used here is ignored; one that
is used must be there, of its type and in its range. The figures must agree with each other.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from handlers.contract.names import MODEL_NAME, VERSION, ModelVersion

SCHEMA_VERSION = 1  # the newest that is understood
LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}", re.ASCII)  # also the name of a folder of tiles
TILE_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,100}\.jpg", re.ASCII)
MOST_LABELS = 100
LARGEST_NUMBER = 2**53


class BadReport(ValueError):
    """A report that cannot be used; the message says where, what was found and expected."""


@dataclass(frozen=True)
class Figure:
    """A share (0..1) and the limits of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassScore:
    """Figures (0..1) of one class, and the number of its test tiles."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Bin:
    """One bin of confidence: its limits, its tiles, their mean confidence and their accuracy."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """The temperature, and the expected calibration error without and with it."""

    temperature: float
    ece_before: float
    ece: float
    reliability: tuple[Bin, ...]


@dataclass(frozen=True)
class Uncertainty:
    """What marking answers below ``threshold`` as uncertain costs and gains; all are shares."""

    threshold: float
    flagged: float
    errors_caught: float
    accuracy_of_the_rest: float
    accuracy_of_flagged: float


@dataclass(frozen=True)
class Latency:
    """Milliseconds of the model alone for one tile."""

    median_ms: float
    p95_ms: float
    threads: int
    cpu: str


@dataclass(frozen=True)
class Mistake:
    """A test tile with a wrong answer."""

    file: str
    truth: str
    predicted: str
    confidence: float


@dataclass(frozen=True)
class ConfusedPair:
    """Two classes, and how many tiles of either were taken for the other."""

    first: str
    second: str
    count: int


@dataclass(frozen=True)
class Shift:
    """Figures on test tiles that were changed in one way."""

    name: str
    accuracy: float
    macro_f1: float
    ece: float


@dataclass(frozen=True)
class Augmented:
    """Figures of the mean over several views of each tile; it is not served."""

    views: int
    accuracy: float
    macro_f1: float


@dataclass(frozen=True)
class Epoch:
    """Losses and accuracies after one epoch of training."""

    epoch: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float


@dataclass(frozen=True)
class Training:
    """How the model came into being."""

    best_epoch: int
    val_accuracy: float
    weights_origin: str
    teacher_origin: str  # empty: it learned from the tiles alone
    git_commit: str
    history: tuple[Epoch, ...]


@dataclass(frozen=True)
class Split:
    """The split by its name and checksums, and how many tiles each part has."""

    name: str
    sha256: dict[str, str]
    tiles: dict[str, int]


@dataclass(frozen=True)
class Int8:
    """The same model in 8-bit integers, which is what is served by default.

    ``agreement`` is the share of test tiles that it answers with the class that fp32 gives.
    """

    accuracy: Figure
    macro_f1: Figure
    ece: float
    agreement: float
    size_bytes: int
    model_sha256: str
    latency: Latency


@dataclass(frozen=True)
class Report:
    """What was measured on one model.

    Attributes:
        created: when, with its time zone.
        size_bytes, model_sha256: of the TorchScript file.
        confusion: rows are the truth, in the order of ``labels``.
        confused_pairs: most frequent first.
        mistakes: every wrong answer, the most certain first.
        robustness, augmented: empty and None when they were not measured.
        int8: None when the model has fp32 alone; every other figure is of fp32.
    """

    model: str
    version: str
    created: datetime
    git_commit: str
    size_bytes: int
    model_sha256: str
    split: Split
    labels: tuple[str, ...]
    accuracy: Figure
    macro_f1: Figure
    macro_precision: float
    macro_recall: float
    per_class: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]
    calibration: Calibration
    uncertainty: Uncertainty
    latency: Latency
    confused_pairs: tuple[ConfusedPair, ...]
    mistakes: tuple[Mistake, ...]
    robustness: tuple[Shift, ...]
    augmented: Augmented | None
    int8: Int8 | None
    training: Training

    @property
    def name(self) -> ModelVersion:
        """Which version it is about."""
        return ModelVersion(self.model, self.version)


def parse_report(content: Any) -> Report:
    """Read a report's JSON.

    Raises:
        BadReport: with the place, what was found and what was expected.
    """
    root = _Node(content, "report")
    schema = root["schema_version"].count()
    if schema != SCHEMA_VERSION:
        newer = "; it is newer than this portal" if schema > SCHEMA_VERSION else ""
        raise BadReport(f"schema_version: expected {SCHEMA_VERSION}, found {schema}{newer}")
    labels = tuple(node.match(LABEL, "a class name") for node in root["spec"]["labels"].items())
    if len(set(labels)) != len(labels) or not 2 <= len(labels) <= MOST_LABELS:
        raise BadReport(f"spec.labels: expected 2 to {MOST_LABELS} different classes")
    report = Report(
        model=root["model"].match(MODEL_NAME, "a model's name"),
        version=root["version"].match(VERSION, "a version"),
        created=root["created"].time(),
        git_commit=root["git_commit"].text(),
        size_bytes=root["size_bytes"].count(),
        model_sha256=root["model_sha256"].text(),
        split=_split(root["split"]),
        labels=labels,
        accuracy=_figure(root, "accuracy"),
        macro_f1=_figure(root, "macro_f1"),
        macro_precision=root["macro_precision"].share(),
        macro_recall=root["macro_recall"].share(),
        per_class=tuple(
            ClassScore(
                label=node["label"].one_of(labels),
                precision=node["precision"].share(),
                recall=node["recall"].share(),
                f1=node["f1"].share(),
                support=node["support"].count(),
            )
            for node in root["per_class"].items()
        ),
        confusion=tuple(
            tuple(cell.count() for cell in row.items()) for row in root["confusion"].items()
        ),
        calibration=_calibration(root["calibration"]),
        uncertainty=_uncertainty(root["uncertainty"]),
        latency=_latency(root["latency"]),
        confused_pairs=tuple(_pair(node, labels) for node in root["confused_pairs"].items()),
        mistakes=tuple(
            Mistake(
                file=node["file"].match(TILE_FILE, "the name of a .jpg file"),
                truth=node["truth"].one_of(labels),
                predicted=node["predicted"].one_of(labels),
                confidence=node["confidence"].share(),
            )
            for node in root["errors"].items()
        ),
        robustness=tuple(
            Shift(
                name=node["shift"].text(),
                accuracy=node["accuracy"].share(),
                macro_f1=node["macro_f1"].share(),
                ece=node["ece"].share(),
            )
            for node in (root["robustness"].items() if "robustness" in root else ())
        ),
        augmented=_augmented(root),
        int8=_int8(root["int8"]) if "int8" in root else None,
        training=_training(root["training"]),
    )
    _check_agreement(report)
    return report


class _Node:
    """A value of the JSON that knows its place, so that a complaint can name it."""

    def __init__(self, value: Any, place: str) -> None:
        self._value = value
        self._place = place

    def __getitem__(self, key: str) -> "_Node":
        place = key if self._place == "report" else f"{self._place}.{key}"
        if not isinstance(self._value, dict):
            raise self._wrong("an object")
        if key not in self._value:
            raise BadReport(f"{place}: expected a value, found none")
        return _Node(self._value[key], place)

    def __contains__(self, key: str) -> bool:
        return isinstance(self._value, dict) and key in self._value

    def items(self) -> Iterator["_Node"]:
        if not isinstance(self._value, list):
            raise self._wrong("a list")
        return (_Node(value, f"{self._place}[{i}]") for i, value in enumerate(self._value))

    def pairs(self) -> Iterator[tuple[str, "_Node"]]:
        if not isinstance(self._value, dict):
            raise self._wrong("an object")
        return ((key, self[key]) for key in self._value)

    def text(self) -> str:
        value = self._value
        # JSON can escape halves of characters, which no page could be encoded with.
        if not isinstance(value, str) or any("\ud800" <= letter <= "\udfff" for letter in value):
            raise self._wrong("a text")
        return value

    def match(self, pattern: re.Pattern[str], what: str) -> str:
        if not pattern.fullmatch(self.text()):
            raise self._wrong(what)
        return self.text()

    def one_of(self, labels: tuple[str, ...]) -> str:
        if self.text() not in labels:
            raise self._wrong("one of spec.labels")
        return self.text()

    def time(self) -> datetime:
        try:
            moment = datetime.fromisoformat(self.text())
        except ValueError as error:
            raise self._wrong("a date and time (ISO 8601)") from error
        if moment.tzinfo is None:
            raise self._wrong("a date and time with its time zone")
        return moment

    def number(self) -> float:
        """0 or more, and no more than JSON keeps exactly."""
        value = self._value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong("a number")
        if not 0 <= value <= LARGEST_NUMBER:
            raise self._wrong("a number of 0 or more")
        return float(value)

    def share(self) -> float:
        if self.number() > 1:
            raise self._wrong("a number from 0 to 1")
        return self.number()

    def count(self) -> int:
        self.number()
        if not isinstance(self._value, int):
            raise self._wrong("a whole number")
        return self._value

    def _wrong(self, expected: str) -> BadReport:
        found = ascii(self._value)
        found = found if len(found) <= 60 else f"{found[:57]}..."
        return BadReport(f"{self._place}: expected {expected}, found {found}")


def _figure(root: _Node, name: str) -> Figure:
    low_and_high = [node.share() for node in root["intervals"][name].items()]
    if len(low_and_high) != 2 or low_and_high != sorted(low_and_high):
        raise BadReport(f"intervals.{name}: expected a lower and an upper limit")
    return Figure(root[name].share(), *low_and_high)


def _split(node: _Node) -> Split:
    return Split(
        name=node["name"].text(),
        sha256={part: digest.text() for part, digest in node["sha256"].pairs()},
        tiles={
            part: sum(count.count() for _, count in counts.pairs())
            for part, counts in node["counts"].pairs()
        },
    )


def _calibration(node: _Node) -> Calibration:
    return Calibration(
        temperature=node["temperature"].number(),
        ece_before=node["ece_before"].share(),
        ece=node["ece"].share(),
        reliability=tuple(
            Bin(
                low=line["low"].share(),
                high=line["high"].share(),
                count=line["count"].count(),
                confidence=line["confidence"].share(),
                accuracy=line["accuracy"].share(),
            )
            for line in node["reliability"].items()
        ),
    )


def _uncertainty(node: _Node) -> Uncertainty:
    return Uncertainty(
        threshold=node["threshold"].share(),
        flagged=node["flagged"].share(),
        errors_caught=node["errors_caught"].share(),
        accuracy_of_the_rest=node["accuracy_of_the_rest"].share(),
        accuracy_of_flagged=node["accuracy_of_flagged"].share(),
    )


def _pair(node: _Node, labels: tuple[str, ...]) -> ConfusedPair:
    classes = [label.one_of(labels) for label in node["classes"].items()]
    if len(classes) != 2:
        raise BadReport("confused_pairs: expected two classes in each pair")
    return ConfusedPair(classes[0], classes[1], node["count"].count())


def _augmented(root: _Node) -> Augmented | None:
    if "test_time_augmentation" not in root:
        return None
    node = root["test_time_augmentation"]
    return Augmented(node["views"].count(), node["accuracy"].share(), node["macro_f1"].share())


def _latency(node: _Node) -> Latency:
    return Latency(
        median_ms=node["median_ms"].number(),
        p95_ms=node["p95_ms"].number(),
        threads=node["threads"].count(),
        cpu=node["cpu"].text(),
    )


def _int8(node: _Node) -> Int8:
    return Int8(
        accuracy=_figure(node, "accuracy"),
        macro_f1=_figure(node, "macro_f1"),
        ece=node["calibration"]["ece"].share(),
        agreement=node["agreement"].share(),
        size_bytes=node["size_bytes"].count(),
        model_sha256=node["model_sha256"].text(),
        latency=_latency(node["latency"]),
    )


def _training(node: _Node) -> Training:
    return Training(
        best_epoch=node["epoch"].count(),
        val_accuracy=node["val_accuracy"].share(),
        weights_origin=node["weights_origin"].text(),
        teacher_origin=node["teacher_origin"].text(),
        git_commit=node["git_commit"].text(),
        history=tuple(
            Epoch(
                epoch=line["epoch"].count(),
                loss=line["loss"].number(),
                accuracy=line["accuracy"].share(),
                val_loss=line["val_loss"].number(),
                val_accuracy=line["val_accuracy"].share(),
            )
            for line in node["history"].items()
        ),
    )


def _check_agreement(report: Report) -> None:
    """Refuse a report whose parts contradict each other: one of them would be shown as true."""
    size = len(report.labels)
    if [len(row) for row in report.confusion] != [size] * size:
        raise BadReport(f"confusion: expected {size} x {size} counts, as there are labels")
    if tuple(score.label for score in report.per_class) != report.labels:
        raise BadReport("per_class: expected one line for each of spec.labels, in their order")
    if [sum(row) for row in report.confusion] != [score.support for score in report.per_class]:
        raise BadReport("confusion: its rows do not sum to the support of their classes")
    total = sum(map(sum, report.confusion))
    right = sum(report.confusion[i][i] for i in range(size))
    if not total or not math.isclose(report.accuracy.value, right / total, abs_tol=1e-9):
        raise BadReport(f"accuracy: the confusion matrix says {right} of {total}")
    if len(report.mistakes) != total - right:
        raise BadReport(
            f"errors: expected {total - right} tiles, as the confusion matrix says, "
            f"found {len(report.mistakes)}"
        )

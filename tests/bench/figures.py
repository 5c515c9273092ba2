"""What is promised, ratios of rounds, and the tables that show both."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Promise:
    """A figure that the product is held to.

    Attributes:
        what: as the table calls it.
        must, goal: limits of the median.
        least: True: more is better; False: less is.
        unit: behind the number; "x" for ratios.
    """

    what: str
    must: float
    goal: float
    least: bool = True
    unit: str = "x"


PROMISES = MappingProxyType(
    {
        "compute-baseline": Promise(
            "baseline int8, one tile, one thread: time against the faster of ONNX Runtime and "
            "OpenVINO int8", 1.15, 1.0, least=False,
        ),
        "compute-resnet18": Promise(
            "ResNet-18 int8, the same", 1.6, 1.1, least=False,
        ),
        "freeze-baseline": Promise(
            "baseline int8, one tile, one thread: speed-up of frozen fp32 TorchScript", 8, 12
        ),
        "freeze-resnet18": Promise("ResNet-18 int8, the same", 12, 20),
        "c32-resnet18-fastapi2": Promise(
            "ResNet-18, 32 clients, TorchServe: throughput against FastAPI, 2 processes", 1.8, 2.5
        ),
        "c32-resnet18-litserve": Promise("the same against LitServe", 2.3, 3.5),
        "c32-resnet18-usual": Promise("the same against a usual TorchServe handler", 20, 40),
        "c32-baseline-fastapi2": Promise(
            "baseline, 32 clients, TorchServe: throughput against FastAPI, 2 processes", 0.9, 1.2
        ),
        "portal-direct": Promise(
            "ResNet-18, 32 clients, portal: throughput against TorchServe direct", 0.55, 0.8
        ),
        "portal-waitress": Promise(
            "ResNet-18, 32 clients, portal: throughput against Flask on waitress, model inside",
            1.2, 2,
        ),
        "portal-adds": Promise(
            "ResNet-18, 1 client: what the portal adds, median", 2, 1, least=False, unit="ms"
        ),
        "batch-baseline": Promise(
            "/api/predict/batch, 256 tiles, baseline: tiles/s against 32 clients of /api/predict",
            2, 4
        ),
        "batch-resnet18": Promise("the same, ResNet-18", 2, 4),
        "training-baseline": Promise(
            "training, baseline: images/s against the model alone on tensors in memory", 0.8, 0.95
        ),
        "training-resnet18": Promise("training, ResNet-18, the same", 0.8, 0.95),
        "worker-memory": Promise(
            "resident memory of a worker against one with the usual handler", 0.7, 0.6, least=False
        ),
    }
)  # fmt: skip


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Round by round, as what disturbs a round disturbs both; rounds without both are left out."""
    pairs = zip(ours, theirs, strict=True)
    return [a / b for a, b in pairs if math.isfinite(a) and math.isfinite(b) and b > 0]


def fastest(*times: Sequence[float]) -> list[float]:
    """The least time of each round."""
    return [min(rounds) for rounds in zip(*times, strict=True)]


def verdict(promise: Promise, median: float) -> str:
    """``goal met``, ``met`` (the must alone) or ``missed``."""
    sign = 1 if promise.least else -1
    if sign * median >= sign * promise.goal:
        return "goal met"
    return "met" if sign * median >= sign * promise.must else "missed"


def spread(values: Sequence[float], digits: int = 2) -> str:
    """``1.50 (1.40-1.71)``: the median of the rounds, the least and the largest."""
    if not values:
        return "not measured"
    median = statistics.median(values)
    return f"{median:.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def promise_table(
    columns: Mapping[str, Mapping[str, Sequence[float]]], keys: Iterable[str] = PROMISES
) -> str:
    """Promises with what was found of them; what was not measured says so.

    Args:
        columns: by their heads, what a run found: by the key in ``PROMISES``, a value a round.
        keys: of the promises that are shown.
    """
    rows = []
    for key in keys:
        promise = PROMISES[key]
        sign = "≥" if promise.least else "≤"
        limits = (f"{sign} {limit:g} {promise.unit}" for limit in (promise.must, promise.goal))
        rows.append((promise.what, *limits, *(_cell(promise, column.get(key, ()))
                                              for column in columns.values())))  # fmt: skip
    return table(("", "must", "goal", *columns), rows)


def _cell(promise: Promise, values: Sequence[float]) -> str:
    if not values:
        return "not measured"
    return f"{spread(values)} {verdict(promise, statistics.median(values))}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown, with an empty line's worth of nothing around it."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def between(text: str, begin: str, end: str, new: str) -> str:
    """``text`` with what stands between two marks replaced; ValueError if one is missing."""
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise ValueError(f"expected the marks {begin} and {end}, found only a part of them")
    return f"{before}{begin}\n{new}{end}{after}"


@dataclass(frozen=True)
class Part:
    """What one part of the benchmark found.

    Attributes:
        promises: by the key in ``PROMISES``, a value for each round.
        tables: title and Markdown.
        raw: all that was measured, for the JSON.
        remarks: what was left out or not comparable.
    """

    promises: Mapping[str, list[float]]
    tables: Sequence[tuple[str, str]]
    raw: Any
    remarks: Sequence[str]

"""Where the lines of a chart lie: numbers to the coordinates of an SVG."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from portal.catalog.report_schema import Bin, Calibration, Epoch

WIDTH, HEIGHT = 480, 300  # of the whole drawing, in its own units
LEFT, RIGHT, TOP, BOTTOM = 52, 468, 12, 254  # the plot in it; below and left stand the numbers


@dataclass(frozen=True)
class Tick:
    """A number beside an axis, at ``at`` units from the left or the top."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """Points in drawing order; ``name`` is also its class in the style sheet."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Chart:
    """A drawing of ``WIDTH`` x ``HEIGHT`` units; of each bar x, y, width and height."""

    x_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    bars: tuple[tuple[float, float, float, float], ...] = ()


def reliability(calibration: Calibration) -> Chart:
    """Accuracy against confidence, with bars for the share of tiles in each bin."""
    bins = calibration.reliability
    total = max(sum(each.count for each in bins), 1)
    x, y = _scale(0, 1, LEFT, RIGHT), _scale(0, 1, BOTTOM, TOP)

    def bar(each: Bin) -> tuple[float, float, float, float]:
        top = y(each.count / total)
        return x(each.low) + 1, top, max(x(each.high) - x(each.low) - 2, 1), BOTTOM - top

    points = tuple((x(each.confidence), y(each.accuracy)) for each in bins)
    ticks = [i / 5 for i in range(6)]
    return Chart(
        x_label="confidence",
        x_ticks=tuple(Tick(x(value), f"{value:.0%}") for value in ticks),
        y_ticks=tuple(Tick(y(value), f"{value:.0%}") for value in ticks),
        lines=(Line("ideal", ((x(0), y(0)), (x(1), y(1)))), Line("accuracy", points)),
        bars=tuple(map(bar, bins)),
    )


def learning_curves(history: Sequence[Epoch]) -> tuple[Chart, Chart]:
    """Accuracy and loss, in training and validation, by epoch; at least one epoch is needed."""
    accuracies = _curves([line.accuracy for line in history], [x.val_accuracy for x in history])
    losses = _curves([line.loss for line in history], [line.val_loss for line in history])
    floor = math.floor(10 * min(map(min, accuracies.values()))) / 10
    top = max(map(max, losses.values())) or 1.0
    return (
        _by_epoch(history, accuracies, min(floor, 0.9), 1.0, "{:.0%}"),
        _by_epoch(history, losses, 0.0, top, "{:.2g}"),
    )


def _curves(
    training: Sequence[float | None], validation: Sequence[float | None]
) -> dict[str, list[float]]:
    """Those of the two that were measured, at every epoch."""
    both = {"training": training, "validation": validation}
    return {
        name: [value for value in values if value is not None]
        for name, values in both.items()
        if None not in values
    }


def _by_epoch(
    history: Sequence[Epoch], curves: dict[str, list[float]], low: float, high: float, form: str
) -> Chart:
    first, last = history[0].epoch, history[-1].epoch
    x = _scale(first, max(last, first + 1), LEFT, RIGHT)
    y = _scale(low, high, BOTTOM, TOP)
    step = max(math.ceil((last - first) / 6), 1)
    levels = [low + (high - low) * i / 5 for i in range(6)]
    epochs = [x(line.epoch) for line in history]
    return Chart(
        x_label="epoch",
        x_ticks=tuple(Tick(x(epoch), str(epoch)) for epoch in range(first, last + 1, step)),
        y_ticks=tuple(Tick(y(level), form.format(level)) for level in levels),
        lines=tuple(
            Line(name, tuple(zip(epochs, map(y, values), strict=True)))
            for name, values in curves.items()
        ),
    )


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Maps ``low``..``high`` to ``start``..``end``."""
    return lambda value: round(start + (value - low) / (high - low) * (end - start), 1)

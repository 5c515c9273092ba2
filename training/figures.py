"""The figures of a report as SVG: confusion matrix, reliability diagram, learning curves."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

mpl.rcParams["svg.hashsalt"] = "landuse"  # the same report gives the same file
mpl.rcParams["svg.fonttype"] = "none"  # text stays text
_INK = "#1f3a5f"


def write_figures(folder: Path, report: dict[str, Any]) -> None:
    """Write ``confusion.svg``, ``reliability.svg``, ``history.svg`` of report.json's content."""
    for name, size, draw in (
        ("confusion", (7.2, 6.2), _confusion),
        ("reliability", (4.6, 4.4), _reliability),
        ("history", (7.2, 3.6), _history),
    ):
        # Figure without pyplot: no global state, and no display is looked for.
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots(), report)
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


def _confusion(axes: Axes, report: dict[str, Any]) -> None:
    matrix = np.array(report["confusion"])
    labels = report["spec"]["labels"]
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    # The root shows single errors beside hundreds of right answers.
    axes.imshow(np.sqrt(share), cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(*matrix.shape):
        if matrix[i, j]:
            colour = "white" if share[i, j] > 0.4 else "black"
            axes.text(j, i, str(matrix[i, j]), ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    title = f"{report['model']} {report['version']}: {report['split']['name']} test split"
    axes.set(xlabel="predicted", ylabel="true", title=title)


def _reliability(axes: Axes, report: dict[str, Any]) -> None:
    calibration = report["calibration"]
    bins = calibration["reliability"]
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1, label="perfect")
    points = [(line["confidence"], line["accuracy"]) for line in bins]
    axes.plot(*zip(*points, strict=True), marker="o", color=_INK, label="measured")
    for line, point in zip(bins, points, strict=True):
        count = str(line["count"])
        axes.annotate(count, point, fontsize=7, textcoords="offset points", xytext=(4, -9))
    axes.set(xlabel="confidence", ylabel="accuracy")
    axes.set_title(f"ECE {100 * calibration['ece']:.2f} %; tiles beside the points", fontsize=9)
    axes.legend(loc="upper left")  # "best" searches, and warns of that on a slow machine


def _history(axes: Axes, report: dict[str, Any]) -> None:
    history = report["training"]["history"]
    epochs = [line["epoch"] for line in history]
    for key, label, colour in (
        ("accuracy", "training (augmented)", "#9aa9bd"),
        ("val_accuracy", "validation", _INK),
    ):
        if all(key in line for line in history):  # not every way to train measures both
            axes.plot(epochs, [100 * line[key] for line in history], label=label, color=colour)
    axes.axvline(report["training"]["epoch"], color="#c46a2b", linestyle=":", label="chosen")
    axes.set(xlabel="epoch", ylabel="accuracy, %")
    axes.legend(loc="lower right")

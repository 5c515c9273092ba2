"""What the rooms of scenes hand each other: pixels, answers, and the map in cells."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from handlers.contract.window import SIDE
from portal.scenes.terms import (
    GSD,
    SMALL_SCENE,
    STRIDES,
    WATER,
    Geo,
    Inspection,
    Options,
    Provenance,
    State,
)

__all__ = [
    "GSD",
    "SIDE",
    "SMALL_SCENE",
    "STRIDES",
    "WATER",
    "Answers",
    "CellMap",
    "Classifier",
    "Geo",
    "Inspection",
    "Options",
    "Provenance",
    "Raster",
    "State",
]


@dataclass(frozen=True)
class Answers:
    """What a model says of windows.

    Attributes:
        labels: in the order of the columns.
        probabilities: float32 (N, C), calibrated, rows sum to 1; NaN in a row without an answer.
        unsure: bool (N,), as the model's own ``uncertain`` says.
        bright: bool (N,), warned of as too_bright.
        empty: bool (N,), nothing to see: no answer.
    """

    labels: tuple[str, ...]
    probabilities: np.ndarray
    unsure: np.ndarray
    bright: np.ndarray
    empty: np.ndarray


class Classifier(Protocol):
    """Asks a model about windows, in any number: uint8 (N, SIDE, SIDE, 3) in EuroSAT's look.

    Raises a PortalError where nothing can be asked. One that can be asked about the next windows
    before it has answered has a method ``begin`` as well: it takes windows, and returns what waits
    for their answers and returns these.
    """

    def __call__(self, windows: np.ndarray) -> Answers:
        """The answers, row by row."""


class Raster(Protocol):
    """A scene that is open for reading."""

    geo: Geo

    def read(self, row: int, column: int, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
        """A part of the scene as it is mapped; it may reach beyond the scene, without data there.

        Returns:
            uint8 (rows, columns, 3) in EuroSAT's look, and bool (rows, columns): has data.
        """


@dataclass
class CellMap:
    """A land-use map: a cell for each ``stride`` px, those at the far edges cut off.

    Attributes:
        probabilities: float32 (rows, columns, C), the mean over the windows that cover a cell; 0
            in all classes of a cell without class.
        state: uint8 (rows, columns), of ``State``.
        valid: uint16 (rows, columns), px with data in each cell.
    """

    labels: tuple[str, ...]
    stride: int
    probabilities: np.ndarray
    state: np.ndarray
    valid: np.ndarray

    @property
    def classes(self) -> np.ndarray:
        """The most probable class of each cell, uint8 (rows, columns); 255: it has none."""
        best = self.probabilities.argmax(axis=2).astype(np.uint8)
        return np.where(self.classless, 255, best).astype(np.uint8)

    @property
    def confidence(self) -> np.ndarray:
        """Its probability, float32 (rows, columns); 0 where there is none."""
        highest: np.ndarray = self.probabilities.max(axis=2)
        return highest

    @property
    def classless(self) -> np.ndarray:
        """Which cells have no class, bool (rows, columns)."""
        return np.isin(self.state, (State.BRIGHT, State.NO_DATA))

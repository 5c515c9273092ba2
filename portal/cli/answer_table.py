"""Answers as CSV, a row for each file; only whole rows count, so that it can be gone on with."""

import csv
import fcntl
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from handlers.contract.names import ModelVersion
from portal.errors import PortalError
from portal.serving.model_server import Prediction

COLUMNS = (
    "file", "model", "class_name", "confidence", "uncertain", "prediction_set", "warnings",
    "assumed", "error",
)  # fmt: skip
BETWEEN = "|"  # the parts of a cell


class BadTable(PortalError, title="This table cannot be gone on with"):
    """A file that is there and no table of these answers."""


class AnswerTable:
    """The table of one version's answers in a file, begun or gone on with; for one process.

    A context manager. What stands behind the last whole row is cut off when it is opened.

    Args:
        labels: the classes, each with a column ``p_<class>`` of its probabilities.

    Attributes:
        files: those that have a row.
        errors: how many of them have an error.

    Raises:
        BadTable: the file is something else, the table of another version, or written by another
            process.
        OSError: it cannot be read or written. What was whole stays so.
    """

    def __init__(self, path: Path, served: ModelVersion, labels: Sequence[str]) -> None:
        self.files: set[str] = set()
        self.errors = 0
        self._path, self._model, self._labels = path, served.slug, labels
        self._file = path.open("a+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._go_on([*COLUMNS, *(f"p_{label}" for label in labels)])
        except BlockingIOError:
            self._file.close()
            raise BadTable(f"{path} is being written by another process.") from None
        except BaseException:
            self._file.close()
            raise

    def append(self, outcomes: Iterable[tuple[str, Prediction | PortalError]]) -> None:
        """Write a row for each file, or none of them."""
        outcomes = list(outcomes)
        self._write([self._row(name, outcome) for name, outcome in outcomes])
        self.files |= {name for name, _ in outcomes}
        self.errors += sum(isinstance(outcome, PortalError) for _, outcome in outcomes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def _go_on(self, head: list[str]) -> None:
        self._file.seek(0)
        content = self._file.readall()
        begin = _encoded([head])
        if begin.startswith(content) and content != begin:
            self._file.truncate(0)
            self._write([head])
            return
        if not content.startswith(begin):
            raise self._other("it is no table of these answers")
        whole = len(begin)
        try:
            for row, end in _whole_rows(content[len(begin) :], len(head)):
                if row[1] != self._model:
                    raise self._other(f"its answers are those of {row[1][:100]}")
                self.files.add(row[0])
                self.errors += row[COLUMNS.index("error")] != ""
                whole = len(begin) + end
        except csv.Error as error:
            raise self._other(f"one of its rows is damaged ({error})") from error
        self._file.truncate(whole)

    def _other(self, found: str) -> BadTable:
        return BadTable(
            f"{self._path} is there already, but {found}: it cannot be gone on with for "
            f"{self._model}. Name another file, or remove it."
        )

    def _row(self, name: str, outcome: Prediction | PortalError) -> list[str]:
        if isinstance(outcome, PortalError):
            nothing = [""] * len(self._labels)
            return [name, self._model, *[""] * 6, f"{outcome.code}: {outcome}", *nothing]
        return [
            name,
            self._model,
            outcome.class_name,
            f"{outcome.confidence:.8f}",
            str(outcome.uncertain).lower(),
            BETWEEN.join(outcome.prediction_set or ()),
            BETWEEN.join(warning.code for warning in outcome.warnings),
            BETWEEN.join(f"{topic}={words}" for topic, words in outcome.assumed.items()),
            "",
            *(f"{outcome.probabilities[label]:.8f}" for label in self._labels),
        ]

    def _write(self, rows: list[list[str]]) -> None:
        end = self._file.seek(0, io.SEEK_END)
        left = memoryview(_encoded(rows))
        try:
            while left:
                left = left[self._file.write(left) :]
        except BaseException:
            self._file.truncate(end)
            raise


def _encoded(rows: list[list[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")  # names of files may be no UTF-8


def _whole_rows(content: bytes, columns: int) -> Iterator[tuple[list[str], int]]:
    """Each row with the number of bytes up to its end, but for a last one that is half a row."""
    end, line = 0, b""

    def lines() -> Iterator[str]:
        nonlocal end, line
        for found in io.BytesIO(content):
            line = found
            end += len(line)
            yield line.decode("utf-8", "surrogateescape")

    for row in csv.reader(lines()):
        whole = len(row) == columns and line.endswith(b"\n")
        if whole:
            yield row, end
        elif end < len(content):
            raise csv.Error(f"found {len(row)} columns, expected {columns}")

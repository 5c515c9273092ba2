"""Labels that were looked at again: ``training/splits/verdicts.csv`` and what follows from it."""

import csv
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from training.dataset import splits
from training.dataset.eurosat import BadData, label_of

VERDICTS = ("right", "wrong", "doubtful", "undecidable")
METHOD = (
    "Reviewed were the tiles that made a label suspect: two models agreed on another class, or one "
    "was surely wrong, or cleanlab named it. One reviewer wrote down the class seen before label "
    "and answers were known. With a wrong label the better class is right, with a doubtful one "
    "either; undecidable tiles do not count. As only tiles on which a model disagreed were "
    "reviewed, accuracy on audited labels is an upper bound."
)


@dataclass(frozen=True)
class Verdict:
    """A reviewed tile: its part of the random split, its label, and what the review says of it.

    ``better`` is the class that it more likely shows; empty if the label is right or none is.
    """

    file: str
    split: str
    label: str
    verdict: str
    better: str
    reason: str

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise BadData(f"{self.file}: expected {' or '.join(VERDICTS)}, found {self.verdict!r}")
        if self.label != label_of(self.file):
            raise BadData(f"{self.file}: its label cannot be {self.label!r}")
        if bool(self.better) != (self.verdict in ("wrong", "doubtful")):
            raise BadData(f"{self.file}: {self.verdict} and better {self.better!r} do not agree")

    def accepts(self, answer: str) -> bool:
        """Whether an answer is right by this verdict."""
        return answer == self.better or (answer == self.label and self.verdict != "wrong")


def read_verdicts() -> list[Verdict]:
    """All verdicts on tiles of the random split; none where there is no list of them.

    Raises:
        BadData: it cannot be read.
    """
    path = splits.SPLITS_DIR / "verdicts.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        try:
            return [Verdict(**row) for row in csv.DictReader(file)]
        except TypeError as error:
            raise BadData(f"{path}: expected one verdict a line, found {error}") from error


def audited_labels(
    answers: dict[str, tuple[str, ...]], names: tuple[str, ...]
) -> dict[str, Any] | None:
    """Accuracy of answers to test tiles of the random split, on labels as the review left them.

    Args:
        answers: by the name of their figure, the class that each tile got.
        names: the tiles.

    Returns:
        ``method``; how many tiles were reviewed, by verdict, and ``tiles``, how many count; the
        share of right answers to those, by name; ``lines``, every verdict. None without verdicts.
    """
    verdicts = {verdict.file: verdict for verdict in read_verdicts() if verdict.split == "test"}
    if not verdicts:
        return None
    if strange := sorted(verdicts.keys() - set(names)):
        raise BadData(f"verdicts.csv: {strange[0]} is no test tile of the random split")
    counts = Counter(verdict.verdict for verdict in verdicts.values())
    tiles = len(names) - counts["undecidable"]
    lines = [asdict(verdict) for verdict in verdicts.values()]
    return {
        "method": METHOD,
        "reviewed": len(verdicts),
        **{name: counts[name] for name in VERDICTS[1:]},
        "tiles": tiles,
        **{
            figure: sum(map(_right, names, given, (verdicts.get(name) for name in names))) / tiles
            for figure, given in answers.items()
        },
        "lines": [{key: line[key] for key in line if key != "split"} for line in lines],
    }


def _right(name: str, answer: str, verdict: Verdict | None) -> bool:
    """Whether an answer is right, and counts."""
    if verdict is None:
        return answer == label_of(name)
    return verdict.verdict != "undecidable" and verdict.accepts(answer)

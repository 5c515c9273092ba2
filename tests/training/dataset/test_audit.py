"""The committed verdicts, and accuracy by them."""

import csv
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from training.dataset import splits
from training.dataset.audit import Verdict, audited_labels, read_verdicts
from training.dataset.eurosat import CLASS_COUNTS, BadData

SPLITS = ROOT / "training" / "splits"


@pytest.fixture
def committed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "SPLITS_DIR", SPLITS)


@pytest.mark.usefixtures("committed")
def test_every_verdict_is_of_a_tile_of_its_part() -> None:
    verdicts = read_verdicts()
    assert len({verdict.file for verdict in verdicts}) == len(verdicts) == 110
    for part in ("test", "val"):
        listed = set((SPLITS / f"random-{part}.txt").read_text().split())
        assert {verdict.file for verdict in verdicts if verdict.split == part} <= listed
    assert {verdict.split for verdict in verdicts} == {"test", "val"}
    assert {verdict.better for verdict in verdicts} <= {"", *CLASS_COUNTS}
    assert all(verdict.reason for verdict in verdicts)


@pytest.mark.usefixtures("committed")
def test_a_label_that_is_right_for_all_others_is_not_for_those() -> None:
    names = tuple((SPLITS / "random-test.txt").read_text().split())
    given = tuple(name.rpartition("_")[0] for name in names)
    found = audited_labels({"accuracy": given}, names)
    assert found is not None
    assert (found["reviewed"], found["wrong"], found["undecidable"]) == (53, 3, 7)
    assert found["tiles"] == 4043
    assert found["accuracy"] == 4040 / 4043  # the three wrong labels
    assert "split" not in found["lines"][0]


def test_without_verdicts_nothing_is_audited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits, "SPLITS_DIR", tmp_path)
    assert audited_labels({"accuracy": ("River",)}, ("River_1.jpg",)) is None


def write(own_eurosat: Path, line: str) -> None:
    (own_eurosat / "splits" / "verdicts.csv").write_text(
        f"file,split,label,verdict,better,reason\n{line}\n"
    )


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("River_1.jpg,test,River,maybe,,x", "expected right or wrong or .*, found 'maybe'"),
        ("River_1.jpg,test,Forest,right,,x", "its label cannot be 'Forest'"),
        ("River_1.jpg,test,River,wrong,,x", "wrong and better '' do not agree"),
        ("River_1.jpg,test,River,right,Forest,x", "right and better 'Forest' do not agree"),
        ("River_1.jpg,test", "found None"),
        ("River_1.jpg,test,River,right,,x", "River_1.jpg is no test tile"),
    ],
)
def test_what_is_no_verdict_is_refused(own_eurosat: Path, line: str, complaint: str) -> None:
    write(own_eurosat, line)
    with pytest.raises(BadData, match=complaint):
        audited_labels({"accuracy": ("River",)}, ("River_17.jpg",))


def test_a_verdict_says_which_answers_are_right() -> None:
    def accepted(verdict: str, better: str) -> list[bool]:
        found = Verdict("River_1.jpg", "test", "River", verdict, better, "")
        return [found.accepts(answer) for answer in ("River", "Forest", "SeaLake")]

    assert accepted("right", "") == [True, False, False]
    assert accepted("wrong", "Forest") == [False, True, False]
    assert accepted("doubtful", "Forest") == [True, True, False]


def test_the_header_names_the_columns() -> None:
    with (SPLITS / "verdicts.csv").open(newline="") as file:
        assert next(csv.reader(file)) == list(Verdict.__dataclass_fields__)

"""A CSV of answers that only ever has whole rows to go on behind."""

import csv
from pathlib import Path
from typing import Any

import pytest

from handlers.contract.names import ModelVersion
from portal.cli.answer_table import AnswerTable, BadTable
from portal.errors import NothingToSee, PortalError
from portal.serving.model_server import Prediction, PredictionWarning

SERVED = ModelVersion("baseline", "1.0")
LABELS = ("Forest", "Sea, Lake")
ANSWER = Prediction(
    class_name="Sea, Lake",
    confidence=0.75,
    probabilities={"Sea, Lake": 0.75, "Forest": 0.25},
    uncertain=True,
    prediction_set=("Sea, Lake", "Forest"),
    warnings=(PredictionWarning("squeezed", "A sentence."), PredictionWarning("too_bright", "")),
    assumed={"scale": "10000", "look": "l1c"},
    model="baseline",
    version="1.0",
    inference_time=0.1,
)
NOTHING = NothingToSee('nothing to see: "one"\ncolour')


def table(path: Path, version: str = "1.0", labels: tuple[str, ...] = LABELS) -> AnswerTable:
    return AnswerTable(path, ModelVersion("baseline", version), labels)


def rows(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file, strict=True))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "answers.csv"
    with table(path) as found:
        found.append([("a,b.jpg", ANSWER), ("b\udcff.jpg", NOTHING)])
        found.append([("c.jpg", ANSWER)])
    return path


def test_all_of_an_answer_or_its_error_is_in_its_row(path: Path) -> None:
    first, second, third = rows(path)
    assert first == {
        "file": "a,b.jpg",
        "model": "baseline-1.0",
        "class_name": "Sea, Lake",
        "confidence": "0.75000000",
        "uncertain": "true",
        "prediction_set": "Sea, Lake|Forest",
        "warnings": "squeezed|too_bright",
        "assumed": "scale=10000|look=l1c",
        "error": "",
        "p_Forest": "0.25000000",
        "p_Sea, Lake": "0.75000000",
    }
    assert {key: cell for key, cell in second.items() if cell} == {
        "file": "b\udcff.jpg",
        "model": "baseline-1.0",
        "error": 'nothing_to_see: nothing to see: "one"\ncolour',
    }
    assert third["file"] == "c.jpg"


def test_wherever_it_was_cut_off_it_goes_on_behind_the_last_whole_row(path: Path) -> None:
    whole = path.read_bytes()
    outcomes: list[tuple[str, Prediction | PortalError]]
    outcomes = [("a,b.jpg", ANSWER), ("b\udcff.jpg", NOTHING), ("c.jpg", ANSWER)]
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        with table(path) as found:
            done = len(found.files)
            assert found.files == {name for name, _ in outcomes[:done]}
            assert found.errors == (done > 1)
            assert len(rows(path)) == done
            found.append(outcomes[done:])
            assert (len(found.files), found.errors) == (3, 1)
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"file,truth\na.jpg,River\n", "no table of these answers"),
        (b"\xff\xd8\xff an image", "no table of these answers"),
    ],
)
def test_another_file_is_left_as_it_is(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes(content)
    with pytest.raises(BadTable, match=said):
        table(path)
    assert path.read_bytes() == content


def test_answers_of_another_version_or_other_classes_are_not_mixed_with(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(BadTable, match=r"those of baseline-1\.0.* for baseline-1\.1"):
        table(path, "1.1")
    with pytest.raises(BadTable):
        table(path, labels=("Forest", "River"))
    assert path.read_bytes() == before


def test_a_damaged_row_among_others_is_not_thrown_away_with_them(path: Path) -> None:
    content = path.read_bytes().replace(b"0.25000000,0.75000000\n", b"0.25000000\n", 1)
    path.write_bytes(content)
    with pytest.raises(BadTable, match="found 10 columns, expected 11"):
        table(path)
    assert path.read_bytes() == content


def test_two_processes_do_not_write_the_same(path: Path) -> None:
    with table(path), pytest.raises(BadTable, match="another process"):
        table(path)
    with table(path) as found:
        assert len(found.files) == 3


def test_on_a_full_disk_no_half_row_stays(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()
    with table(path) as found:
        real = found._file

        class Full:
            """Takes ten bytes more."""

            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

            def write(self, content: memoryview) -> int:
                if real.tell() > len(before):
                    raise OSError(28, "No space left on device")
                return real.write(content[:10])

        monkeypatch.setattr(found, "_file", Full())
        with pytest.raises(OSError, match="No space"):
            found.append([("d.jpg", ANSWER)])
    assert path.read_bytes() == before


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        table(tmp_path / "gone" / "answers.csv")

"""The probe: fewer labels, two starts, a table."""

import json
from pathlib import Path

import pytest

from tests.support.knobs import changed
from training import probe as module
from training.config import BadConfig, TrainConfig
from training.dataset.eurosat import Tiles
from training.probe import PROBE, TUNE, Row, measure, table


def test_both_starts_learn_from_the_same_few_labels(
    finished_run: Path, config: TrainConfig, tiles: Tiles, tmp_path: Path
) -> None:
    given = changed(config, weights=str(finished_run / "best.pt"), epochs=2, patience=1)
    rows = measure(given, tiles, [0.25, 1.0], [0, 1], folder=tmp_path)
    assert [(row.fraction, row.way, row.tiles) for row in rows] == [
        (0.25, PROBE, 12), (0.25, TUNE, 12), (1.0, PROBE, 48), (1.0, TUNE, 48),
    ]  # fmt: skip
    assert all(len(row.random) == len(row.pretrained) == 2 for row in rows)
    drawn = {
        name: json.loads(next(tmp_path.glob(f"{name}/*/labelled.json")).read_text())
        for name in ("0.25-random-0", "0.25-given-0", "0.25-random-1")
    }
    assert drawn["0.25-random-0"] == drawn["0.25-given-0"] != drawn["0.25-random-1"]
    history = json.loads(next(tmp_path.glob("0.25-given-1/*/history.json")).read_text())
    assert len(history) == 2  # whatever its patience
    assert rows[1].pretrained[1] == history[-1]["val_accuracy"]
    assert rows[2].pretrained[0] > 0.5  # of four classes
    again = measure(given, tiles, [0.25, 1.0], [0, 1], folder=tmp_path)
    assert again == rows


def test_without_weights_there_is_nothing_to_measure(config: TrainConfig, tiles: Tiles) -> None:
    with pytest.raises(BadConfig, match="weights: found none, expected those that are to be"):
        measure(config, tiles, [1.0], [0])


def test_the_table_tells_means_and_spread() -> None:
    rows = [
        Row(0.01, 157, PROBE, [0.5, 0.52, 0.54], [0.7, 0.7, 0.7]),
        Row(1.0, 16200, TUNE, [0.91], [0.9]),
    ]
    assert table(rows).splitlines()[2:] == [
        "| 1 % (157 tiles) | linear probe | 52.00 ± 2.00 % | 70.00 ± 0.00 % | +18.00 |",
        "| 100 % (16,200 tiles) | fine-tuning | 91.00 % | 90.00 % | -1.00 |",
    ]


def test_the_command_prints_the_table(
    finished_run: Path, tiny_eurosat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("EUROSAT_DIR", str(tiny_eurosat))
    monkeypatch.setattr(module, "keep_memory", lambda: None)
    words = [
        "probe", str(finished_run / "best.pt"), "--config", str(finished_run / "config.yaml"),
        "--fractions", "0.5", "--ways", PROBE, "--folder", str(tmp_path),
    ]  # fmt: skip
    monkeypatch.setattr("sys.argv", words)
    module.main()
    head, _, row = capsys.readouterr().out.splitlines()
    assert head.startswith("| labels | way | random start | pretrained |")
    assert row.startswith("| 50 % (24 tiles) | linear probe | ")

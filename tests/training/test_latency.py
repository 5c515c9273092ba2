"""The speed of the releases, measured again."""

import json
from pathlib import Path
from typing import Any

import pytest

from training import latency
from training.release import release


def test_only_the_latencies_change(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    releases, readme = tmp_path / "releases", tmp_path / "README.md"
    readme.write_text("no tables\n")
    folder = release(run, releases, readme, force=True)  # of a handful of tiles, int8 may err
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    measured = {"batch": 1, "threads": 1, "median_ms": 123.4, "p95_ms": 125.0, "cpu": "A CPU"}

    def measure(_: Path, precision: str, views: int = 1) -> dict[str, Any]:
        return {**measured, "median_ms": views * (123.4 if precision == "fp32" else 12.34)}

    monkeypatch.setattr(latency, "measure_latency", measure)
    latency.measure_again(releases, readme)
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    changed = {name for name in before if before[name] != after[name]}
    assert before.keys() == after.keys()
    assert changed == {"report.json", "MODEL_CARD.md"}
    old, new = (json.loads(files["report.json"]) for files in (before, after))
    assert new.pop("latency") == measured
    assert new["int8"].pop("latency")["median_ms"] == 12.34
    assert new["test_time_augmentation"].pop("latency")["median_ms"] == 8 * 123.4
    assert new["int8"]["test_time_augmentation"].pop("latency")["median_ms"] == 8 * 12.34
    for part in (old, old["int8"]):
        del part["latency"], part["test_time_augmentation"]["latency"]
    assert new == old
    assert "123.40 ms (p95 125.00), A CPU" in (folder / "MODEL_CARD.md").read_text()
    assert "123.4 ms" in (releases / "README.md").read_text()

"""What training writes, the portal reads: evaluation, release and reader are the real ones."""

import json
import shutil
from pathlib import Path

import pytest

from portal.catalog.reports import Reports
from tests.support.paths import ROOT
from training.release import release


@pytest.fixture
def released(finished_run: Path, tmp_path: Path) -> Path:
    run = Path(shutil.copytree(finished_run, tmp_path / "runs" / finished_run.name))
    shutil.copytree(run, run.with_name(f"{run.name}-spatial"))
    # On 16 test tiles chance decides whether int8 is 0.1 points worse.
    return release(run, tmp_path / "releases", tmp_path / "README.md", force=True)


def test_the_portal_reads_every_figure_of_a_release(released: Path) -> None:
    written = json.loads((released / "report.json").read_text())
    (entry,), unreadable = Reports(released.parent).all()
    assert unreadable == []
    report = entry.report
    assert (report.model, report.version) == ("baseline", "1.0")
    assert report.model_sha256 == written["model_sha256"]
    assert list(report.labels) == written["spec"]["labels"]
    assert report.accuracy.value == written["accuracy"]
    assert [report.accuracy.low, report.accuracy.high] == written["intervals"]["accuracy"]
    assert [list(row) for row in report.confusion] == written["confusion"]
    assert [shift.name for shift in report.robustness] == [
        r["shift"] for r in written["robustness"]
    ]
    assert report.int8 is not None
    assert report.int8.model_sha256 == written["int8"]["model_sha256"]
    assert report.int8.accuracy.value == written["int8"]["accuracy"]
    assert report.int8.agreement == written["int8"]["agreement"]
    assert len(report.mistakes) == len(written["errors"])
    assert len(report.training.history) == 3
    assert entry.spatial_problem is None
    assert entry.spatial is not None
    assert entry.card == (released / "MODEL_CARD.md").read_text()


def test_the_portal_reads_the_committed_releases() -> None:
    folder = ROOT / "training" / "releases"
    releases, unreadable = Reports(folder).all()
    evaluated = {path.parent.name for path in folder.glob("*/report.json")}
    assert {f"{entry.report.model}-{entry.report.version}" for entry in releases} == evaluated
    assert {entry.folder for entry in unreadable}.isdisjoint(evaluated)
    assert all(entry.spatial_problem is None for entry in releases)

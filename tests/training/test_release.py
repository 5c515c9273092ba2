import hashlib
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from handlers.contract.names import BadName
from tests.support.tiny_eurosat import COMMIT
from training import release as module
from training.card import BEGIN, END, comparison, model_card, write_comparison
from training.release import release
from training.runs import BadExport

FILES = {
    "model.pt", "model-config.yaml", "model-int8.pt", "model-config-int8.yaml", "report.json",
    "predictions.csv", "MODEL_CARD.md", "confusion.svg", "reliability.svg", "history.svg",
}  # fmt: skip
INT8 = {"model-int8.pt", "model-config-int8.yaml"}


@pytest.fixture
def run(run: Path) -> Path:
    """The run with an int8 file as good as fp32: on 16 test tiles chance would decide that."""
    return changed(run)


@pytest.fixture
def releases(tmp_path: Path) -> Path:
    return tmp_path / "releases"


@pytest.fixture
def readme(tmp_path: Path) -> Path:
    path = tmp_path / "README.md"
    path.write_text(f"# Title\n\n{BEGIN}\nold table\n{END}\n\nThe end.\n")
    return path


def report_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return content


def changed(run: Path, **changes: Any) -> Path:
    """The run with other figures in its report, those of int8 alike unless they are given too."""
    report = report_of(run) | changes
    if "int8" not in changes:
        report["int8"] |= {key: report[key] for key in ("accuracy", "calibration")}
    (run / "report.json").write_text(json.dumps(report))
    return run


def renamed(run: Path, name: str) -> Path:
    """A copy of the run as another model or version."""
    copy = Path(shutil.copytree(run, run.with_name(name)))
    model, _, version = name.removesuffix("-spatial").rpartition("-")
    return changed(copy, model=model, version=version)


def test_a_release_is_the_run_without_its_training_files(
    run: Path, releases: Path, readme: Path
) -> None:
    target = release(run, releases, readme)
    assert target == releases / "baseline-1.0"
    assert {path.name for path in target.iterdir()} == FILES
    for name in FILES - {"MODEL_CARD.md"}:
        assert (target / name).read_bytes() == (run / name).read_bytes()
    assert (target / "MODEL_CARD.md").read_text() == model_card(report_of(run), None)
    assert {path.name for path in releases.iterdir()} == {"baseline-1.0", "README.md"}


def test_the_tables_are_generated_and_the_rest_of_the_readme_stays(
    run: Path, releases: Path, readme: Path
) -> None:
    release(run, releases, readme)
    table = comparison([(report_of(run), None)])
    assert readme.read_text() == f"# Title\n\n{BEGIN}\n{table}{END}\n\nThe end.\n"
    assert (releases / "README.md").read_text().endswith(table)
    write_comparison(releases, readme)
    assert readme.read_text() == f"# Title\n\n{BEGIN}\n{table}{END}\n\nThe end.\n"


def test_a_readme_without_marks_is_left_alone(run: Path, releases: Path, readme: Path) -> None:
    readme.write_text("# Title\n")
    release(run, releases, readme)
    assert readme.read_text() == "# Title\n"


def test_the_spatial_run_of_the_same_version_gives_the_second_report(
    run: Path, releases: Path, readme: Path
) -> None:
    spatial = renamed(run, "baseline-1.0-spatial")
    split = report_of(run)["split"] | {"name": "spatial"}
    changed(spatial, accuracy=0.1234, split=split)
    target = release(run, releases, readme)
    assert report_of(target)["accuracy"] == report_of(run)["accuracy"]
    kept = json.loads((target / "report-spatial.json").read_text())
    assert kept["accuracy"] == 0.1234
    assert "12.34 %" in (target / "MODEL_CARD.md").read_text()
    assert "12.34 %" in readme.read_text()


def folders(releases: Path) -> set[str]:
    return {path.name for path in releases.iterdir() if path.is_dir()}


def test_the_one_before_stays_and_older_ones_of_the_model_go(
    run: Path, releases: Path, readme: Path
) -> None:
    others = {"baseline-large-1.0", "resnet18-1.0"}
    for name in ("baseline-1.0", *others):
        folder = run if name == run.name else renamed(run, name)
        release(folder, releases, readme)
    release(renamed(run, "baseline-1.1"), releases, readme)
    assert folders(releases) == {"baseline-1.0", "baseline-1.1", *others}
    release(renamed(run, "baseline-1.2"), releases, readme)
    assert folders(releases) == {"baseline-1.1", "baseline-1.2", *others}
    assert "baseline 1.2" in readme.read_text()
    assert "baseline 1.1" in readme.read_text()
    assert "baseline 1.0" not in readme.read_text()


def test_version_ten_follows_version_nine(run: Path, releases: Path, readme: Path) -> None:
    for version in ("8.0", "9.0", "10.0"):
        release(renamed(run, f"baseline-{version}"), releases, readme)
    assert folders(releases) == {"baseline-9.0", "baseline-10.0"}


def test_a_release_made_again_keeps_the_one_before(run: Path, releases: Path, readme: Path) -> None:
    release(run, releases, readme)
    again = renamed(run, "baseline-1.1")
    release(again, releases, readme)
    release(again, releases, readme)
    assert folders(releases) == {"baseline-1.0", "baseline-1.1"}


def test_only_the_latest_is_held_against(run: Path, releases: Path, readme: Path) -> None:
    changed(run, accuracy=0.95)
    release(run, releases, readme)
    worse = changed(renamed(run, "baseline-1.1"), accuracy=0.9)
    release(worse, releases, readme, force=True)
    release(changed(renamed(run, "baseline-1.2"), accuracy=0.92), releases, readme)
    assert folders(releases) == {"baseline-1.1", "baseline-1.2"}


@pytest.mark.parametrize("figure", ["accuracy", "macro F1", "ECE"])
def test_a_worse_figure_is_refused_unless_forced(
    figure: str, run: Path, releases: Path, readme: Path
) -> None:
    changed(run, accuracy=0.95, macro_f1=0.94, calibration=report_of(run)["calibration"])
    release(run, releases, readme)
    worse = renamed(run, "baseline-1.1")
    calibration = report_of(run)["calibration"]
    changed(
        worse,
        **{
            "accuracy": {"accuracy": 0.9},
            "macro F1": {"macro_f1": 0.9},
            "ECE": {"calibration": calibration | {"ece": calibration["ece"] + 0.01}},
        }[figure],
    )
    message = (
        rf"worse than baseline-1\.0/report\.json: {figure} \d+\.\d\d %, was \d+\.\d\d %\. "
        "Use FORCE=1"
    )
    with pytest.raises(BadExport, match=message):
        release(worse, releases, readme)
    assert (releases / "baseline-1.0" / "report.json").is_file()
    assert not (releases / "baseline-1.1").exists()
    assert release(worse, releases, readme, force=True).name == "baseline-1.1"
    assert folders(releases) == {"baseline-1.0", "baseline-1.1"}


def test_an_equal_run_is_not_worse(run: Path, releases: Path, readme: Path) -> None:
    release(run, releases, readme)
    assert release(run, releases, readme) == releases / "baseline-1.0"
    calibration = report_of(run)["calibration"]
    changed(run, calibration=calibration | {"ece": calibration["ece"] + 1e-9})
    assert release(run, releases, readme) == releases / "baseline-1.0"


def test_a_release_without_report_is_replaced(run: Path, releases: Path, readme: Path) -> None:
    interim = releases / "baseline-0.9"
    interim.mkdir(parents=True)
    (interim / "model.pt").write_bytes(b"untuned")
    release(run, releases, readme)
    assert not interim.exists()


def test_the_report_of_another_model_is_refused(run: Path, releases: Path, readme: Path) -> None:
    changed(run, model_sha256="0" * 64)
    with pytest.raises(BadExport, match=r"report\.json belongs to another model\.pt; run `make ev"):
        release(run, releases, readme)
    assert not releases.exists()


@pytest.mark.parametrize("name", sorted(FILES - {"MODEL_CARD.md"} - INT8))
def test_a_missing_file_is_named(name: str, run: Path, releases: Path, readme: Path) -> None:
    (run / name).unlink()
    with pytest.raises(BadExport, match=rf"{name} does not exist: train, export and evaluate fir"):
        release(run, releases, readme)
    assert not releases.exists()


def test_a_report_of_changed_files_is_refused_even_by_force(
    run: Path, releases: Path, readme: Path
) -> None:
    changed(run, git_commit=f"{COMMIT}-dirty")
    for force in (False, True):
        with pytest.raises(
            BadExport, match=rf"^report\.json was made .* {COMMIT[:12]}: .*evaluate"
        ):
            release(run, releases, readme, force=force)
    changed(run, git_commit=COMMIT)
    changed(renamed(run, f"{run.name}-spatial"), git_commit=f"{COMMIT}-dirty")
    with pytest.raises(BadExport, match=r"^report-spatial\.json was made"):
        release(run, releases, readme)
    assert not releases.exists()
    changed(run, git_commit="unknown")  # outside of a checkout
    changed(run.with_name(f"{run.name}-spatial"), git_commit="unknown")
    release(run, releases, readme)


def test_with_files_changed_nothing_is_released(
    run: Path, releases: Path, readme: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "git_commit", lambda: f"{COMMIT}-dirty")
    for force in (False, True):
        with pytest.raises(BadExport, match="not committed"):
            release(run, releases, readme, force=force)
    assert not releases.exists()


def with_int8(run: Path, **figures: Any) -> Path:
    """The run with other figures of its int8 file."""
    return changed(run, int8=report_of(run)["int8"] | figures)


def test_int8_that_costs_accuracy_is_refused_unless_forced(
    run: Path, releases: Path, readme: Path
) -> None:
    accuracy, calibration = report_of(run)["accuracy"], report_of(run)["calibration"]
    with_int8(run, accuracy=accuracy - 0.0011)
    with pytest.raises(BadExport, match=r"model-int8\.pt is more than 0\.1 points worse: accuracy"):
        release(run, releases, readme)
    worse = calibration | {"ece": calibration["ece"] + 0.0011}
    with_int8(run, accuracy=accuracy, calibration=worse)
    with pytest.raises(BadExport, match="points worse: ECE"):
        release(run, releases, readme)
    assert not releases.exists()
    release(run, releases, readme, force=True)
    with_int8(run, accuracy=accuracy - 0.0009, calibration=calibration)
    release(run, releases, readme)


def test_int8_and_its_report_belong_together(run: Path, releases: Path, readme: Path) -> None:
    with_int8(run, model_sha256="0" * 64)
    with pytest.raises(BadExport, match=r"belongs to another model-int8\.pt"):
        release(run, releases, readme)
    (run / "model-int8.pt").unlink()
    with pytest.raises(BadExport, match="older than the other"):
        release(run, releases, readme)


def test_a_model_without_int8_is_released_in_fp32(run: Path, releases: Path, readme: Path) -> None:
    for name in INT8:
        (run / name).unlink()
    report = report_of(run)
    del report["int8"]
    (run / "report.json").write_text(json.dumps(report))
    target = release(run, releases, readme)
    assert {path.name for path in target.iterdir()} == FILES - INT8
    assert "int8" not in readme.read_text()


def test_the_table_has_a_line_for_each_file(run: Path, releases: Path, readme: Path) -> None:
    release(run, releases, readme)
    assert "| baseline 1.0 |" in readme.read_text()
    assert "| baseline 1.0, int8 |" in readme.read_text()


def test_a_spatial_run_cannot_be_the_release(run: Path, releases: Path, readme: Path) -> None:
    spatial = renamed(run, "baseline-1.0-spatial")
    with pytest.raises(BadName, match=r"expected <model>-<version>, such as"):
        release(spatial, releases, readme)


def test_the_command_passes_the_force_on(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def remember(folder: Path, *, force: bool) -> Path:
        asked.append((folder, force))
        return tmp_path / "released"

    monkeypatch.setattr(module, "release", remember)
    for words in (["--force"], []):
        monkeypatch.setattr(sys, "argv", ["release", *words, str(run)])
        module.main()
    assert asked == [(run, True), (run, False)]
    assert capsys.readouterr().out == f"{tmp_path / 'released'}\n" * 2


def test_a_report_that_is_not_whole_is_refused(run: Path, releases: Path, readme: Path) -> None:
    content = report_of(run)
    del content["robustness"]
    (run / "report.json").write_text(json.dumps(content))
    with pytest.raises(BadExport, match="was made with --fast"):
        release(run, releases, readme)


def test_another_model_config_than_the_measured_one_is_refused(
    run: Path, releases: Path, readme: Path
) -> None:
    served = run / "model-config.yaml"
    served.write_text(re.sub(r"threshold: .*", "threshold: 0.123", served.read_text()))
    with pytest.raises(BadExport, match="belongs to another model-config"):
        release(run, releases, readme)


def test_a_spatial_report_is_not_lost(run: Path, releases: Path, readme: Path) -> None:
    shutil.copytree(run, run.with_name(f"{run.name}-spatial"))
    release(run, releases, readme)
    successor = renamed(run, "baseline-1.1")
    weights = (run / "model-int8.pt").read_bytes()  # anything else than the first one's
    (successor / "model.pt").write_bytes(weights)
    changed(successor, model_sha256=hashlib.sha256(weights).hexdigest())
    with pytest.raises(BadExport, match="has no successor"):
        release(successor, releases, readme)
    release(successor, releases, readme, force=True)
    assert not (releases / "baseline-1.1" / "report-spatial.json").exists()


def test_the_same_weights_keep_their_spatial_report(
    run: Path, releases: Path, readme: Path
) -> None:
    spatial = Path(shutil.copytree(run, run.with_name(f"{run.name}-spatial")))
    first = release(run, releases, readme)
    kept = json.loads((first / "report-spatial.json").read_text())
    assert kept == report_of(spatial)
    second = release(renamed(run, "baseline-1.1"), releases, readme)
    assert json.loads((second / "report-spatial.json").read_text()) == {**kept, "version": "1.1"}

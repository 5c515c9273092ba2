"""Finished run -> training/releases/, model card, comparison tables.

    python -m training.release training/runs/baseline-1.0
    python -m training.release training/runs/baseline-1.1 --force

The run must be exported and evaluated. An int8 file, if the run has one, must be as good as that in
fp32, within 0.1 points. A run of the same model and version on the spatial split
(``<model>-<version>-spatial``), if there is one, gives the second report; without it a release with
the same weights in fp32 passes its own on. The latest release of a model stays beside the new one,
to be compared with and rolled back to; those before go. Where a figure is worse than that one's, a
release is refused, unless forced.

What is not committed cannot be looked up: a report that was made with files changed, or a release
with files changed, is refused in any case. Outside of a checkout nobody can tell.
"""

import argparse
import json
import logging
import shutil
from pathlib import Path
from typing import Any

from handlers.contract.names import VERSION, BadName, ModelVersion
from training.card import README, model_card, percent, write_comparison
from training.runs import (
    DIRTY,
    FILES,
    INT8_MAY_LOSE,
    RELEASES_DIR,
    SPATIAL,
    SPLIT_FILE,
    BadExport,
    git_commit,
    has_int8,
    read_spec,
    run_command,
    sha256,
)  # fmt: skip

logger = logging.getLogger(__name__)

ROUNDING = 1e-6  # the same weights have another ECE in its ninth digit on another CPU
_FIGURES = ("confusion.svg", "reliability.svg", "history.svg")
_FILES = (*FILES["fp32"], "report.json", "predictions.csv", *_FIGURES)


def release(
    run: Path, releases: Path = RELEASES_DIR, readme: Path = README, *, force: bool = False
) -> Path:
    """Copy a run into the releases, and generate the tables of all releases.

    Returns:
        The release's folder.

    Raises:
        BadName: of the run.
        BadExport: a file is missing or the report belongs to another one; files of the checkout
            are changed, or were for the report; or, with ``force`` off, a figure is worse than that
            of the latest release, or int8 worse than fp32.
    """
    name = ModelVersion.parse(run.name)
    report = _read_report(run)
    if "robustness" not in report:
        raise BadExport(f"{run / 'report.json'} was made with --fast; run `make evaluate`")
    begin = f"{name.model}-"
    found = releases.glob(f"{begin}*")
    old = [path for path in found if VERSION.fullmatch(path.name.removeprefix(begin))]
    old.sort(key=lambda path: ModelVersion.parse(path.name), reverse=True)
    spatial = _spatial_report(run, report, old)
    _refuse_dirty(report, spatial)
    if not force:
        _refuse_lossy(report)
        for folder in old[:1]:
            _refuse_other_classes(folder / "report.json", report)
            _refuse_worse(folder / "report.json", report)
            _refuse_worse(folder / "report-spatial.json", spatial)
    target = releases / run.name
    staging = releases / f".{run.name}.new"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    own = (SPLIT_FILE,) if (run / SPLIT_FILE).is_file() else ()
    for file in (*_FILES, *own, *(FILES["int8"] if "int8" in report else ())):
        shutil.copy(run / file, staging / file)
    if spatial:
        (staging / "report-spatial.json").write_text(json.dumps(spatial, indent=1))
    (staging / "MODEL_CARD.md").write_text(model_card(report, spatial))
    others = [path for path in old if path != target and (path / "report.json").is_file()]
    gone = [path for path in old if path not in others[:1]]
    # What is replaced goes only when the new one is in its place.
    aside = [folder.rename(folder.with_name(f".{folder.name}.old")) for folder in gone]
    staging.rename(target)
    for folder in aside:
        shutil.rmtree(folder)
    logger.info("released %s: accuracy %s", target, percent(report["accuracy"]))
    write_comparison(releases, readme)
    return target


def _read_report(run: Path) -> dict[str, Any]:
    for file in _FILES:
        if not (run / file).is_file():
            raise BadExport(f"{run / file} does not exist: train, export and evaluate first")
    path = run / "report.json"
    try:
        report: dict[str, Any] = json.loads(path.read_text())
        parts = {"fp32": report} | ({"int8": report["int8"]} if "int8" in report else {})
        measured = {key: (part["model_sha256"], part["spec"]) for key, part in parts.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise BadExport(f"{path} is not a report; run `make evaluate` again") from error
    if ("int8" in measured) != has_int8(run):
        raise BadExport(
            f"{path} and {FILES['int8'][0]}: one of them is older than the other; run "
            "`make evaluate` again"
        )
    for precision, was in measured.items():
        now = sha256(run / FILES[precision][0]), read_spec(run, precision).to_dict()
        for file, before, after in zip(FILES[precision], was, now, strict=True):
            if before != after:
                raise BadExport(f"{path} belongs to another {file}; run `make evaluate` again")
    return report


def _spatial_report(run: Path, report: dict[str, Any], old: list[Path]) -> dict[str, Any] | None:
    """That of the run beside; without one, of an old release with the same weights in fp32."""
    beside = run.with_name(f"{run.name}{SPATIAL}")
    if (beside / "report.json").is_file():
        return _read_report(beside)
    for folder in old:
        path, weights = folder / "report-spatial.json", folder / FILES["fp32"][0]
        if path.is_file() and sha256(weights) == report["model_sha256"]:
            return {**json.loads(path.read_text()), "version": report["version"]}
    return None


def _refuse_dirty(report: dict[str, Any], spatial: dict[str, Any] | None) -> None:
    """Whoever reads a release's figures must find the code that they are of."""
    for name, found in (("report.json", report), ("report-spatial.json", spatial or {})):
        commit = str(found.get("git_commit", ""))
        if commit.endswith(DIRTY):
            raise BadExport(
                f"{name} was made with files changed since commit {commit[:12]}: nobody can look "
                "up what was measured. Commit them, and run `make evaluate` again."
            )
    if git_commit().endswith(DIRTY):
        raise BadExport(
            "files of this checkout are not committed (`git status`): commit them, or put them "
            "away, then release again."
        )


def _refuse_lossy(report: dict[str, Any]) -> None:
    """int8 is what is served by default: it must not cost what the table promises."""
    int8 = report.get("int8", report)
    if worse := _worse(int8, report, "in fp32", INT8_MAY_LOSE, macro_f1=False):
        raise BadExport(
            f"{FILES['int8'][0]} is more than {100 * INT8_MAY_LOSE:.1f} points worse: {worse}. "
            "Train further, or use FORCE=1 to release all the same."
        )


def _refuse_other_classes(path: Path, new: dict[str, Any]) -> None:
    """A version that knows other classes is no successor: nobody could be switched to it."""
    if path.is_file() and (old := json.loads(path.read_text())["spec"]["labels"]) != (
        labels := new["spec"]["labels"]
    ):
        raise BadExport(
            f"{path.parent.name} knows other classes: {', '.join(old)}; expected "
            f"{', '.join(labels)}. Train under another name (`--set served_as=NAME`), or use "
            "FORCE=1 to release all the same."
        )


def _refuse_worse(path: Path, new: dict[str, Any] | None) -> None:
    """Hold a report against that of the earlier release, if it has one."""
    if not path.is_file():
        return
    name = f"{path.parent.name}/{path.name}"
    if new is None:
        raise BadExport(
            f"{name} has no successor: train, export and evaluate the spatial split too, or use "
            "FORCE=1 to release without it."
        )
    if worse := _worse(new, json.loads(path.read_text()), "was", ROUNDING, macro_f1=True):
        raise BadExport(f"worse than {name}: {worse}. Use FORCE=1 to release all the same.")


def _worse(
    new: dict[str, Any], old: dict[str, Any], was: str, least: float, *, macro_f1: bool
) -> str:
    """The figures that lost more than ``least``, with what they are and were; empty if none."""
    figures = [
        ("accuracy", old["accuracy"], new["accuracy"], 1),
        ("macro F1", old["macro_f1"], new["macro_f1"], int(macro_f1)),
        ("ECE", old["calibration"]["ece"], new["calibration"]["ece"], -1),
    ]
    return "; ".join(
        f"{name} {percent(after)}, {was} {percent(before)}"
        for name, before, after, sign in figures
        if sign * (before - after) > least
    )


def main() -> None:
    """Release the run named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of an evaluated run")
    parser.add_argument("--force", action="store_true", help="even where a figure got worse")
    arguments = parser.parse_args()
    print(release(arguments.run, force=arguments.force))


if __name__ == "__main__":
    run_command(main, BadExport, BadName)

"""Finished run -> training/releases/, model card, comparison tables.

    python -m training.release training/runs/baseline-1.0
    python -m training.release training/runs/baseline-1.1 --force

The run must be exported and evaluated. An int8 file, if the run has one, must be as good as that in
fp32, within 0.1 points. A run of the same model and version on the spatial split
(``<model>-<version>-spatial``), if there is one, gives the second report; without it a release with
the same weights in fp32 passes its own on. A release replaces the earlier one of its model, and is
refused where a figure got worse, unless forced.
"""

import argparse
import contextlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

from handlers.contract.names import BadName, ModelVersion
from training.card import README, model_card, percent, write_comparison
from training.runs import (
    FILES,
    INT8_MAY_LOSE,
    RELEASES_DIR,
    SPATIAL,
    BadExport,
    has_int8,
    read_spec,
    run_command,
    sha256,
)

logger = logging.getLogger(__name__)

ROUNDING = 1e-6  # the same weights have another ECE in its ninth digit on another CPU
_FILES = (*FILES["fp32"], "report.json", "predictions.csv")
_FIGURES = ("confusion.svg", "reliability.svg", "history.svg")


class BadRelease(Exception):
    """The run is not whole, or worse than what it would replace."""


def release(
    run: Path, releases: Path = RELEASES_DIR, readme: Path = README, *, force: bool = False
) -> Path:
    """Copy a run into the releases, and generate the tables of all releases.

    Returns:
        The release's folder.

    Raises:
        BadRelease: a file is missing or the report belongs to another one; or, with ``force`` off,
            a figure is worse than that of the release it replaces, or int8 worse than fp32.
    """
    try:
        name = ModelVersion.parse(run.name)
    except BadName as problem:
        raise BadRelease(
            f"{run}: expected a run <model>-<version>, such as baseline-1.0"
        ) from problem
    report = _read_report(run)
    if "robustness" not in report:
        raise BadRelease(f"{run / 'report.json'} was made with --fast; run `make evaluate`")
    if "int8" in report and not force:
        _refuse_lossy(report)
    old = _releases_of(name.model, releases)
    spatial = _spatial_report(run, report, old)
    for folder in old if not force else []:
        for file, new in (("report.json", report), ("report-spatial.json", spatial)):
            if (folder / file).is_file():
                _refuse_worse(new, json.loads((folder / file).read_text()), f"{folder.name}/{file}")
    target = releases / run.name
    staging = releases / f".{run.name}.new"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    for file in (*_FILES, *(FILES["int8"] if "int8" in report else ()), *_FIGURES):
        shutil.copy(run / file, staging / file)
    if spatial:
        (staging / "report-spatial.json").write_text(json.dumps(spatial, indent=1))
    (staging / "MODEL_CARD.md").write_text(model_card(report, spatial))
    # What is replaced goes only when the new one is in its place.
    aside = [folder.rename(folder.with_name(f".{folder.name}.old")) for folder in old]
    staging.rename(target)
    for folder in aside:
        shutil.rmtree(folder)
    logger.info("released %s: accuracy %s", target, percent(report["accuracy"]))
    write_comparison(releases, readme)
    return target


def _read_report(run: Path) -> dict[str, Any]:
    for file in (*_FILES, *_FIGURES):
        if not (run / file).is_file():
            raise BadRelease(f"{run / file} does not exist: train, export and evaluate first")
    try:
        report: dict[str, Any] = json.loads((run / "report.json").read_text())
        parts = {"fp32": report, "int8": report.get("int8")}
        if (parts["int8"] is not None) != has_int8(run):
            raise BadRelease(
                f"{run / 'report.json'} and {FILES['int8'][0]}: one of them is older than the "
                "other; run `make evaluate` again"
            )
        measured = {
            precision: (part["model_sha256"], part["spec"])
            for precision, part in parts.items()
            if part is not None
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadRelease(
            f"{run / 'report.json'} is not a report; run `make evaluate` again"
        ) from error
    for precision, (belongs_to, spec) in measured.items():
        model, config = FILES[precision]
        if belongs_to != sha256(run / model):
            raise BadRelease(
                f"{run / 'report.json'} belongs to another {model}; run `make evaluate` again"
            )
        if spec != read_spec(run, precision).to_dict():
            raise BadRelease(
                f"{run / 'report.json'} belongs to another {config}; run `make evaluate` again"
            )
    return report


def _releases_of(model: str, releases: Path) -> list[Path]:
    found = []
    for folder in releases.glob(f"{model}-*"):
        with contextlib.suppress(BadName):
            if ModelVersion.parse(folder.name).model == model:
                found.append(folder)
    return found


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


def _refuse_lossy(report: dict[str, Any]) -> None:
    """int8 is what is served by default: it must not cost what the table promises."""
    int8 = report["int8"]
    lossy = [
        f"{name} {percent(found)}, in fp32 {percent(expected)}"
        for name, expected, found, sign in (
            ("accuracy", report["accuracy"], int8["accuracy"], 1),
            ("ECE", report["calibration"]["ece"], int8["calibration"]["ece"], -1),
        )
        if sign * (expected - found) > INT8_MAY_LOSE
    ]
    if lossy:
        raise BadRelease(
            f"{FILES['int8'][0]} is more than {100 * INT8_MAY_LOSE:.1f} points worse: "
            f"{'; '.join(lossy)}. Train further, or use FORCE=1 to release all the same."
        )


def _refuse_worse(new: dict[str, Any] | None, old: dict[str, Any], name: str) -> None:
    if new is None:
        raise BadRelease(
            f"{name} has no successor: train, export and evaluate the spatial split too, or use "
            "FORCE=1 to release without it."
        )
    worse = [
        f"{name} {percent(after)}, was {percent(before)}"
        for name, before, after, sign in (
            ("accuracy", old["accuracy"], new["accuracy"], 1),
            ("macro F1", old["macro_f1"], new["macro_f1"], 1),
            ("ECE", old["calibration"]["ece"], new["calibration"]["ece"], -1),
        )
        if sign * (before - after) > ROUNDING
    ]
    if worse:
        raise BadRelease(
            f"worse than {name}: {'; '.join(worse)}. Use FORCE=1 to release all the same."
        )


def main() -> None:
    """Release the run named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of an evaluated run")
    parser.add_argument("--force", action="store_true", help="even where a figure got worse")
    arguments = parser.parse_args()
    print(release(arguments.run, force=arguments.force))


if __name__ == "__main__":
    run_command(main, BadExport, BadRelease)

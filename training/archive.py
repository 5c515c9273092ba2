"""Run or release -> model archive (.mar) that TorchServe loads.

    python -m training.archive                              every release
    python -m training.archive training/runs/baseline-1.0   one run
    python -m training.archive --precision fp32             not the int8 files
    python -m training.archive --tta 8                      answers are means over 8 views

The ``handlers`` package goes whole into the archive: the code that serves a version is the code
that it was released with. An archive is kept only if it answers the report's probe tiles as the
report says, through its own copy of the handler.
"""

import argparse
import json
import logging
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from model_archiver import ModelArchiver, ModelArchiverConfig

from handlers.contract.names import BadName, ModelVersion
from handlers.contract.report import PROBABILITY, Precision
from handlers.contract.spec import BadSpec, views_of
from training.runs import FILES, RELEASES_DIR, BadExport, has_int8, run_command, sha256

logger = logging.getLogger(__name__)

TRAINING = Path(__file__).parent
HANDLERS = TRAINING.parent / "handlers"
MODEL_STORE = TRAINING.parent / "model_store"


def build(
    folder: Path,
    store: Path = MODEL_STORE,
    precision: Precision = "int8",
    tta: int | None = None,
) -> Path:
    """Build ``<store>/<model>-<version>.mar`` from a run or release.

    Args:
        precision: which file is packed; that in fp32 if it is the only one.
        tta: in how many views each picture is seen; None: as the configuration says.

    Returns:
        The archive's path; it replaces an older one only when it is whole and checked.

    Raises:
        BadName, BadExport: with what is missing or differs.
        BadSpec: there are no such views.
    """
    name = ModelVersion.parse(folder.name)
    precision = precision if has_int8(folder) else "fp32"
    model, config = (folder / file for file in FILES[precision])
    for file in (model, config):
        if not file.is_file():
            raise BadExport(f"{file} does not exist: export first (`make export`)")
    store.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that moving it there is atomic.
    with tempfile.TemporaryDirectory(dir=store, prefix=".build-") as temporary:
        # The archiver empties folders that it is given into the archive: hence one around it.
        extra, ignored = Path(temporary) / "extra", shutil.ignore_patterns("__pycache__")
        shutil.copytree(HANDLERS, extra / "handlers", ignore=ignored)
        # One name in every archive, whichever precision it holds.
        packed_config = Path(temporary) / "model-config.yaml"
        views = _write_config(config, packed_config, tta)
        content = ModelArchiverConfig(
            model_name=name.model, version=name.version, serialized_file=str(model),
            handler=str(HANDLERS / "landuse_handler.py"), config_file=str(packed_config),
            extra_files=str(extra), export_path=temporary,
        )  # fmt: skip
        with _temporary_files_in(temporary):
            ModelArchiver.generate_model_archive(content)
        built = Path(temporary) / f"{name.model}.mar"
        check(built, folder, precision, views)
        target = built.replace(store / name.archive)
    kind = precision if views == 1 else f"{precision}, the mean of {views} views"
    logger.info("%s: %s, %.2f MB", target, kind, target.stat().st_size / 1e6)
    return target


@contextmanager
def _temporary_files_in(folder: str) -> Iterator[None]:
    """The archiver works in a temporary folder named as the model: two at once would share it."""
    before, tempfile.tempdir = tempfile.tempdir, folder
    try:
        yield
    finally:
        tempfile.tempdir = before


def _write_config(source: Path, target: Path, tta: int | None) -> int:
    """Copy a configuration, to the byte if nothing in it is to change; the views that it asks."""
    try:
        config = yaml.safe_load(source.read_text())
        found = views_of(config)
    except (yaml.YAMLError, AttributeError, BadSpec) as problem:
        raise BadExport(f"{source} cannot be packed: {problem}") from problem
    wanted = found if tta is None else views_of({"tta": tta})
    if wanted == found:
        shutil.copy(source, target)
    else:
        text = yaml.safe_dump(
            config | {"tta": wanted}, sort_keys=False, default_flow_style=None, width=100
        )
        target.write_text(text)
    return wanted


def check(archive: Path, folder: Path, precision: Precision, views: int = 1) -> None:
    """Answer the report's probe tiles through the archive's own handler.

    An archive of a run that was not evaluated yet must at least load.

    Raises:
        BadExport: it does not load, or answers otherwise than the report says of this precision.
    """
    probe = _read_probe(folder / "report.json", folder / FILES[precision][0], precision, views)
    with tempfile.TemporaryDirectory() as temporary:
        shutil.unpack_archive(archive, temporary, "zip")
        # A process of its own, started in the archive's folder, as TorchServe does it: this one
        # has imported the repository's `handlers` already.
        result = subprocess.run(
            [sys.executable, str(TRAINING / "answer_probe.py")],
            input=json.dumps([tile["jpeg"] for tile in probe]),
            cwd=temporary, capture_output=True, text=True, check=False,
        )  # fmt: skip
    if result.returncode:
        raise BadExport(f"{archive.name} does not load:\n{result.stderr.strip()}")
    for tile, answer in zip(probe, json.loads(result.stdout), strict=True):
        if "probabilities" not in answer:
            raise BadExport(f"{archive.name} refuses {tile['file']}: {answer}")
        expected, found = tile["probabilities"], answer["probabilities"]
        difference = max(abs(expected[label] - found[label]) for label in expected)
        if difference > PROBABILITY[precision]:
            raise BadExport(
                f"{archive.name}: probabilities of {tile['file']} differ from the report by "
                f"{difference:.2g}, expected at most {PROBABILITY[precision]}"
            )


def _read_probe(
    report: Path, model: Path, precision: Precision, views: int
) -> list[dict[str, Any]]:
    """The report's probe tiles with the answers of the model's file; none without a report."""
    if not report.is_file():
        return []
    try:
        content = json.loads(report.read_text())
        part = content if precision == "fp32" else content[precision]
        belongs_to = part["model_sha256"]
        images = {tile["file"]: tile["jpeg"] for tile in content["probe"]}
        if views > 1:
            part = {**part, "probe": part.get("test_time_augmentation", {}).get("probe")}
            if part["probe"] is None:
                raise BadExport(
                    f"{report} does not say what {model.name} answers with tta: {views}; run "
                    "`make evaluate` again"
                )
        probe = [
            {**tile, "jpeg": images[tile["file"]], "probabilities": dict(tile["probabilities"])}
            for tile in part["probe"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise BadExport(f"{report} is not a report; run `make evaluate` again") from error
    if belongs_to != sha256(model):
        raise BadExport(f"{report} belongs to another {model.name}; run `make evaluate` again")
    return probe


def main() -> None:
    """Archive the folders named on the command line, or every release."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="*", help="runs or releases")
    parser.add_argument("--store", type=Path, default=MODEL_STORE, help="where the .mar goes")
    served = "fp32 is served if there is no int8"
    parser.add_argument("--precision", choices=sorted(FILES), default="int8", help=served)
    parser.add_argument(
        "--tta", type=int, metavar="VIEWS",
        help="8: each answer is the mean over the turns and mirror images of the picture, at "
        "eight times the work; 1: of the picture as it is (default: as exported)",
    )  # fmt: skip
    arguments = parser.parse_args()
    releases = sorted(path.parent for path in RELEASES_DIR.glob("*/model.pt"))
    if not (folders := arguments.folders or releases):
        raise BadExport(f"no releases in {RELEASES_DIR}: train, evaluate and `make release` one")
    for folder in folders:
        print(build(folder, arguments.store, arguments.precision, arguments.tta))


if __name__ == "__main__":
    logging.getLogger("model_archiver").setLevel(logging.WARNING)
    run_command(main, BadExport, BadName, BadSpec)

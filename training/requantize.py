"""A release -> a run of another version: the same weights in fp32, and an int8 file made anew.

    python -m training.requantize training/releases/resnet18-1.3 1.4

For when the making of int8 files got better: a fresh clone has no checkpoint to export from.
"""

import argparse
import dataclasses
import json
import shutil
from pathlib import Path

from training.config import BadConfig, config_from_dict
from training.dataset.eurosat import BadData, Tiles, find_tiles
from training.dataset.examples import load_examples
from training.dataset.splits import keep_split, load_split
from training.export import export_int8
from training.inference import load_exported, predict
from training.models.registry import build_model
from training.models.weights import load_released
from training.runs import FILES, BadExport, run_command, training_facts


def requantize(release: Path, version: str, runs: Path, tiles: Tiles) -> Path:
    """Write the run ``<model>-<version>``, to be evaluated and released.

    Returns:
        Its folder: ``model.pt`` and ``model-config.yaml`` are the release's to the byte.

    Raises:
        BadExport: the release is not whole, or such a run is there already.
        BadConfig: the version is none.
    """
    facts = training_facts(release)
    scripted, spec = load_exported(release)
    config = config_from_dict({"version": version}, config_from_dict(facts["config"]))
    model = build_model(config.model, len(spec.labels))
    load_released(model, dataclasses.replace(config.model, weights=str(release)), config.data.split)
    run = runs / config.run_name
    if run.exists():
        raise BadExport(f"{run} exists already: choose another version, or move it away")
    split = load_split(config.data.split, tiles, release)
    val = load_examples(tiles, split.val, spec, "validation tiles")
    expected = predict(scripted, val.pixels, spec, "fp32")
    run.mkdir(parents=True)
    for name in FILES["fp32"]:
        shutil.copy(release / name, run / name)
    keep_split(split, run)
    facts["config"]["version"] = version
    (run / "training.json").write_text(json.dumps(facts, indent=1))
    export_int8(run, model.eval(), config, spec, tiles, val, expected)
    return run


def main() -> None:
    """Make the run named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("release", type=Path, help="folder of a release")
    parser.add_argument("version", help="of the new run, such as 1.2")
    parser.add_argument("--runs", type=Path, default=Path("training/runs"))
    given = parser.parse_args()
    print(requantize(given.release, given.version, given.runs, find_tiles()))


if __name__ == "__main__":
    run_command(main, BadConfig, BadData, BadExport)

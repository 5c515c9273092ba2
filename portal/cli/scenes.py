"""Map a scene with the model server of the settings.

    python -m portal.cli.scenes scene.tif map --model resnet18 --stride 32

Says what was found in the file and assumed of it, and then the area of each class. OUT is a folder
that appears when the map is whole; after an interruption the same command goes on where it was.
"""

import argparse
import json
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path

from handlers.contract.names import ModelVersion
from portal.cli.progress import Bar
from portal.cli.scene_options import add_options, options_of
from portal.errors import PortalError
from portal.scenes.classifier import Others, ThroughPredictor
from portal.scenes.inspection import inspect
from portal.scenes.pipeline import digest, map_one
from portal.scenes.terms import Inspection
from portal.serving.predictor import Predictor
from portal.serving.torchserve.client import TorchServe
from portal.settings import BadSetting, Settings

PATIENCE = 60.0  # seconds until a model server that does not answer is given up

log = logging.getLogger("scenes")


def main() -> int:
    """Run the command line; return the exit status."""
    given = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    logging.getLogger("portal").setLevel(logging.WARNING)
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # of broken files
    try:
        settings = Settings.from_environment(os.environ)
        map_scene(given, settings)
    except (PortalError, BadSetting, OSError) as error:
        log.error("%s", error)  # noqa: TRY400  (a sentence for the user, no traceback)
        return 1
    except KeyboardInterrupt:
        log.info("Interrupted. The same command goes on where it was.")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m portal.cli.scenes", description=__doc__)
    parser.add_argument("scene", metavar="IN", type=Path, help="GeoTIFF, JPEG 2000, PNG or JPEG")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder that is made for the map")
    parser.add_argument("--model", help="by default that of PORTAL_DEFAULT_MODEL")
    parser.add_argument("--version", help="by default the model's default one")
    add_options(parser)
    return parser


def map_scene(given: argparse.Namespace, settings: Settings) -> None:
    """Do what is asked, and say what becomes of it."""
    if given.out.exists():
        raise FileExistsError(f"{given.out} is there already: name another folder, or remove it.")
    if not given.scene.is_file():
        raise FileNotFoundError(f"{given.scene} is no file.")
    model = given.model or settings.default_model
    options = options_of(given, model, given.version)
    inspection = inspect(given.scene, options)
    _tell(inspection)
    server = TorchServe(settings)
    try:
        served = ModelVersion(model, given.version or server.default_version(model).version)
        classify = ThroughPredictor(
            Predictor(server, settings),
            served.model,
            served.version,
            patience=PATIENCE,
            others=Others(server),
        )
        archive = settings.model_store / served.archive
        map_one(
            given.scene,
            replace(options, version=served.version),
            classify,
            given.out,
            archive_sha256=digest(archive) if archive.is_file() else "",
            inspection=inspection,
            progress=Bar("windows"),
        )
    finally:
        server.close()
    for area in json.loads((given.out / "areas.json").read_text(encoding="utf-8")):
        hectares = "" if area["hectares"] is None else f"{area['hectares']:12.1f} ha"
        log.info("%-22s%s%8.1f %%", area["class_name"], hectares, 100 * area["share"])


def _tell(inspection: Inspection) -> None:
    for title, facts in (("found", inspection.found), ("assumed", inspection.assumed)):
        for topic, fact in facts.items():
            log.info("%-10s%s: %s", title, topic, fact)
    for sentence in inspection.warnings.values():
        log.warning("%-10s%s", "warning", sentence)
    log.info("%d windows, one each %d px", inspection.windows, inspection.stride)


if __name__ == "__main__":
    sys.exit(main())

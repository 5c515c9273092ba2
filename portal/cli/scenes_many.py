"""Maps of all scenes in a folder: ``python -m portal.cli.scenes_many IN OUT``.

Each map gets a folder of its own in OUT; scenes that are mapped already are left out. Beside them
stand scenes.csv, failed.csv and collection.json (STAC). Ends with 1 where a scene has no map.

Each worker loads the archive itself. With --server, TorchServe is asked instead, by the settings
PORTAL_TORCHSERVE_* of the workers.
"""

import argparse
import logging
import sys
from pathlib import Path
from urllib.parse import urlsplit

from handlers.contract.names import BadName, ModelVersion
from portal.cli.archive_options import MODEL_STORE, count, find_archive
from portal.cli.scene_options import add_options, options_of
from portal.errors import PortalError
from portal.scenes.collection import find_scenes, write_run
from portal.settings import BadSetting

log = logging.getLogger("scenes")


def main() -> int | str:
    """Run the command line; return the exit status, or a sentence for the user about a failure."""
    given = parser().parse_args()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for name in ("scenes", "portal"):
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        from portal.scenes.cluster import NoCluster, map_scenes  # noqa: PLC0415 - an extra
    except ImportError as error:
        return f"{error.name} is missing: install it with `pip install '.[cluster]'`."
    # Dask's own; of connections that end with a cluster it tells as of errors
    logging.getLogger("distributed").setLevel(logging.WARNING)
    logging.getLogger("distributed.batched").setLevel(logging.CRITICAL)
    scenes, others = find_scenes(given.source, given.results)
    if others:
        shown = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
        log.info("Left out %d files that are no scenes by their names: %s", len(others), shown)
    if not scenes:
        return f"{given.source} has no scenes: expected .tif, .jp2, .png or .jpg files."
    try:
        archive = None
        if not given.server:
            archive = given.archive or find_archive(given.model_store, given.model, given.version)
        served = asked(given) if archive is None else ModelVersion.of_archive(archive.name)
        options = options_of(given, served.model, served.version)
        outcomes = map_scenes(
            scenes,
            given.results,
            options,
            archive=archive,
            servers=given.server,
            scheduler=given.scheduler,
            workers=given.workers,
        )
        write_run(given.results, outcomes)
    except (PortalError, BadName, BadSetting, NoCluster) as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or given.results}: {error.strerror or error}."
    except KeyboardInterrupt:
        return "\nStopped. What is mapped stays: the same command goes on from there."
    failed = sum(not outcome.folder for outcome in outcomes)
    kept = sum(outcome.kept for outcome in outcomes)
    mapped = len(outcomes) - failed - kept
    log.info("%d mapped, %d mapped before, %d failed: %s", mapped, kept, failed, given.results)
    return 1 if failed else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(prog="python -m portal.cli.scenes_many", description=__doc__)
    found.add_argument("source", type=_there, metavar="IN", help="folder of scenes, or one file")
    found.add_argument("results", type=Path, metavar="OUT", help="folder of the maps")
    found.add_argument("--model", default="baseline", help="default: %(default)s")
    found.add_argument("--version", help="default: the newest in the model store")
    found.add_argument("--archive", type=_there, help="a .mar, in place of model and version")
    found.add_argument("--model-store", type=Path, default=MODEL_STORE, help="folder of archives")
    add_options(found)
    found.add_argument("--scheduler", default="", help="of a Dask cluster, as tcp://host:8786")
    found.add_argument("--workers", type=count, help="processes here; default: one for each core")
    found.add_argument(
        "--server", type=_servers, default=(), help="URLs of TorchServe, separated by commas"
    )
    return found


def asked(given: argparse.Namespace) -> ModelVersion:
    """The version that servers are asked for.

    Raises:
        BadName: it is not named, or an archive is.
    """
    if given.archive is not None or given.version is None:
        raise BadName("With --server, say which version answers: --model and --version.")
    return ModelVersion.checked(given.model, given.version)


def _there(text: str) -> Path:
    path = Path(text)
    if not path.exists():
        raise argparse.ArgumentTypeError(f"{text} does not exist")
    return path


def _servers(text: str) -> tuple[str, ...]:
    urls = tuple(part.strip() for part in text.split(",") if part.strip())
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise argparse.ArgumentTypeError(f"expected URLs such as http://host:8080, found {url}")
    return urls


if __name__ == "__main__":
    sys.exit(main())

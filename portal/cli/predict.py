"""Answers to many tiles as CSV, without a model server: those that it would give.

    python -m portal.cli.predict tiles --model baseline-2.0 --out answers.csv

A tile is a file that is named, or lies in a folder or a zip that is. OUT gets a row for each, in
their order, one without an answer too: its column ``error`` says why. After an interruption the
same command goes on behind the last row.

Ends with 0 where each tile has an answer, 1 where some have an error, 2 where not all could be
asked about, 130 after Ctrl-C.
"""

import argparse
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from queue import SimpleQueue

from handlers.contract.image_body import AUTO, LOOKS, SCALES
from handlers.contract.names import BadName, ModelVersion
from portal.cli.answer_table import AnswerTable
from portal.cli.archive_options import MODEL_STORE, count, find_archive
from portal.cli.progress import Bar
from portal.cli.tile_files import Tile, find_tiles
from portal.errors import BadAnswer, BadArchive, ModelNotReady, PortalError, TooSlow
from portal.serving.archive_model import ArchiveModel
from portal.serving.model_server import Prediction
from portal.serving.predictor import Predictor, Radiometry
from portal.settings import Settings

PART = 128  # tiles that a process is given at a time
AHEAD = 4  # of them for each process, so that none waits for another one's large images
LARGEST_PART = 32 * 1024 * 1024  # bytes of its images that are in memory together
# Nobody waits for a single tile: the process of an archive has its own deadlines.
SETTINGS = Settings(batch_timeout=600, predict_timeout=600)
# Of a tile that shares its bundle with others, as it may be their fault.
_ASKED_ALONE = (BadAnswer, ModelNotReady, TooSlow)

Outcome = Prediction | PortalError

log = logging.getLogger("predict")


def main() -> int:
    """Run the command line; return the exit status."""
    given = _parser().parse_args()
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    try:
        return predict(given)
    except (PortalError, BadName) as error:
        log.error("%s", error)  # noqa: TRY400  (a sentence for the user, no traceback)
    except OSError as error:
        log.error("%s: %s.", error.filename or given.out, error.strerror or error)  # noqa: TRY400
    except KeyboardInterrupt:
        log.info("\nInterrupted. The same command goes on behind the last row.")
        return 130
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m portal.cli.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("tiles", type=Path, nargs="+", metavar="FILE", help="or folder, or zip")
    parser.add_argument("--out", type=Path, required=True, help="CSV that is begun or gone on with")
    parser.add_argument(
        "--model",
        required=True,
        help="<model>-<version>, or <model> for its newest, of the model store; or a .mar",
    )
    parser.add_argument("--model-store", type=Path, default=MODEL_STORE, help="folder of archives")
    parser.add_argument("--scale", choices=SCALES, default=AUTO, help="of the tiles' values")
    parser.add_argument("--look", choices=LOOKS, default=AUTO, help="product that they are of")
    parser.add_argument("--workers", type=count, help="processes; default: one for each core")
    return parser


def predict(given: argparse.Namespace) -> int:
    """Do what is asked, and say what becomes of it; the exit status."""
    started = time.monotonic()
    tiles, left_out = find_tiles(given.tiles)
    if left_out:
        log.info("Left out %d files that are no images by their names.", left_out)
    archive = _archive(given.model_store, given.model)
    with ExitStack() as stack:
        workers = given.workers or os.cpu_count() or 1
        models = [stack.enter_context(ArchiveModel(archive)) for _ in range(workers)]
        inside = models[0].archive
        table = stack.enter_context(AnswerTable(given.out, inside.name, inside.labels))
        todo = [tile for tile in tiles if tile.name not in table.files]
        done = before = len(tiles) - len(todo)
        progress = Bar("tiles")
        answered = _answered(models, todo, Radiometry(given.scale, given.look))
        # ended before the models are: a thread that goes on would start its process anew
        for outcomes in stack.enter_context(closing(answered)):
            table.append(outcomes)
            done += len(outcomes)
            progress(done, len(tiles))
    log.info(
        "%d tiles (%d of them before, %.0f a second), %d with an error: %s",
        done, before, (done - before) / (time.monotonic() - started), table.errors, given.out,
    )  # fmt: skip
    return 1 if table.errors else 0


def _archive(store: Path, text: str) -> Path:
    """The archive that ``--model`` names.

    Raises:
        BadName: there is none.
    """
    path = Path(text)
    if path.is_dir():
        raise BadName(
            f"{text} is a folder, expected an archive. Build that of a run or a release with "
            f"`python -m training.archive {text}`, then say --model {path.name}."
        )
    if text.endswith(".mar"):
        if not path.is_file():
            raise BadName(f"{text} does not exist.")
        return path
    try:
        asked = ModelVersion.parse(text)
    except BadName:
        return find_archive(store, text, None)
    return find_archive(store, asked.model, asked.version)


def _answered(
    models: Sequence[ArchiveModel], tiles: Sequence[Tile], radiometry: Radiometry
) -> Generator[list[tuple[str, Outcome]]]:
    """Names of tiles and what becomes of them, a part after the other, in their order.

    Raises:
        BadArchive: the archive does not load.
        ModelNotReady, TooSlow: nothing of a part was answered, though asked about one by one.
    """
    idle: SimpleQueue[ArchiveModel] = SimpleQueue()
    for model in models:
        idle.put(model)

    def answer(part: Sequence[Tile]) -> list[tuple[str, Outcome]]:
        model = idle.get()
        try:
            return list(_outcomes(model, part, radiometry))
        finally:
            idle.put(model)

    pool = ThreadPoolExecutor(len(models), "predict")
    under_way: deque[Future[list[tuple[str, Outcome]]]] = deque()
    try:
        for start in range(0, len(tiles), PART):
            under_way.append(pool.submit(answer, tiles[start : start + PART]))
            if len(under_way) == AHEAD * len(models):
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _outcomes(
    model: ArchiveModel, tiles: Sequence[Tile], radiometry: Radiometry
) -> Iterator[tuple[str, Outcome]]:
    predictor = Predictor(model, SETTINGS)
    found: dict[str, Outcome | None] = dict.fromkeys(tile.name for tile in tiles)
    images: dict[str, bytes] = {}
    for place, tile in enumerate(tiles, 1):
        try:
            images[tile.name] = tile.read(SETTINGS.max_upload_bytes + 1)
        except PortalError as error:
            found[tile.name] = error
        if place == len(tiles) or sum(map(len, images.values())) > LARGEST_PART:
            answers = _ask(predictor, model.archive.name, list(images.values()), radiometry)
            found |= zip(images, answers, strict=True)
            images = {}
    for name, outcome in found.items():
        assert outcome is not None
        yield name, outcome


def _ask(
    predictor: Predictor, served: ModelVersion, images: Sequence[bytes], radiometry: Radiometry
) -> list[Outcome]:
    """What becomes of each image; see ``_answered`` for errors."""
    asked = served.model, served.version, radiometry
    outcomes: list[Outcome]
    try:
        outcomes = predictor.predict_many(images, *asked) if images else []
    except _ASKED_ALONE as error:
        outcomes = [error] * len(images)
    for place, outcome in enumerate(outcomes):
        if isinstance(outcome, BadArchive):
            raise outcome
        if isinstance(outcome, _ASKED_ALONE):
            try:
                outcomes[place] = predictor.predict(images[place], *asked)
            except BadArchive:
                raise
            except PortalError as error:
                outcomes[place] = error
    silent = [outcome for outcome in outcomes if isinstance(outcome, ModelNotReady | TooSlow)]
    if len(silent) == len(outcomes) > 1:
        raise silent[0]
    return outcomes


if __name__ == "__main__":
    sys.exit(main())

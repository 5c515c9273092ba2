"""Many images in one request: each gets its own answer, whatever becomes of the others."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import IO

from flask import g, request

from portal.classify import check_image
from portal.errors import (
    BadAnswer,
    Busy,
    ModelNotReady,
    ModelServerDown,
    NoImage,
    PortalError,
    TooManyTiles,
    TooSlow,
    UnknownModel,
)
from portal.model_server import Prediction
from portal.services import Services, services
from portal.stack import split

log = logging.getLogger("portal.batch")

MAX_TILES = 256
AT_ONCE = 2  # stacks of one batch at the same time, one for each of two workers
# A batch becomes at least so many stacks, if they are not tiny. Between two stacks a worker idles
# for 5 ms, until it has the next one from TorchServe: 256 tiles of ResNet-18 take 142 ms in two
# stacks and 149 in four (2 cores, AVX-512 VNNI).
SHARES = 2

# Not about one image: where nothing succeeds, the first of these is the answer of the whole batch.
_OF_THE_SERVER = (BadAnswer, Busy, ModelNotReady, ModelServerDown, TooSlow, UnknownModel)

Upload = tuple[
    str, bytes | PortalError
]  # the file's name, and its content or what is wrong with it


def read_uploads() -> list[Upload]:
    """The files of the multipart field ``files``, in their order.

    Raises:
        NoImage: there is none.
        TooManyTiles: more than ``MAX_TILES``.
    """
    files = request.files.getlist("files") if request.mimetype == "multipart/form-data" else []
    if not files:
        raise NoImage(
            "There are no files in the form field `files`. Send one or more images there, for "
            "example with curl -F files=@one.jpg -F files=@two.jpg."
        )
    if len(files) > MAX_TILES:
        raise TooManyTiles(
            f"The request has {len(files)} files, but at most {MAX_TILES} are taken at a time. "
            "Send them in several requests."
        )
    limit = services().settings.max_upload_bytes
    return [(file.filename or "", _read(file.stream, limit)) for file in files]


def classify_many(
    uploads: list[Upload], model: str, version: str | None
) -> list[Prediction | PortalError]:
    """The answer to each upload, in their order.

    Raises:
        Busy: enough other batches are under way.
        PortalError: the model cannot be asked, so that nothing was classified.
    """
    own = services()
    g.model, g.version = model, version
    if not own.batches.acquire(blocking=False):
        raise Busy("The portal works on as many batches as it takes. Try again in a few seconds.")
    try:
        results = _classify(own, [content for _, content in uploads], model, version)
    finally:
        own.batches.release()
    if not any(isinstance(result, Prediction) for result in results):
        for result in results:
            if isinstance(result, _OF_THE_SERVER):
                raise result
    for result in results:
        if isinstance(result, Prediction):
            own.metrics.predicted(result)
        else:
            own.metrics.failed(result.code, model, version)
    return results


def _read(stream: IO[bytes], limit: int) -> bytes | PortalError:
    image = stream.read(limit + 1)
    try:
        check_image(image, limit)
    except PortalError as problem:
        return problem
    return image


def _classify(
    own: Services, contents: list[bytes | PortalError], model: str, version: str | None
) -> list[Prediction | PortalError]:
    """The answer to each image, or what was wrong with it already."""
    deadline = time.monotonic() + own.settings.batch_timeout
    places = [place for place, content in enumerate(contents) if isinstance(content, bytes)]
    images = [content for content in contents if isinstance(content, bytes)]
    stacks = split(images, SHARES)
    with ThreadPoolExecutor(AT_ONCE, "batch") as workers:
        answers = workers.map(
            lambda stack: _ask(own, [images[n] for n in stack], model, version, deadline), stacks
        )
    answered = {
        places[number]: answer
        for stack, found in zip(stacks, answers, strict=True)
        for number, answer in zip(stack, found, strict=True)
    }
    return [
        content if isinstance(content, PortalError) else answered[place]
        for place, content in enumerate(contents)
    ]


def _ask(
    own: Services, images: list[bytes], model: str, version: str | None, deadline: float
) -> list[Prediction | PortalError]:
    """The answers to one stack."""
    error: PortalError
    try:
        with own.pace.turn(deadline):
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            return own.torchserve.predict_stack(images, model, version, timeout=left)
    except TimeoutError:
        error = TooSlow(
            f"The batch took longer than {own.settings.batch_timeout:g} s, and this tile was not "
            "reached. Send fewer tiles at a time."
        )
    except PortalError as problem:
        error = problem
    except Exception:  # ours, and logged; the other tiles keep their answers
        log.exception("a stack of a batch failed")
        error = PortalError("Something went wrong in the portal; its log has the details.")
    return [error] * len(images)

"""From an image to its answer: the asking half of a request."""

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from flask import g, request

from portal.errors import (
    BadAnswer,
    Busy,
    ModelNotReady,
    ModelServerDown,
    PortalError,
    TooSlow,
    UnknownModel,
)
from portal.services import MAX_EXPLANATIONS, Services, services
from portal.serving.model_server import Explanation, Prediction
from portal.serving.torchserve.tile_bundle import split

log = logging.getLogger("portal.serving.predictor")


# In the environ of a request that was tried on the fast path: the error that it met there.
FAILED = "portal.failed"
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


def classify(image: bytes, model: str, version: str | None) -> Prediction:
    """Classify one image.

    Raises:
        Busy: all seats for predictions are taken.
        PortalError: whatever ``ModelServer.predict`` raises.
    """
    own = services()
    g.model, g.version = model, version
    if (error := request.environ.pop(FAILED, None)) is not None:
        raise error
    with _seat(own):
        prediction = own.torchserve.predict(image, model, version)
    g.version = prediction.version
    own.metrics.predicted(prediction)
    return prediction


def explain(image: bytes, model: str, version: str | None) -> Explanation:
    """Ask what in an image speaks for its class. It takes as long as hundreds of predictions.

    Raises:
        Busy: enough other explanations are under way, or all seats are taken.
        PortalError: whatever ``ModelServer.explain`` raises.
    """
    own = services()
    g.model, g.version = model, version
    if not own.explanations.acquire(blocking=False):
        raise Busy(
            f"{MAX_EXPLANATIONS} explanations are under way, and the portal takes no more at a "
            "time. Try again in a few seconds."
        )
    try:
        with _seat(own):
            explanation = own.torchserve.explain(image, model, version)
    finally:
        own.explanations.release()
    g.version = explanation.version
    return explanation


@contextmanager
def _seat(own: Services) -> Iterator[None]:
    """One of the seats for whoever waits for the model server.

    Raises:
        Busy: all are taken.
    """
    if not own.seats.acquire(blocking=False):
        raise Busy(
            f"{own.settings.max_in_flight} predictions wait or are under way, and the portal takes "
            "no more at a time. Try again in a second."
        )
    try:
        yield
    finally:
        own.seats.release()

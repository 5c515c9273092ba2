"""The only way from an image to its answer: single, batch and explanation, from every door.

A door (a view, the fast path, another protocol) parses, asks the ``Predictor`` and renders. What
holds for all of them stands here once: the checks of an image, the limits, the version that
answers, and who is told of it.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeVar

from handlers.contract.image_body import AUTO, undo_base64, wrap
from handlers.contract.names import ModelVersion
from portal import errors
from portal.errors import PortalError
from portal.serving.bundles import Pacer, split
from portal.serving.model_server import Answering, Explanation, Prediction
from portal.settings import Settings

log = logging.getLogger("portal.serving.predictor")

MAX_BATCHES = 2  # at the same time: each keeps one of gunicorn's threads for as long as it takes
MAX_EXPLANATIONS = 2  # at the same time: predictions wait in TorchServe's queue behind them
BUNDLES_AT_ONCE = 2  # of one batch, one for each of two workers
# A batch becomes at least so many bundles, if they are not tiny. Between two bundles a worker idles
# for 5 ms, until it has the next one from TorchServe: 256 tiles of ResNet-18 take 142 ms in two
# bundles and 149 in four (2 cores, AVX-512 VNNI).
BUNDLES_PER_BATCH = 2

FORMATS = "JPEG, PNG, TIFF, JPEG 2000, AVIF, WEBP, GIF or BMP"

# Not about one image: where nothing succeeds, the first of these is the answer of the whole batch.
_OF_THE_SERVER = (
    errors.BadAnswer,
    errors.Busy,
    errors.ModelNotReady,
    errors.ModelServerDown,
    errors.TooSlow,
    errors.UnknownModel,
)


@dataclass(frozen=True, slots=True)
class Radiometry:
    """What a client knows of the values in its images.

    Attributes:
        scale, look: of ``handlers.contract.image_body.SCALES`` and ``LOOKS``; by default the
            values decide.
    """

    scale: str = AUTO
    look: str = AUTO

    def of(self, image: bytes) -> bytes:
        """The body that tells the model server of it: the image itself if nothing is known."""
        return wrap(image, self.scale, self.look)


UNKNOWN = Radiometry()


@dataclass(frozen=True, slots=True)
class PredictionRequest:
    """What a client asked about one image.

    Attributes:
        image: encoded, as it came, but that base64 is undone.
        version: None for whichever is the default.
    """

    kind: Literal["predict", "batch", "explain"]
    image: bytes
    model: str
    version: str | None
    radiometry: Radiometry = UNKNOWN


Outcome = Prediction | Explanation | PortalError
_Answer = TypeVar("_Answer", Prediction, Explanation)


# Is told, from many threads, what became of each image that a model was asked about, and in how
# many seconds (those of all of its batch). Of a batch of which nothing succeeded, because of the
# model server, it is told once.
Observer = Callable[[PredictionRequest, Outcome, float], None]


class Predictor:
    """Asks a model server, within the limits of the settings. Safe to use from many threads.

    Args:
        observers: told in this order; one that fails is logged, and its client gets the answer.
    """

    def __init__(
        self, server: Answering, settings: Settings, observers: Iterable[Observer] = ()
    ) -> None:
        self.observers = list(observers)
        self._server = server
        self._settings = settings
        self._pacer = Pacer()
        self.in_flight = ConcurrencyLimit(
            settings.max_in_flight,
            f"{settings.max_in_flight} predictions wait or are under way, and the portal takes no "
            "more at a time. Try again in a second.",
        )
        self.batches = ConcurrencyLimit(
            MAX_BATCHES,
            "The portal works on as many batches as it takes. Try again in a few seconds.",
        )
        self.explanations = ConcurrencyLimit(
            MAX_EXPLANATIONS,
            f"{MAX_EXPLANATIONS} explanations are under way, and the portal takes no more at a "
            "time. Try again in a few seconds.",
        )

    def predict(
        self,
        image: bytes,
        model: str,
        version: str | None = None,
        radiometry: Radiometry = UNKNOWN,
    ) -> Prediction:
        """Classify one encoded image with a version of a model; None: its default one.

        Args:
            image: may be in base64 or a data URL.

        Raises:
            NoImage, TooLarge, UnsupportedImage: the image is at fault.
            Busy: enough others are under way.
            TakesNoHints: the version cannot be told of a radiometry.
            PortalError: whatever ``ModelServer.predict`` raises.
        """
        image = undo_base64(image)
        check_image(image, self._settings.max_upload_bytes)
        request = PredictionRequest("predict", image, model, version, radiometry)
        with self.in_flight:
            return self._observed(request, self._server.predict)

    def explain(
        self,
        image: bytes,
        model: str,
        version: str | None = None,
        radiometry: Radiometry = UNKNOWN,
    ) -> Explanation:
        """Ask what in an image speaks for its class. It takes as long as hundreds of predictions.

        Raises:
            NoExplanations: this version cannot explain.
            PortalError: whatever ``predict`` and ``ModelServer.explain`` raise.
        """
        image = undo_base64(image)
        check_image(image, self._settings.max_upload_bytes)
        request = PredictionRequest("explain", image, model, version, radiometry)
        with self.explanations, self.in_flight:
            return self._observed(request, self._server.explain)

    def predict_many(
        self,
        images: Sequence[bytes],
        model: str,
        version: str | None = None,
        radiometry: Radiometry = UNKNOWN,
    ) -> list[Prediction | PortalError]:
        """The answer to each image, in their order, or what is wrong with it.

        Args:
            radiometry: of all of them.

        Raises:
            Busy: enough other batches are under way.
            PortalError: the model cannot be asked, so that nothing was classified.
        """
        started = time.monotonic()
        with self.batches:
            requests = [
                PredictionRequest("batch", undo_base64(image), model, version, radiometry)
                for image in images
            ]
            outcomes = self._classify(requests, started)
            if not any(isinstance(outcome, Prediction) for outcome in outcomes):
                for request, outcome in zip(requests, outcomes, strict=True):
                    if isinstance(outcome, _OF_THE_SERVER):
                        self._tell(request, outcome, started)
                        raise outcome
            for request, outcome in zip(requests, outcomes, strict=True):
                self._tell(request, outcome, started)
            return outcomes

    def _observed(
        self, request: PredictionRequest, ask: Callable[[bytes, ModelVersion, float], _Answer]
    ) -> _Answer:
        """One answer of the model server, told to the observers, as is its error."""
        started = time.monotonic()
        try:
            served, left = self._route(request.model, request.version, started)
            try:
                answer = ask(request.radiometry.of(request.image), served, left)
            except errors.UnsupportedImage:
                if request.radiometry == UNKNOWN:
                    raise
                # refused without what is known of it as well, the image itself is at fault
                left = started + self._settings.predict_timeout - time.monotonic()
                ask(request.image, served, left)
                raise _takes_no_hints(served) from None
        except PortalError as error:
            self._tell(request, error, started)
            raise
        self._tell(request, answer, started)
        return answer

    def _route(self, model: str, version: str | None, started: float) -> tuple[ModelVersion, float]:
        """The version that answers, and the seconds that are left for it."""
        seconds = self._settings.predict_timeout
        if version is not None:
            return ModelVersion(model, version), seconds
        served = self._server.default_version(model, seconds)
        return served, started + seconds - time.monotonic()

    def _tell(self, request: PredictionRequest, outcome: Outcome, started: float) -> None:
        elapsed = time.monotonic() - started
        if isinstance(outcome, PortalError):
            outcome.observed = True
        for observe in self.observers:
            try:
                observe(request, outcome, elapsed)
            except Exception:  # the client's answer does not depend on who watches
                log.exception("an observer of predictions failed")

    def _classify(
        self, requests: Sequence[PredictionRequest], started: float
    ) -> list[Prediction | PortalError]:
        """The outcomes of requests for one version."""
        outcomes: dict[int, Prediction | PortalError] = {}
        for place, request in enumerate(requests):
            try:
                check_image(request.image, self._settings.max_upload_bytes)
            except PortalError as problem:
                outcomes[place] = problem
        if places := [place for place in range(len(requests)) if place not in outcomes]:
            served, _ = self._route(requests[0].model, requests[0].version, started)
            good = [requests[place] for place in places]
            bundles = split([request.image for request in good], BUNDLES_PER_BATCH)
            with ThreadPoolExecutor(BUNDLES_AT_ONCE, "batch") as workers:
                answers = workers.map(
                    lambda bundle: self._ask([good[n] for n in bundle], served, started), bundles
                )
            for bundle, found in zip(bundles, answers, strict=True):
                outcomes |= {places[n]: answer for n, answer in zip(bundle, found, strict=True)}
        return [outcomes[place] for place in range(len(requests))]

    def _ask(
        self, requests: list[PredictionRequest], served: ModelVersion, started: float
    ) -> list[Prediction | PortalError]:
        """The answers to one bundle of a batch."""
        error: PortalError
        deadline = started + self._settings.batch_timeout
        try:
            with self._pacer.turn(deadline):
                return self._ask_bundle(requests, served, deadline)
        except TimeoutError:
            error = errors.TooSlow(
                f"The batch took longer than {self._settings.batch_timeout:g} s, and this tile was "
                "not reached. Send fewer tiles at a time."
            )
        except PortalError as problem:
            error = problem
        except Exception:  # ours, and logged; the other tiles keep their answers
            log.exception("a bundle of a batch failed")
            error = PortalError("Something went wrong in the portal; its log has the details.")
        return [error] * len(requests)

    def _ask_bundle(
        self, requests: list[PredictionRequest], served: ModelVersion, deadline: float
    ) -> list[Prediction | PortalError]:
        def ask(bodies: list[bytes]) -> list[Prediction | PortalError]:
            if (left := deadline - time.monotonic()) <= 0:
                raise TimeoutError
            return self._server.predict_bundle(bodies, served, left)

        outcomes = ask([request.radiometry.of(request.image) for request in requests])
        refused = [isinstance(outcome, errors.UnsupportedImage) for outcome in outcomes]
        if requests[0].radiometry == UNKNOWN or not any(refused):
            return outcomes
        (plain,) = ask([requests[refused.index(True)].image])
        if isinstance(plain, errors.UnsupportedImage):
            return outcomes
        no_hints = _takes_no_hints(served)
        pairs = zip(outcomes, refused, strict=True)
        return [no_hints if found else outcome for outcome, found in pairs]


class ConcurrencyLimit:
    """At most so many at a time; whoever comes then is refused at once."""

    def __init__(self, most: int, words: str) -> None:
        self._places = threading.BoundedSemaphore(most)
        self._words = words

    def __enter__(self) -> None:
        if not self._places.acquire(blocking=False):
            raise errors.Busy(self._words)

    def __exit__(self, *_error: object) -> None:
        self._places.release()


def check_image(image: bytes, limit: int) -> None:
    """What can be said of an image without decoding it.

    Raises:
        NoImage: no bytes.
        TooLarge: more than ``limit`` bytes.
        UnsupportedImage: does not begin as an image in a format that is read.
    """
    if not image:
        raise errors.NoImage(
            "The image is empty: no file was chosen, or it has 0 bytes. Choose another."
        )
    if len(image) > limit:
        raise errors.too_large(limit)
    if media_type(image) is None:
        heic = image[4:8] == b"ftyp" and (b"hei" in image[8:40] or b"mif1" in image[8:40])
        found = "HEIC, which is not read here" if heic else "not an image that can be read here"
        raise errors.UnsupportedImage(f"This is {found}. Send {FORMATS}.")


def _takes_no_hints(served: ModelVersion) -> errors.TakesNoHints:
    return errors.TakesNoHints(
        f"{served} cannot be told scale or look: its archive is older than that. Build it anew "
        "with `make archive`, choose another version, or leave both out."
    )


def media_type(image: bytes) -> str | None:
    """What the first bytes say an encoded image is; None for none of the accepted formats."""
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "image/webp"
    if image[4:8] == b"ftyp":  # of AVIF and HEIC, which are both HEIF: its kinds follow
        return "image/avif" if b"avif" in image[8:40] or b"avis" in image[8:40] else None
    return next((name for start, name in _SIGNATURES.items() if image.startswith(start)), None)


_SIGNATURES = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
    b"II*\x00": "image/tiff",
    b"MM\x00*": "image/tiff",
    b"II+\x00": "image/tiff",  # BigTIFF
    b"MM\x00+": "image/tiff",
    b"\x00\x00\x00\x0cjP  ": "image/jp2",
    b"\xff\x4f\xff\x51": "image/jp2",  # its codestream alone
    b"BM": "image/bmp",
}

"""Windows of a scene, asked about through the portal's ``Predictor``.

Whoever asks about one tile comes first: while there are others, one small bundle is under way at a
time, so that of two workers one is free.
"""

import logging
import re
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import numpy as np

from handlers.contract.names import ModelVersion
from handlers.contract.tile_bundle import LARGEST_BUNDLE
from portal import errors
from portal.errors import PortalError
from portal.scenes.scene import SIDE, Answers
from portal.serving.bundles import SMALLEST_BUNDLE, split
from portal.serving.model_server import ModelServer, Prediction
from portal.serving.predictor import BUNDLES_PER_BATCH, MAX_BATCHES, Predictor

log = logging.getLogger("portal.scenes.classifier")

# Seconds that a bundle may take where nobody else waits. Between two a worker idles for 5 ms.
BUNDLE = 0.04
SMALLEST, LARGEST = SMALLEST_BUNDLE * BUNDLES_PER_BATCH, LARGEST_BUNDLE * BUNDLES_PER_BATCH
PATIENCE = 600.0  # seconds until a model server that does not answer is given up
SHORT_PATIENCE = 10.0  # the same, of answers that make no sense
PAUSE = 1.0  # seconds after an error, and between two looks at who else asks
LOOK = 0.25  # seconds between two looks at whether the scene is still wanted; and for one at others

# BMP, 24 bits: the cheapest lossless format to write and to read. Its rows stand upside down.
_PIXELS = SIDE * SIDE * 3
_BMP = struct.pack(
    "<2sIHHIIiiHHIIiiII",
    b"BM", 54 + _PIXELS, 0, 0, 54, 40, SIDE, SIDE, 1, 24, 0, _PIXELS, 2835, 2835, 0, 0,
)  # fmt: skip
_REQUESTS = re.compile(r"^ts_inference_requests_total\{.*\} ([0-9.eE+]+)$", re.MULTILINE)

# Worth asking again: a model server that starts anew answers so.
_PASSING = (
    errors.Busy,
    errors.ModelNotReady,
    errors.ModelServerDown,
    errors.TooSlow,
)

Outcome = Prediction | PortalError


def bmp(windows: np.ndarray) -> list[bytes]:
    """Windows as files: uint8 (N, SIDE, SIDE, 3) -> as many BMPs."""
    rows = np.ascontiguousarray(windows[:, ::-1, :, ::-1])
    return [_BMP + window.tobytes() for window in rows]


class ThroughPredictor:
    """A ``Classifier`` that asks one version of a model through a ``Predictor``.

    It waits for a model server that starts anew. One thread may call it at a time.

    Attributes:
        version: the one that answers.

    Args:
        version: None: the default one at the first call, and from then on.
        patience: seconds after which a window that got no answer is given up.
        waiting: called while it waits, four times a second; an error that it raises ends the call.
        others: whether anybody else asks the model server.
    """

    def __init__(
        self,
        predictor: Predictor,
        model: str,
        version: str | None = None,
        *,
        patience: float = PATIENCE,
        waiting: Callable[[], None] = lambda: None,
        others: Callable[[int], bool] = lambda _own: False,
    ) -> None:
        self.version = version
        self._predictor = predictor
        self._model = model
        self._patience = patience
        self._waiting = waiting
        self._others = others
        self._labels: tuple[str, ...] = ()
        self._sent = 0
        self._most = SMALLEST  # windows in a batch

    def __call__(self, windows: np.ndarray) -> Answers:
        """See ``Classifier``.

        Raises:
            PortalError: the model does not answer for longer than ``patience``, or answers what it
                must not.
        """
        started = time.monotonic()
        found = self._ask(windows)
        # of as many bundles as there are batches at a time two workers have one each
        rate = len(found) / max(time.monotonic() - started, 1e-3)
        self._most = int(np.clip(rate * BUNDLE, SMALLEST, LARGEST))
        return answers_of(found, self._labels, ModelVersion(self._model, self.version or ""))

    def _ask(self, windows: np.ndarray) -> list[Prediction | None]:
        """The answer to each window; None: there is nothing to see in it."""
        found: dict[int, Prediction | None] = {}
        failing: dict[int, float] = {}  # since when, time.monotonic
        polite = self._others(self._sent)
        self._sent = 0
        todo = deque(range(len(windows)))
        running: dict[Future[list[Outcome]], list[int]] = {}
        pool = ThreadPoolExecutor(MAX_BATCHES, "scene")
        try:
            while todo or running:
                careful = polite or self.version is None  # the first answer tells it
                while todo and len(running) < (1 if careful else MAX_BATCHES):
                    most = SMALLEST_BUNDLE if careful else self._most
                    places = [todo.popleft() for _ in range(min(most, len(todo)))]
                    batch = bmp(windows[places])
                    self._sent += len(split(batch, BUNDLES_PER_BATCH))
                    running[pool.submit(self._outcomes, batch)] = places
                done, _ = wait(running, LOOK, FIRST_COMPLETED)
                self._waiting()
                failed: list[int] = []
                for future in done:
                    places = running.pop(future)
                    failed += self._take(places, future.result(), found, failing)
                if failed:
                    todo.extendleft(reversed(failed))
                    self._pause()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return [found[place] for place in range(len(windows))]

    def _outcomes(self, images: list[bytes]) -> list[Outcome]:
        try:
            return self._predictor.predict_many(images, self._model, self.version)
        except PortalError as error:
            return [error] * len(images)

    def _take(
        self,
        places: list[int],
        outcomes: list[Outcome],
        found: dict[int, Prediction | None],
        failing: dict[int, float],
    ) -> list[int]:
        """Keep outcomes that are final; return the places that must be asked about again.

        Raises:
            PortalError: one of them is an error that stays.
        """
        again = []
        now = time.monotonic()
        for place, outcome in zip(places, outcomes, strict=True):
            if isinstance(outcome, Prediction):
                found[place] = outcome
                self.version = outcome.version
                self._labels = self._labels or tuple(sorted(outcome.probabilities))
            elif isinstance(outcome, errors.NothingToSee):
                found[place] = None
            elif now - failing.setdefault(place, now) < self._patience_with(outcome):
                again.append(place)
            else:
                raise outcome
        if again:
            log.info(
                "%d windows are asked about again: %s", len(again), outcomes[places.index(again[0])]
            )
        return again

    def _patience_with(self, error: PortalError) -> float:
        """Seconds for which a window is asked about again after this."""
        if isinstance(error, _PASSING):
            return self._patience
        if isinstance(error, errors.UnknownModel):
            # a model server that starts anew loads one version after the other
            return self._patience if self._labels else 0
        return min(SHORT_PATIENCE, self._patience) if isinstance(error, errors.BadAnswer) else 0

    def _pause(self) -> None:
        end = time.monotonic() + PAUSE
        while (left := end - time.monotonic()) > 0:
            self._waiting()
            time.sleep(min(LOOK, left))


def answers_of(
    found: Sequence[Prediction | None], labels: Sequence[str], served: ModelVersion
) -> Answers:
    """Predictions as a ``Classifier`` gives them; None: there is nothing to see.

    Args:
        labels: in the order of the columns.

    Raises:
        BadAnswer: a prediction has other labels.
    """
    count = len(found)
    probabilities = np.full((count, len(labels)), np.nan, np.float32)
    unsure, bright, empty = np.zeros((3, count), bool)
    for place, prediction in enumerate(found):
        if prediction is None:
            empty[place] = True
            continue
        shares = prediction.probabilities
        if len(shares) != len(labels) or not shares.keys() <= set(labels):
            raise errors.BadAnswer(f"{served} has other classes than before. Map the scene again.")
        probabilities[place] = [shares[label] for label in labels]
        unsure[place] = prediction.uncertain
        bright[place] = any(warning.code == "too_bright" for warning in prediction.warnings)
    return Answers(tuple(labels), probabilities, unsure, bright, empty)


class Others:
    """Whether anybody else asks a model server, as it counts requests itself.

    Called with the number of own requests since the last call, while none of them is under way.
    """

    def __init__(self, server: ModelServer) -> None:
        self._server = server
        self._counted: float | None = None
        self._own = 0
        self._asked = 0.0
        self._found = False

    def __call__(self, own: int) -> bool:
        """Whether there were others; looks once a second at most."""
        self._own += own
        if time.monotonic() - self._asked < PAUSE:
            return self._found
        before, self._counted = self._counted, self._count()
        self._found = (
            before is not None and self._counted is not None and self._counted - before > self._own
        )
        self._own, self._asked = 0, time.monotonic()
        return self._found

    def _count(self) -> float | None:
        """Requests that the model server has got; None where it does not tell."""
        try:
            found = _REQUESTS.findall(self._server.metrics(LOOK))
        except PortalError:
            return None
        return sum(map(float, found)) if found else None

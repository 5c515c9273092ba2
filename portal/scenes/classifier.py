"""Windows of a scene, asked about through the portal's ``Predictor``.

Whoever asks about one tile comes first: while there are others, one small bundle is under way at a
time, so that of two workers one is free, and the other soon. Else so many are under way that no
worker waits for the next, also while the windows after these are read and cut.
"""

import logging
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from handlers.contract.names import ModelVersion
from handlers.contract.tile_bundle import LARGEST_BUNDLE
from handlers.contract.window import HEAD
from portal import errors
from portal.errors import PortalError
from portal.scenes.scene import Answers
from portal.serving.bundles import SMALLEST_BUNDLE, split
from portal.serving.model_server import ModelServer, Prediction
from portal.serving.predictor import BUNDLES_PER_BATCH, MAX_BATCHES, Predictor

log = logging.getLogger("portal.scenes.classifier")

AT_ONCE = 16  # images that the model answers together; bundles of others leave some of it idle
UNDER_WAY = 2 * MAX_BATCHES  # batches; half of them wait for a place
PATIENCE = 600.0  # seconds until a model server that does not answer is given up
SHORT_PATIENCE = 10.0  # the same, of answers that make no sense
PAUSE = 1.0  # seconds after an error
LOOK = 0.25  # seconds between two looks at whether the scene is still wanted; and for one at others
STEP = 0.01  # seconds that a bundle may take while others ask, of whom one may share its worker
OTHERS = 0.5  # seconds between two looks at who else asks

_REQUESTS = re.compile(r"^ts_inference_requests_total\{.*\} ([0-9.eE+]+)$", re.MULTILINE)

# Worth asking again: a model server that starts anew answers so.
_PASSING = (
    errors.Busy,
    errors.ModelNotReady,
    errors.ModelServerDown,
    errors.TooSlow,
)

Outcome = Prediction | PortalError


def encode(windows: np.ndarray) -> list[bytes]:
    """Windows as files: uint8 (N, SIDE, SIDE, 3) -> as many."""
    return [HEAD + window.tobytes() for window in windows]


@dataclass
class _Round:
    """Windows that were asked about together, and what became of them, by their places."""

    windows: np.ndarray
    todo: deque[int] = field(init=False)
    found: dict[int, Prediction | None] = field(default_factory=dict)  # None: nothing to see
    failing: dict[int, float] = field(default_factory=dict)  # since when, time.monotonic
    most: int = field(init=False)  # windows in a batch, so that there are as many as at a time

    def __post_init__(self) -> None:
        self.todo = deque(range(len(self.windows)))
        bundle = -(-len(self.windows) // (MAX_BATCHES * BUNDLES_PER_BATCH * AT_ONCE)) * AT_ONCE
        self.most = min(bundle, LARGEST_BUNDLE) * BUNDLES_PER_BATCH


class ThroughPredictor:
    """A ``Classifier`` that asks one version of a model through a ``Predictor``.

    It waits for a model server that starts anew. One thread may call it at a time. After an error
    it is of no use.

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
        self._sent = 0  # requests
        self._fastest = float("inf")  # seconds of a window, in whatever batch it took the least
        self._rounds: list[_Round] = []
        self._running: dict[Future[list[Outcome]], tuple[_Round, list[int]]] = {}
        self._pool = ThreadPoolExecutor(MAX_BATCHES, "scene")

    def __call__(self, windows: np.ndarray) -> Answers:
        """See ``Classifier``.

        Raises:
            PortalError: the model does not answer for longer than ``patience``, or answers what it
                must not.
        """
        return self.begin(windows)()

    def begin(self, windows: np.ndarray) -> Callable[[], Answers]:
        """Begin to ask, and return what waits for the answers; it raises what a call does.

        Others may be begun meanwhile.
        """
        asked = _Round(windows)
        self._rounds.append(asked)
        self._send()
        return partial(self._finish, asked)

    def _finish(self, asked: _Round) -> Answers:
        while len(asked.found) < len(asked.windows):
            self._send()
            done, _ = wait(self._running, LOOK, FIRST_COMPLETED)
            self._waiting()
            failed = [future for future in done if not self._take(future)]
            if failed:
                self._pause()
        self._rounds.remove(asked)
        found = [asked.found[place] for place in range(len(asked.windows))]
        return answers_of(found, self._labels, ModelVersion(self._model, self.version or ""))

    def _send(self) -> None:
        """Send as much as may be under way, of what was begun first."""
        careful = self._others(self._sent) or self.version is None  # the first answer tells it
        few = int(np.clip(STEP / self._fastest, 1, SMALLEST_BUNDLE))
        for asked in self._rounds:
            most, limit = (few, 1) if careful else (asked.most, UNDER_WAY)
            while asked.todo and len(self._running) < limit:
                places = [asked.todo.popleft() for _ in range(min(most, len(asked.todo)))]
                batch = encode(asked.windows[places])
                self._sent += len(split(batch, BUNDLES_PER_BATCH))
                self._running[self._pool.submit(self._outcomes, batch)] = asked, places

    def _outcomes(self, images: list[bytes]) -> list[Outcome]:
        started = time.monotonic()
        try:
            outcomes = self._predictor.predict_many(images, self._model, self.version)
        except PortalError as error:
            return [error] * len(images)
        self._fastest = min(self._fastest, (time.monotonic() - started) / len(images))
        return list(outcomes)

    def _take(self, future: Future[list[Outcome]]) -> bool:
        """Keep outcomes that are final; the others are asked about again. Whether all are final.

        Raises:
            PortalError: one of them is an error that stays.
        """
        asked, places = self._running.pop(future)
        again = []
        now = time.monotonic()
        outcomes = future.result()
        for place, outcome in zip(places, outcomes, strict=True):
            if isinstance(outcome, Prediction):
                asked.found[place] = outcome
                self.version = outcome.version
                self._labels = self._labels or tuple(sorted(outcome.probabilities))
            elif isinstance(outcome, errors.NothingToSee):
                asked.found[place] = None
            elif now - asked.failing.setdefault(place, now) < self._patience_with(outcome):
                again.append(place)
            else:
                raise outcome
        if again:
            log.info(
                "%d windows are asked about again: %s", len(again), outcomes[places.index(again[0])]
            )
            asked.todo.extendleft(reversed(again))
            self._sent = 0  # who knows which of them came through
        return not again

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
    """Whether anybody else asks a model server, as it counts requests itself."""

    def __init__(self, server: ModelServer) -> None:
        self._server = server
        self._counted = self._own = 0.0
        self._before: float | None = None  # requests of others, when counting began
        self._most = 0.0  # that were seen since then; with own ones under way fewer are
        self._asked = 0.0
        self._found = False

    def __call__(self, own: int) -> bool:
        """Whether there were others a moment ago.

        Args:
            own: requests so far; if they are fewer than before, counting begins anew.
        """
        if time.monotonic() - self._asked < OTHERS:
            return self._found
        self._found = False
        counted = self._count()
        if counted is None:
            self._before = None
        elif self._before is None or own < self._own or counted < self._counted:
            self._before, self._most = counted - own, 0
        elif counted - own - self._before > self._most:
            self._most = counted - own - self._before
            self._found = True
        self._own, self._counted = own, counted or 0
        self._asked = time.monotonic()
        return self._found

    def _count(self) -> float | None:
        """Requests that the model server has got; None where it does not tell."""
        try:
            found = _REQUESTS.findall(self._server.metrics(LOOK))
        except PortalError:
            return None
        return sum(map(float, found)) if found else None

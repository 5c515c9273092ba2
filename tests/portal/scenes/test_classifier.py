"""Windows asked about through the real ``Predictor``, on a model server without a server."""

import io
import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from handlers.contract.names import ModelVersion
from handlers.contract.tile_bundle import LARGEST_BUNDLE
from handlers.reading import read
from portal import errors
from portal.errors import PortalError
from portal.scenes import classifier
from portal.scenes.classifier import Others, ThroughPredictor, encode
from portal.scenes.scene import SIDE
from portal.serving.bundles import SMALLEST_BUNDLE
from portal.serving.model_server import Prediction
from portal.serving.predictor import Predictor
from portal.settings import Settings
from tests.support.fake_torchserve import WARNING, FakeTorchServe, answered


class Server(FakeTorchServe):
    """Answers with the mean of the red channel as the share of a class, and can fail.

    ``errors``: raised by the next bundles, one each. ``refuse``: by the red of the first pixel,
    what becomes of a window.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bundles: list[int] = []
        self.versions_asked: set[str] = set()
        self.errors: list[PortalError] = []
        self.refuse: dict[int, list[PortalError]] = {}
        self.slow = 0.0  # seconds for a window
        self.labels = ("SeaLake", "AnnualCrop")
        self.under_way = self.most_under_way = 0
        self._lock = threading.Lock()

    def predict_bundle(
        self, images: list[bytes], served: ModelVersion, timeout: float | None = None
    ) -> list[Prediction | PortalError]:
        with self._lock:
            self.bundles.append(len(images))
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
            problem = self.errors.pop(0) if self.errors else None
        assert timeout is None or timeout > 0
        try:
            time.sleep(self.slow * len(images))
            if problem is not None:
                raise problem
            return [self._outcome(image, served) for image in images]
        finally:
            with self._lock:
                self.under_way -= 1

    def _outcome(self, image: bytes, served: ModelVersion) -> Prediction | PortalError:
        self.versions_asked.add(served.version)
        pixels = read(image).pixels
        first = int(pixels[0, 0, 0])
        with self._lock:
            if self.refuse.get(first):
                return self.refuse[first].pop(0)
        share = float(pixels[..., 0].mean()) / 255
        ranked = sorted(zip(self.labels, (share, 1 - share), strict=True), key=lambda one: -one[1])
        return answered(
            class_name=ranked[0][0],
            confidence=ranked[0][1],
            probabilities=dict(ranked),
            uncertain=bool(pixels[0, 1, 0] > 127),
            warnings=(WARNING,) if pixels[0, 2, 0] > 127 else (),
            version=served.version,
        )


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def predictor(server: Server) -> Predictor:
    return Predictor(server, Settings())


@pytest.fixture
def windows() -> np.ndarray:
    drawn = np.random.default_rng(0).integers(1, 250, (50, SIDE, SIDE, 3), np.uint8)
    drawn[:, 0, 0, 0] = np.arange(50) + 100
    return drawn


def test_windows_travel_without_loss(windows: np.ndarray) -> None:
    for file, window in zip(encode(windows), windows, strict=True):
        assert len(file) < SIDE * SIDE * 3 + 200
        with Image.open(io.BytesIO(file)) as image:
            assert image.format == "TIFF"
            assert (np.asarray(image) == window).all()
        picture = read(file)
        assert (picture.pixels == window).all()
        assert picture.assumed == picture.warnings == {}


def test_answers_are_those_of_the_model_row_by_row(
    server: Server, predictor: Predictor, windows: np.ndarray
) -> None:
    server.refuse[107] = [errors.NothingToSee("one colour")]
    ask = ThroughPredictor(predictor, "baseline", "1.0")
    answers = ask(windows)
    assert answers.labels == ("AnnualCrop", "SeaLake")
    assert answers.probabilities.dtype == np.float32
    shares = windows[..., 0].reshape(50, -1).mean(axis=1) / 255
    rest = np.arange(50) != 7
    assert answers.probabilities[rest, 1] == pytest.approx(shares[rest])
    assert answers.probabilities[rest].sum(axis=1) == pytest.approx(1)
    assert np.isnan(answers.probabilities[7]).all()
    assert answers.empty.tolist() == [number == 7 for number in range(50)]
    assert (answers.unsure == ((windows[:, 0, 1, 0] > 127) & rest)).all()
    assert (answers.bright == ((windows[:, 0, 2, 0] > 127) & rest)).all()
    assert sum(server.bundles) == 50
    one_by_one = [ask(window[None]) for window in windows[8:]]
    alone = np.concatenate([answer.probabilities for answer in one_by_one])
    assert np.array_equal(alone, answers.probabilities[8:])


def test_the_default_version_is_kept_once_it_has_answered(
    server: Server, predictor: Predictor, windows: np.ndarray
) -> None:
    ask = ThroughPredictor(predictor, "baseline")
    ask(windows)
    assert ask.version == "1.0"
    server.versions = [replace(server.versions[0], name=ModelVersion("baseline", "2.0"))]
    ask(windows)
    assert ask.version == "1.0"
    assert server.versions_asked == {"1.0"}


def test_a_model_server_that_starts_anew_is_waited_for(
    server: Server, predictor: Predictor, windows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "PAUSE", 0.05)
    ask = ThroughPredictor(predictor, "baseline", "1.0", patience=20)
    expected = ask(windows).probabilities
    server.errors = [
        errors.ModelServerDown("down"),
        errors.ModelServerDown("down"),
        errors.ModelNotReady("loading"),
        errors.UnknownModel("not yet"),
        errors.TooSlow("late"),
        errors.Busy("full"),
        errors.BadAnswer("keys of before"),
    ]
    server.refuse[103] = [errors.ModelNotReady("died"), errors.BadAnswer("NaN")]
    assert np.array_equal(ask(windows).probabilities, expected)
    assert server.errors == []


@pytest.mark.parametrize(
    ("problem", "patience"),
    [
        (errors.ModelServerDown("down"), 0.5),
        (errors.UnknownModel("none"), 60),  # it never answered: there is none
        (errors.UnusableImage("damaged"), 60),
        (errors.TooLarge("large"), 60),
    ],
)
def test_an_error_that_stays_is_raised(
    server: Server,
    predictor: Predictor,
    windows: np.ndarray,
    problem: PortalError,
    patience: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(classifier, "PAUSE", 0.05)
    server.errors = [problem] * 100
    started = time.monotonic()
    with pytest.raises(type(problem), match=str(problem)):
        ThroughPredictor(predictor, "baseline", "1.0", patience=patience)(windows)
    assert time.monotonic() - started < 3


def test_a_window_without_a_sensible_answer_is_given_up(
    server: Server, predictor: Predictor, windows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "PAUSE", 0.05)
    monkeypatch.setattr(classifier, "SHORT_PATIENCE", 0.3)
    server.refuse[120] = [errors.BadAnswer("NaN")] * 100
    with pytest.raises(errors.BadAnswer, match="NaN"):
        ThroughPredictor(predictor, "baseline", "1.0", patience=60)(windows)


@pytest.mark.parametrize("how", ["waiting", "working"])
def test_it_stops_soon_when_it_is_told(
    how: str, server: Server, predictor: Predictor, windows: np.ndarray
) -> None:
    if how == "waiting":
        server.errors = [errors.ModelServerDown("down")] * 100
    else:
        server.slow = 0.3
    until = time.monotonic() + 0.5

    def waiting() -> None:
        if time.monotonic() > until:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ThroughPredictor(predictor, "baseline", "1.0", waiting=waiting)(windows)
    assert time.monotonic() - until < 1


def test_other_classes_than_before_are_no_answer(
    server: Server, predictor: Predictor, windows: np.ndarray
) -> None:
    ask = ThroughPredictor(predictor, "baseline", "1.0")
    ask(windows)
    server.labels = ("SeaLake", "River")
    with pytest.raises(errors.BadAnswer, match="other classes than before"):
        ask(windows)


@pytest.mark.parametrize("busy", [False, True])
def test_whoever_asks_about_one_tile_finds_a_worker_free(
    *,
    busy: bool,
    server: Server,
    predictor: Predictor,
    windows: np.ndarray,
) -> None:
    server.slow = 0.0005
    own: list[int] = []

    def others(sent: int) -> bool:
        own.append(sent)
        return busy

    ask = ThroughPredictor(predictor, "baseline", "1.0", others=others)
    many = np.concatenate([windows] * 4)
    for _ in range(2):
        ask(many)
    if busy:
        assert max(server.bundles) <= SMALLEST_BUNDLE
        assert server.most_under_way == 1
    else:
        assert server.most_under_way > 1
        assert max(server.bundles) > SMALLEST_BUNDLE
    assert own[0] == 0
    assert 0 < own[1] < len(server.bundles)


@pytest.mark.parametrize(("count", "largest"), [(50, 16), (200, 64), (800, LARGEST_BUNDLE)])
def test_bundles_fill_what_the_model_answers_at_once(
    count: int, largest: int, server: Server, predictor: Predictor, windows: np.ndarray
) -> None:
    ask = ThroughPredictor(predictor, "baseline", "1.0")
    ask(np.concatenate([windows] * (count // len(windows))))
    assert sum(server.bundles) == count
    assert max(server.bundles) == largest


def test_the_next_windows_are_asked_about_before_the_answers_are_taken(
    server: Server, predictor: Predictor, windows: np.ndarray
) -> None:
    server.slow = 0.002
    ask = ThroughPredictor(predictor, "baseline", "1.0")
    first = ask.begin(windows)
    second = ask.begin(windows[::-1])
    answers = first()
    deadline = time.monotonic() + 5
    while sum(server.bundles) < 2 * len(windows):
        assert time.monotonic() < deadline, "the second windows waited for whoever wants them"
        time.sleep(0.01)
    assert np.array_equal(answers.probabilities, second().probabilities[::-1])


REQUESTS = (
    "# TYPE ts_inference_requests_total counter\n"
    'ts_inference_requests_total{{model_name="baseline",model_version="2.0",hostname="h",}} {}\n'
    'ts_inference_requests_total{{model_name="vit",model_version="1.0",hostname="h",}} 3.0\n'
    'ts_inference_latency_microseconds{{model_name="baseline",}} 1.0E7\n'
)


@pytest.mark.parametrize(
    ("counts", "found"),
    [
        ([(10, 0), (15, 5), (30, 19), (33, 20), (36, 23)], [False, False, True, True, False]),
        ([(10, 0), (12, 5), (15, 8), (20, 10)], [False] * 4),  # own ones that are under way
        ([(10, 0), (15, 3), (30, 0), (31, 0)], [False, True, False, True]),  # counted anew
        ([(None, 0), (15, 5), (20, 10), (22, 11)], [False, False, False, True]),
        ([(1e3, 0), (5, 5), (11, 11)], [False, False, False]),  # it started anew
    ],
)
def test_others_are_those_whose_requests_are_not_our_own(
    counts: list[tuple[Any, int]],
    found: list[bool],
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(classifier, "OTHERS", 0.001)
    monkeypatch.setattr(server, "metrics", lambda timeout: _metrics(server, timeout))
    others = Others(server)
    said = []
    for count, own in counts:
        server.own_metrics = "" if count is None else REQUESTS.format(float(count))
        time.sleep(0.002)
        said.append(others(own))
    assert said == found


def _metrics(server: Server, timeout: float) -> str:
    assert timeout <= 1
    if not server.own_metrics:
        raise errors.ModelServerDown("down")
    return server.own_metrics


def test_others_are_looked_for_twice_a_second(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []

    def metrics(timeout: float) -> str:
        looks.append(timeout)
        return ""

    monkeypatch.setattr(server, "metrics", metrics)
    others = Others(server)
    for _ in range(5):
        others(1)
    assert len(looks) == 1

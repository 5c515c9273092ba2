"""What the portal asks of a model server, free of any server's dialect."""

from dataclasses import dataclass
from typing import Annotated, Protocol, TypeVar

from pydantic import Field

from handlers.contract.names import ModelVersion
from portal.errors import PortalError
from portal.fields import ModelName, Number, Share, Version
from portal.serving.version_gate import VersionGate

Cell = TypeVar("Cell")
WarningCode = Annotated[str, Field(pattern="^[a-z][a-z0-9_]{0,63}$")]
Side = Annotated[tuple[Cell, ...], Field(min_length=4, max_length=64)]  # of a square map


@dataclass(frozen=True)
class PredictionWarning:
    """Something that speaks against believing an answer.

    Attributes:
        code: squeezed, too_bright, colours_unlike_training or content_unlike_training; not_judged
            where the version cannot tell. Later versions may have others.
        message: what was found and what to do.
    """

    code: WarningCode
    message: str


@dataclass(frozen=True)
class Prediction:
    """The answer for one image.

    Attributes:
        class_name: the label with the largest probability.
        confidence: that probability, 0..1.
        probabilities: label to probability, largest first; they sum to 1.
        uncertain: the model itself does not trust this answer.
        prediction_set: the labels among which the right one is in 99 of 100 cases, largest
            probability first; null from a version for which that was not measured.
        warnings: what makes it uncertain beside a low confidence, or that nobody looked
            (not_judged, which alone does not make it uncertain).
        assumed: what was read into the file and could be otherwise, by topic, such as "scale".
        model, version: what answered.
        inference_time: seconds from asking the model server to its answer.
    """

    class_name: str
    confidence: Share
    probabilities: dict[str, Share]
    uncertain: bool
    prediction_set: tuple[str, ...] | None
    warnings: tuple[PredictionWarning, ...]
    assumed: dict[str, str]
    model: ModelName
    version: Version
    inference_time: Number


@dataclass(frozen=True)
class Explanation:
    """Which places of one image speak for its class.

    Attributes:
        class_name, confidence, served, inference_time: as in ``Prediction``.
        heat: a square map, rows from top to bottom of places from left to right: by how much
            seeing that place raises the log-odds (natural logarithm) of the class, on average over
            what else of the image is hidden; negative where the place speaks against it.
    """

    class_name: str
    confidence: Share
    heat: Side[Side[float]]
    model: ModelName
    version: Version
    inference_time: Number


@dataclass(frozen=True)
class Worker:
    """One worker process: whether it takes requests, and its process id (0 before it has one)."""

    ready: bool
    pid: int


@dataclass(frozen=True)
class ServedVersion:
    """One registered version of a model.

    Attributes:
        default: whether requests that name no version get this one.
        workers_wanted: how many workers the server is told to keep.
        workers: those that exist now, ready or not.
        startup_timeout: seconds that a worker may take to become ready.
        waiting: predictions in the server's queue for it.
    """

    name: ModelVersion
    default: bool
    workers_wanted: int
    workers: tuple[Worker, ...]
    startup_timeout: float
    waiting: int = 0

    @property
    def workers_ready(self) -> int:
        """How many workers take requests."""
        return sum(worker.ready for worker in self.workers)


class Answering(Protocol):
    """What answers predictions, from many threads; see ``ModelServer`` for timeouts and errors."""

    def default_version(self, model: str, timeout: float | None = None) -> ModelVersion:
        """The version that answers requests which name none, as it is or was a second ago.

        Raises:
            UnknownModel, ModelNotReady: as ``predict``.
        """

    def predict(
        self, image: bytes, served: ModelVersion, timeout: float | None = None
    ) -> Prediction:
        """Classify one encoded image with a version of a model.

        What is known of its values may stand in front of it, see ``handlers.contract.image_body``;
        to versions from before that it is then no image.

        Raises:
            UnknownModel: no such model or version.
            TooLarge, UnsupportedImage, UnusableImage: the image is at fault; NothingToSee and
                UnknownScale are kinds of the last.
            ModelNotReady: worth trying again later.
            TooSlow: no answer within the deadline.
        """

    def predict_bundle(
        self, images: list[bytes], served: ModelVersion, timeout: float | None = None
    ) -> list[Prediction | PortalError]:
        """Classify a few encoded images with one version; each has its own answer or error.

        What ``predict`` raises that is not about one image is raised.

        Args:
            images: at least one, of at most ``handlers.contract.tile_bundle.LARGEST_BUNDLE``.
        """

    def explain(
        self, image: bytes, served: ModelVersion, timeout: float | None = None
    ) -> Explanation:
        """Say what in one encoded image speaks for the class that ``predict`` would give it.

        Raises:
            NoExplanations: this version cannot explain.
            Busy: the server gave it up, having too much to do.
            PortalError: whatever ``predict`` raises.
        """


class ModelServer(Answering, Protocol):
    """The calls that the portal makes, from many threads.

    A ``timeout`` is in seconds, for all of a call; one about a prediction also ends at the server's
    own deadline (None: only there). Every call raises ModelServerDown without an answer until then,
    BadAnswer for one that the contract does not know, else only errors of ``portal.errors``.

    Attributes:
        gate: the predictions that pass through ``predict``.
    """

    gate: VersionGate

    def served(self, timeout: float) -> list[ServedVersion]:
        """Every registered version as it is at this moment."""

    def metrics(self, timeout: float) -> str:
        """The server's own metrics in Prometheus' text format, free of ours; may be empty."""

    def describe(self, served: ModelVersion, timeout: float) -> ServedVersion | None:
        """One version as it is at this moment; None if it is not registered."""

    def default(self, model: str, timeout: float) -> ServedVersion | None:
        """The default version of a model as it is at this moment; None if it has none."""

    def register(self, served: ModelVersion, workers: int, timeout: float) -> None:
        """Begin to load an archive of the model store, with so many workers; 0 is possible.

        The first version of a model becomes its default one. Whether it loads, ``describe`` tells.

        Raises:
            ChangeFailed: the server refuses it, here and in the changes below.
        """

    def set_default(self, served: ModelVersion, timeout: float) -> None:
        """Let a version answer the requests that name none; whether it works is not checked."""

    def scale(self, served: ModelVersion, workers: int, timeout: float) -> None:
        """Begin to start or end workers until a version has so many."""

    def unregister(self, served: ModelVersion, timeout: float) -> None:
        """Forget a version and end its workers; one that is not registered is no error.

        The server refuses to forget a default version beside others.
        """

"""A model server without a server: for tests of what stands in front of it."""

import itertools
from dataclasses import replace
from typing import Any

from handlers.contract.image_body import MAGIC
from handlers.contract.names import ModelVersion
from portal.errors import ChangeFailed, PortalError, UnsupportedImage, UnusableImage
from portal.serving.model_server import (
    Explanation,
    Prediction,
    PredictionWarning,
    ServedVersion,
    Worker,
)
from portal.serving.version_gate import VersionGate

HEAT = tuple(tuple(1.0 if max(x, y) < 4 else 0.0 for x in range(16)) for y in range(16))
WARNING = PredictionWarning("too_bright", "More than a tenth of it is white.")
PROBABILITIES = {"AnnualCrop": 0.75, "SeaLake": 0.2496, "River": 0.0004}


def served(
    version: str = "1.0",
    *,
    model: str = "baseline",
    default: bool = True,
    pids: tuple[int, ...] = (11,),
    ready: bool = True,
    wanted: int = 1,
) -> ServedVersion:
    workers = tuple(Worker(ready, pid) for pid in pids)
    return ServedVersion(ModelVersion(model, version), default, wanted, workers, startup_timeout=60)


def answered(**changed: Any) -> Prediction:
    """A prediction with nothing against it, but for what is changed."""
    fields: dict[str, Any] = {
        "class_name": "AnnualCrop",
        "confidence": 0.75,
        "probabilities": dict(PROBABILITIES),
        "uncertain": False,
        "prediction_set": ("AnnualCrop",),
        "warnings": (),
        "assumed": {},
        "model": "baseline",
        "version": "1.0",
        "inference_time": 0.0123,
    }
    return Prediction(**fields | changed)


class FakeTorchServe:
    """Keeps the contract of ``ModelServer``; tests set what it has and how it fails.

    ``asked`` collects (image, model, version) of every prediction, ``explained`` of every
    explanation (hot in the upper left corner), ``changes`` every change.
    ``crashing``: what is registered from now on has another process id at each look, and is never
    ready. ``refused``: changes that are not done, such as "set_default". ``told``: fields of every
    prediction. ``old``: versions to which an image with what is known of it is none.
    """

    def __init__(self) -> None:
        self.gate = VersionGate()
        self.changes: list[tuple[str, ...]] = []
        self.crashing = False
        self.refused: set[str] = set()
        self.probabilities = dict(PROBABILITIES)
        self._pids = itertools.count(100)
        self.versions: list[ServedVersion] = [served()]
        self.told: dict[str, Any] = {}
        self.old: set[str] = set()
        self.predict_error: Exception | None = None
        self.served_error: PortalError | None = None
        self.explain_error: Exception | None = None
        self.own_metrics = "# TYPE ts_queue gauge\nts_queue 3.0\n"
        self.asked: list[tuple[bytes, str, str]] = []
        self.explained: list[tuple[bytes, str, str]] = []

    def default_version(self, model: str, timeout: float | None = None) -> ModelVersion:
        assert timeout is None or timeout > 0
        names = (found.name for found in self.versions if found.default)
        unknown = ModelVersion(model, "1.0")  # answers all the same
        return next((name for name in names if name.model == model), unknown)

    def predict(
        self, image: bytes, served: ModelVersion, timeout: float | None = None
    ) -> Prediction:
        assert timeout is None or timeout > 0
        self.asked.append((image, served.model, served.version))
        if self.predict_error is not None:
            raise self.predict_error
        self._check(image, served)
        by = {"model": served.model, "version": served.version}
        return answered(probabilities=dict(self.probabilities), **by | self.told)

    def _check(self, image: bytes, served: ModelVersion) -> None:
        if image.startswith(MAGIC) and served.version in self.old:
            raise UnsupportedImage("not an image we read: found something else")

    def predict_bundle(
        self, images: list[bytes], served: ModelVersion, timeout: float | None = None
    ) -> list[Prediction | PortalError]:
        found: list[Prediction | PortalError] = []
        for image in images:
            try:
                found.append(self.predict(image, served, timeout))
            except (UnsupportedImage, UnusableImage) as error:  # about this one alone
                found.append(error)
        return found

    def explain(
        self, image: bytes, served: ModelVersion, timeout: float | None = None
    ) -> Explanation:
        assert timeout is None or timeout > 0
        self.explained.append((image, served.model, served.version))
        if self.explain_error is not None:
            raise self.explain_error
        self._check(image, served)
        return Explanation("AnnualCrop", 0.75, HEAT, served.model, served.version, 0.5)

    def served(self, timeout: float) -> list[ServedVersion]:
        assert 0 < timeout <= 5
        if self.served_error is not None:
            raise self.served_error
        return self.versions

    def metrics(self, timeout: float) -> str:
        assert 0 < timeout < 1
        if self.served_error is not None:
            raise self.served_error
        return self.own_metrics

    def default(self, model: str, timeout: float) -> ServedVersion | None:
        everything = self.served(min(timeout, 5))
        return next((one for one in everything if one.default and one.name.model == model), None)

    def describe(self, served: ModelVersion, timeout: float) -> ServedVersion | None:
        everything = self.served(min(timeout, 5))
        found = next((one for one in everything if one.name == served), None)
        if found is not None and self.crashing and found.workers_ready == 0:
            found = replace(found, workers=(Worker(False, next(self._pids)),))
        return found

    def register(self, name: ModelVersion, workers: int, timeout: float) -> None:
        self._change(timeout, "register", name.archive, str(workers))
        first = all(found.name.model != name.model for found in self.versions)
        self.versions = [
            *self.versions,
            served(
                name.version,
                model=name.model,
                default=first,
                pids=tuple(next(self._pids) for _ in range(workers)),
                ready=not self.crashing,
                wanted=workers,
            ),
        ]

    def set_default(self, name: ModelVersion, timeout: float) -> None:
        self._change(timeout, "set_default", name.model, name.version)
        self.versions = [
            replace(found, default=found.name == name) if found.name.model == name.model else found
            for found in self.versions
        ]

    def scale(self, name: ModelVersion, workers: int, timeout: float) -> None:
        self._change(timeout, "scale", name.model, name.version, str(workers))
        started = tuple(Worker(True, next(self._pids)) for _ in range(workers))
        self.versions = [
            replace(found, workers_wanted=workers, workers=started) if found.name == name else found
            for found in self.versions
        ]

    def unregister(self, name: ModelVersion, timeout: float) -> None:
        self._change(timeout, "unregister", name.model, name.version)
        self.versions = [found for found in self.versions if found.name != name]

    def _change(self, timeout: float, *change: str) -> None:
        assert timeout > 0
        self.changes.append(change)
        if change[0] in self.refused:
            raise ChangeFailed("TorchServe refused: no.")

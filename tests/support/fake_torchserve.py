"""A model server without a server: for tests of what stands in front of it."""

import itertools
from dataclasses import replace

from portal.errors import ChangeFailed, PortalError, UnsupportedImage, UnusableImage
from portal.serving.model_server import Explanation, Prediction, ServedVersion, Worker
from portal.serving.version_gate import VersionGate

HEAT = tuple(tuple(1.0 if max(x, y) < 4 else 0.0 for x in range(16)) for y in range(16))
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
    return ServedVersion(model, version, default, wanted, workers, startup_timeout=60)


class FakeTorchServe:
    """Keeps the contract of ``ModelServer``; tests set what it has and how it fails.

    ``asked`` collects (image, model, version) of every prediction, ``explained`` of every
    explanation (hot in the upper left corner), ``changes`` every change.
    ``crashing``: what is registered from now on has another process id at each look, and is never
    ready. ``refused``: changes that are not done, such as "set_default".
    """

    def __init__(self) -> None:
        self.gate = VersionGate()
        self.changes: list[tuple[str, ...]] = []
        self.crashing = False
        self.refused: set[str] = set()
        self.probabilities = dict(PROBABILITIES)
        self._pids = itertools.count(100)
        self.versions: list[ServedVersion] = [served()]
        self.uncertain = False
        self.predict_error: Exception | None = None
        self.served_error: PortalError | None = None
        self.explain_error: Exception | None = None
        self.own_metrics = "# TYPE ts_queue gauge\nts_queue 3.0\n"
        self.asked: list[tuple[bytes, str, str | None]] = []
        self.explained: list[tuple[bytes, str, str | None]] = []

    def predict(
        self, image: bytes, model: str, version: str | None, timeout: float | None = None
    ) -> Prediction:
        assert timeout is None or timeout > 0
        default = next((v.version for v in self.versions if v.default and v.model == model), "1.0")
        self.asked.append((image, model, version))
        if self.predict_error is not None:
            raise self.predict_error
        return Prediction(
            class_name="AnnualCrop",
            confidence=0.75,
            probabilities=dict(self.probabilities),
            uncertain=self.uncertain,
            model=model,
            version=version or default,
            inference_time=0.0123,
        )

    def predict_stack(
        self, images: list[bytes], model: str, version: str | None, timeout: float | None = None
    ) -> list[Prediction | PortalError]:
        found: list[Prediction | PortalError] = []
        for image in images:
            try:
                found.append(self.predict(image, model, version, timeout))
            except (UnsupportedImage, UnusableImage) as error:  # about this one alone
                found.append(error)
        return found

    def explain(
        self, image: bytes, model: str, version: str | None, timeout: float | None = None
    ) -> Explanation:
        assert timeout is None or timeout > 0
        self.explained.append((image, model, version))
        if self.explain_error is not None:
            raise self.explain_error
        return Explanation("AnnualCrop", 0.75, HEAT, model, version or "1.0", 0.5)

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

    def describe(self, model: str, version: str | None, timeout: float) -> ServedVersion | None:
        found = next(
            (
                served
                for served in self.served(min(timeout, 5))
                if served.model == model
                and (served.default if version is None else served.version == version)
            ),
            None,
        )
        if found is not None and self.crashing and found.workers_ready == 0:
            found = replace(found, workers=(Worker(False, next(self._pids)),))
        return found

    def register(self, model: str, archive: str, workers: int, timeout: float) -> None:
        self._change(timeout, "register", archive, str(workers))
        version = archive.removeprefix(f"{model}-").removesuffix(".mar")
        first = all(served.model != model for served in self.versions)
        self.versions = [
            *self.versions,
            served(
                version,
                model=model,
                default=first,
                pids=tuple(next(self._pids) for _ in range(workers)),
                ready=not self.crashing,
                wanted=workers,
            ),
        ]

    def set_default(self, model: str, version: str, timeout: float) -> None:
        self._change(timeout, "set_default", model, version)
        self.versions = [
            replace(served, default=served.version == version) if served.model == model else served
            for served in self.versions
        ]

    def scale(self, model: str, version: str, workers: int, timeout: float) -> None:
        self._change(timeout, "scale", model, version, str(workers))
        started = tuple(Worker(True, next(self._pids)) for _ in range(workers))
        self.versions = [
            replace(served, workers_wanted=workers, workers=started)
            if (served.model, served.version) == (model, version)
            else served
            for served in self.versions
        ]

    def unregister(self, model: str, version: str, timeout: float) -> None:
        self._change(timeout, "unregister", model, version)
        self.versions = [
            served for served in self.versions if (served.model, served.version) != (model, version)
        ]

    def _change(self, timeout: float, *change: str) -> None:
        assert timeout > 0
        self.changes.append(change)
        if change[0] in self.refused:
            raise ChangeFailed("TorchServe refused: no.")

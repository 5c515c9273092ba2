"""A model server without a server: for tests of what stands in front of it."""

from portal.errors import PortalError
from portal.model_server import Explanation, Prediction, ServedVersion, Worker

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
    explanation; these are hot in the upper left corner.
    """

    def __init__(self) -> None:
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
        self.asked.append((image, model, version))
        if self.predict_error is not None:
            raise self.predict_error
        return Prediction(
            class_name="AnnualCrop",
            confidence=0.75,
            probabilities=dict(PROBABILITIES),
            uncertain=self.uncertain,
            model=model,
            version=version or "1.0",
            inference_time=0.0123,
        )

    def explain(
        self, image: bytes, model: str, version: str | None, timeout: float | None = None
    ) -> Explanation:
        assert timeout is None or timeout > 0
        self.explained.append((image, model, version))
        if self.explain_error is not None:
            raise self.explain_error
        return Explanation("AnnualCrop", 0.75, HEAT, model, version or "1.0", 0.5)

    def served(self, timeout: float) -> list[ServedVersion]:
        assert 0 < timeout < 1
        if self.served_error is not None:
            raise self.served_error
        return self.versions

    def metrics(self, timeout: float) -> str:
        assert 0 < timeout < 1
        if self.served_error is not None:
            raise self.served_error
        return self.own_metrics

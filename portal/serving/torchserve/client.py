"""The client of TorchServe 0.12: the only file that knows its HTTP dialect."""

import math
import threading
import time
from dataclasses import replace
from urllib.parse import quote, urlencode

from handlers.contract.names import ModelVersion
from handlers.contract.tile_bundle import pack
from portal.errors import Busy, ModelNotReady, PortalError, TooLarge, TooSlow, UnknownModel
from portal.serving.model_server import Explanation, Prediction, ServedVersion
from portal.serving.torchserve import answers
from portal.serving.torchserve.answers import Answer
from portal.serving.torchserve.dynamic_batcher import DynamicBatcher, TileOutcome
from portal.serving.torchserve.inference_api import ConnectionLost, Inference
from portal.serving.torchserve.keys import KeyFile
from portal.serving.torchserve.management_api import Management, down, path_of
from portal.serving.version_gate import VersionGate
from portal.settings import Settings

EXTRA_LOOK_TIMEOUT = 0.5  # seconds for one look at the workers, outside a prediction's deadline
DEFAULT_MAX_AGE = 1.0  # seconds for which the answer to "which version is the default" is reused


class TorchServe:
    """A TorchServe that is asked with its own keys over connections that stay open.

    Safe to call from many threads. Every call has a deadline. Nothing of a client's request but the
    image's bytes reaches TorchServe: its workers obey some request headers.
    """

    def __init__(self, settings: Settings) -> None:
        self.gate = VersionGate()
        self._settings = settings
        keys = KeyFile(settings.torchserve_key_file)
        self._inference = Inference(settings.torchserve_inference, keys)
        self._batcher = DynamicBatcher(self._classify)
        self._management = Management(settings, keys)
        self._lock = threading.Lock()
        self._defaults: dict[str, tuple[float, ModelVersion]] = {}  # of each model, and when asked
        self._asking: set[str] = set()  # models whose default version a thread asks about

    def predict(
        self, image: bytes, served: ModelVersion, timeout: float | None = None
    ) -> Prediction:
        """Classify one image; see ``ModelServer.predict``."""
        deadline = time.monotonic() + self._seconds(timeout)
        with self.gate.passing(served, deadline):
            try:
                outcome = self._batcher.ask(served, image, deadline)
            except TimeoutError:
                raise self._late(served, self._seconds(timeout)) from None
            if isinstance(outcome, PortalError):
                raise outcome
            return outcome or self._one(served, image, deadline)

    def predict_bundle(
        self, images: list[bytes], served: ModelVersion, timeout: float | None = None
    ) -> list[Prediction | PortalError]:
        """Classify a few images at once; see ``ModelServer.predict_bundle``."""
        deadline = time.monotonic() + self._seconds(timeout)
        with self.gate.passing(served, deadline):
            outcomes: list[TileOutcome] = [None] * len(images)
            if len(images) > 1 and self._batcher.takes_bundles(served):
                outcomes = self._classify(served, images, deadline)
            return [
                self._alone(served, image, deadline) if outcome is None else outcome
                for image, outcome in zip(images, outcomes, strict=True)
            ]

    def explain(
        self, image: bytes, served: ModelVersion, timeout: float | None = None
    ) -> Explanation:
        """Explain the class of one image; see ``ModelServer.explain``."""
        deadline = time.monotonic() + self._seconds(timeout)
        with self.gate.passing(served, deadline):
            answer, elapsed = self._infer("explanations", served, image, deadline)
            if answer.status_code != 200:
                raise self._refusal(answer, served, deadline)
        return answers.explanation(answer.content, served, elapsed)

    def _seconds(self, timeout: float | None) -> float:
        own = self._settings.predict_timeout
        return own if timeout is None else min(timeout, own)

    def _one(self, served: ModelVersion, image: bytes, deadline: float) -> Prediction:
        answer, elapsed = self._infer("predictions", served, image, deadline)
        if answer.status_code != 200:
            raise self._refusal(answer, served, deadline)
        return answers.prediction(answers.strict_json(answer.content), served, elapsed)

    def _alone(
        self, served: ModelVersion, image: bytes, deadline: float
    ) -> Prediction | PortalError:
        try:
            return self._one(served, image, deadline)
        except PortalError as error:
            return error

    def _classify(
        self, served: ModelVersion, images: list[bytes], deadline: float
    ) -> list[TileOutcome]:
        """What becomes of one image, or of the bundle of several; None where it must come alone.

        Raises:
            PortalError: the outcome of all of them.
        """
        if len(images) == 1:
            return [self._one(served, images[0], deadline)]
        body = pack(images)
        answer, elapsed = self._infer("predictions", served, body, deadline, again=False)
        status = answer.status_code
        if status == 200:
            return answers.predictions(answer.content, len(images), served, elapsed)
        if status == 415:  # to an older handler it is no image
            self._batcher.without_bundles(served)
        if status == 415 or answers.worker_died(answer):  # one of them may have killed it
            return [None] * len(images)
        if status == 400:  # an older one takes fewer in a bundle
            half = len(images) // 2
            parts = (images[:half], images[half:])
            return [one for part in parts for one in self._classify(served, part, deadline)]
        raise self._refusal(answer, served, deadline)

    def _infer(
        self, kind: str, served: ModelVersion, body: bytes, deadline: float, *, again: bool = True
    ) -> tuple[Answer, float]:
        """The handler's answer, or TorchServe's refusal, and the seconds that it took.

        A request that died with its connection or, where ``again`` allows it, with its worker is
        sent once more: it changes nothing, so that asking twice does no harm.
        """
        path = f"/{kind}/{quote(served.model, safe='')}/{quote(served.version, safe='')}"
        asked, last = time.monotonic(), False
        while True:
            started = time.monotonic()
            try:
                answer = self._inference.post(path, body, deadline)
            except TimeoutError:
                raise self._late(served, deadline - asked) from None
            except ConnectionLost as error:
                if last:
                    raise down() from error
            else:
                if answer.status_code == 200 or last or not (again and answers.worker_died(answer)):
                    return answer, time.monotonic() - started
            last = True

    def served(self, timeout: float) -> list[ServedVersion]:
        """Every registered version; see ``ModelServer.served``."""
        deadline = time.monotonic() + timeout
        versions = []
        for model in self._management.models(deadline):
            default = self._management.describe(model, None, deadline)
            everything = self._management.describe(model, "all", deadline)
            if default is None or everything is None:
                continue  # unregistered since it was listed
            name = default[0].name
            versions += [replace(found, default=found.name == name) for found in everything]
        return versions

    def metrics(self, timeout: float) -> str:
        """What TorchServe counts itself; see ``ModelServer.metrics``."""
        return self._management.metrics(timeout)

    def close(self) -> None:
        """Close the connections that nobody uses."""
        self._inference.close()
        self._management.close()

    def describe(self, served: ModelVersion, timeout: float) -> ServedVersion | None:
        """One version; see ``ModelServer.describe``."""
        deadline = time.monotonic() + timeout
        found = self._management.describe(served.model, served.version, deadline)
        if found is None:
            return None
        default = self._management.describe(served.model, None, deadline)
        return replace(found[0], default=default is not None and default[0].name == served)

    def default(self, model: str, timeout: float) -> ServedVersion | None:
        """The default version; see ``ModelServer.default``."""
        found = self._management.describe(model, None, time.monotonic() + timeout)
        return replace(found[0], default=True) if found is not None else None

    def register(self, served: ModelVersion, workers: int, timeout: float) -> None:
        """Load an archive without waiting for it; see ``ModelServer.register``.

        To wait for it here would block other models' predictions inside TorchServe.
        """
        query = {"url": served.archive, "model_name": served.model, "initial_workers": workers}
        path = f"/models?{urlencode(query)}&synchronous=false"
        self._management.change("POST", path, timeout)
        # the archive may be another one than that of this name
        self._batcher.try_bundles_again(served.model)

    def set_default(self, served: ModelVersion, timeout: float) -> None:
        """Answer requests without a version with this one; see ``ModelServer.set_default``."""
        asked = time.monotonic()
        path = f"{path_of(served.model, served.version)}/set-default"
        self._management.change("PUT", path, timeout)
        with self._lock:
            self._defaults[served.model] = (asked, served)

    def scale(self, served: ModelVersion, workers: int, timeout: float) -> None:
        """Change the number of workers; see ``ModelServer.scale``."""
        query = f"min_worker={workers}&max_worker={workers}&synchronous=false"
        self._management.change("PUT", f"{path_of(served.model, served.version)}?{query}", timeout)

    def unregister(self, served: ModelVersion, timeout: float) -> None:
        """Forget a version, with its workers; see ``ModelServer.unregister``."""
        path = path_of(served.model, served.version)
        self._management.change("DELETE", path, timeout, fine=(404,))

    def default_version(self, model: str, timeout: float | None = None) -> ModelVersion:
        """The default version; see ``ModelServer.default_version``.

        One thread asks; the others go on with what was true a moment ago, unless that is too old.
        """
        now = time.monotonic()
        with self._lock:
            asked, known = self._defaults.get(model, (-math.inf, None))
            age = now - asked
            if known is not None and (
                age < DEFAULT_MAX_AGE or (age < 2 * DEFAULT_MAX_AGE and model in self._asking)
            ):
                return known
            self._asking.add(model)
        deadline = now + self._seconds(timeout)
        try:
            found = self._management.describe(model, None, deadline)
        finally:
            with self._lock:
                self._asking.discard(model)
        if found is None:
            raise self._unknown(model, None, deadline)
        with self._lock:
            if self._defaults.get(model, (-math.inf, None))[0] <= now:  # set_default was later
                self._defaults[model] = (now, found[0].name)
            return self._defaults[model][1]

    def _refusal(self, response: Answer, served: ModelVersion, deadline: float) -> PortalError:
        """Translate an answer of the inference API that is not 200."""
        status, kind = response.status_code, answers.kind_of(response)
        if status == 404 and kind in ("ModelNotFoundException", "ModelVersionNotFoundException"):
            return self._unknown(served.model, served.version, deadline)
        if status == 413:
            return TooLarge("TorchServe takes no image of this size. Send a smaller one.")
        code = answers.said(response, "error", "code")
        message = answers.said(response, "error", "message")[: answers.LONGEST_MESSAGE]
        if message and (error := answers.refused(status, code, message, served)):
            return error
        if status == 503 and code == "explanation_too_slow":
            return Busy(
                f"{served} gave the explanation up, as it has too much to do. "
                "Try again in a few seconds."
            )
        if answers.worker_died(response):
            problem = "lost its worker twice while it worked on this image"
        elif status == 503 and kind == "ServiceUnavailableException":
            problem = "has no worker ready or a full queue"
        else:
            return answers.nonsense(f"status {status} ({kind or 'no known type'}) to a prediction")
        return ModelNotReady(f"{served} {problem}. Try again in a few seconds.")

    def _unknown(self, model: str, version: str | None, deadline: float) -> PortalError:
        """404 is the client's mistake only if TorchServe has what it is meant to serve."""
        models = self._management.models(max(deadline, time.monotonic() + EXTRA_LOOK_TIMEOUT))
        if model not in models and (model == self._settings.default_model or not models):
            return ModelNotReady(
                f"TorchServe does not serve {model} yet. Try again in a few seconds; if it stays "
                "so, see /api/health."
            )
        name = model if version is None or model not in models else f"{model} {version}"
        return UnknownModel(f"{name} is not served. See /api/health for what is.")

    def _late(self, served: ModelVersion, seconds: float) -> PortalError:
        """Tell a slow model (504) from one whose workers are all down (503)."""
        found = self._management.describe(
            served.model, served.version, time.monotonic() + EXTRA_LOOK_TIMEOUT
        )
        if found is not None and found[0].workers_ready == 0:
            return ModelNotReady(
                f"{served} has no worker ready. Try again in a few seconds; if it stays "
                "so, see /api/health."
            )
        return TooSlow(
            f"{served} did not answer within {seconds:.3g} s. Try again when there is less to do."
        )

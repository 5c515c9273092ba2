"""The client of TorchServe 0.12: the only file that knows its HTTP dialect."""

import json
import math
import re
import threading
import time
from dataclasses import replace
from typing import Any, NoReturn
from urllib.parse import quote

import requests
from requests.adapters import HTTPAdapter

from portal.errors import (
    BadAnswer,
    Busy,
    ModelNotReady,
    ModelServerDown,
    NoExplanations,
    PortalError,
    TooLarge,
    TooSlow,
    UnknownModel,
    UnsupportedImage,
    UnusableImage,
)
from portal.keys import Api, KeyFile
from portal.model_server import Explanation, Prediction, ServedVersion, Worker
from portal.settings import Settings

CONNECT_TIMEOUT = 1.0  # seconds; both servers stand on one machine or one private network
DESCRIBE_TIMEOUT = 0.5  # seconds for one look at the workers, outside a prediction's deadline
DEFAULT_MAX_AGE = 1.0  # seconds for which the answer to "which version is the default" is reused
POOL_SIZE = 16  # connections kept open: one for each thread of the portal
MODELS_PER_PAGE = 100  # TorchServe's own limit for one answer
HEAT_SIDES = range(4, 65)  # places along a side of a heat map; our handler gives 16


class TorchServe:
    """A TorchServe that is asked with its own keys over connections that stay open.

    Safe to call from many threads. Every call has a deadline. Nothing of a client's request but the
    image's bytes reaches TorchServe: its workers obey some request headers.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._keys = KeyFile(settings.torchserve_key_file)
        self._urls: dict[Api, str] = {
            "inference": settings.torchserve_inference,
            "management": settings.torchserve_management,
        }
        self._session = requests.Session()
        self._session.trust_env = False  # neither a proxy nor .netrc's password is meant for us
        self._session.mount("http://", HTTPAdapter(pool_maxsize=POOL_SIZE))
        self._session.mount("https://", HTTPAdapter(pool_maxsize=POOL_SIZE))
        self._lock = threading.Lock()
        self._defaults: dict[str, tuple[float, str]] = {}  # model -> (time of asking, version)

    def predict(
        self, image: bytes, model: str, version: str | None, timeout: float | None = None
    ) -> Prediction:
        """Classify one image; see ``ModelServer.predict``."""
        return _prediction(*self._infer("predictions", image, model, version, timeout))

    def explain(
        self, image: bytes, model: str, version: str | None, timeout: float | None = None
    ) -> Explanation:
        """Explain the class of one image; see ``ModelServer.explain``."""
        return _explanation(*self._infer("explanations", image, model, version, timeout))

    def _infer(
        self, kind: str, image: bytes, model: str, version: str | None, timeout: float | None
    ) -> tuple[bytes, str, str, float]:
        """The handler's answer to one image, the model and version that gave it, and the seconds.

        A request that died with its worker or its connection is sent once more: it changes
        nothing, so that asking twice does no harm.
        """
        seconds = self._settings.predict_timeout
        seconds = seconds if timeout is None else min(timeout, seconds)
        deadline = time.monotonic() + seconds
        version = version or self._default_version(model, deadline)
        path = f"/{kind}/{quote(model, safe='')}/{quote(version, safe='')}"
        for last in (False, True):
            started = time.monotonic()
            try:
                response = self._send("inference", "POST", path, deadline, image)
            except requests.Timeout:
                self._raise_late(model, version, seconds)
            except requests.RequestException as error:
                if last:
                    raise _down() from error
                continue
            elapsed = time.monotonic() - started
            if response.status_code == 200:
                return response.content, model, version, elapsed
            if not _worker_died(response) or last:
                self._raise_refusal(response, model, version, deadline)
        raise AssertionError("the second attempt returns or raises")

    def served(self, timeout: float) -> list[ServedVersion]:
        """Every registered version; see ``ModelServer.served``."""
        deadline = time.monotonic() + timeout
        versions = []
        for model in self._models(deadline):
            path = f"/models/{quote(model, safe='')}"
            default = self._describe(path, deadline)
            everything = self._describe(f"{path}/all", deadline)
            if default is None or everything is None:
                continue  # unregistered since it was listed
            default_version = default[0].version
            versions += [
                replace(found, default=found.version == default_version) for found in everything
            ]
        return versions

    def metrics(self, timeout: float) -> str:
        """What TorchServe counts itself; see ``ModelServer.metrics``. It needs no key."""
        try:
            response = self._session.get(
                f"{self._settings.torchserve_metrics}/metrics",
                timeout=(min(CONNECT_TIMEOUT, timeout), timeout),
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise _down() from error
        if response.status_code != 200:
            raise _nonsense(f"status {response.status_code} instead of metrics")
        text = response.content.decode("utf-8", "replace").strip()
        return f"{text}\n" if text else ""

    def _models(self, deadline: float) -> list[str]:
        """Names of all registered models."""
        names: list[str] = []
        path = f"/models?limit={MODELS_PER_PAGE}"
        page = 0
        while True:
            content = self._json(self._ask(f"{path}&next_page_token={page}", deadline))
            try:
                names += [str(entry["modelName"]) for entry in content["models"]]
                token = content.get("nextPageToken")
                following = int(token) if token is not None else None
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise _nonsense("its list of models") from error
            if following is None or following <= page:
                return names
            page = following

    def _describe(self, path: str, deadline: float) -> list[ServedVersion] | None:
        """The versions at a management path, none of them marked default; None if unknown."""
        response = self._ask(path, deadline)
        if response.status_code == 404:
            return None
        content = self._json(response)
        try:
            found = [
                ServedVersion(
                    model=str(entry["modelName"]),
                    version=str(entry["modelVersion"]),
                    default=False,
                    workers_wanted=int(entry["minWorkers"]),
                    workers=tuple(
                        Worker(ready=worker["status"] == "READY", pid=int(worker["pid"]))
                        for worker in entry["workers"]
                    ),
                    startup_timeout=float(entry.get("startupTimeout", 120)),
                )
                for entry in content
            ]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise _nonsense("its description of a model") from error
        if not found:
            raise _nonsense("its description of a model")
        return found

    def _default_version(self, model: str, deadline: float) -> str:
        with self._lock:
            asked, version = self._defaults.get(model, (-math.inf, ""))
        if time.monotonic() - asked < DEFAULT_MAX_AGE:
            return version
        asked = time.monotonic()
        found = self._describe(f"/models/{quote(model, safe='')}", deadline)
        if found is None:
            self._raise_unknown(model, None, deadline)
        with self._lock:
            self._defaults[model] = (asked, found[0].version)
        return found[0].version

    def _ask(self, path: str, deadline: float) -> requests.Response:
        """A GET of the management API, asked again if a kept connection had died meanwhile."""
        try:
            try:
                return self._send("management", "GET", path, deadline)
            except requests.ConnectionError as error:
                if isinstance(error, requests.Timeout):
                    raise
                return self._send("management", "GET", path, deadline)
        except requests.RequestException as error:
            raise _down() from error

    def _send(
        self, api: Api, method: str, path: str, deadline: float, body: bytes | None = None
    ) -> requests.Response:
        """One call, made again with fresh keys if TorchServe does not know ours (any more).

        Raises:
            requests.Timeout: the deadline (time.monotonic) has passed.
            requests.ConnectionError: not connected, or the connection broke.
            BadAnswer: TorchServe refuses the keys that stand in the file now.
        """
        # TorchServe would take any other content type for a form and try to decode it.
        headers = {"Content-Type": "application/octet-stream"} if body is not None else {}
        for last in (False, True):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise requests.Timeout
            headers["Authorization"] = f"Bearer {self._keys.get(api)}"
            response = self._session.request(
                method,
                self._urls[api] + path,
                data=body,
                headers=headers,
                timeout=(min(CONNECT_TIMEOUT, remaining), remaining),
                allow_redirects=False,
            )
            if response.status_code != 400 or _kind(response) != "InvalidKeyException":
                return response
            if not last:
                self._keys.forget()
        raise BadAnswer(
            "TorchServe refuses the keys of its key file. PORTAL_TORCHSERVE_KEY_FILE must name the "
            "key_file.json in the folder in which this TorchServe was started."
        )

    def _json(self, response: requests.Response) -> Any:
        if response.status_code != 200:
            raise _nonsense(f"status {response.status_code} instead of 200")
        return _strict_json(response.content)

    def _raise_refusal(
        self, response: requests.Response, model: str, version: str, deadline: float
    ) -> NoReturn:
        """Translate an answer of the inference API that is not 200."""
        status, kind = response.status_code, _kind(response)
        if status == 404 and kind in ("ModelNotFoundException", "ModelVersionNotFoundException"):
            self._raise_unknown(model, version, deadline)
        if status == 413:
            raise TooLarge("TorchServe takes no image of this size. Send a smaller one.")
        if status in (415, 422) and (message := _image_problem(response)) is not None:
            raise (UnsupportedImage if status == 415 else UnusableImage)(message)
        if status == 503 and _handlers_code(response) == "explanation_too_slow":
            raise Busy(
                f"{model} {version} gave the explanation up, as it has too much to do. "
                "Try again in a few seconds."
            )
        if _worker_died(response):
            raise ModelNotReady(
                f"{model} {version} lost its worker twice while it worked on this image. "
                "Try again in a few seconds."
            )
        if status == 503 and kind == "ServiceUnavailableException":
            raise ModelNotReady(
                f"{model} {version} has no worker ready or a full queue. "
                "Try again in a few seconds."
            )
        raise _nonsense(f"status {status} ({kind or 'no known type'}) to a prediction")

    def _raise_unknown(self, model: str, version: str | None, deadline: float) -> NoReturn:
        """404 is the client's mistake only if TorchServe has what it is meant to serve."""
        models = self._models(max(deadline, time.monotonic() + DESCRIBE_TIMEOUT))
        if model not in models and (model == self._settings.default_model or not models):
            raise ModelNotReady(
                f"TorchServe does not serve {model} yet. Try again in a few seconds; if it stays "
                "so, see /api/health."
            )
        name = model if version is None or model not in models else f"{model} {version}"
        raise UnknownModel(f"{name} is not served. See /api/health for what is.")

    def _raise_late(self, model: str, version: str, seconds: float) -> NoReturn:
        """Tell a slow model (504) from one whose workers are all down (503)."""
        path = f"/models/{quote(model, safe='')}/{quote(version, safe='')}"
        found = self._describe(path, time.monotonic() + DESCRIBE_TIMEOUT)
        if found is not None and found[0].workers_ready == 0:
            raise ModelNotReady(
                f"{model} {version} has no worker ready. Try again in a few seconds; if it stays "
                "so, see /api/health."
            )
        raise TooSlow(
            f"{model} {version} did not answer within {seconds:.3g} s. "
            "Try again when there is less to do."
        )


def _prediction(content: bytes, model: str, version: str, elapsed: float) -> Prediction:
    """Check the handler's answer against its contract.

    Raises:
        BadAnswer: a field is missing or of another type, a number is out of its range.
    """
    answer = _strict_json(content)
    try:
        probabilities = {str(label): _share(p) for label, p in answer["probabilities"].items()}
        class_name, confidence = str(answer["class_name"]), _share(answer["confidence"])
        uncertain = answer["uncertain"]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _nonsense("a prediction without the agreed fields") from error
    if not isinstance(uncertain, bool):
        raise _nonsense("a prediction that does not say whether it is uncertain")
    if not math.isclose(sum(probabilities.values()), 1, abs_tol=1e-3):
        raise _nonsense("probabilities that do not sum to 1")
    ranked = dict(sorted(probabilities.items(), key=lambda item: item[1], reverse=True))
    best = max(ranked.values())
    if ranked.get(class_name) != best or not math.isclose(confidence, best, abs_tol=1e-6):
        raise _nonsense("a class that is not the most probable one")
    return Prediction(class_name, confidence, ranked, uncertain, model, version, elapsed)


def _explanation(content: bytes, model: str, version: str, elapsed: float) -> Explanation:
    """Check the handler's explanation against its contract.

    Raises:
        NoExplanations: the handler is one that only predicts, and did that.
        BadAnswer: a field is missing or of another type, a number is out of its range.
    """
    answer = _strict_json(content)
    if isinstance(answer, dict) and "probabilities" in answer and "heat" not in answer:
        raise NoExplanations(
            f"{model} {version} cannot explain its answers: its archive is older than "
            "explanations. Build it anew with `make archive`, or choose another version."
        )
    try:
        class_name, confidence = str(answer["class_name"]), _share(answer["confidence"])
        heat = tuple(tuple(_finite(value) for value in row) for row in answer["heat"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _nonsense("an explanation without the agreed fields") from error
    if len(heat) not in HEAT_SIDES or {len(row) for row in heat} != {len(heat)}:
        raise _nonsense("an explanation whose map is no square of the agreed size")
    return Explanation(class_name, confidence, heat, model, version, elapsed)


def _finite(value: object) -> float:
    """A number as JSON has it, but not one beyond a double's range, which is read as infinity."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(value)
    return float(value)


def _share(value: object) -> float:
    """A number from 0 to 1; a bool or a number written as text is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(value)
    return float(value)


def _strict_json(content: bytes) -> Any:
    """JSON as the standard has it: TorchServe passes on NaN and Infinity, which are none."""

    def refuse(word: str) -> NoReturn:
        raise ValueError(word)

    try:
        return json.loads(content, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise _nonsense("something that is not JSON") from error


def _loose_json(response: requests.Response) -> dict[str, Any]:
    """The body of an error answer; empty when it is none of TorchServe's or of our handler's."""
    try:
        content = _strict_json(response.content)
    except BadAnswer:
        return {}
    return content if isinstance(content, dict) else {}


def _kind(response: requests.Response) -> str:
    """Name of TorchServe's exception, made safe for a message; empty when there is none."""
    kind = _loose_json(response).get("type")
    return kind if isinstance(kind, str) and re.fullmatch(r"\w{1,80}", kind, re.ASCII) else ""


def _worker_died(response: requests.Response) -> bool:
    message = _loose_json(response).get("message")
    return response.status_code in (500, 507) and message == "Worker died."


def _image_problem(response: requests.Response) -> str | None:
    """The handler's sentence about an image that it refuses."""
    error = _loose_json(response).get("error")
    message = error.get("message") if isinstance(error, dict) else None
    return message[:500] if isinstance(message, str) and message else None


def _handlers_code(response: requests.Response) -> str | None:
    """The word by which our handler names an error; None when the answer is not its."""
    error = _loose_json(response).get("error")
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, str) else None


def _down() -> PortalError:
    return ModelServerDown("The model server does not answer. Try again in a few seconds.")


def _nonsense(found: str) -> BadAnswer:
    return BadAnswer(f"The model server answered {found}. Try again; if it stays so, see its log.")

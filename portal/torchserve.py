"""The client of TorchServe 0.12: the only file that knows its HTTP dialect."""

import math
import threading
import time
from dataclasses import replace
from typing import Any, NoReturn
from urllib.parse import quote, urlencode

import requests
from requests.adapters import HTTPAdapter

from portal.errors import (
    BadAnswer,
    Busy,
    ChangeFailed,
    ModelNotReady,
    ModelServerDown,
    PortalError,
    TooLarge,
    TooSlow,
    UnknownModel,
    UnsupportedImage,
    UnusableImage,
)
from portal.keys import Api, KeyFile
from portal.model_server import Explanation, Prediction, ServedVersion
from portal.settings import Settings
from portal.torchserve_answers import (
    described,
    explanation,
    handler_code,
    handler_problem,
    kind_of,
    message_of,
    nonsense,
    prediction,
    strict_json,
    worker_died,
)
from portal.traffic import Traffic

CONNECT_TIMEOUT = 1.0  # seconds; both servers stand on one machine or one private network
DESCRIBE_TIMEOUT = 0.5  # seconds for one look at the workers, outside a prediction's deadline
DEFAULT_MAX_AGE = 1.0  # seconds for which the answer to "which version is the default" is reused
POOL_SIZE = 16  # connections kept open: one for each thread of the portal
MODELS_PER_PAGE = 100  # TorchServe's own limit for one answer


class TorchServe:
    """A TorchServe that is asked with its own keys over connections that stay open.

    Safe to call from many threads. Every call has a deadline. Nothing of a client's request but the
    image's bytes reaches TorchServe: its workers obey some request headers.
    """

    def __init__(self, settings: Settings) -> None:
        self.traffic = Traffic()
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
        return prediction(*self._infer("predictions", image, model, version, timeout))

    def explain(
        self, image: bytes, model: str, version: str | None, timeout: float | None = None
    ) -> Explanation:
        """Explain the class of one image; see ``ModelServer.explain``."""
        return explanation(*self._infer("explanations", image, model, version, timeout))

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
        with self.traffic.passing(model, version, deadline):
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
                if not worker_died(response) or last:
                    self._raise_refusal(response, model, version, deadline)
        raise AssertionError("the second attempt returns or raises")

    def served(self, timeout: float) -> list[ServedVersion]:
        """Every registered version; see ``ModelServer.served``."""
        deadline = time.monotonic() + timeout
        versions = []
        for model in self._models(deadline):
            path = _path(model, None)
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
            raise nonsense(f"status {response.status_code} instead of metrics")
        text = response.content.decode("utf-8", "replace").strip()
        return f"{text}\n" if text else ""

    def describe(self, model: str, version: str | None, timeout: float) -> ServedVersion | None:
        """One version, or the default one; see ``ModelServer.describe``."""
        deadline = time.monotonic() + timeout
        found = self._describe(_path(model, version), deadline)
        if found is None:
            return None
        default = found if version is None else self._describe(_path(model, None), deadline)
        is_default = default is not None and default[0].version == found[0].version
        return replace(found[0], default=is_default)

    def register(self, model: str, archive: str, workers: int, timeout: float) -> None:
        """Load an archive without waiting for it; see ``ModelServer.register``.

        To wait for it here would block other models' predictions inside TorchServe.
        """
        query = urlencode(
            {
                "url": archive,
                "model_name": model,
                "initial_workers": workers,
                "synchronous": "false",
            }
        )
        self._change("POST", f"/models?{query}", timeout)

    def set_default(self, model: str, version: str, timeout: float) -> None:
        """Answer requests without a version with this one; see ``ModelServer.set_default``."""
        asked = time.monotonic()
        self._change("PUT", f"{_path(model, version)}/set-default", timeout)
        with self._lock:
            self._defaults[model] = (asked, version)

    def scale(self, model: str, version: str, workers: int, timeout: float) -> None:
        """Change the number of workers; see ``ModelServer.scale``."""
        query = urlencode({"min_worker": workers, "max_worker": workers, "synchronous": "false"})
        self._change("PUT", f"{_path(model, version)}?{query}", timeout)

    def unregister(self, model: str, version: str, timeout: float) -> None:
        """Forget a version, with its workers; see ``ModelServer.unregister``."""
        self._change("DELETE", _path(model, version), timeout, fine=(404,))

    def _change(self, method: str, path: str, timeout: float, fine: tuple[int, ...] = ()) -> None:
        """A call that changes what is served.

        Raises:
            ChangeFailed: with TorchServe's reason.
        """
        response = self._ask(path, time.monotonic() + timeout, method)
        if response.status_code >= 300 and response.status_code not in fine:
            words = message_of(response) or f"status {response.status_code}"
            raise ChangeFailed(f"TorchServe refused: {words}.")

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
                raise nonsense("its list of models") from error
            if following is None or following <= page:
                return names
            page = following

    def _describe(self, path: str, deadline: float) -> list[ServedVersion] | None:
        """The versions at a management path, none of them marked default; None if unknown."""
        response = self._ask(path, deadline)
        if response.status_code == 404:
            return None
        return described(self._json(response))

    def _default_version(self, model: str, deadline: float) -> str:
        with self._lock:
            asked, version = self._defaults.get(model, (-math.inf, ""))
        if time.monotonic() - asked < DEFAULT_MAX_AGE:
            return version
        asked = time.monotonic()
        found = self._describe(_path(model, None), deadline)
        if found is None:
            self._raise_unknown(model, None, deadline)
        with self._lock:
            self._defaults[model] = (asked, found[0].version)
        return found[0].version

    def _ask(self, path: str, deadline: float, method: str = "GET") -> requests.Response:
        """A call of the management API, made again if a kept connection had died meanwhile."""
        try:
            try:
                return self._send("management", method, path, deadline)
            except requests.ConnectionError as error:
                if isinstance(error, requests.Timeout):
                    raise
                return self._send("management", method, path, deadline)
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
            if response.status_code != 400 or kind_of(response) != "InvalidKeyException":
                return response
            if not last:
                self._keys.forget()
        raise BadAnswer(
            "TorchServe refuses the keys of its key file. PORTAL_TORCHSERVE_KEY_FILE must name the "
            "key_file.json in the folder in which this TorchServe was started."
        )

    def _json(self, response: requests.Response) -> Any:
        if response.status_code != 200:
            raise nonsense(f"status {response.status_code} instead of 200")
        return strict_json(response.content)

    def _raise_refusal(
        self, response: requests.Response, model: str, version: str, deadline: float
    ) -> NoReturn:
        """Translate an answer of the inference API that is not 200."""
        status, kind = response.status_code, kind_of(response)
        if status == 404 and kind in ("ModelNotFoundException", "ModelVersionNotFoundException"):
            self._raise_unknown(model, version, deadline)
        if status == 413:
            raise TooLarge("TorchServe takes no image of this size. Send a smaller one.")
        if status in (415, 422) and (message := handler_problem(response)) is not None:
            raise (UnsupportedImage if status == 415 else UnusableImage)(message)
        if status == 503 and handler_code(response) == "explanation_too_slow":
            raise Busy(
                f"{model} {version} gave the explanation up, as it has too much to do. "
                "Try again in a few seconds."
            )
        if status == 500 and (message := handler_problem(response)) is not None:
            raise BadAnswer(f"{model} {version} has no usable answer to this image: {message}.")
        if worker_died(response):
            raise ModelNotReady(
                f"{model} {version} lost its worker twice while it worked on this image. "
                "Try again in a few seconds."
            )
        if status == 503 and kind == "ServiceUnavailableException":
            raise ModelNotReady(
                f"{model} {version} has no worker ready or a full queue. "
                "Try again in a few seconds."
            )
        raise nonsense(f"status {status} ({kind or 'no known type'}) to a prediction")

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
        found = self._describe(_path(model, version), time.monotonic() + DESCRIBE_TIMEOUT)
        if found is not None and found[0].workers_ready == 0:
            raise ModelNotReady(
                f"{model} {version} has no worker ready. Try again in a few seconds; if it stays "
                "so, see /api/health."
            )
        raise TooSlow(
            f"{model} {version} did not answer within {seconds:.3g} s. "
            "Try again when there is less to do."
        )


def _path(model: str, version: str | None) -> str:
    """Where the management API has a version; None: the default one."""
    path = f"/models/{quote(model, safe='')}"
    return path if version is None else f"{path}/{quote(version, safe='')}"


def _down() -> PortalError:
    return ModelServerDown("The model server does not answer. Try again in a few seconds.")

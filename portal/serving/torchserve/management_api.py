"""TorchServe's management API and its metrics: what is served, and changes of that."""

import time
from typing import Any
from urllib.parse import quote

import requests

from portal.errors import ChangeFailed, ModelServerDown
from portal.serving.model_server import ServedVersion
from portal.serving.torchserve import answers
from portal.serving.torchserve.answers import Answer
from portal.serving.torchserve.inference_api import CONNECT_TIMEOUT
from portal.serving.torchserve.keys import KeyFile
from portal.settings import Settings


class Management:
    """The management API at the settings' address, asked with the key of ``keys``.

    Safe to call from many threads. Deadlines are times of ``time.monotonic``. Each call raises
    ModelServerDown without an answer until then, and BadAnswer for one that the contract does not
    know.
    """

    def __init__(self, settings: Settings, keys: KeyFile) -> None:
        self._settings = settings
        self._keys = keys
        self._session = requests.Session()
        self._session.trust_env = False  # neither a proxy nor .netrc's password is meant for us

    def close(self) -> None:
        """Close the connections that are open."""
        self._session.close()

    def metrics(self, timeout: float) -> str:
        """What TorchServe counts itself; see ``ModelServer.metrics``. It needs no key."""
        try:
            response = self._session.get(
                f"{self._settings.torchserve_metrics}/metrics",
                timeout=(min(CONNECT_TIMEOUT, timeout), timeout),
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise down() from error
        if response.status_code != 200:
            raise answers.nonsense(f"status {response.status_code} instead of metrics")
        text = response.content.decode("utf-8", "replace").strip()
        return f"{text}\n" if text else ""

    def change(self, method: str, path: str, timeout: float, fine: tuple[int, ...] = ()) -> None:
        """A call that changes what is served.

        Raises:
            ChangeFailed: with TorchServe's reason.
        """
        response = self._ask(path, time.monotonic() + timeout, method)
        if response.status_code >= 300 and response.status_code not in fine:
            words = answers.message_of(response) or f"status {response.status_code}"
            raise ChangeFailed(f"TorchServe refused: {words}.")

    def models(self, deadline: float) -> list[str]:
        """Names of all registered models."""
        names: list[str] = []
        page = 0
        while True:  # 100 is TorchServe's own limit for one answer
            content = self._json(self._ask(f"/models?limit=100&next_page_token={page}", deadline))
            try:
                names += [str(entry["modelName"]) for entry in content["models"]]
                following = int(content.get("nextPageToken") or 0)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise answers.nonsense("its list of models") from error
            if following <= page:
                return names
            page = following

    def describe(
        self, model: str, version: str | None, deadline: float
    ) -> list[ServedVersion] | None:
        """One version, the default one (None) or all of them ("all"); None if there is none.

        None of them is marked default.
        """
        answer = self._ask(path_of(model, version), deadline)
        return None if answer.status_code == 404 else answers.described(self._json(answer))

    def _ask(self, path: str, deadline: float, method: str = "GET") -> Answer:
        """A call of the management API, made again if a kept connection had died meanwhile."""

        def ask(key: str) -> Answer:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise requests.Timeout
            response = self._session.request(
                method,
                self._settings.torchserve_management + path,
                headers={"Authorization": f"Bearer {key}"},
                timeout=(min(CONNECT_TIMEOUT, remaining), remaining),
                allow_redirects=False,
            )
            return Answer(response.status_code, response.content)

        try:
            try:
                return self._keys.asked("management", ask)
            except requests.ConnectionError as error:
                if isinstance(error, requests.Timeout):
                    raise
                return self._keys.asked("management", ask)
        except requests.RequestException as error:
            raise down() from error

    def _json(self, response: Answer) -> Any:
        if response.status_code != 200:
            raise answers.nonsense(f"status {response.status_code} instead of 200")
        return answers.strict_json(response.content)


def path_of(model: str, version: str | None) -> str:
    """Where the management API has a version; None: the default one."""
    path = f"/models/{quote(model, safe='')}"
    return path if version is None else f"{path}/{quote(version, safe='')}"


def down() -> ModelServerDown:
    """The error for a TorchServe that does not answer."""
    return ModelServerDown("The model server does not answer. Try again in a few seconds.")

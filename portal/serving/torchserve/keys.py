"""TorchServe's keys: in a file that it writes anew, with new keys, at each start."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from portal.errors import BadAnswer, ModelServerDown
from portal.files import StampedFile
from portal.serving.torchserve.answers import Answer, kind_of


class KeyFile:
    """The keys in ``path``, read again whenever the file has changed. They are never logged."""

    def __init__(self, path: Path) -> None:
        self._keys = StampedFile(lambda: _read(path), path)
        self.forget = self._keys.forget  # at the next call they are read: TorchServe refused one

    def get(self, api: Literal["inference", "management"]) -> str:
        """The key for one of TorchServe's APIs.

        Raises:
            ModelServerDown: the file is missing, unreadable or without this key.
        """
        try:
            return self._keys.get()[api]
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.forget()
            raise ModelServerDown(
                "TorchServe's key file is missing or cannot be read: expected keys as written "
                "by TorchServe when it starts. Start TorchServe, or correct "
                "PORTAL_TORCHSERVE_KEY_FILE."
            ) from error

    def asked(
        self, api: Literal["inference", "management"], ask: Callable[[str], Answer]
    ) -> Answer:
        """Ask with a key, and once more with a fresh one if TorchServe does not know ours.

        Raises:
            ModelServerDown: as ``get``.
            BadAnswer: TorchServe refuses the key that stands in the file now.
        """
        for _ in range(2):
            answer = ask(self.get(api))
            if answer.status_code != 400 or kind_of(answer) != "InvalidKeyException":
                return answer
            self.forget()
        raise BadAnswer(
            "TorchServe refuses the keys of its key file. PORTAL_TORCHSERVE_KEY_FILE must name the "
            "key_file.json in the folder in which this TorchServe was started."
        )


def _read(path: Path) -> dict[str, str]:
    content = json.loads(path.read_text(encoding="ascii"))
    return {api: str(content[api]["key"]) for api in ("inference", "management")}

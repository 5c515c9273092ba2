"""TorchServe's keys: in a file that it writes anew, with new keys, at each start."""

import json
import logging
from pathlib import Path
from typing import Literal

from portal.errors import ModelServerDown
from portal.files import StampedFile

log = logging.getLogger("portal.serving.torchserve.keys")

Api = Literal["inference", "management"]


class KeyFile:
    """The keys in ``path``, read again whenever the file has changed. They are never logged."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys = StampedFile(lambda: _read(path), path)
        self.forget = self._keys.forget  # at the next call they are read: TorchServe refused one

    def get(self, api: Api) -> str:
        """The key for one of TorchServe's APIs.

        Raises:
            ModelServerDown: the file is missing, unreadable or without this key.
        """
        try:
            return self._keys.get()[api]
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.forget()
            log.debug("no %s key in %s: %s", api, self._path, type(error).__name__)
            raise ModelServerDown(
                "TorchServe's key file is missing or cannot be read: expected keys as written "
                "by TorchServe when it starts. Start TorchServe, or correct "
                "PORTAL_TORCHSERVE_KEY_FILE."
            ) from error


def _read(path: Path) -> dict[Api, str]:
    content = json.loads(path.read_text(encoding="ascii"))
    return {
        "inference": str(content["inference"]["key"]),
        "management": str(content["management"]["key"]),
    }

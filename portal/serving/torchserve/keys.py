"""TorchServe's keys: in a file that it writes anew, with new keys, at each start."""

import json
import logging
import threading
from pathlib import Path
from typing import Literal

from portal.errors import ModelServerDown

log = logging.getLogger("portal.serving.torchserve.keys")

Api = Literal["inference", "management"]


class KeyFile:
    """The keys in ``path``, read again whenever the file has changed. They are never logged."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._keys: dict[Api, str] = {}

    def get(self, api: Api) -> str:
        """The key for one of TorchServe's APIs.

        Raises:
            ModelServerDown: the file is missing, unreadable or without this key.
        """
        with self._lock:
            try:
                status = self._path.stat()
                stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
                if stamp != self._stamp:
                    self._keys = _read(self._path)
                    self._stamp = stamp
                return self._keys[api]
            except (OSError, ValueError, KeyError, TypeError) as error:
                self._stamp = None
                log.debug("no %s key in %s: %s", api, self._path, type(error).__name__)
                raise ModelServerDown(
                    "TorchServe's key file is missing or cannot be read: expected keys as written "
                    "by TorchServe when it starts. Start TorchServe, or correct "
                    "PORTAL_TORCHSERVE_KEY_FILE."
                ) from error

    def forget(self) -> None:
        """Read the file at the next call even if it looks unchanged: TorchServe refused a key."""
        with self._lock:
            self._stamp = None


def _read(path: Path) -> dict[Api, str]:
    content = json.loads(path.read_text(encoding="ascii"))
    return {
        "inference": str(content["inference"]["key"]),
        "management": str(content["management"]["key"]),
    }

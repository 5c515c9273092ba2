"""The way of every prediction: TorchServe's inference API over connections that stay open.

urllib3, on which ``requests`` stands, without what ``requests`` does for each call.
"""

import time
from dataclasses import dataclass
from urllib.parse import urlsplit

import urllib3
from urllib3.util import SKIP_HEADER

from portal.errors import BadAnswer
from portal.keys import KeyFile
from portal.torchserve_answers import kind_of

CONNECT_TIMEOUT = 1.0  # seconds; both servers stand on one machine or one private network
POOL_SIZE = 16  # connections kept open: more than are used at a time, with few models

WRONG_KEYS = (
    "TorchServe refuses the keys of its key file. PORTAL_TORCHSERVE_KEY_FILE must name the "
    "key_file.json in the folder in which this TorchServe was started."
)


class ConnectionLost(Exception):
    """Not connected, or the connection broke before the answer was whole."""


@dataclass(frozen=True)
class Answer:
    """An answer of the inference API, whatever it is."""

    status_code: int
    content: bytes


class Inference:
    """The inference API at ``url``, asked with the key of ``keys``. For use from many threads."""

    def __init__(self, url: str, keys: KeyFile) -> None:
        self._keys = keys
        self._prefix = urlsplit(url).path
        self._pool = urllib3.connection_from_url(url, maxsize=POOL_SIZE)

    def post(self, path: str, body: bytes, deadline: float) -> Answer:
        """Ask once, and once more with fresh keys if TorchServe does not know ours (any more).

        Raises:
            TimeoutError: the deadline (time.monotonic) has passed.
            ConnectionLost: worth another try.
            BadAnswer: TorchServe refuses the keys that stand in the file now.
        """
        for last in (False, True):
            answer = self._post(path, body, deadline)
            if answer.status_code != 400 or kind_of(answer) != "InvalidKeyException":
                return answer
            if not last:
                self._keys.forget()
        raise BadAnswer(WRONG_KEYS)

    def close(self) -> None:
        """Close the connections that are open."""
        self._pool.close()

    def _post(self, path: str, body: bytes, deadline: float) -> Answer:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        headers = {
            # TorchServe would take any other content type for a form and try to decode it.
            "Content-Type": "application/octet-stream",
            "Authorization": f"Bearer {self._keys.get('inference')}",
            # It hands every header on to the worker, which reads each with eight system calls.
            "User-Agent": SKIP_HEADER,
            "Accept-Encoding": SKIP_HEADER,
        }
        try:
            response = self._pool.urlopen(
                "POST",
                self._prefix + path,
                body=body,
                headers=headers,
                timeout=urllib3.Timeout(connect=min(CONNECT_TIMEOUT, remaining), read=remaining),
                retries=False,
                redirect=False,
            )
        except urllib3.exceptions.TimeoutError as error:
            raise TimeoutError from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ConnectionLost from error
        return Answer(response.status, response.data)

"""The way of every prediction: TorchServe's inference API over connections that stay open.

HTTP/1.1 as far as TorchServe speaks it, over bare sockets: a call takes 40 to 60 us of CPU (one
core of a 2-core virtual machine), http.client's 140 and urllib3's 200.
"""

import contextlib
import select
import socket
import ssl
import threading
import time
from urllib.parse import urlsplit

from portal.serving.torchserve.answers import Answer
from portal.serving.torchserve.keys import KeyFile

CONNECT_TIMEOUT = 1.0  # seconds; both servers stand on one machine or one private network
CONNECTIONS_KEPT = 16  # connections that stay open while nobody uses them
MOST_HEAD = 64 * 1024  # bytes of an answer's status and headers
RECEIVED_AT_ONCE = 64 * 1024  # bytes read at a time


class ConnectionLost(Exception):
    """Not connected, or the connection broke before the answer was whole."""


class Inference:
    """The inference API at ``url``, asked with the key of ``keys``. For use from many threads."""

    def __init__(self, url: str, keys: KeyFile) -> None:
        parts = urlsplit(url)
        self._keys = keys
        self._prefix = parts.path
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._address = (parts.hostname or "", parts.port or (443 if self._tls else 80))
        self._host = parts.netloc.rpartition("@")[2]
        self._lock = threading.Lock()
        self._kept: list[socket.socket] = []

    def post(self, path: str, body: bytes, deadline: float) -> Answer:
        """Ask, once more with fresh keys if TorchServe does not know ours (any more).

        Raises:
            TimeoutError: the deadline (time.monotonic) has passed.
            ConnectionLost: worth another try.
            ModelServerDown, BadAnswer: as ``KeyFile.asked``.
        """
        return self._keys.asked("inference", lambda key: self._post(path, body, deadline, key))

    def close(self) -> None:
        """Close the connections that nobody uses."""
        with self._lock:
            kept, self._kept = self._kept, []
        for connection in kept:
            connection.close()

    def _post(self, path: str, body: bytes, deadline: float, key: str) -> Answer:
        # TorchServe would take any other content type for a form and try to decode it. It hands
        # every header on to the worker, which reads each with eight system calls: hence so few.
        head = (
            f"POST {self._prefix}{path} HTTP/1.1\r\n"
            f"Host: {self._host}\r\n"
            f"Authorization: Bearer {key}\r\n"
            "Content-Type: application/octet-stream\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        connection = None
        try:
            connection = self._take() or self._connect(deadline)
            connection.settimeout(_left(deadline))
            connection.sendall(head.encode("latin-1") + body)
            answer, stays = _read(connection, deadline)
        except (OSError, EOFError, ValueError) as error:
            if connection is not None:
                connection.close()
            if isinstance(error, TimeoutError):
                raise
            raise ConnectionLost from error
        self._keep(connection, stays=stays)
        return answer

    def _take(self) -> socket.socket | None:
        """A connection of an earlier call, the one that was used last; None if there is none."""
        while True:
            with self._lock:
                if not self._kept:
                    return None
                connection = self._kept.pop()
            poll = select.poll()
            poll.register(connection, select.POLLIN)
            if not poll.poll(0):
                return connection
            connection.close()  # what can be read before we ask is its end

    def _keep(self, connection: socket.socket, *, stays: bool) -> None:
        with self._lock:
            if stays and len(self._kept) < CONNECTIONS_KEPT:
                self._kept.append(connection)
                return
        connection.close()

    def _connect(self, deadline: float) -> socket.socket:
        timeout = min(CONNECT_TIMEOUT, _left(deadline))
        connection = socket.create_connection(self._address, timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is None:
            return connection
        return self._tls.wrap_socket(connection, server_hostname=self._address[0])


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _read(connection: socket.socket, deadline: float) -> tuple[Answer, bool]:
    """The next answer, and whether another request may follow it; any error ends the connection."""
    received = bytearray()
    while (end := received.find(b"\r\n\r\n")) < 0:
        received += _receive(connection, deadline)
        if len(received) > MOST_HEAD + RECEIVED_AT_ONCE:
            raise ValueError("an answer without an end to its headers")
    status, length, stays = _read_head(bytes(received[:end]))
    body = received[end + 4 :]
    if length is None:  # it ends with the connection
        with contextlib.suppress(EOFError):
            while True:
                body += _receive(connection, deadline)
        return Answer(status, bytes(body)), False
    while len(body) < length:
        body += _receive(connection, deadline)
    return Answer(status, bytes(body[:length])), stays and len(body) == length


def _read_head(head: bytes) -> tuple[int, int | None, bool]:
    """Status, length of the body (None: until the end), and whether the connection stays open."""
    first, *lines = head.lower().split(b"\r\n")
    headers = {name: value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    protocol, status = first.split(b" ", 2)[:2]
    if protocol != b"http/1.1" or b"transfer-encoding" in headers:
        raise ValueError("an answer in pieces, which TorchServe gives no plain request, or no HTTP")
    length = int(headers[b"content-length"]) if b"content-length" in headers else None
    return int(status), length, headers.get(b"connection") != b"close"


def _receive(connection: socket.socket, deadline: float) -> bytes:
    connection.settimeout(_left(deadline))
    data = connection.recv(RECEIVED_AT_ONCE)
    if not data:
        raise EOFError("the connection ended before the answer did")
    return data

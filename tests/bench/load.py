"""A light load generator: many keep-alive clients in one thread, over bare sockets.

    python -m tests.bench.load < JOB

JOB is JSON: host, port, path, headers, clients, seconds, bodies (folder of files, sent in turn),
form (send them as the multipart field ``file``, not as the whole body).
Prints JSON: ``requests_per_second``, ``p50_ms``, ``p95_ms``, ``p99_ms``, ``refused`` (by status).
It shares the machine with what it measures: a request costs it about 30 us.
"""

import json
import selectors
import socket
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BOUNDARY = "tile-2f6c1e"
_FORM_HEAD = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="tile.jpg"\r\n'
    "Content-Type: image/jpeg\r\n\r\n"
).encode()
_FORM_TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()
RAMP = 0.3  # seconds of load before counting


@dataclass
class _Client:
    """One connection, and what it waits for."""

    address: tuple[str, int]
    number: int
    sock: socket.socket = field(init=False)
    started: float = 0.0
    received: bytes = b""
    need: int = -1  # bytes of the whole answer; -1 until its head has arrived

    def connect(self) -> None:
        self.sock = socket.create_connection(self.address, timeout=30)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, request: bytes) -> None:
        self.received, self.need = b"", -1
        self.started = time.perf_counter()
        self.sock.sendall(request)

    def receive(self) -> int:
        """Read what is there; the status when the answer is whole, 0 before, -1 if it broke."""
        try:
            data = self.sock.recv(65536)
        except OSError:
            return -1
        if not data:
            return -1
        self.received += data
        if self.need < 0:
            end = self.received.find(b"\r\n\r\n")
            if end < 0:
                return 0
            self.need = end + 4 + _content_length(self.received[:end])
        return int(self.received[9:12]) if len(self.received) >= self.need else 0


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ValueError(f"expected an answer with a Content-Length, found {head!r}")


def _requests(job: dict[str, Any]) -> list[bytes]:
    """Each of the job's files as the bytes of a request."""
    head = [f"POST {job['path']} HTTP/1.1", f"Host: {job['host']}:{job['port']}"]
    head += [f"{name}: {value}" for name, value in job["headers"].items()]
    requests = []
    for path in sorted(Path(job["bodies"]).iterdir()):
        body = path.read_bytes()
        lines = [*head, "Content-Type: application/octet-stream"]
        if job["form"]:
            lines[-1] = f"Content-Type: multipart/form-data; boundary={BOUNDARY}"
            body = _FORM_HEAD + body + _FORM_TAIL
        lines.append(f"Content-Length: {len(body)}")
        requests.append("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    return requests


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Send as fast as the answers come, for the job's seconds."""
    host, port = job["host"], int(job["port"])
    requests = _requests(job)
    selector = selectors.DefaultSelector()
    clients = [_Client((host, port), number) for number in range(job["clients"])]
    times: list[float] = []
    refused: dict[str, int] = {}
    turn = 0
    for client in clients:
        client.connect()
        selector.register(client.sock, selectors.EVENT_READ, client)
        client.send(requests[turn % len(requests)])
        turn += 1
    start = time.perf_counter() + RAMP
    end = start + job["seconds"]
    while (now := time.perf_counter()) < end:
        for key, _ in selector.select(timeout=end - now):
            client = key.data
            status = client.receive()
            if status == 0:
                continue
            now = time.perf_counter()
            if now >= start and status == 200:
                times.append(1000 * (now - client.started))
            elif now >= start:
                refused[str(status)] = refused.get(str(status), 0) + 1
            if status == -1 or b"connection: close" in client.received[:400].lower():
                selector.unregister(client.sock)
                client.sock.close()
                client.connect()
                selector.register(client.sock, selectors.EVENT_READ, client)
            client.send(requests[turn % len(requests)])
            turn += 1
    for client in clients:
        client.sock.close()
    cuts = statistics.quantiles(times, n=100) if len(times) > 1 else [0.0] * 99
    return {
        "requests_per_second": len(times) / job["seconds"],
        "p50_ms": cuts[49],
        "p95_ms": cuts[94],
        "p99_ms": cuts[98],
        "refused": refused,
    }


if __name__ == "__main__":
    json.dump(run(json.load(sys.stdin)), sys.stdout)

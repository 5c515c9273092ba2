"""A real web server on loopback with one file, which can do what bad servers do."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np


class FileServer(ThreadingHTTPServer):
    """Serves ``content``, in parts when asked to; ``ranges`` is what was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.url = f"http://127.0.0.1:{self.server_port}/EuroSAT.zip"
        self.content = np.random.default_rng(0).bytes(3 << 20)
        self.ranges: list[str | None] = []
        self.stop_after = len(self.content)  # bytes of one answer, then the connection is cut
        self.knows_ranges = True
        self.status = 200

    @property
    def md5(self) -> str:
        return hashlib.md5(self.content).hexdigest()


class _Answer(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        partial = asked is not None and self.server.knows_ranges
        if self.server.status != 200:
            self.send_error(self.server.status)
        elif partial and start >= len(self.server.content):
            self.send_error(416)
        else:
            rest = self.server.content[start:] if partial else self.server.content
            self.send_response(206 if partial else 200)
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            self.wfile.write(rest[: self.server.stop_after])
        self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        """Keep the output for pytest."""


@contextmanager
def serving() -> Iterator[FileServer]:
    """A server that runs meanwhile."""
    with FileServer() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()

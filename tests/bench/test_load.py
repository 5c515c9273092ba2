"""The load generator against a real server: what it sends, counts and refuses to count."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.bench.load import run


class Refusing(BaseHTTPRequestHandler):
    """Takes the tiles that start with 1; refuses the others, and hangs up, as TorchServe does."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        tile = body.partition(b"\r\n\r\n")[2] if b"form-data" in body else body
        fine = tile.startswith(b"1") and self.headers["X-Key"] == "abc"
        self.send_response(200 if fine else 503)
        if not fine:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("clients", "form"), [(1, False), (4, False), (4, True)])
def test_answers_are_counted_and_refusals_apart(
    port: int,
    clients: int,
    form: bool,  # noqa: FBT001
    tmp_path: Path,
) -> None:
    for number in (1, 2):
        (tmp_path / f"{number}.jpg").write_bytes(b"%d" % number * 3000)
    job = {
        "host": "127.0.0.1", "port": port, "path": "/x", "headers": {"X-Key": "abc"},
        "clients": clients, "seconds": 0.5, "bodies": str(tmp_path), "form": form,
    }  # fmt: skip
    found = run(job)
    assert found["requests_per_second"] > 0
    assert set(found["refused"]) <= {"503", "-1"}
    # The two tiles take turns, so about as many were refused as answered.
    answered = found["requests_per_second"] * 0.5
    assert found["refused"]["503"] == pytest.approx(answered, abs=clients + 1)
    assert 0 < found["p50_ms"] <= found["p99_ms"]

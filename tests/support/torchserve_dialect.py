"""A server that speaks TorchServe's HTTP, for tests of what asks it; tests set what it answers."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from handlers.contract.tile_bundle import MAGIC, unpack
from portal.serving.torchserve.client import TorchServe

OLD = {  # of an archive from before there were warnings
    "class_name": "River",
    "confidence": 0.7,
    "probabilities": {"Forest": 0.3, "River": 0.7},
    "uncertain": False,
}
GOOD = {**OLD, "prediction_set": ["River"], "warnings": [], "assumed": {}}
HEAT = [[0.5, -0.25, 0, 1] for _ in range(4)]
EXPLAINED = {"class_name": "River", "confidence": 0.7, "heat": HEAT}
UNKNOWN_VERSION = (404, {"code": 404, "type": "ModelVersionNotFoundException", "message": "no"})
UNKNOWN_MODEL = (404, {"code": 404, "type": "ModelNotFoundException", "message": "no"})
WORKER_DIED = {"type": "InternalServerException", "message": "Worker died."}
INVALID_KEY = (400, {"code": 400, "type": "InvalidKeyException", "message": "Token failed"})
RESET = (0, None)  # the connection breaks instead of an answer


def described(model: str, version: str, *, ready: bool = True) -> dict[str, Any]:
    status = "READY" if ready else "UNLOADING"
    return {
        "modelName": model,
        "modelVersion": version,
        "minWorkers": 1,
        "startupTimeout": 90,
        "workers": [{"id": "9000", "status": status, "pid": 4711}],
    }


def stacked(*tiles: Any) -> dict[str, Any]:
    return {"tiles": list(tiles)}


def refusal(status: int, code: str = "unusable_image") -> dict[str, Any]:
    return {"error": {"status": status, "code": code, "message": "cut off"}}


@dataclass
class Dialect:
    """A server on a free port that speaks TorchServe's HTTP: both APIs on one address.

    ``models`` maps a model to its versions, the default one first. ``answers`` are given to the
    next predictions, then GOOD is. ``seen`` collects (method, path, headers, body).
    """

    models: dict[str, list[str]] = field(default_factory=lambda: {"baseline": ["1.0", "2.0"]})
    answers: list[tuple[int, Any]] = field(default_factory=list)
    seen: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    connections: set[tuple[str, int]] = field(default_factory=set)
    keys: dict[str, str] = field(default_factory=lambda: {"GET": "manage00", "POST": "infer000"})
    ready: bool = True
    reads_stacks: bool = False  # predictions are answered by what they carry
    delay: float = 0.0  # seconds before a prediction is answered
    page_size: int = 100
    describe_answer: tuple[int, Any] | None = None
    change_answer: tuple[int, Any] = (200, {"status": "ok"})
    metrics_answer: tuple[int, Any] = (200, b"ts_queue 3.0")
    lost: int = 0  # calls of the management API whose connection breaks before the next is answered

    def answer(self, method: str, path: str, key: str, body: bytes) -> tuple[int, Any]:
        if path == "/metrics":  # the only address without a key
            return self.metrics_answer
        managing = path.startswith("/models")
        if key != f"Bearer {self.keys['GET' if managing else 'POST']}":
            return INVALID_KEY
        if managing and self.lost:
            self.lost -= 1
            return RESET
        if managing and method != "GET":
            return self.change_answer
        path, _, query = path.partition("?")
        parts = path.strip("/").split("/")
        if method == "POST":
            return self.read(body) if self.reads_stacks else self.predict(parts[1], parts[2])
        return self.describe(parts, query)

    def predict(self, model: str, version: str) -> tuple[int, Any]:
        time.sleep(self.delay)
        if self.answers:
            return self.answers.pop(0)
        if model not in self.models:
            return UNKNOWN_MODEL
        return (200, GOOD) if version in self.models[model] else UNKNOWN_VERSION

    def read(self, body: bytes) -> tuple[int, Any]:
        """As the handler does; the tile "bad" is refused."""
        time.sleep(self.delay)
        if not body.startswith(MAGIC):
            return (422, refusal(422)) if body == b"bad" else (200, GOOD)
        return 200, stacked(*(refusal(422) if tile == b"bad" else GOOD for tile in unpack(body)))

    def describe(self, parts: list[str], query: str) -> tuple[int, Any]:
        if self.describe_answer is not None:
            return self.describe_answer
        if len(parts) == 1:
            first = int(dict(pair.split("=") for pair in query.split("&"))["next_page_token"])
            names = list(self.models)
            page = [{"modelName": name} for name in names[first : first + self.page_size]]
            following = first + self.page_size
            token = {"nextPageToken": str(following)} if following < len(names) else {}
            return 200, {**token, "models": page}
        versions = self.models.get(parts[1])
        if versions is None:
            return UNKNOWN_MODEL
        wanted = parts[2] if len(parts) > 2 else versions[0]
        if wanted != "all" and wanted not in versions:
            return UNKNOWN_VERSION
        chosen = versions if wanted == "all" else [wanted]
        return 200, [described(parts[1], version, ready=self.ready) for version in chosen]

    def predictions(self) -> list[str]:
        return [path for method, path, _, _ in self.seen if method == "POST"]


def handler_for(dialect: Dialect) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle_call(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            dialect.seen.append((self.command, self.path, dict(self.headers), body))
            dialect.connections.add(self.client_address)
            key = self.headers.get("Authorization", "")
            status, content = dialect.answer(self.command, self.path, key, body)
            if (status, content) == RESET:
                self.close_connection = True
                self.connection.close()
                return
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            if status >= 400:  # as TorchServe does
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_DELETE = handle_call  # noqa: N815 - the names that http.server looks for

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            pass

    return Handler


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64  # clients that connect at once

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that stops waiting, or a connection broken on purpose, is no news."""


def write_keys(path: Path, inference: str, management: str) -> None:
    keys = {"inference": {"key": inference}, "management": {"key": management}}
    path.write_text(json.dumps(keys))


ClientFor = Callable[..., TorchServe]  # of an address and, perhaps, of the seconds of its deadline

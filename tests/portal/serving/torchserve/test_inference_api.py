import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from portal.errors import BadAnswer, ModelServerDown
from portal.serving.torchserve.inference_api import (
    CONNECTIONS_KEPT,
    MOST_HEAD,
    ConnectionLost,
    Inference,
)
from portal.serving.torchserve.keys import KeyFile
from tests.support.torchserve_dialect import Dialect, write_keys

PATH = "/predictions/baseline/1.0"


@pytest.fixture
def keys(key_file: Path) -> KeyFile:
    return KeyFile(key_file)


@pytest.fixture
def inference(address: str, keys: KeyFile) -> Iterator[Inference]:
    found = Inference(address, keys)
    yield found
    found.close()


def soon() -> float:
    return time.monotonic() + 5


def test_a_request_carries_what_torchserve_needs_and_no_more(
    inference: Inference, dialect: Dialect
) -> None:
    assert inference.post(PATH, b"tile", soon()).status_code == 200
    ((method, path, headers, body),) = dialect.seen
    assert (method, path, body) == ("POST", PATH, b"tile")
    assert headers.pop("Host").startswith("127.0.0.1:")
    assert headers == {
        "Authorization": "Bearer infer000",
        "Content-Type": "application/octet-stream",
        "Content-Length": "4",
    }


def test_an_address_may_have_a_path_and_a_password(
    address: str, keys: KeyFile, dialect: Dialect
) -> None:
    found = Inference(address.replace("//", "//user:secret@") + "/torchserve", keys)
    found.post(PATH, b"tile", soon())
    ((_, path, headers, _),) = dialect.seen
    assert path == f"/torchserve{PATH}"
    assert headers["Host"] == address.removeprefix("http://")
    found.close()


def test_whatever_is_answered_is_an_answer(inference: Inference, dialect: Dialect) -> None:
    dialect.answers = [(503, b"not now"), (302, b""), (200, b"x" * 300_000)]
    answers = [inference.post(PATH, b"tile", soon()) for _ in range(3)]
    assert [(found.status_code, found.content) for found in answers] == [
        (503, b"not now"),
        (302, b""),
        (200, b"x" * 300_000),
    ]


def test_connections_are_kept(inference: Inference, dialect: Dialect) -> None:
    for _ in range(5):
        inference.post(PATH, b"tile", soon())
    assert len(dialect.connections) == 1


def test_a_connection_that_torchserve_closes_is_not_used_again(
    inference: Inference, dialect: Dialect
) -> None:
    dialect.answers = [(500, b"")]
    for _ in range(2):
        inference.post(PATH, b"tile", soon())
    assert len(dialect.connections) == 2


def test_closed_connections_are_replaced(inference: Inference, dialect: Dialect) -> None:
    inference.post(PATH, b"tile", soon())
    inference.close()
    inference.post(PATH, b"tile", soon())
    assert len(dialect.connections) == 2


def test_only_so_many_connections_stay_open(inference: Inference, dialect: Dialect) -> None:
    dialect.delay = 0.5  # for all of them to be under way at once
    with ThreadPoolExecutor(CONNECTIONS_KEPT + 2) as clients:
        asked = [
            clients.submit(inference.post, PATH, b"tile", soon())
            for _ in range(CONNECTIONS_KEPT + 2)
        ]
    assert {one.result().status_code for one in asked} == {200}
    assert len(dialect.connections) == CONNECTIONS_KEPT + 2
    assert len(inference._kept) == CONNECTIONS_KEPT


def test_proxies_and_netrc_are_not_asked(
    inference: Inference, dialect: Dialect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login a password b\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert inference.post(PATH, b"tile", soon()).status_code == 200
    assert dialect.seen[0][2]["Authorization"] == "Bearer infer000"


# --- keys


def test_a_refused_key_is_read_again_even_if_the_file_looks_the_same(
    inference: Inference, keys: KeyFile, dialect: Dialect, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["stale000", "infer000"])
    asked = []
    monkeypatch.setattr(keys, "get", lambda _api: next(answers))
    monkeypatch.setattr(keys, "forget", lambda: asked.append("forget"))
    assert inference.post(PATH, b"tile", soon()).status_code == 200
    assert asked == ["forget"]
    sent = [headers["Authorization"] for _, _, headers, _ in dialect.seen]
    assert sent == ["Bearer stale000", "Bearer infer000"]


def test_new_keys_are_found_without_losing_a_request(
    inference: Inference, dialect: Dialect, key_file: Path
) -> None:
    inference.post(PATH, b"tile", soon())
    dialect.keys["POST"] = "infer111"
    write_keys(key_file, "infer111", "manage00")
    assert inference.post(PATH, b"tile", soon()).status_code == 200


def test_keys_of_another_server_are_a_bad_answer(inference: Inference, dialect: Dialect) -> None:
    dialect.keys["POST"] = "other000"
    with pytest.raises(BadAnswer, match="PORTAL_TORCHSERVE_KEY_FILE") as refused:
        inference.post(PATH, b"tile", soon())
    assert "infer000" not in str(refused.value)
    assert len(dialect.seen) == 2


def test_without_a_key_nothing_is_sent(
    inference: Inference, dialect: Dialect, key_file: Path
) -> None:
    key_file.unlink()
    with pytest.raises(ModelServerDown, match="key file"):
        inference.post(PATH, b"tile", soon())
    assert dialect.seen == []


# --- deadlines


def test_a_deadline_that_has_passed(inference: Inference, dialect: Dialect) -> None:
    with pytest.raises(TimeoutError):
        inference.post(PATH, b"tile", time.monotonic())
    inference.post(PATH, b"tile", soon())
    with pytest.raises(TimeoutError):  # over a kept connection too
        inference.post(PATH, b"tile", time.monotonic())
    assert len(dialect.seen) == 1


def test_an_answer_that_comes_too_late_is_never_taken_for_another(
    inference: Inference, dialect: Dialect
) -> None:
    inference.post(PATH, b"tile", soon())
    dialect.delay, dialect.answers = 0.4, [(200, b"late"), (200, b"in time")]
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        inference.post(PATH, b"tile", started + 0.2)
    assert 0.2 <= time.monotonic() - started < 0.4
    time.sleep(0.4)
    assert inference.post(PATH, b"tile", soon()).content == b"in time"
    assert len(dialect.connections) == 2


# --- what is read, byte for byte


Answering = Callable[..., Inference]


@pytest.fixture
def answering(keys: KeyFile) -> Iterator[Answering]:
    """An API whose server sends these parts to a request, one after the other, and closes.

    ``open_for`` are the seconds for which it keeps the connection before that.
    """
    with ExitStack() as stack:

        def api(*parts: bytes, open_for: float = 0.0) -> Inference:
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

            def serve() -> None:
                while True:
                    try:
                        connection, _ = server.accept()
                    except OSError:
                        return  # the test is over
                    with connection, suppress(OSError):
                        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        connection.recv(65536)
                        for part in parts:
                            connection.sendall(part)
                            time.sleep(0.01)
                        time.sleep(open_for)

            thread = threading.Thread(target=serve)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown, socket.SHUT_RDWR)
            found = Inference(f"http://127.0.0.1:{server.getsockname()[1]}", keys)
            stack.callback(found.close)
            return found

        yield api


def test_an_answer_may_come_in_pieces(answering: Answering) -> None:
    whole = b"HTTP/1.1 200 OK\r\ncontent-LENGTH:  5\r\nX-Other: a\r\n\r\nRiver"
    found = answering(*(whole[i : i + 3] for i in range(0, len(whole), 3)))
    answer = found.post(PATH, b"tile", soon())
    assert (answer.status_code, answer.content) == (200, b"River")


def test_an_answer_without_a_length_ends_with_its_connection(answering: Answering) -> None:
    found = answering(b"HTTP/1.1 502 \r\n\r\nBad ", b"gateway")
    answer = found.post(PATH, b"tile", soon())
    assert (answer.status_code, answer.content) == (502, b"Bad gateway")
    assert found._kept == []


def test_a_connection_that_ended_while_nobody_used_it(answering: Answering) -> None:
    found = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert found.post(PATH, b"tile", soon()).status_code == 200
    assert len(found._kept) == 1
    time.sleep(0.2)
    assert found.post(PATH, b"tile", soon()).status_code == 200


@pytest.mark.parametrize("more", [b"x", b"HTTP/1.1 200 OK\r\n"])
def test_a_connection_with_more_than_its_answer_is_not_kept(
    answering: Answering, more: bytes
) -> None:
    found = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nRiver" + more, open_for=0.2)
    assert found.post(PATH, b"tile", soon()).content == b"River"
    assert found._kept == []


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [b"HTTP/1.1 200 OK\r\nContent-Le"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nRiv"],
        [b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"],
        [b"SSH-2.0-OpenSSH\r\n\r\n"],
        [b"HTTP/1.1\r\n\r\n"],
        [b"HTTP/1.1 fine OK\r\nContent-Length: 0\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nX: ", *[b"x" * 16_384] * (MOST_HEAD // 16_384 + 5)],
    ],
    ids=lambda parts: str(b"".join(parts)[:60]),
)
def test_what_is_no_answer_of_torchserves(answering: Answering, parts: list[bytes]) -> None:
    found = answering(*parts)
    with pytest.raises(ConnectionLost):
        found.post(PATH, b"tile", soon())
    assert found._kept == []


def test_a_head_without_an_end_is_not_read_for_ever(answering: Answering) -> None:
    found = answering(b"HTTP/1.1 200 OK\r\nX: ", *[b"x" * 65536] * 5, open_for=2)
    started = time.monotonic()
    with pytest.raises(ConnectionLost):
        found.post(PATH, b"tile", soon())
    assert time.monotonic() - started < 1


def test_an_answer_that_stops_in_the_middle(answering: Answering) -> None:
    found = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nRiv", open_for=1)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        found.post(PATH, b"tile", started + 0.2)
    assert 0.2 <= time.monotonic() - started < 0.8


def test_nobody_listens(free_port: int, keys: KeyFile) -> None:
    nobody = Inference(f"http://127.0.0.1:{free_port}", keys)
    with pytest.raises(ConnectionLost):
        nobody.post(PATH, b"tile", soon())


def test_a_server_without_tls_is_none_with_it(address: str, keys: KeyFile) -> None:
    found = Inference(address.replace("http://", "https://"), keys)
    with pytest.raises(ConnectionLost):
        found.post(PATH, b"tile", soon())

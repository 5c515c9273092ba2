"""What the quick reader reads is what Werkzeug reads, and what it does not read is Werkzeug's."""

import io
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import FormDataParser, MultiPartParser

from portal.web import multipart
from portal.web.multipart import QuickForms, QuickRequest

Found = tuple[list[tuple[str, str]], list[tuple[str, str | None, str | None, bytes]]]


def made(kind: type[FormDataParser], max_form_parts: int | None = None) -> FormDataParser:
    """As Flask makes it, but that it needs no temporary files."""
    return kind(
        stream_factory=lambda *_, **__: io.BytesIO(),
        cls=QuickRequest.parameter_storage_class,
        max_form_parts=max_form_parts,
    )


def read(parser: FormDataParser, body: bytes, boundary: str = "b") -> Found:
    """Fields, and name, file name, type and content of each file."""
    _, fields, files = parser.parse(
        io.BytesIO(body), "multipart/form-data", len(body), {"boundary": boundary}
    )
    return list(fields.items(multi=True)), [
        (name, file.filename, file.content_type, file.read())
        for name, file in files.items(multi=True)
    ]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> FormDataParser:
    """One that has no Werkzeug to turn to."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("left to Werkzeug")

    monkeypatch.setattr(MultiPartParser, "parse", refuse)
    return made(QuickForms, max_form_parts=1000)


def form(*parts: bytes, end: bytes = b"--\r\n") -> bytes:
    return b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + b"--b" + end


HEAD = b'Content-Disposition: form-data; name="files"; filename="a.jpg"\r\n'
FILE = HEAD + b"Content-Type: image/jpeg\r\n\r\n\xff\xd8\r\n--\r\n\r\n--c\r\n"
FIELD = b'Content-Disposition: form-data; name="model"\r\n\r\nresnet18'


def test_what_requests_sends_is_read_quickly(quick: FormDataParser) -> None:
    prepared = requests.Request(
        "POST",
        "http://localhost/",
        data={"model": "baseline"},
        files=[("files", (f"tile {n}.jpg", bytes([n, 13, 10]), "image/jpeg")) for n in range(200)],
    ).prepare()
    body = prepared.body
    assert isinstance(body, bytes)
    boundary = prepared.headers["Content-Type"].partition("boundary=")[2]
    fields, files = read(quick, body, boundary)
    assert fields == [("model", "baseline")]
    assert files == [
        ("files", f"tile {n}.jpg", "image/jpeg", bytes([n, 13, 10])) for n in range(200)
    ]


def test_a_plain_form_is_read_quickly(quick: FormDataParser) -> None:
    fields, files = read(quick, form(FIELD, FILE, FIELD))
    assert fields == [("model", "resnet18")] * 2
    assert files == [("files", "a.jpg", "image/jpeg", b"\xff\xd8\r\n--\r\n\r\n--c\r\n")]


UNUSUAL = [
    form(),
    form(FILE, end=b""),
    form(FILE, end=b"--\r\nan epilogue"),
    form(FILE)[:-6],
    b"a preamble\r\n" + form(FILE),
    form(FILE).replace(b"--b\r\n", b"--b \r\n", 1),
    form(FILE).replace(b"--b\r\n", b"--boundary\r\n", 1),
    form(HEAD + b"\r\n").replace(b"\r\n\r\n--b", b"\r\n--b"),  # no body, not even an empty line
    form(HEAD + b"Content-Type: text/plain; charset=latin-1\r\n\r\n\xe4"),
    form(HEAD + b"X-Other: 1\r\n\r\nx"),
    form(HEAD.replace(b"a.jpg", "ä.jpg".encode()) + b"\r\nx"),
    form(HEAD.replace(b"a.jpg", b'a\\".jpg') + b"\r\nx"),
    form(HEAD.replace(b"a.jpg", b"a%22.jpg") + b"\r\nx"),
    form(HEAD.replace(b"a.jpg", b"") + b"\r\nx"),
    form(HEAD.replace(b'filename="a.jpg"', b"filename*=UTF-8''%e2%82%ac.jpg") + b"\r\nx"),
    form(FIELD.replace(b"resnet18", "ä".encode())),
    form(FIELD.replace(b"resnet18", bytes(multipart.MOST_TEXT + 1))),
    form(FILE).replace(b"\r\n", b"\n"),
    b"",
]


@pytest.mark.parametrize("body", UNUSUAL)
def test_what_is_unusual_is_left_to_werkzeug(quick: FormDataParser, body: bytes) -> None:
    with pytest.raises(AssertionError, match="left to Werkzeug"):
        read(quick, body)


@pytest.mark.parametrize("body", [*UNUSUAL, form(FILE), form(FILE, FIELD, FILE)])
def test_whatever_it_is_werkzeug_reads_the_same(body: bytes) -> None:
    assert read(made(QuickForms), body) == read(made(FormDataParser), body)


@given(
    st.lists(st.sampled_from([FILE, FIELD, HEAD, b"\r\n", b"--b", b"--", b"\r\n--b\r\n", b"x"])),
    st.binary(max_size=8),
)
@settings(max_examples=300, deadline=None)
def test_scraps_of_forms_are_read_as_werkzeug_does(scraps: list[bytes], noise: bytes) -> None:
    for body in (b"".join(scraps) + noise, form(*scraps), form(*scraps, noise)):
        assert read(made(QuickForms), body) == read(made(FormDataParser), body)


def test_too_many_parts_are_refused_as_ever() -> None:
    with pytest.raises(RequestEntityTooLarge):
        read(made(QuickForms, max_form_parts=2), form(FILE, FILE, FILE))


def test_a_large_form_is_never_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    body = io.BytesIO(form(FILE))
    seen = []
    monkeypatch.setattr(multipart, "MOST_BYTES", len(body.getvalue()) - 1)
    monkeypatch.setattr(MultiPartParser, "parse", lambda _, stream, *__: seen.append(stream))
    with pytest.raises(TypeError):  # nothing came back
        QuickForms().parse(body, "multipart/form-data", len(body.getvalue()), {"boundary": "b"})
    assert seen == [body]
    assert body.tell() == 0

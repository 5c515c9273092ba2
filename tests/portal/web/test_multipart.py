"""Whole forms are read as Werkzeug reads them; of damaged ones nothing is taken for an image."""

import contextlib
import io

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge
from werkzeug.formparser import FormDataParser

from portal.web.multipart import LARGEST_FIELD, LARGEST_IN_MEMORY, FormRequest, Forms

Found = tuple[list[tuple[str, str]], list[tuple[str, str | None, bytes]]]


def read(
    kind: type[FormDataParser], body: bytes, boundary: str = "b", parts: int | None = None
) -> Found:
    """Fields, and name, file name and content of each file."""
    parser = kind(
        stream_factory=lambda *_, **__: io.BytesIO(),
        cls=FormRequest.parameter_storage_class,
        max_form_parts=parts,
    )
    _, fields, files = parser.parse(
        io.BytesIO(body), "multipart/form-data", len(body), {"boundary": boundary}
    )
    found = [(name, file.filename, file.read()) for name, file in files.items(multi=True)]
    for file in files.values():
        file.close()
    return list(fields.items(multi=True)), found


def form(*parts: bytes, end: bytes = b"--\r\n") -> bytes:
    return b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + b"--b" + end


HEAD = b'Content-Disposition: form-data; name="files"; filename="a.jpg"\r\n'
FILE = HEAD + b"Content-Type: image/jpeg\r\n\r\n\xff\xd8\r\n--\r\n\r\n--c\r\n"
FIELD = b'Content-Disposition: form-data; name="model"\r\n\r\nresnet18'


def test_what_requests_sends() -> None:
    prepared = requests.Request(
        "POST",
        "http://localhost/",
        data={"model": "baseline"},
        files=[("files", (f"tile {n}.jpg", bytes([n, 13, 10]), "image/jpeg")) for n in range(200)],
    ).prepare()
    body = prepared.body
    assert isinstance(body, bytes)
    boundary = prepared.headers["Content-Type"].partition("boundary=")[2]
    fields, files = read(Forms, body, boundary)
    assert fields == [("model", "baseline")]
    assert files == [("files", f"tile {n}.jpg", bytes([n, 13, 10])) for n in range(200)]


def test_a_plain_form() -> None:
    fields, files = read(Forms, form(FIELD, FILE, FIELD))
    assert fields == [("model", "resnet18")] * 2
    assert files == [("files", "a.jpg", b"\xff\xd8\r\n--\r\n\r\n--c\r\n")]


WHOLE = [
    form(),
    form(FILE),
    form(FILE, FIELD, FILE),
    form(FILE, end=b"--\r\nan epilogue"),
    b"a preamble\r\n" + form(FILE),
    form(HEAD + b"Content-Type: text/plain; charset=latin-1\r\n\r\n\xe4"),
    form(HEAD + b"X-Other: 1\r\n\r\nx"),
    form(HEAD + b"\r\n"),
    form(HEAD.replace(b"a.jpg", "ä.jpg".encode()) + b"\r\nx"),
    form(HEAD.replace(b"a.jpg", b'a\\".jpg') + b"\r\nx"),
    form(HEAD.replace(b"a.jpg", b"a%22.jpg") + b"\r\nx"),
    form(HEAD.replace(b"a.jpg", b"") + b"\r\nx"),
    form(HEAD.replace(b'filename="a.jpg"', b"filename*=UTF-8''%e2%82%ac.jpg") + b"\r\nx"),
    form(FIELD.replace(b"resnet18", "ä".encode())),
    form(FIELD.replace(b"resnet18", b"\xe4")),
    form(FIELD.replace(b"resnet18", bytes(LARGEST_FIELD))),
    form(HEAD + b"\r\n" + bytes(LARGEST_IN_MEMORY + 1)),
]


@pytest.mark.parametrize("body", WHOLE)
def test_a_whole_form_is_read_as_werkzeug_does(body: bytes) -> None:
    assert read(Forms, body) == read(FormDataParser, body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        form(FILE, end=b""),
        form(FILE)[:-6],
        form(FILE).replace(b"--b\r\n", b"--boundary\r\n", 1),
        form(HEAD + b"\r\n").replace(b"\r\n\r\n--b", b"\r\n--b"),  # not even an empty line
        form(FILE).replace(b"\r\n", b"\n"),
    ],
)
def test_a_damaged_form_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest, match="400"):
        read(Forms, body)


def test_a_form_without_boundary_carries_nothing() -> None:
    assert read(Forms, form(FILE), boundary="") == ([], [])


@given(
    st.lists(st.sampled_from([FILE, FIELD, HEAD, b"\r\n", b"--b", b"--", b"\r\n--b\r\n", b"x"])),
    st.binary(max_size=8),
)
@settings(max_examples=300, deadline=None)
def test_scraps_of_forms_are_read_or_refused(scraps: list[bytes], noise: bytes) -> None:
    for body in (b"".join(scraps) + noise, form(*scraps), form(*scraps, noise)):
        with contextlib.suppress(BadRequest):
            _, files = read(Forms, body)
            assert all(content in body for _, _, content in files)


def test_too_many_parts_are_refused() -> None:
    with pytest.raises(RequestEntityTooLarge):
        read(Forms, form(FILE, FILE, FILE), parts=2)
    assert len(read(Forms, form(FILE, FILE), parts=2)[1]) == 2


def test_a_field_that_is_as_large_as_a_file_is_refused() -> None:
    with pytest.raises(RequestEntityTooLarge):
        read(Forms, form(FIELD.replace(b"resnet18", bytes(LARGEST_FIELD + 1))))

import io
from typing import Any

import pytest
from flask import Flask, g
from werkzeug.datastructures import MultiDict

from handlers.contract.names import ModelVersion
from portal.errors import BadRequest, NoImage, TooManyTiles, UnknownModel
from portal.serving.predictor import Radiometry
from portal.settings import Settings
from portal.web.uploads import (
    LARGEST_BATCH,
    asked_model,
    checked,
    read_upload,
    read_uploads,
    requested_model,
    requested_radiometry,
)

FORM = "multipart/form-data"


def asking(app: Flask, **how: Any) -> Any:
    return app.test_request_context("/api/predict", method="POST", **how)


def files(*found: tuple[str, bytes], field: str = "files") -> MultiDict[str, Any]:
    return MultiDict([(field, (io.BytesIO(content), name)) for name, content in found])


# --- one image


@pytest.mark.parametrize(
    "content_type", ["image/jpeg", "application/x-www-form-urlencoded", "application/json", None]
)
def test_a_raw_body_is_the_image_whatever_its_type(app: Flask, content_type: str | None) -> None:
    with asking(app, data=b"a=1&b\xff\x00", content_type=content_type):
        assert read_upload() == b"a=1&b\xff\x00"


def test_the_field_of_a_form_is_the_image(app: Flask) -> None:
    for content in (b"\xff\xd8\xff", b""):
        with asking(app, data=files(("tile.jpg", content), field="file")):
            assert read_upload() == content


@pytest.mark.parametrize("data", [{"file": "text"}, {}, files(("a.jpg", b"x"), field="image")])
def test_a_form_without_a_file(app: Flask, data: Any) -> None:
    with (
        asking(app, data=data, content_type=FORM),
        pytest.raises(NoImage, match="no file in the form field `file`"),
    ):
        read_upload()


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", None])
@pytest.mark.parametrize(
    "body",
    [
        b'{"image": "QUJD"}',
        b' \r\n\t{"image": "QUJD"}',
        b'{"image": {"b64": "QUJD"}}',
        b'{"instances": [{"image": {"b64": "QUJD"}}]}',
        b'{"instances": [{"image": "QUJD"}], "signature_name": "x"}',
        b'{"instances": [{"b64": "QUJD"}]}',
        b'{"instances": ["QUJD"]}',
    ],
)
def test_an_image_in_json(app: Flask, body: bytes, content_type: str | None) -> None:
    with asking(app, data=body, content_type=content_type):
        assert read_upload() == b"QUJD"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"image": ', "begins as JSON but is none"),
        (b'{"a":' * 10_000, "begins as JSON but is none"),
        (b" 3", "no object"),
        (b' ["QUJD"]', "no object"),
        (b'{"instances": []}', "0 instances, expected one"),
        (b'{"instances": ["QUJD", "QUJD"]}', "2 instances, expected one.*batch"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_no_json_with_one_image(app: Flask, body: bytes, words: str) -> None:
    with asking(app, data=body), pytest.raises(BadRequest, match=words):
        read_upload()


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"image": null}',
        b'{"image": {"b64": 3}}',
        b'{"images": "QUJD"}',
        b'{"instances": [null]}',
        b'{"instances": [{"picture": "QUJD"}]}',
    ],
    ids=str,
)
def test_json_without_an_image(app: Flask, body: bytes) -> None:
    with asking(app, data=body), pytest.raises(NoImage, match='"image": "<base64>"'):
        read_upload()


# --- what is known of the values


@pytest.mark.parametrize(
    ("how", "found"),
    [
        ({}, Radiometry()),
        ({"query_string": "scale=&look="}, Radiometry()),
        ({"query_string": "scale=10000"}, Radiometry("10000", "auto")),
        ({"query_string": "look=l2a"}, Radiometry("auto", "l2a")),
        (
            {"data": {"scale": "high-byte", "look": "eurosat"}, "content_type": FORM},
            Radiometry("high-byte", "eurosat"),
        ),
        (
            {"data": b'{"image": "QUJD", "scale": 1000, "look": null}'},
            Radiometry("1000", "auto"),
        ),
    ],
)
def test_what_is_said_of_the_values(app: Flask, how: dict[str, Any], found: Radiometry) -> None:
    with asking(app, **how):
        if how.get("content_type") != FORM:
            read_upload()
        assert requested_radiometry() == found


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("scale=2", "no scale '2'. Known are auto, 1, 1000, 10000, 10000-offset"),
        ("scale=1e4", "no scale"),
        ("look=L2A", "no look 'L2A'. Known are auto, eurosat, l1c, l2a, tci"),
        ("look=l1c&look=l2a", "more than one look"),
    ],
)
def test_a_scale_or_look_that_is_none(app: Flask, query: str, words: str) -> None:
    with asking(app, query_string=query), pytest.raises(BadRequest, match=words):
        requested_radiometry()


# --- many images


def test_each_file_has_its_name_and_keeps_its_place(app: Flask) -> None:
    sent = [("b.jpg", b"2"), ("a.jpg", b"1"), ("a.jpg", b"3"), ("empty.jpg", b"")]
    with asking(app, data=files(*sent)):
        assert read_uploads() == sent


def test_of_a_file_that_is_too_large_only_so_much_is_read(app: Flask, settings: Settings) -> None:
    limit = settings.max_upload_bytes
    with asking(app, data=files(("fits.jpg", b"x" * limit), ("large.jpg", b"x" * (limit + 500)))):
        assert [len(content) for _, content in read_uploads()] == [limit, limit + 1]


def test_so_many_files_and_no_more(app: Flask) -> None:
    most = [(f"{number}.jpg", b"x") for number in range(LARGEST_BATCH)]
    with asking(app, data=files(*most)):
        assert read_uploads() == most
    with (
        asking(app, data=files(*most, ("more.jpg", b"x"))),
        pytest.raises(TooManyTiles, match="257 files, but at most 256"),
    ):
        read_uploads()


@pytest.mark.parametrize(
    "how",
    [
        {"data": b"\xff\xd8\xff", "content_type": "image/jpeg"},
        {"data": {"files": "text"}, "content_type": FORM},
        {"data": files(("a.jpg", b"x"), field="file")},
    ],
)
def test_a_request_without_files(app: Flask, how: dict[str, Any]) -> None:
    with asking(app, **how), pytest.raises(NoImage, match="no files in the form field `files`"):
        read_uploads()


# --- the model that is named


@pytest.mark.parametrize(
    ("how", "found"),
    [
        ({}, ("baseline", None)),
        ({"query_string": "model=vit"}, ("vit", None)),
        ({"query_string": "version=2.0"}, ("baseline", "2.0")),
        ({"query_string": "model=&version="}, ("baseline", None)),
        ({"query_string": "model=vit&model=vit"}, ("vit", None)),
        ({"data": {"model": "vit", "version": "2.0"}, "content_type": FORM}, ("vit", "2.0")),
        (
            {"data": {"model": "vit"}, "content_type": FORM, "query_string": "model=a&version=3.0"},
            ("vit", "3.0"),
        ),
        ({"data": {"model": "vit"}}, ("baseline", None)),  # to be the image, not a form
    ],
)
def test_the_model_that_is_named(
    app: Flask, how: dict[str, Any], found: tuple[str, str | None]
) -> None:
    with asking(app, **how):
        assert requested_model() == found
        assert (g.model, g.version) == found


@pytest.mark.parametrize(
    ("how", "name"),
    [
        ({"query_string": "model=a&model=b"}, "model"),
        ({"query_string": "version=1.0&version="}, "version"),
        ({"data": {"version": ["1.0", "2.0"]}, "content_type": FORM}, "version"),
    ],
)
def test_more_than_one_name_is_refused(app: Flask, how: dict[str, Any], name: str) -> None:
    with asking(app, **how), pytest.raises(BadRequest, match=f"more than one {name}"):
        requested_model()


@pytest.mark.parametrize(
    ("model", "version"), [("../x", None), ("Baseline", "1.0"), ("baseline", "all"), ("vit", "1 ")]
)
def test_a_name_that_cannot_be_is_neither_passed_on_nor_noted(
    app: Flask, model: str, version: str | None
) -> None:
    with asking(app, query_string={"model": model, "version": version or ""}):
        with pytest.raises(UnknownModel):
            requested_model()
        with pytest.raises(UnknownModel):
            asked_model(model, version)
        assert "model" not in g
        assert "version" not in g


def test_names_are_checked() -> None:
    assert checked("resnet18", "2.1") == ModelVersion("resnet18", "2.1")
    with pytest.raises(UnknownModel):
        checked("resnet18", "latest")

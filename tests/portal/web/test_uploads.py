import io
from typing import Any

import pytest
from flask import Flask, g
from werkzeug.datastructures import MultiDict

from handlers.contract.names import ModelVersion
from portal.errors import BadRequest, NoImage, TooManyTiles, UnknownModel
from portal.settings import Settings
from portal.web.uploads import (
    LARGEST_BATCH,
    asked_model,
    checked,
    read_upload,
    read_uploads,
    requested_model,
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

"""The images that a request carries, and the model that it names."""

from typing import IO, Any

from flask import request

from portal.errors import (
    BadRequest,
    NoImage,
    PortalError,
    TooManyTiles,
    UnknownModel,
    UnsupportedImage,
    too_large,
)
from portal.services import services
from portal.serving.model_server import Prediction
from portal.serving.predictor import MAX_TILES, Upload
from portal.versions import MODEL_NAME, VERSION


def read_uploads() -> list[Upload]:
    """The files of the multipart field ``files``, in their order.

    Raises:
        NoImage: there is none.
        TooManyTiles: more than ``MAX_TILES``.
    """
    files = request.files.getlist("files") if request.mimetype == "multipart/form-data" else []
    if not files:
        raise NoImage(
            "There are no files in the form field `files`. Send one or more images there, for "
            "example with curl -F files=@one.jpg -F files=@two.jpg."
        )
    if len(files) > MAX_TILES:
        raise TooManyTiles(
            f"The request has {len(files)} files, but at most {MAX_TILES} are taken at a time. "
            "Send them in several requests."
        )
    limit = services().settings.max_upload_bytes
    return [(file.filename or "", _read(file.stream, limit)) for file in files]


def _read(stream: IO[bytes], limit: int) -> bytes | PortalError:
    image = stream.read(limit + 1)
    try:
        check_image(image, limit)
    except PortalError as problem:
        return problem
    return image


def read_upload() -> bytes:
    """The encoded image that the request carries: the multipart field ``file``, or the whole body.

    A body that is not multipart is taken as it is, whatever its content type says: ``curl
    --data-binary`` calls every file a form.

    Raises:
        NoImage: nothing, or nothing in the field ``file``.
        TooLarge: more bytes than the settings allow.
        UnsupportedImage: does not begin as an image in a format that is read.
    """
    if request.mimetype == "multipart/form-data":
        field = request.files.get("file")
        if field is None:
            raise NoImage(
                "There is no file in the form field `file`. Send the image there, for example "
                "with curl -F file=@tile.jpg, or send its bytes as the whole body."
            )
        image: bytes = field.read()
    else:
        image = request.get_data(cache=False)
    check_image(image, services().settings.max_upload_bytes)
    return image


def check_image(image: bytes, limit: int) -> None:
    """What can be said of an image without decoding it.

    Raises:
        NoImage: no bytes.
        TooLarge: more than ``limit`` bytes.
        UnsupportedImage: does not begin as an image in a format that is read.
    """
    if not image:
        raise NoImage("The image is empty: no file was chosen, or it has 0 bytes. Choose another.")
    if len(image) > limit:
        raise too_large(limit)
    if media_type(image) is None:
        raise UnsupportedImage(
            "This is not an image that can be read here. Send JPEG, PNG, GIF, TIFF, WEBP or BMP."
        )


def requested_model() -> tuple[str, str | None]:
    """Model and version that the request names; the default model, and None, where it does not.

    Raises:
        UnknownModel: a name that no model or version can have.
        BadRequest: more than one of either.
    """
    return checked_model(
        _parameter("model") or services().settings.default_model, _parameter("version")
    )


def checked_model(model: str, version: str | None) -> tuple[str, str | None]:
    """The pair itself.

    Raises:
        UnknownModel: a name that no model or version can have.
    """
    if not MODEL_NAME.fullmatch(model):
        raise UnknownModel("The model's name is not one that a model can have, such as baseline.")
    if version is not None and not VERSION.fullmatch(version):
        raise UnknownModel("The version is not one that a model can have, such as 1.0.")
    return model, version


def as_answer(prediction: Prediction) -> dict[str, Any]:
    """A prediction as clients get it: its fields, without copying each of them in turn."""
    return vars(prediction)


def media_type(image: bytes) -> str | None:
    """What the first bytes say an encoded image is; None for none of the accepted formats."""
    for prefix, name in _SIGNATURES:
        if image.startswith(prefix):
            return name
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "image/webp"
    return None


_SIGNATURES = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"BM", "image/bmp"),
)


def _parameter(name: str) -> str | None:
    """A form field or, without one, a value of the query string; None if absent or empty."""
    values = request.form.getlist(name) if request.mimetype == "multipart/form-data" else []
    values = values or request.args.getlist(name)
    if len(set(values)) > 1:
        raise BadRequest(f"The request names more than one {name}. Send one.")
    return values[0] if values and values[0] else None

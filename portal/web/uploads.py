"""The images that a request carries, and the model that it names."""

from flask import g, request

from handlers.contract.names import BadName, ModelVersion
from portal.errors import BadRequest, NoImage, TooManyTiles, UnknownModel
from portal.web.context import services

LARGEST_BATCH = 256  # images in one request
SOME_VERSION = "1.0"  # stands for the one that a request does not name, while names are checked


def read_upload() -> bytes:
    """The encoded image that the request carries: the multipart field ``file``, or the whole body.

    Whatever its content type says: ``curl --data-binary`` calls every file a form.

    Raises:
        NoImage: nothing in the field ``file``.
    """
    if request.mimetype != "multipart/form-data":
        return request.get_data(cache=False)
    field = request.files.get("file")
    if field is None:
        raise NoImage(
            "There is no file in the form field `file`. Send the image there, for example "
            "with curl -F file=@tile.jpg, or send its bytes as the whole body."
        )
    return field.stream.read()


def read_uploads() -> list[tuple[str, bytes]]:
    """Name and content of each file of the multipart field ``files``, in their order.

    Of one that is too large only as much is read as shows it.

    Raises:
        NoImage: there is none.
        TooManyTiles: more than ``LARGEST_BATCH``.
    """
    files = request.files.getlist("files") if request.mimetype == "multipart/form-data" else []
    if not files:
        raise NoImage(
            "There are no files in the form field `files`. Send one or more images there, for "
            "example with curl -F files=@one.jpg -F files=@two.jpg."
        )
    if len(files) > LARGEST_BATCH:
        raise TooManyTiles(
            f"The request has {len(files)} files, but at most {LARGEST_BATCH} are taken at a time. "
            "Send them in several requests."
        )
    limit = services().settings.max_upload_bytes
    return [(file.filename or "", file.stream.read(limit + 1)) for file in files]


def requested_model() -> tuple[str, str | None]:
    """Model and version that the request names; the default model, and None, where it does not.

    Raises:
        UnknownModel: a name that no model or version can have.
        BadRequest: more than one of either.
    """
    model = _parameter("model") or services().settings.default_model
    return asked_model(model, _parameter("version"))


def asked_model(model: str, version: str | None) -> tuple[str, str | None]:
    """The pair itself, noted for the log and the metrics of this request; as ``checked``."""
    checked(model, version or SOME_VERSION)
    g.model, g.version = model, version
    return model, version


def checked(model: str, version: str = SOME_VERSION) -> ModelVersion:
    """The version of that name, as far as both can be; UnknownModel for those that cannot."""
    try:
        return ModelVersion.checked(model, version)
    except BadName as problem:
        raise UnknownModel(str(problem)) from problem


def _parameter(name: str) -> str | None:
    """A form field or, without one, a value of the query string; None if absent or empty."""
    values = request.form.getlist(name) if request.mimetype == "multipart/form-data" else []
    values = values or request.args.getlist(name)
    if len(set(values)) > 1:
        raise BadRequest(f"The request names more than one {name}. Send one.")
    return values[0] if values and values[0] else None

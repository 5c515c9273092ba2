"""The images that a request carries, the model that it names and what it says of the images."""

import json
from typing import Any

from flask import g, request

from handlers.contract.image_body import LOOKS, SCALES
from handlers.contract.names import BadName, ModelVersion
from portal.errors import BadRequest, NoImage, TooManyTiles, UnknownModel
from portal.serving.predictor import Radiometry
from portal.web.context import services

LARGEST_BATCH = 256  # images in one request
SOME_VERSION = "1.0"  # stands for the one that a request does not name, while names are checked
# How JSON begins; no image does. The fast path leaves such a body to Flask.
JSON_STARTS = (b"{", b" ", b"\n", b"\r", b"\t")
_JSON_FORMS = '{"image": "<base64>"} or {"instances": [{"image": {"b64": "<base64>"}}]}'


def read_upload() -> bytes:
    """The encoded image that the request carries: the multipart field ``file``, or the whole body.

    Whatever its content type says: ``curl --data-binary`` calls every file a form. A body that is a
    JSON object has the image in base64, see ``_in_json``.

    Raises:
        NoImage: nothing in the field ``file``, or nothing in JSON.
        BadRequest: no JSON, or another number of images than one.
    """
    if request.mimetype != "multipart/form-data":
        body = request.get_data(cache=False)
        return _in_json(body) if body.startswith(JSON_STARTS) else body
    field = request.files.get("file")
    if field is None:
        raise NoImage(
            "There is no file in the form field `file`. Send the image there, for example "
            "with curl -F file=@tile.jpg, or send its bytes as the whole body."
        )
    return field.stream.read()


def _in_json(body: bytes) -> bytes:
    """The image, still in base64, in a JSON object; its other fields are noted for ``_parameter``.

    It stands as a text, or as that of ``b64``, in the field ``image`` of the object, or of the only
    one of its ``instances``, which is how model servers have it.
    """
    try:
        found: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"The body begins as JSON but is none. Send {_JSON_FORMS}.") from error
    if not isinstance(found, dict):
        raise BadRequest(f"The body is JSON, but no object. Send {_JSON_FORMS}.")
    g.json_fields = found
    if isinstance(found.get("instances"), list):
        if len(found["instances"]) != 1:
            raise BadRequest(
                f"Found {len(found['instances'])} instances, expected one. Send many images as "
                "files to /api/predict/batch."
            )
        (found,) = found["instances"]
    for field in ("image", "b64"):
        if isinstance(found, dict) and field in found:
            found = found[field]
    if not isinstance(found, str):
        raise NoImage(f"There is no image in the JSON. Send {_JSON_FORMS}.")
    return found.encode(errors="replace")


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


def requested_radiometry() -> Radiometry:
    """What the request says of the values in its images; "auto" where it says nothing.

    Raises:
        BadRequest: more than one scale or look, or one that is not known.
    """
    return Radiometry(_one_of("scale", SCALES), _one_of("look", LOOKS))


def _one_of(name: str, known: tuple[str, ...]) -> str:
    value = _parameter(name) or known[0]
    if value not in known:
        raise BadRequest(f"There is no {name} {value[:40]!r}. Known are {', '.join(known)}.")
    return value


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
    """A field of the form or of JSON, else a value of the query string; None if absent or empty."""
    values: list[str] = []
    if request.mimetype == "multipart/form-data":
        values = request.form.getlist(name)
    elif (value := g.get("json_fields", {}).get(name)) is not None:
        values = [str(value)]
    values = values or request.args.getlist(name)
    if len(set(values)) > 1:
        raise BadRequest(f"The request names more than one {name}. Send one.")
    return values[0] if values and values[0] else None

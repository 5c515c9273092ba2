"""From the current request to a change of models: what the API and the pages share."""

from collections.abc import Mapping
from typing import Annotated, TypeVar

from flask import request
from pydantic import BaseModel, BeforeValidator, Field, ValidationError
from pydantic.json_schema import SkipJsonSchema

from portal.catalog.archive_inspection import Archive
from portal.deployments.changes import MOST_WORKERS
from portal.deployments.deploy import Wish
from portal.errors import BadRequest
from portal.jobs import Job
from portal.web.auth.operators import operator_name
from portal.web.context import MULTIPART_FRAMING, services
from portal.web.error_handlers import wants_json
from portal.web.uploads import checked

MOST_LINES = 1000  # of the audit in one answer

Fields = TypeVar("Fields", bound=BaseModel)
Workers = Annotated[
    int,
    BeforeValidator(lambda value: "true" if value is True else value),  # no number, to JSON
    Field(json_schema_extra={"minimum": 1, "maximum": MOST_WORKERS}),  # see check_workers
]


class DeployFields(BaseModel):
    """How a version is to be deployed; see ``Wish``."""

    default: bool = Field(default=False, description="Make it the default.")
    workers: Workers | SkipJsonSchema[None] = Field(
        default=None, description="As its archive says if absent."
    )
    unreported: bool = Field(default=False, description="Serve it although it has no report.")


class ScaleFields(BaseModel):
    """How many workers a version is to have."""

    workers: Workers


class AuditFields(BaseModel):
    """How many lines of the audit are wanted."""

    limit: int = Field(default=100, ge=1, le=MOST_LINES, description="The newest so many.")


# Each raises what the method of ``Deployments`` raises, UnknownModel for a name that nothing can
# have, and BadRequest for a field with a value that it cannot have.
def begin_deploy(model: str, version: str) -> Job:
    """Deploy the version as the fields of the request say."""
    target, wish = checked(model, version), Wish(**read_fields(DeployFields).model_dump())
    return services().deployments.deploy(target, operator_name(), wish)


def begin_promote(model: str, version: str) -> Job:
    """Make the version the default."""
    return services().deployments.promote(checked(model, version), operator_name())


def begin_scale(model: str, version: str) -> Job:
    """Give the version the number of workers that the request says."""
    if wants_json():
        unsaid = "Say how many workers: send the field `workers`, for example 2."
    else:
        unsaid = "Say how many workers the version is to have."
    target, wanted = checked(model, version), read_fields(ScaleFields, unsaid)
    return services().deployments.scale(target, operator_name(), wanted.workers)


def begin_retire(model: str, version: str) -> Job:
    """Serve the version no more."""
    return services().deployments.retire(checked(model, version), operator_name())


def begin_roll_back(model: str) -> Job:
    """Make the previous default the default again."""
    return services().deployments.roll_back(checked(model).model, operator_name())


def read_fields(kind: type[Fields], unsaid: str = "") -> Fields:
    """The fields of a request, from JSON, a form or the query string; an empty one is absent.

    BadRequest for a value that cannot be, and with ``unsaid`` for a field that must be there.
    """
    return checked_fields(kind, {name: _value(name) for name in kind.model_fields}, unsaid)


def checked_fields(kind: type[Fields], values: Mapping[str, object], unsaid: str = "") -> Fields:
    """The same, of fields that were read."""
    try:
        return kind.model_validate({name: found for name, found in values.items() if found != ""})
    except ValidationError as refused:
        error = refused.errors(include_url=False)[0]
    if error["type"] == "missing":
        raise BadRequest(unsaid)
    expected = error["msg"].removeprefix("Value error, ").replace("Input should", "must")
    raise BadRequest(f"{error['loc'][0]} {expected}, found {ascii(error['input'])[:60]}.")


def allow_archives() -> None:
    """Let the body of an upload be as large as an archive; before anything of it is read."""
    if request.endpoint in ("model_api.upload", "model_pages.upload"):
        request.max_content_length = services().settings.max_archive_bytes + MULTIPART_FRAMING


def read_archive() -> Archive:
    """Take the uploaded archive in the form field ``file`` into the model store.

    BadRequest if there is none, else whatever ``Deployments.upload`` raises.
    """
    file = request.files.get("file") if request.mimetype == "multipart/form-data" else None
    if file is None or not file.filename:
        raise BadRequest(
            "There is no archive in the form field `file`. Send it there, for example with "
            "curl -F file=@model_store/baseline-1.1.mar."
        )
    return services().deployments.upload(file.stream, file.filename, operator_name())


def _value(name: str) -> object:
    if request.is_json:
        body = request.get_json()
        if not isinstance(body, dict):
            raise BadRequest("The body must be a JSON object.")
        value = body.get(name)
        return "" if value is None else value
    values = request.form.getlist(name) or request.args.getlist(name)
    if len(set(values)) > 1:
        raise BadRequest(f"The request names more than one {name}. Send one.")
    return values[0] if values else ""

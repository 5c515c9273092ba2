"""What the OpenAPI document says of the operations: their bodies, their answers, who may call them.

The schemas come from the types that are asked for and that answer.
"""

import json
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter, WithJsonSchema
from pydantic.json_schema import GenerateJsonSchema, SkipJsonSchema

from portal.errors import PortalError
from portal.fields import ModelName, Version
from portal.web.api.answers import Error
from portal.web.uploads import LARGEST_BATCH

Json = dict[str, Any]

OPEN_OPERATION: Json = {"security": []}  # also while the portal is closed
FOR_OPERATORS: list[dict[str, list[Any]]] = [{"token": []}, {"login": []}]
IMAGE_TYPES = (
    "image/jpeg",
    "image/png",
    "image/gif",
    "image/tiff",
    "image/webp",
    "image/bmp",
    "application/octet-stream",
)
_EXAMPLES: Json = json.loads(Path(__file__).with_name("examples.json").read_text())

_ERRORS = {
    400: "The request cannot be read, carries no image, or names a host that the portal is not.",
    401: "Only an operator may do this, or the portal is closed: log in, or send the token.",
    403: "Nobody may do this while the portal has no password and no token; or a forged form.",
    404: "No such model, version, archive, job or report.",
    409: "The state of the model does not allow it, or another change is under way.",
    413: "An image, all images together, their number, or an archive is too large.",
    415: "Not an image in a format that is read.",
    422: "An image that cannot be classified, or an archive that cannot be used.",
    500: "A mistake of the portal.",
    501: "This version of the model cannot explain.",
    502: "The model server answered wrongly.",
    503: "Busy, loading or down: try again after Retry-After seconds.",
    504: "No answer in time.",
}
_HEADERS: dict[int, Json] = {
    401: {"WWW-Authenticate": {"schema": {"const": "Bearer"}}},
    503: {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 0}}},
}
_KINDS: list[type[PortalError]] = [*PortalError.__subclasses__()[::-1], PortalError]
_CODES = {kind.status: kind.code for kind in _KINDS}
_answers: dict[str, Any] = {}  # name -> type, of all that answer

Binary = Annotated[bytes, WithJsonSchema({"type": "string", "format": "binary"})]
# Names in a path are looked up as they are: one that nothing can have is answered 404.
_Model = Annotated[str, WithJsonSchema(TypeAdapter(ModelName).json_schema())]
_Version = Annotated[str, WithJsonSchema(TypeAdapter(Version).json_schema())]
_Job = Annotated[str, WithJsonSchema({"type": "string", "pattern": "^[0-9a-f]{12}$"})]


class OneModel(BaseModel):
    """A model in a path."""

    model: _Model


class OneVersion(OneModel):
    """A version in a path."""

    version: _Version


class OneJob(BaseModel):
    """A job in a path."""

    job: _Job


class NamedModel(BaseModel):
    """Which model is asked; without patterns, for which Swagger UI would make names up."""

    model: str | SkipJsonSchema[None] = Field(None, description="The default model if absent.")
    version: str | SkipJsonSchema[None] = Field(None, description="The default one if absent.")


class OneImage(NamedModel):
    """A form with an image."""

    file: Binary


class ManyImages(NamedModel):
    """A form with many images."""

    files: list[Binary] = Field(min_length=1, max_length=LARGEST_BATCH)


class ArchiveFile(BaseModel):
    """A form with an archive, called as `make archive` calls it."""

    file: Binary


class _Schema(GenerateJsonSchema):
    """Without titles, which repeat the names of fields."""

    def field_title_should_be_set(self, _schema: Any) -> bool:
        return False


class _AnswerSchema(_Schema):
    """An answer has exactly the fields of its type."""

    def typed_dict_schema(self, schema: Any) -> Json:
        return _closed(super().typed_dict_schema(schema))

    def dataclass_schema(self, schema: Any) -> Json:
        return _closed(super().dataclass_schema(schema))

    def model_schema(self, schema: Any) -> Json:
        return _closed(super().model_schema(schema))


def _closed(schema: Json) -> Json:
    for described in schema["properties"].values():
        described.pop("default", None)
    return {**schema, "required": list(schema["properties"]), "additionalProperties": False}


def answer(
    kind: Any, description: str, example: Json | None = None, headers: Json | None = None
) -> Json:
    """An answer with a body of that type.

    Args:
        example: the body; that of ``examples.json`` where it is not given.
    """
    name = kind.__name__
    _answers[name] = kind
    schema = {"$ref": f"#/components/schemas/{name}"}
    content = {"schema": schema, "example": example or _EXAMPLES[name]}
    return {
        "description": description,
        "content": {"application/json": content},
        "headers": headers,
    }


def errors(*statuses: int) -> dict[str | int, Any]:
    """The errors of an operation, and those that every one has: host and client are looked at."""
    return {
        status: answer(
            Error,
            _ERRORS[status],
            {"error": {"code": _CODES[status], "message": _ERRORS[status], "request_id": "9f1c2a"}},
            _HEADERS.get(status),
        )
        for status in sorted({*statuses, 400, 401, 403})
    }


def form(kind: type[BaseModel], *media_types: str) -> Json:
    """A body that is a form with these fields or, with these types, the file itself."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    content = {
        "multipart/form-data": {"schema": _fields(kind)},
        **dict.fromkeys(media_types, binary),
    }
    return {"required": True, "content": content}


def fields(kind: type[BaseModel], example: Json) -> Json:
    """A JSON body with these fields; none is needed if no field is. Forms are taken as well."""
    schema = _fields(kind)
    content = {"application/json": {"schema": schema, "example": example}}
    return {"required": "required" in schema, "content": content}


def query(kind: type[BaseModel]) -> Json:
    """The same fields as parameters of the query string."""
    told = ("description", "examples")
    return {
        "parameters": [
            {
                "name": name,
                "in": "query",
                "description": schema["description"],
                "schema": {key: schema[key] for key in schema if key not in told},
            }
            for name, schema in _fields(kind)["properties"].items()
        ]
    }


def _fields(kind: type[BaseModel]) -> Json:
    schema = kind.model_json_schema(schema_generator=_Schema)
    for described in schema["properties"].values():
        if described.get("default", "") is None:  # null, nothing and an empty field are the same
            del described["default"]
            if described["type"] == "string":
                described["examples"] = [""]  # else Swagger UI sends "string"
    return {key: schema[key] for key in ("type", "properties", "required") if key in schema}


@cache
def schemas() -> Json:
    """The schema of every answer, and of what they are made of."""
    _, found = TypeAdapter.json_schemas(
        [(name, "serialization", TypeAdapter(kind)) for name, kind in _answers.items()],
        ref_template="#/components/schemas/{model}",
        schema_generator=_AnswerSchema,
    )
    return dict(found["$defs"])

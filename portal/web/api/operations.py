"""What the OpenAPI document says of the operations: their bodies, their answers, who may call them.

The schemas come from the types that are asked for and that answer. mypy holds the views to them;
nothing is checked while a request is answered.
"""

import json
from dataclasses import make_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter, WithJsonSchema
from pydantic.json_schema import GenerateJsonSchema
from typing_extensions import TypedDict  # pydantic reads that of typing from Python 3.12 on

from portal.errors import PortalError
from portal.fields import ModelName, Version

Json = dict[str, Any]

OPEN_OPERATION: Json = {"security": []}  # also while the portal is closed
FOR_OPERATORS: list[dict[str, list[Any]]] = [{"token": []}, {"login": []}]
_EXAMPLES: Json = json.loads(Path(__file__).with_name("examples.json").read_text())

_ERRORS = {
    400: "The request cannot be read, carries no image, or names a host that the portal is not.",
    401: "Only an operator may do this, or the portal is closed: log in, or send the token.",
    403: (
        "Nobody may do this while the portal has no password and no token; a forged form; or a "
        "scene that somebody else sent."
    ),
    404: "No such model, version, archive, job, report or scene, or none of yours.",
    409: "The state of the model or scene does not allow it, or another change is under way.",
    413: "An image, all images together, their number, an archive or a scene is too large.",
    415: "Not an image, or a scene, in a format that is read.",
    422: "An image or a scene that cannot be classified, or an archive that cannot be used.",
    500: "A mistake of the portal.",
    501: "This version of the model cannot explain, or cannot be told scale or look.",
    502: "The model server answered wrongly.",
    503: "Busy, loading or down: try again after Retry-After seconds.",
    504: "No answer in time.",
    507: "The disk, or the folder of scenes, is full.",
}
_HEADERS: dict[int, Json] = {
    401: {"WWW-Authenticate": {"schema": {"const": "Bearer"}}},
    503: {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 0}}},
}
_KINDS: list[type[PortalError]] = [*PortalError.__subclasses__()[::-1], PortalError]
_CODES = {kind.status: kind.code for kind in _KINDS}
_answers: dict[str, Any] = {}  # name -> type, of all that answer

Binary = Annotated[bytes, WithJsonSchema({"type": "string", "format": "binary"})]


class Problem(TypedDict):
    """What was found, what was expected, what to do."""

    code: str
    message: str
    request_id: str


class Error(TypedDict):
    """An error; its status is that of the answer."""

    error: Problem


# Names in a path are looked up as they are: one that nothing can have is answered 404.
class OneModel(BaseModel):
    """A model in a path."""

    model: Annotated[str, WithJsonSchema(TypeAdapter(ModelName).json_schema())]


class OneVersion(OneModel):
    """A version in a path."""

    version: Annotated[str, WithJsonSchema(TypeAdapter(Version).json_schema())]


class _Schema(GenerateJsonSchema):
    """Without titles, which repeat the names of fields."""

    def field_title_should_be_set(self, _schema: Any) -> bool:
        return False


def more(name: str, kind: type, **fields: Any) -> type:
    """A dataclass as the document tells it: under this name, and with these fields as well."""
    own = {"__doc__": kind.__doc__}
    return make_dataclass(name, fields.items(), bases=(kind,), namespace=own, frozen=True)


def answer(
    kind: Any, description: str, example: Json | None = None, headers: Json | None = None
) -> Json:
    """An answer with a body of that type; its example is that of ``examples.json`` if not given."""
    name = kind.__name__
    _answers[name] = kind
    schema = {"$ref": f"#/components/schemas/{name}"}
    content = {"application/json": {"schema": schema, "example": example or _EXAMPLES[name]}}
    return {"description": description, "content": content, "headers": headers}


def answers(
    kind: Any, description: str, *failures: int, status: int = 200, headers: Json | None = None
) -> dict[str | int, Any]:
    """The answer of an operation, and its errors: every one looks at the host and the client."""
    return errors(*failures) | {status: answer(kind, description, headers=headers)}


def errors(*failures: int) -> dict[str | int, Any]:
    """Those with these statuses, and those of every operation."""
    return {
        code: answer(
            Error,
            sentence,
            {"error": {"code": _CODES[code], "message": sentence, "request_id": "9f1c2a"}},
            _HEADERS.get(code),
        )
        for code, sentence in _ERRORS.items()
        if code in (400, 401, 403, *failures)
    }


def files(media_types: set[str], description: str, *failures: int) -> dict[str | int, Any]:
    """As ``answers``, of an operation that answers with a file of one of these types."""
    content = {
        kind: {"schema": {} if kind.endswith("json") else {"type": "string", "format": "binary"}}
        for kind in sorted(media_types)
    }
    return errors(*failures) | {200: {"description": description, "content": content}}


def form(kind: type[BaseModel], *media_types: str) -> Json:
    """A body that is a form with these fields or, with these types, the file itself."""
    file = {"schema": {"type": "string", "format": "binary"}}
    fields = {"multipart/form-data": {"schema": _fields(kind)}}
    return {"required": True, "content": fields | dict.fromkeys(media_types, file)}


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
    """The schema of every answer, and of what they are made of; each has exactly its fields."""
    _, found = TypeAdapter.json_schemas(
        [(name, "serialization", TypeAdapter(kind)) for name, kind in _answers.items()],
        ref_template="#/components/schemas/{model}",
        schema_generator=_Schema,
    )
    for schema in found["$defs"].values():
        if "properties" in schema:
            schema.update(required=list(schema["properties"]), additionalProperties=False)
            for described in schema["properties"].values():
                described.pop("default", None)
    return dict(found["$defs"])

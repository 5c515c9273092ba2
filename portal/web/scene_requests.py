"""From the current request to scenes: who asks, what was sent, what is asked of it.

What the API and the pages share.
"""

import hashlib
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from flask import Response, after_this_request, g, request
from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser
from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema
from pydantic.json_schema import SkipJsonSchema
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header

from handlers.contract.image_body import AUTO, LOOKS, SCALES
from portal.errors import BadRequest, TooLarge
from portal.scenes.store import Upload, clean_name
from portal.scenes.terms import STRIDES, Options
from portal.web.auth.operators import check_form_token, current_operator
from portal.web.change_requests import checked_fields, read_fields
from portal.web.context import MULTIPART_FRAMING, services
from portal.web.scene_answers import DifferencesAnswer, SceneAnswer, answered, compared, listed
from portal.web.uploads import asked_model

BROWSER_COOKIE = "landuse_browser"
BROWSER = re.compile(r"[0-9a-f]{32}", re.ASCII)
BLOCK = 256 * 1024  # bytes read at a time
LARGEST_FIELD = 4 * 1024  # bytes of a field that is no file
MOST_PARTS = 32

MIB = 1024 * 1024


def _bands(value: Any) -> Any:
    """Three numbers, from 4,3,2 or a list; auto stands for None."""
    if value == "auto":
        return None
    parts = re.split(r"[,\s]+", value.strip()) if isinstance(value, str) else value
    if not (
        isinstance(parts, list)
        and len(parts) == 3
        and all(re.fullmatch(r"[0-9]{1,4}", str(part)) and int(part) > 0 for part in parts)
    ):
        raise ValueError("must be the numbers of the red, green and blue band, such as 4,3,2")
    return tuple(map(int, parts))


def _stride(value: Any) -> Any:
    """A number, or its text; "auto" stands for None."""
    if value == "auto":
        return None
    if str(value) not in map(str, STRIDES):
        raise ValueError(f"must be auto or one of {', '.join(map(str, STRIDES))}")
    return int(value)


def _one_of(known: tuple[str, ...]) -> BeforeValidator:
    def check(value: Any) -> Any:
        if value not in known:
            raise ValueError(f"must be one of {', '.join(known)}")
        return value

    return BeforeValidator(check)


_BANDS = "^(auto|[1-9][0-9]{0,3}(,[1-9][0-9]{0,3}){2})$"


def _told(**schema: Any) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", **schema})


class SceneFields(BaseModel):
    """What may be asked of a scene; see ``portal.scenes.terms.Options``."""

    model: str | SkipJsonSchema[None] = Field(None, description="The default model if absent.")
    version: str | SkipJsonSchema[None] = Field(None, description="The default one if absent.")
    stride: Annotated[
        int | None, BeforeValidator(_stride), _told(enum=["auto", *map(str, STRIDES)])
    ] = Field(
        None,
        description=(
            "Pixels from one window to the next, and of a cell of the map. auto: 32 where no side "
            "is longer than 2,000 px, else 64."
        ),
    )
    bands: Annotated[
        tuple[int, int, int] | None,
        BeforeValidator(_bands),
        _told(pattern=_BANDS),
    ] = Field(
        None,
        description="Numbers of the red, green and blue band, as 4,3,2. auto: as they are named.",
    )
    scale: Annotated[str, _one_of(SCALES), _told(enum=[*SCALES])] = Field(
        AUTO, description="What the numbers are, as for an image. auto: the values decide."
    )
    look: Annotated[str, _one_of(LOOKS), _told(enum=[*LOOKS])] = Field(
        AUTO,
        description=(
            "What it is made of, as for an image. auto: the values decide, and 8 bits are taken "
            "for a true-colour image."
        ),
    )
    force: bool = Field(default=False, description="Take pixels of 2 to 60 m, not only 5 to 20 m.")
    start: bool = Field(default=True, description="false: say what is found, and wait for /start.")


@dataclass(frozen=True)
class Sent:
    """A scene that has come whole."""

    upload: Upload
    name: str
    fields: dict[str, str]


# --- who asks ---------------------------------------------------------------------------------


def owner_keys() -> set[str]:
    """Whose scenes the client may see and change: its operator's, its browser's."""
    browser = request.cookies.get(BROWSER_COOKIE, "")
    keys = {_key(browser)} if BROWSER.fullmatch(browser) else set()
    operator = current_operator()
    return keys | {operator} if operator is not None else keys


def owner_key() -> str:
    """To whom a new scene belongs; a browser that has no number yet is given one."""
    if (operator := current_operator()) is not None:
        return operator
    browser = request.cookies.get(BROWSER_COOKIE, "")
    if not BROWSER.fullmatch(browser):
        browser = g.get("browser") or secrets.token_hex(16)
        g.browser = browser
        after_this_request(_remember)
    return _key(browser)


def _key(browser: str) -> str:
    """What the database keeps of a browser: its number is a password of a kind."""
    return f"browser-{hashlib.sha256(browser.encode()).hexdigest()}"


def _remember(response: Response) -> Response:
    """Beside the session, which a login, 12 hours or a restart of the portal end."""
    own = services().settings
    response.set_cookie(
        BROWSER_COOKIE,
        g.browser,
        max_age=own.scenes_kept_days * 24 * 3600,
        secure=own.cookie_secure,
        httponly=True,
        samesite="Strict",
    )
    return response


# --- what was sent ----------------------------------------------------------------------------


def allow_scenes() -> None:
    """Let the body of an upload be as large as a scene; before anything of it is read."""
    if request.endpoint not in ("scenes.send", "map_pages.upload"):
        return
    most = services().settings.max_scene_bytes
    if (request.content_length or 0) > most + MULTIPART_FRAMING:
        raise _too_large(most)
    request.max_content_length = most + MULTIPART_FRAMING


@contextmanager
def sent_scene() -> Iterator[Sent]:
    """The scene in the field ``file`` of the form, written into the folder of scenes as it comes.

    Nothing is left of it at the end, unless it was published.

    Raises:
        BadRequest: there is none, or the form is damaged or cut off.
        TooLarge: it is larger than the settings allow.
        PortalError: whatever ``Scenes.upload`` raises.
    """
    kind, options = parse_options_header(request.headers.get("Content-Type"))
    boundary = options.get("boundary")
    if kind != "multipart/form-data" or not boundary:
        raise _no_scene()
    most = services().settings.max_scene_bytes
    expected = request.content_length
    with services().scenes.upload(most if expected is None else min(expected, most)) as upload:
        try:
            name, fields = _receive(boundary, upload)
        except RequestEntityTooLarge as error:
            raise _too_large(most) from error
        except ParserLimitReached as error:
            raise BadRequest("The form has too many fields, or too long ones.") from error
        except MultipartError as error:
            raise BadRequest("The form is damaged or cut off. Send it again.") from error
        if upload.size > most:
            raise _too_large(most)
        if not upload.size:
            raise _no_scene()
        upload.close()
        yield Sent(upload, clean_name(name), fields)


def _receive(boundary: str, upload: Upload) -> tuple[str, dict[str, str]]:
    """Write the file; its name, and the other fields of the form."""
    name, fields = "", dict[str, str]()
    with PushMultipartParser(boundary, max_segment_count=MOST_PARTS) as parser:
        for part, block in _blocks(parser):
            sent_as = _filename(part)
            if sent_as is None:
                value = fields.get(part.name, "") + block.decode(errors="replace")
                if len(value) > LARGEST_FIELD:
                    raise BadRequest(f"The field {part.name[:40]!r} is too long.")
                fields[part.name] = value
            elif part.name == "file":
                name = sent_as
                upload.write(block)
    return name, fields


def _blocks(parser: PushMultipartParser) -> Iterator[tuple[MultipartSegment, bytes]]:
    """What comes of each part of the form, one after the other."""
    part = None
    while not parser.closed:
        try:
            read = request.stream.read(BLOCK)
        except OSError as error:  # the client stalls; the limit is that of deploy/gunicorn_conf.py
            raise BadRequest("The scene stopped coming. Send it again.") from error
        for event in parser.parse(read):
            if isinstance(event, MultipartSegment):
                part = event
            elif event and part is not None:
                yield part, bytes(event)


def _filename(part: MultipartSegment) -> str | None:
    found: str | None = part.filename
    if found is None:
        disposition = part.header("Content-Disposition", "")
        found = parse_options_header(disposition)[1].get("filename")
    return found


def _no_scene() -> BadRequest:
    return BadRequest(
        "There is no scene in the form field `file`. Send it there, for example with "
        "curl -c jar -b jar -F file=@scene.tif."
    )


def _too_large(most: int) -> TooLarge:
    return TooLarge(
        f"The scene is larger than {most / MIB:,.3g} MiB. Cut it into parts, or let the operator "
        "raise PORTAL_MAX_SCENE_BYTES."
    )


# --- what is asked ----------------------------------------------------------------------------


def own() -> list[SceneAnswer]:
    """The scenes that the client may see, the newest first."""
    return listed(services().scenes.all(owner_keys()))


def get(scene: str) -> SceneAnswer:
    """One scene."""
    return answered(services().scenes.get(scene, owner_keys()))


def begin() -> SceneAnswer:
    """Take the scene that the form of the request carries.

    Raises:
        PortalError: whatever ``sent_scene`` and ``Scenes.take`` raise, BadRequest for a field with
            a value that it cannot have.
    """
    key = owner_key()
    with sent_scene() as sent:
        check_form_token(sent.fields.get("csrf_token"))
        asked = checked_fields(SceneFields, sent.fields)
        options = _options(asked)
        return answered(
            services().scenes.take(sent.upload, sent.name, options, key, start=asked.start)
        )


def begin_with(path: Path) -> SceneAnswer:
    """Map a file of the portal's own, such as a sample, as the default model sees it."""
    key, name = owner_key(), clean_name(path.name)
    options = _options(SceneFields.model_validate({}))
    with services().scenes.upload(path.stat().st_size) as upload, path.open("rb") as file:
        while block := file.read(BLOCK):
            upload.write(block)
        upload.close()
        return answered(services().scenes.take(upload, name, options, key, start=True))


def start(scene: str) -> SceneAnswer:
    """Start a scene that is checked, with what the request asks otherwise; or look at it again."""
    changes = _changes()
    begins = changes.pop("start", True)
    return answered(services().scenes.start(scene, owner_keys(), changes, start=begins))


def again(scene: str) -> SceneAnswer:
    """Map the file of a scene once more, with what the request asks otherwise."""
    changes = _changes()
    begins = changes.pop("start", True)
    own_keys = owner_keys()
    return answered(services().scenes.again(scene, own_keys, owner_key(), changes, start=begins))


def remove(scene: str) -> SceneAnswer:
    """Cancel a scene that is under way, forget any other: as it is, or was at last."""
    return answered(services().scenes.end(scene, owner_keys()))


def differences(scene: str, other: str) -> DifferencesAnswer:
    """What the maps of two scenes say of the same cells."""
    own_keys, scenes = owner_keys(), services().scenes
    rows = scenes.get(scene, own_keys), scenes.get(other, own_keys)
    return compared(*rows, scenes.differences(*rows))


def _options(asked: SceneFields) -> Options:
    model = asked.model or services().settings.default_model
    model, version = asked_model(model, asked.version)
    return Options(model, version, asked.stride, asked.bands, asked.scale, asked.look, asked.force)


def _changes() -> dict[str, Any]:
    """What the request asks in another way than before; what is absent or empty stays as it was."""
    asked = read_fields(SceneFields)
    changes = {name: getattr(asked, name) for name in asked.model_fields_set}
    if use := request.form.get("use"):  # model and version in one, as the forms of our pages say it
        changes["model"], _, version = use.partition("/")
        changes["version"] = version or None
    if changes.keys() & {"model", "version"}:
        model = changes.get("model") or services().settings.default_model
        asked_model(model, changes.get("version"))
    return changes

"""From the current request to a change of models: what the API and the pages share."""

from flask import request

from portal.catalog.archive_inspection import Archive
from portal.deployments.deploy import Wish
from portal.errors import BadRequest
from portal.jobs import Job
from portal.web.auth.operators import operator_name
from portal.web.context import MULTIPART_FRAMING, services
from portal.web.uploads import checked

MOST_LINES = 1000  # of the audit in one answer
WORDS = {"": False, "false": False, "0": False, "true": True, "1": True, "on": True}


def begin_deploy(model: str, version: str) -> Job:
    """Begin what the request asks for; see ``Deployments.deploy``.

    Raises:
        UnknownModel: a name that no model or version can have.
        BadRequest: a field has a value that it cannot have.
        PortalError: whatever ``Deployments.deploy`` raises.
    """
    target = checked(model, version)
    wish = Wish(
        default=flag("default"), workers=whole_number("workers"), unreported=flag("unreported")
    )
    return services().deployments.deploy(target, operator_name(), wish)


def begin_promote(model: str, version: str) -> Job:
    """Begin what the request asks for; see ``Deployments.promote``, and ``begin_deploy``."""
    return services().deployments.promote(checked(model, version), operator_name())


def begin_scale(model: str, version: str, unsaid: str) -> Job:
    """Begin what the request asks for; see ``Deployments.scale``, and ``begin_deploy``.

    Args:
        unsaid: the sentence for a request that names no number of workers.
    """
    target, workers = checked(model, version), whole_number("workers")
    if workers is None:
        raise BadRequest(unsaid)
    return services().deployments.scale(target, operator_name(), workers)


def begin_retire(model: str, version: str) -> Job:
    """Begin what the request asks for; see ``Deployments.retire``, and ``begin_deploy``."""
    return services().deployments.retire(checked(model, version), operator_name())


def begin_roll_back(model: str) -> Job:
    """Begin what the request asks for; see ``Deployments.roll_back``, and ``begin_deploy``."""
    checked(model, "1.0")  # whichever it goes back to
    return services().deployments.roll_back(model, operator_name())


def flag(name: str) -> bool:
    """A yes or no from JSON, a form or the query string; no if absent.

    Raises:
        BadRequest: another value.
    """
    value = _value(name)
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or value.lower() not in WORDS:
        raise BadRequest(f"{name} must be true or false.")
    return WORDS[value.lower()]


def whole_number(name: str) -> int | None:
    """A number from JSON, a form or the query string; None if absent.

    Raises:
        BadRequest: another value.
    """
    value = _value(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if value == "":
        return None
    if not isinstance(value, str) or not (value.isascii() and value.isdigit() and len(value) < 10):
        raise BadRequest(f"{name} must be a whole number.")
    return int(value)


def allow_archives() -> None:
    """Let the request's body be as large as an archive; before anything of it is read."""
    request.max_content_length = services().settings.max_archive_bytes + MULTIPART_FRAMING


def read_archive() -> Archive:
    """Take the uploaded archive in the form field ``file`` into the model store.

    Raises:
        BadRequest: there is none.
        PortalError: whatever ``Archives.add`` raises.
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

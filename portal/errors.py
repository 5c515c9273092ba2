"""The family of errors, and the only place that turns an error into an answer.

A status belongs to the type of the error; its message is a sentence for the client that says what
was found, what was expected and what to do. Under ``/api`` an error is JSON, elsewhere a page.
"""

import logging
from http import HTTPStatus

from flask import Flask, Response, g, jsonify, make_response, render_template, request
from flask_limiter import RateLimitExceeded
from flask_wtf.csrf import CSRFError
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

log = logging.getLogger("portal.errors")


class PortalError(Exception):
    """An error that the portal foresees; subclasses say how it is answered."""

    status = 500
    code = "internal_error"
    title = "Something went wrong"  # the heading of the page
    retry_after: int | None = None  # seconds


class BadRequest(PortalError):
    """The request cannot be understood."""

    status, code = 400, "bad_request"
    title = "This request cannot be read"


class NoImage(BadRequest):
    """The request carries no image, or an empty one."""

    code = "no_image"
    title = "No image"


class UnknownHost(BadRequest):
    """The request names a host that this portal is not."""

    code = "unknown_host"
    title = "No such host"


class NotLoggedIn(PortalError):
    """The request needs an operator and carries nothing that proves one."""

    status, code = 401, "not_logged_in"
    title = "Please log in"


class WrongToken(NotLoggedIn):
    """The request carries a token, but not the portal's."""

    code = "wrong_token"
    title = "Wrong token"


class ManagementOff(PortalError):
    """Nobody can be an operator: neither a password nor a token is set."""

    status, code = 403, "management_off"
    title = "Management is off"


class ForgedForm(PortalError):
    """A form that none of our pages gave to this browser, or not in this session."""

    status, code = 403, "forged_form"
    title = "This form is out of date"


class TooManyLogins(PortalError):
    """More attempts to log in than one address may make."""

    status, code, retry_after = 429, "too_many_logins", 60
    title = "Too many attempts"


class UnknownModel(PortalError):
    """No such model or version is served."""

    status, code = 404, "unknown_model"
    title = "No such model"


class UnknownReport(PortalError):
    """No such report."""

    status, code = 404, "unknown_report"
    title = "No such report"


class UnreadableReport(PortalError):
    """A report that is there but cannot be used."""

    status, code = 404, "unreadable_report"
    title = "This report cannot be read"


class UnknownTile(PortalError):
    """A tile that no report names, or whose image the portal does not have."""

    status, code = 404, "unknown_tile"
    title = "No such tile"


class TooLarge(PortalError):
    """The body is larger than the portal takes."""

    status, code = 413, "too_large"
    title = "Too large"


class TooManyTiles(TooLarge):
    """More images in one request than the portal takes."""

    code = "too_many_tiles"
    title = "Too many tiles"


class UnsupportedImage(PortalError):
    """The bytes are no image in a format that is read."""

    status, code = 415, "unsupported_image"
    title = "Not an image that can be read"


class UnusableImage(PortalError):
    """An image, but one that cannot be classified."""

    status, code = 422, "unusable_image"
    title = "This image cannot be classified"


class NoExplanations(PortalError):
    """The model version is served, but cannot say why it answers as it does."""

    status, code = 501, "no_explanations"
    title = "This version cannot explain"


class BadAnswer(PortalError):
    """The model server answered something that its contract does not know."""

    status, code = 502, "bad_model_server_answer"
    title = "The model server answered wrongly"


class ModelServerDown(PortalError):
    """The model server cannot be reached, or not be used."""

    status, code, retry_after = 503, "model_server_down", 5
    title = "The model server is down"


class ModelNotReady(PortalError):
    """The model is served, but none of its workers takes requests, or its queue is full."""

    status, code, retry_after = 503, "model_not_ready", 5
    title = "The model is not ready"


class Busy(PortalError):
    """The portal works on as many predictions as it takes at a time."""

    status, code, retry_after = 503, "busy", 1
    title = "Busy"


class TooSlow(PortalError):
    """The prediction did not come within the deadline."""

    status, code = 504, "too_slow"
    title = "No answer in time"


class UnknownArchive(PortalError):
    """No such archive in the model store."""

    status, code = 404, "unknown_archive"
    title = "No such archive"


class UnknownJob(PortalError):
    """No such job, or one from before the portal's last start."""

    status, code = 404, "unknown_job"
    title = "No such job"


class ModelBusy(PortalError):
    """Another change of the same model is under way."""

    status, code, retry_after = 409, "model_busy", 5
    title = "Another change is under way"


class NotPossible(PortalError):
    """The state of the model does not allow this change."""

    status, code = 409, "not_possible"
    title = "This is not possible now"


class BadArchive(PortalError):
    """A file that is no archive as `make archive` builds it."""

    status, code = 422, "bad_archive"
    title = "This archive cannot be used"


class ChangeFailed(PortalError):
    """A step of a change did not end as it must; what was begun is taken back."""

    status, code = 502, "change_failed"
    title = "The change failed"


class StoreUnavailable(PortalError):
    """The model store cannot be read or written."""

    status, code, retry_after = 503, "store_unavailable", 60
    title = "The model store cannot be used"


class StateUnavailable(PortalError):
    """The portal's database cannot be used."""

    status, code, retry_after = 503, "state_unavailable", 10
    title = "The portal's database cannot be used"


def too_large(limit: int) -> TooLarge:
    """The error for a body above ``limit`` bytes."""
    return TooLarge(
        f"The image is larger than {limit / 1024 / 1024:.3g} MB. "
        "Send a smaller one: a tile is 64 x 64 pixels."
    )


def wants_json() -> bool:
    """Whether this request belongs to the API, or to a program anyway."""
    programs = ("/api", "/metrics", "/openapi.json")
    return request.path in programs or request.path.startswith("/api/")


def install(app: Flask, max_upload_bytes: int) -> None:
    """Answer every error of the app; ``max_upload_bytes`` is what one image exceeds."""

    def answer_too_large(_error: RequestEntityTooLarge) -> Response:
        limit = request.max_content_length
        if limit is None or limit == app.config["MAX_CONTENT_LENGTH"]:
            return _answer(too_large(max_upload_bytes))
        return _answer(
            TooLarge(
                f"All files together are larger than {limit / 1024 / 1024:.3g} MB. "
                "Send them in several requests."
            )
        )

    def answer_forged(_error: CSRFError) -> Response:
        return _answer(
            ForgedForm(
                "This form was not made for this login: it is from another site, or from before "
                "the last login. Open the page again and repeat what you did."
            )
        )

    def answer_too_many(_error: RateLimitExceeded) -> Response:
        return _answer(
            TooManyLogins("There were too many attempts to log in. Try again in a minute.")
        )

    app.register_error_handler(CSRFError, answer_forged)
    app.register_error_handler(RateLimitExceeded, answer_too_many)
    app.register_error_handler(PortalError, _answer)
    app.register_error_handler(RequestEntityTooLarge, answer_too_large)
    app.register_error_handler(HTTPException, _answer_http)
    app.register_error_handler(Exception, _answer_unexpected)


def _answer(error: PortalError) -> Response:
    g.error_code = error.code  # for the metrics
    if wants_json():
        body = {"code": error.code, "message": str(error), "request_id": g.request_id}
        response = jsonify(error=body)
    else:
        response = make_response(
            render_template(
                "error.html",
                title=error.title,
                message=str(error),
                code=error.code,
                request_id=g.request_id,
            )
        )
    response.status_code = error.status
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    return response


def _answer_http(error: HTTPException) -> Response:
    """Give the errors of Flask and Werkzeug the form of ours; a redirect stays what it is."""
    if error.code is None or error.code < 400:
        return make_response(error.get_response())
    ours = PortalError(_HTTP_MESSAGES.get(error.code, error.description or error.name))
    ours.status = error.code
    ours.code = HTTPStatus(error.code).name.lower()
    ours.title = HTTPStatus(error.code).phrase.capitalize()
    response = _answer(ours)
    if allow := dict(error.get_headers()).get("Allow"):
        response.headers["Allow"] = allow
    return response


def _answer_unexpected(error: Exception) -> Response:
    """Log a mistake of ours once; the client learns a fixed word and the request's id."""
    log.error("request %s failed", g.request_id, exc_info=error)
    return _answer(
        PortalError("Something went wrong in the portal; its log has the details. Try again.")
    )


_HTTP_MESSAGES = {
    400: "The request cannot be read. Check how it is put together and send it again.",
    404: "There is nothing at this address. Check it, or start at the first page.",
    405: "This address does not take this method; the Allow header lists those that it takes.",
}

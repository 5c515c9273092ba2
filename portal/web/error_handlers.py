"""From an error to its answer: JSON for programs, a page for people."""

import logging
from http import HTTPStatus

from flask import Flask, Response, g, jsonify, make_response, render_template, request
from flask_limiter import RateLimitExceeded
from flask_wtf.csrf import CSRFError
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from portal.errors import ForgedForm, PortalError, TooLarge, TooManyLogins, too_large

log = logging.getLogger("portal.web.error_handlers")


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

    forged = ForgedForm(
        "This form was not made for this login: it is from another site, or from before the last "
        "login. Open the page again and repeat what you did."
    )
    too_many = TooManyLogins("There were too many attempts to log in. Try again in a minute.")
    app.register_error_handler(CSRFError, lambda _error: _answer(forged))
    app.register_error_handler(RateLimitExceeded, lambda _error: _answer(too_many))
    app.register_error_handler(PortalError, _answer)
    app.register_error_handler(RequestEntityTooLarge, answer_too_large)
    app.register_error_handler(HTTPException, _answer_http)
    app.register_error_handler(Exception, _answer_unexpected)


def _answer(error: PortalError) -> Response:
    if not error.observed:
        g.error_code = error.code  # for the metrics
    told = {"code": error.code, "message": str(error), "request_id": g.request_id}
    if wants_json():
        response = jsonify(error=told)
    else:
        response = make_response(render_template("error.html", title=error.title, **told))
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
    sentence = "Something went wrong in the portal; its log has the details. Try again."
    return _answer(PortalError(sentence))


_HTTP_MESSAGES = {
    400: "The request cannot be read. Check how it is put together and send it again.",
    404: "There is nothing at this address. Check it, or start at the first page.",
    405: "This address does not take this method; the Allow header lists those that it takes.",
}

"""The family of errors; ``portal/web/error_handlers.py`` turns one into an answer.

A status belongs to the type of the error; its message is a sentence for the client that says what
was found, what was expected and what to do.
"""


class PortalError(Exception):
    """An error that the portal foresees; subclasses say how it is answered."""

    status = 500
    code = "internal_error"
    title = "Something went wrong"  # the heading of the page
    retry_after: int | None = None  # seconds
    observed = False  # the observers of predictions have been told of it


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
    """No such job, or one that is forgotten since."""

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

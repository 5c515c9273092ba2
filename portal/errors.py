"""The family of errors; ``portal/web/error_handlers.py`` turns one into an answer.

A status belongs to the type of the error; its message is a sentence for the client that says what
was found, what was expected and what to do.
"""

import re


class PortalError(Exception):
    """An error that the portal foresees; subclasses say how it is answered.

    The ``code`` of one, a part of the API, is its name in snake case unless it gives another.
    """

    status = 500
    code = "internal_error"
    title = "Something went wrong"  # the heading of the page
    retry_after: int | None = None  # seconds
    observed = False  # the observers of predictions have been told of it

    def __init_subclass__(
        cls, *, title: str, status: int = 0, retry_after: int | None = None, code: str = ""
    ) -> None:
        cls.title, cls.retry_after = title, retry_after
        cls.status = status or cls.status
        cls.code = code or re.sub(r"\B(?=[A-Z])", "_", cls.__name__).lower()


class BadRequest(PortalError, status=400, title="This request cannot be read"):
    """The request cannot be understood."""


class NoImage(BadRequest, title="No image"):
    """The request carries no image, or an empty one."""


class UnknownHost(BadRequest, title="No such host"):
    """The request names a host that this portal is not."""


class NotLoggedIn(PortalError, status=401, title="Please log in"):
    """The request needs an operator and carries nothing that proves one."""


class WrongToken(NotLoggedIn, title="Wrong token"):
    """The request carries a token, but not the portal's."""


class ManagementOff(PortalError, status=403, title="Management is off"):
    """Nobody can be an operator: neither a password nor a token is set."""


class ForgedForm(PortalError, status=403, title="This form is out of date"):
    """A form that none of our pages gave to this browser, or not in this session."""


class NotYourScene(PortalError, status=403, title="Not your scene"):
    """A scene that may be seen, but only be changed by whoever sent it."""


class TooManyLogins(PortalError, status=429, title="Too many attempts", retry_after=60):
    """More attempts to log in than one address may make."""


class UnknownModel(PortalError, status=404, title="No such model"):
    """No such model or version is served."""


class UnknownReport(PortalError, status=404, title="No such report"):
    """No such report."""


class UnreadableReport(PortalError, status=404, title="This report cannot be read"):
    """A report that is there but cannot be used."""


class UnknownScene(PortalError, status=404, title="No such scene"):
    """No such scene, one that somebody else sent, or one that is forgotten since."""


class UnknownTile(PortalError, status=404, title="No such tile"):
    """A tile that no report names, or whose image the portal does not have."""


class TooLarge(PortalError, status=413, title="Too large"):
    """The body is larger than the portal takes."""


class TooManyTiles(TooLarge, title="Too many tiles"):
    """More images in one request than the portal takes."""


class UnsupportedImage(PortalError, status=415, title="Not an image that can be read"):
    """The bytes are no image in a format that is read."""


class UnusableImage(PortalError, status=422, title="This image cannot be classified"):
    """An image, but one that cannot be classified."""


class NothingToSee(UnusableImage, title="Nothing to see"):
    """An image of one colour, or without data in more than half of it."""


class UnknownScale(UnusableImage, title="What do its values mean?"):
    """Values of more than 8 bits that fit no scale, or two."""


class UnsupportedScene(PortalError, status=415, title="Not a scene that can be read"):
    """The file is no raster in a format that is read."""


class UnusableScene(PortalError, status=422, title="This scene cannot be mapped"):
    """A raster, but one that cannot be mapped."""


class DamagedScene(UnusableScene, title="This scene is damaged"):
    """A raster of which a part cannot be read."""


class NoExplanations(PortalError, status=501, title="This version cannot explain"):
    """The model version is served, but cannot say why it answers as it does."""


class TakesNoHints(PortalError, status=501, title="This version cannot be told scale or look"):
    """The model version is served, but reads every image in its own way."""


class MakesNoMaps(PortalError, status=501, title="This version makes no maps"):
    """The model version is served, but has more classes than a map can tell apart."""


class BadAnswer(
    PortalError,
    code="bad_model_server_answer",
    status=502,
    title="The model server answered wrongly",
):
    """The model server answered something that its contract does not know."""


class ModelServerDown(PortalError, status=503, title="The model server is down", retry_after=5):
    """The model server cannot be reached, or not be used."""


class ModelNotReady(PortalError, status=503, title="The model is not ready", retry_after=5):
    """The model is served, but none of its workers takes requests, or its queue is full."""


class Busy(PortalError, status=503, title="Busy", retry_after=1):
    """The portal works on as many predictions as it takes at a time."""


class TooSlow(PortalError, status=504, title="No answer in time"):
    """The prediction did not come within the deadline."""


class UnknownArchive(PortalError, status=404, title="No such archive"):
    """No such archive in the model store."""


class UnknownJob(PortalError, status=404, title="No such job"):
    """No such job, or one that is forgotten since."""


class ModelBusy(PortalError, status=409, title="Another change is under way", retry_after=5):
    """Another change of the same model is under way."""


class NotPossible(PortalError, status=409, title="This is not possible now"):
    """The state of the model does not allow this change."""


class SceneNotReady(PortalError, status=409, title="This is not possible now"):
    """The scene is not in the state that this needs."""


class BadArchive(PortalError, status=422, title="This archive cannot be used"):
    """A file that is no archive as `make archive` builds it."""


class ChangeFailed(PortalError, status=502, title="The change failed"):
    """A step of a change did not end as it must; what was begun is taken back."""


class StoreUnavailable(
    PortalError, status=503, title="The model store cannot be used", retry_after=60
):
    """The model store cannot be read or written."""


class StateUnavailable(
    PortalError, status=503, title="The portal's database cannot be used", retry_after=10
):
    """The portal's database cannot be used."""


class NoRoom(PortalError, status=507, title="No room"):
    """The disk, or the folder of scenes, is full."""


def too_large(limit: int) -> TooLarge:
    """The error for a body above ``limit`` bytes."""
    return TooLarge(
        f"The image is larger than {limit / 1024 / 1024:.3g} MB. "
        "Send a smaller one: a tile is 64 x 64 pixels."
    )

"""The first page: choose tiles, see their classes."""

import base64
import logging
from pathlib import Path

from flask import Blueprint, Response, g, make_response, render_template, request, url_for

from handlers.contract.image_body import undo_base64
from portal.errors import BadRequest, PortalError, TakesNoHints, UnusableImage
from portal.observability.health import WORDS
from portal.serving.predictor import media_type
from portal.web.auth.operators import changes_nothing
from portal.web.context import services
from portal.web.rendering import saliency, wording
from portal.web.rendering.wording import human
from portal.web.uploads import (
    asked_model,
    checked,
    read_upload,
    requested_model,
    requested_radiometry,
)

log = logging.getLogger("portal.web.pages.home")

blueprint = Blueprint("pages", __name__)

SAMPLES = Path(__file__).parents[1] / "static" / "samples"
ECHO_LIMIT = 200 * 1024  # bytes: a tile has a few thousand, and a page must not grow to megabytes
CHOICES_TIMEOUT = 0.5  # seconds that the page waits to learn which models can be chosen
SHOWN_BY_BROWSERS = [f"image/{kind}" for kind in ("jpeg", "png", "gif", "webp", "bmp", "avif")]

for words in (human, wording.percent, wording.either, wording.reading):
    blueprint.add_app_template_filter(words)


@blueprint.get("/")
def home() -> str:
    """Choose a tile."""
    return _page()


@blueprint.post("/")
@changes_nothing
def result() -> str | Response:
    """The class of the chosen tile, or why it has none, with the form for the next one."""
    sample = request.form.get("sample") if request.mimetype == "multipart/form-data" else None
    if sample is None:
        image, upload = undo_base64(read_upload()), request.files.get("file")
        preview, name = _echo(image), (upload and upload.filename) or "your tile"
    else:
        if sample not in _samples():
            raise BadRequest("There is no such sample tile. Choose one of those on the first page.")
        image = (SAMPLES / f"{sample}.jpg").read_bytes()
        preview, name = sample_url(sample), f"{human(sample)} sample"
    chosen, radiometry = [_choice("use") or requested_model()], requested_radiometry()
    if compared := _choice("compare"):
        chosen.append(compared)
    predictor = services().predictor
    try:
        predictions = [predictor.predict(image, *asked_model(*pair), radiometry) for pair in chosen]
        g.version = predictions[-1].version
        asked = chosen if request.form.get("why") else []
        whys = [saliency.draw(predictor.explain(image, *pair, radiometry)) for pair in asked]
    except (TakesNoHints, UnusableImage) as problem:  # another choice in the form may help
        answer = make_response(_page(problem=problem, preview=preview, name=name))
        answer.status_code = problem.status
        return answer
    return _page(predictions=predictions, whys=whys, preview=preview, name=name)


@blueprint.app_context_processor
def _health() -> dict[str, object]:
    """The state that every page shows at once; its script then looks anew."""
    return {"health_state": services().health.lately() or "unknown", "health_words": WORDS}


@blueprint.app_template_global()
def sample_url(name: str) -> str:
    """Where a sample tile is."""
    return url_for("static", filename=f"samples/{name}.jpg")


def _page(**result: object) -> str:
    return render_template(
        "pages/home.html",
        samples=_samples(),
        choices=choices(),
        max_upload_bytes=services().settings.max_upload_bytes,
        max_batch_bytes=services().settings.max_batch_bytes,
        colours={"for": saliency.FOR, "against": saliency.AGAINST},
        wording=wording,
        **result,
    )


def choices() -> list[tuple[str, str, bool]]:
    """<model>/<version> as the form sends it, its words, whether it is asked if none is chosen.

    That one comes first; nothing while the model server does not say what is served.
    """
    own = services()
    try:
        served = own.torchserve.served(CHOICES_TIMEOUT)
    except PortalError as error:
        log.info("no choice of models: %s", error)
        return []
    model = own.settings.default_model
    offered = [
        (f"{it.name.model}/{it.name.version}", str(it.name), it.default and it.name.model == model)
        for it in served
        if not own.torchserve.gate.is_on_trial(it.name)
    ]
    return sorted(offered, key=lambda choice: (not choice[2], choice[1]))


def _choice(field: str) -> tuple[str, str | None] | None:
    """The model and version in a field of the form; None if nothing is chosen there."""
    text = request.form.get(field) if request.mimetype == "multipart/form-data" else None
    if not text:
        return None
    model, _, version = text.partition("/")
    checked(model, version)
    return model, version


def _samples() -> list[str]:
    return sorted(path.stem for path in SAMPLES.glob("*.jpg"))


def _echo(image: bytes) -> str | None:
    """The uploaded image as a data: URL for a browser without JavaScript; nothing is stored."""
    kind = media_type(image)
    if kind not in SHOWN_BY_BROWSERS or len(image) > ECHO_LIMIT:
        return None
    return f"data:{kind};base64,{base64.b64encode(image).decode('ascii')}"

"""Classify and explain images: ``/api/predict``, ``/api/explain``, ``/api/predict/batch``."""

from typing import Any

from flask import Blueprint, g, request

from portal.errors import PortalError
from portal.serving.model_server import Explanation, Prediction
from portal.web.auth.operators import changes_nothing
from portal.web.context import services
from portal.web.fast_path import FAILED
from portal.web.uploads import as_answer, read_upload, read_uploads, requested_model

blueprint = Blueprint("predict", __name__, url_prefix="/api")


@blueprint.post("/predict")
@changes_nothing
def predict() -> dict[str, Any]:
    """Classify one image."""
    image, asked = read_upload(), requested_model()
    if (error := request.environ.pop(FAILED, None)) is not None:
        raise error
    return _rendered(services().predictor.predict(image, *asked))


@blueprint.post("/explain")
@changes_nothing
def explain_class() -> dict[str, Any]:
    """What in an image speaks for its class."""
    image, asked = read_upload(), requested_model()
    return _rendered(services().predictor.explain(image, *asked))


@blueprint.post("/predict/batch")
@changes_nothing
def predict_batch() -> dict[str, Any]:
    """Classify many images; each has its own result or error."""
    request.max_content_length = services().settings.max_batch_bytes
    uploads, asked = read_uploads(), requested_model()
    outcomes = services().predictor.predict_many([image for _, image in uploads], *asked)
    return {
        "results": [
            {"name": name, **_as_item(outcome)}
            for (name, _), outcome in zip(uploads, outcomes, strict=True)
        ],
        "request_id": g.request_id,
    }


def _rendered(answer: Prediction | Explanation) -> dict[str, Any]:
    g.version = answer.version
    return {**as_answer(answer), "request_id": g.request_id}


def _as_item(outcome: Prediction | PortalError) -> dict[str, Any]:
    if isinstance(outcome, PortalError):
        error = {"status": outcome.status, "code": outcome.code, "message": str(outcome)}
        return {"prediction": None, "error": error}
    return {"prediction": as_answer(outcome), "error": None}

"""Classify and explain images: ``/api/predict``, ``/api/explain``, ``/api/predict/batch``."""

from dataclasses import asdict
from typing import Any

from flask import Blueprint, g, request

from portal.errors import PortalError
from portal.services import services
from portal.serving.model_server import Prediction
from portal.serving.predictor import classify, classify_many, explain
from portal.web.auth.operators import changes_nothing
from portal.web.uploads import as_answer, read_upload, read_uploads, requested_model

blueprint = Blueprint("predict", __name__, url_prefix="/api")


@blueprint.post("/predict")
@changes_nothing
def predict() -> dict[str, Any]:
    """Classify one image."""
    image = read_upload()
    return {**as_answer(classify(image, *requested_model())), "request_id": g.request_id}


@blueprint.post("/explain")
@changes_nothing
def explain_class() -> dict[str, Any]:
    """What in an image speaks for its class."""
    image = read_upload()
    return {**asdict(explain(image, *requested_model())), "request_id": g.request_id}


@blueprint.post("/predict/batch")
@changes_nothing
def predict_batch() -> dict[str, Any]:
    """Classify many images; each has its own result or error."""
    request.max_content_length = services().settings.max_batch_bytes
    uploads = read_uploads()
    results = classify_many(uploads, *requested_model())
    return {
        "results": [
            {"name": name, **_as_item(result)}
            for (name, _), result in zip(uploads, results, strict=True)
        ],
        "request_id": g.request_id,
    }


def _as_item(result: Prediction | PortalError) -> dict[str, Any]:
    if isinstance(result, PortalError):
        error = {"status": result.status, "code": result.code, "message": str(result)}
        return {"prediction": None, "error": error}
    return {"prediction": as_answer(result), "error": None}

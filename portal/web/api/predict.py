"""Classify and explain images: ``/api/predict``, ``/api/explain``, ``/api/predict/batch``."""

from typing import Any

from flask import g, request
from flask_openapi.blueprint import APIBlueprint

from portal.errors import PortalError
from portal.serving.model_server import Explanation, Prediction
from portal.web.api.answers import BatchAnswer, BatchItem, ExplanationAnswer, PredictionAnswer
from portal.web.api.operations import (
    IMAGE_TYPES,
    ManyImages,
    NamedModel,
    OneImage,
    answer,
    errors,
    form,
    query,
)
from portal.web.auth.operators import changes_nothing
from portal.web.context import services
from portal.web.fast_path import FAILED
from portal.web.uploads import as_answer, read_upload, read_uploads, requested_model

blueprint = APIBlueprint("predict", __name__, url_prefix="/api", abp_tags=[{"name": "Predict"}])


@blueprint.post(
    "/predict",
    operation_id="predict",
    openapi_extensions=query(NamedModel),
    request_body=form(OneImage, *IMAGE_TYPES),
    responses={
        **errors(404, 413, 415, 422, 500, 502, 503, 504),
        200: answer(PredictionAnswer, "The class."),
    },
)
@changes_nothing
def predict() -> dict[str, Any]:
    """Classify one image.

    JPEG, PNG, GIF, TIFF, WEBP or BMP, as a form or, fastest, as the whole body. While many clients
    ask, an image waits for its turn; only where too many wait already is it answered 503.
    """
    image, asked = read_upload(), requested_model()
    if (error := request.environ.pop(FAILED, None)) is not None:
        raise error
    return _rendered(services().predictor.predict(image, *asked))


@blueprint.post(
    "/explain",
    operation_id="explain",
    openapi_extensions=query(NamedModel),
    request_body=form(OneImage, *IMAGE_TYPES),
    responses={
        **errors(404, 413, 415, 422, 500, 501, 502, 503, 504),
        200: answer(ExplanationAnswer, "The map."),
    },
)
@changes_nothing
def explain_class() -> dict[str, Any]:
    """Say which places of an image speak for its class.

    Takes the same as /api/predict, and as long as hundreds of predictions; few are worked on at a
    time, more are answered 503.
    """
    image, asked = read_upload(), requested_model()
    return _rendered(services().predictor.explain(image, *asked))


@blueprint.post(
    "/predict/batch",
    operation_id="predict_batch",
    openapi_extensions=query(NamedModel),
    request_body=form(ManyImages),
    responses={
        **errors(404, 413, 500, 502, 503, 504),
        200: answer(BatchAnswer, "A result for each image."),
    },
)
@changes_nothing
def predict_batch() -> BatchAnswer:
    """Classify many images; each has its own result or error.

    The results come in the order of the files; a bad one harms no other. Only where the model
    itself cannot be asked is the answer of the whole request an error.
    """
    request.max_content_length = services().settings.max_batch_bytes
    uploads, asked = read_uploads(), requested_model()
    outcomes = services().predictor.predict_many([image for _, image in uploads], *asked)
    return {
        "results": [
            _as_item(name, outcome) for (name, _), outcome in zip(uploads, outcomes, strict=True)
        ],
        "request_id": g.request_id,
    }


def _rendered(answer: Prediction | Explanation) -> dict[str, Any]:
    g.version = answer.version
    return {**as_answer(answer), "request_id": g.request_id}


def _as_item(name: str, outcome: Prediction | PortalError) -> BatchItem:
    if isinstance(outcome, PortalError):
        return {
            "name": name,
            "prediction": None,
            "error": {"status": outcome.status, "code": outcome.code, "message": str(outcome)},
        }
    return {"name": name, "prediction": outcome, "error": None}

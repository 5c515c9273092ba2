"""Classify and explain images: ``/api/predict``, ``/api/explain``, ``/api/predict/batch``."""

from typing import Annotated, Any

from flask import g, request
from flask_openapi.blueprint import APIBlueprint
from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema
from typing_extensions import TypedDict

from portal.errors import PortalError
from portal.serving.model_server import Explanation, Prediction
from portal.web.api.operations import Binary, answers, form, more, query
from portal.web.auth.operators import changes_nothing
from portal.web.context import services
from portal.web.fast_path import FAILED
from portal.web.uploads import LARGEST_BATCH, read_upload, read_uploads, requested_model

blueprint = APIBlueprint("predict", __name__, url_prefix="/api", abp_tags=[{"name": "Predict"}])

IMAGE_TYPES = [f"image/{kind}" for kind in ("jpeg", "png", "gif", "tiff", "webp", "bmp")]

PredictionAnswer = more("PredictionAnswer", Prediction, request_id=str)
ExplanationAnswer = more("ExplanationAnswer", Explanation, request_id=str)


class NamedModel(BaseModel):
    """Which model is asked; without patterns, for which Swagger UI would make names up."""

    model: str | SkipJsonSchema[None] = Field(None, description="The default model if absent.")
    version: str | SkipJsonSchema[None] = Field(None, description="The default one if absent.")


class OneImage(NamedModel):
    """A form with an image."""

    file: Binary


class ManyImages(NamedModel):
    """A form with many images."""

    files: list[Binary] = Field(min_length=1, max_length=LARGEST_BATCH)


class ImageProblem(TypedDict):
    """Why one image has no class: what a request with it alone would get."""

    status: int
    code: str
    message: str


class BatchItem(TypedDict):
    """The result for one file, or its error."""

    name: Annotated[str, Field(description="Of the file, as it was sent.")]
    prediction: Prediction | None
    error: ImageProblem | None


class BatchAnswer(TypedDict):
    """A result for each file, in their order."""

    results: list[BatchItem]
    request_id: str


@blueprint.post(
    "/predict",
    operation_id="predict",
    openapi_extensions=query(NamedModel),
    request_body=form(OneImage, *IMAGE_TYPES, "application/octet-stream"),
    responses=answers(PredictionAnswer, "The class.", 404, 413, 415, 422, 500, 502, 503, 504),
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
    request_body=form(OneImage, *IMAGE_TYPES, "application/octet-stream"),
    responses=answers(ExplanationAnswer, "The map.", 404, 413, 415, 422, 500, 501, 502, 503, 504),
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
    responses=answers(BatchAnswer, "A result for each image.", 404, 413, 500, 502, 503, 504),
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
    names = [name for name, _ in uploads]
    results = [_as_item(*each) for each in zip(names, outcomes, strict=True)]
    return {"results": results, "request_id": g.request_id}


def _rendered(answer: Prediction | Explanation) -> dict[str, Any]:
    g.version = answer.version
    return {**vars(answer), "request_id": g.request_id}


def _as_item(name: str, outcome: Prediction | PortalError) -> BatchItem:
    if not isinstance(outcome, PortalError):
        return {"name": name, "prediction": outcome, "error": None}
    problem = ImageProblem(status=outcome.status, code=outcome.code, message=str(outcome))
    return {"name": name, "prediction": None, "error": problem}

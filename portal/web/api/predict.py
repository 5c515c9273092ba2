"""Classify and explain images: ``/api/predict``, ``/api/explain``, ``/api/predict/batch``."""

from typing import Annotated, Any

from flask import g, request
from flask_openapi.blueprint import APIBlueprint
from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema
from typing_extensions import TypedDict

from handlers.contract.image_body import AUTO, LOOKS, SCALES
from portal.errors import PortalError
from portal.serving.model_server import Explanation, Prediction
from portal.web.api.operations import Binary, answers, fields, form, more, query
from portal.web.auth.operators import changes_nothing
from portal.web.context import services
from portal.web.fast_path import FAILED
from portal.web.uploads import (
    LARGEST_BATCH,
    read_upload,
    read_uploads,
    requested_model,
    requested_radiometry,
)

blueprint = APIBlueprint("predict", __name__, url_prefix="/api", abp_tags=[{"name": "Predict"}])

IMAGE_TYPES = [
    f"image/{kind}" for kind in ("jpeg", "png", "gif", "tiff", "webp", "bmp", "avif", "jp2")
]

PredictionAnswer = more("PredictionAnswer", Prediction, request_id=str)
ExplanationAnswer = more("ExplanationAnswer", Explanation, request_id=str)


class Asked(BaseModel):
    """Which model is asked; without patterns, for which Swagger UI would make names up.

    And what is known of the images' values.
    """

    model: str | SkipJsonSchema[None] = Field(None, description="The default model if absent.")
    version: str | SkipJsonSchema[None] = Field(None, description="The default one if absent.")
    scale: str = Field(
        AUTO,
        json_schema_extra={"enum": [*SCALES]},
        description=(
            "What the numbers in the image are. Reflectance: 1 (0..1), 1000, 10000, 10000-offset "
            "(x 10000 + 1000: Sentinel-2 products from 2022 on) or 65535 times as large. A picture "
            "from black to white: unit (0..1), 255 or high-byte (0..65535). auto: the values "
            "decide, and 8 bits stay as they are."
        ),
    )
    look: str = Field(
        AUTO,
        json_schema_extra={"enum": [*LOOKS]},
        description=(
            "What the image is made of: l1c (top of atmosphere) or l2a (surface) reflectance; tci, "
            "the true-colour image of a Sentinel-2 product; gain25, one whose white is a "
            "reflectance of 0.4; eurosat, with EuroSAT's own colours. auto: the values decide, and "
            "8 bits stay as they are."
        ),
    )


class OneImage(Asked):
    """A form with an image."""

    file: Binary


class EncodedImage(Asked):
    """JSON with an image."""

    image: str = Field(description="In base64, or as a data URL.")


class ManyImages(Asked):
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


def one_image() -> dict[str, Any]:
    """A body with one image, in each of the ways in which it may come."""
    bodies = form(OneImage, *IMAGE_TYPES, "application/octet-stream")
    encoded = fields(EncodedImage, {"image": "<base64>"})
    return bodies | {"content": bodies["content"] | encoded["content"]}


@blueprint.post(
    "/predict",
    operation_id="predict",
    openapi_extensions=query(Asked),
    request_body=one_image(),
    responses=answers(PredictionAnswer, "The class.", 404, 413, 415, 422, 500, 501, 502, 503, 504),
)
@changes_nothing
def predict() -> dict[str, Any]:
    """Classify one image.

    JPEG, PNG, TIFF, JPEG 2000, AVIF, WEBP, GIF or BMP, as a form, in JSON or, fastest, as the whole
    body. Model servers' {"instances": [{"image": {"b64": "..."}}]} with one instance is taken, too.
    While many clients ask, an image waits for its turn; only where too many wait already is it
    answered 503.

    422 nothing_to_see: the image has one colour, or no data in more than half of it; unknown_scale:
    say with scale and look what its values are. 501: this version cannot be told either.
    """
    image, asked = read_upload(), (*requested_model(), requested_radiometry())
    if (error := request.environ.pop(FAILED, None)) is not None:
        raise error
    return _rendered(services().predictor.predict(image, *asked))


@blueprint.post(
    "/explain",
    operation_id="explain",
    openapi_extensions=query(Asked),
    request_body=one_image(),
    responses=answers(ExplanationAnswer, "The map.", 404, 413, 415, 422, 500, 501, 502, 503, 504),
)
@changes_nothing
def explain_class() -> dict[str, Any]:
    """Say which places of an image speak for its class.

    Takes the same as /api/predict, and as long as hundreds of predictions; few are worked on at a
    time, more are answered 503.
    """
    image, asked = read_upload(), (*requested_model(), requested_radiometry())
    return _rendered(services().predictor.explain(image, *asked))


@blueprint.post(
    "/predict/batch",
    operation_id="predict_batch",
    openapi_extensions=query(Asked),
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
    uploads, asked = read_uploads(), (*requested_model(), requested_radiometry())
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

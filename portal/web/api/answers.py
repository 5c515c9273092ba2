"""The answers of the API: as types that mypy holds the views to, and the document tells.

Nothing is checked while a request is answered. What an answer is made of, such as a prediction or
a job, is described where it lives.
"""

from dataclasses import dataclass, is_dataclass
from datetime import datetime
from typing import Annotated, Any

from flask.json.provider import DefaultJSONProvider
from pydantic import BaseModel, Field
from typing_extensions import TypedDict  # pydantic reads that of typing from Python 3.12 on

from handlers.contract.report import Precision
from portal.catalog.archive_inspection import Archive
from portal.catalog.report_schema import Figure, Report
from portal.catalog.reports import Unreadable
from portal.deployments.records import AuditOutcome
from portal.fields import Count, ModelName, Number, Share, Version
from portal.jobs import Job
from portal.observability.health import Failure, Status
from portal.serving.model_server import Explanation, Prediction

Asleep = Annotated[bool, Field(description="Lazy, and without workers until it is asked.")]
Served = Annotated[bool, Field(description="A served version is known to have it.")]


def as_json(value: Any) -> Any:
    """What JSON itself does not know: times in ISO 8601, dataclasses and models as objects."""
    if is_dataclass(value):
        return vars(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, BaseModel):
        return value.model_dump()
    return DefaultJSONProvider.default(value)


class Problem(TypedDict):
    """What was found, what was expected, what to do."""

    code: str
    message: str
    request_id: str


class Error(TypedDict):
    """An error; its status is that of the answer."""

    error: Problem


@dataclass(frozen=True)
class PredictionAnswer(Prediction):  # noqa: D101 - it tells what a prediction tells
    __doc__ = Prediction.__doc__

    request_id: str


@dataclass(frozen=True)
class ExplanationAnswer(Explanation):  # noqa: D101 - as above
    __doc__ = Explanation.__doc__

    request_id: str


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


class ServedModel(TypedDict):
    """One version, and how many of its workers take requests."""

    model: str
    version: str
    default: bool
    asleep: Asleep
    workers_ready: Count
    workers: Count


class HealthAnswer(TypedDict):
    """What is served, by which workers, and what failed."""

    status: Status
    models_loaded: list[ServedModel]
    failures: list[Failure]


class StatusAnswer(TypedDict):
    """One word."""

    status: str


class MeasuredFile(TypedDict):
    """The figures of one file of a release."""

    precision: Precision
    served: Served
    accuracy: Figure
    macro_f1: Figure
    ece: Share
    size_bytes: Count
    latency_ms: Number


class ReportSummary(TypedDict):
    """A release in short; its own figures are those of its file in fp32."""

    model: ModelName
    version: Version
    created: datetime
    split: str
    test_tiles: Count
    accuracy: Figure
    macro_f1: Figure
    ece: Share
    size_bytes: Count
    latency_ms: Number
    spatial_accuracy: Figure | None
    files: list[MeasuredFile]


class ReportsAnswer(TypedDict):
    """All releases, and what is no readable one."""

    reports: list[ReportSummary]
    unreadable: list[Unreadable]


class ReleaseAnswer(TypedDict):
    """The reports of a release, and its card in Markdown."""

    report: Report
    spatial: Report | None
    spatial_problem: str | None
    card: str | None


class JobAnswer(TypedDict):
    """A change."""

    job: Job


class JobBegun(TypedDict):
    """A change that is under way; ask for it until it has ended."""

    job: Job
    request_id: str


class JobsAnswer(TypedDict):
    """Changes, the newest first."""

    jobs: list[Job]


class Stored(TypedDict):
    """An archive that was taken into the model store."""

    archive: Archive
    request_id: str


class AuditLine(TypedDict):
    """Who did what when, and how it ended."""

    at: datetime
    actor: Annotated[str, Field(description="operator, token, or portal for its own acts.")]
    action: str
    model: str | None
    version: str | None
    outcome: AuditOutcome
    reason: str


class AuditAnswer(TypedDict):
    """What was done, the newest first."""

    audit: list[AuditLine]

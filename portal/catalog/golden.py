"""Golden tiles: those in a report whose answers are known, and a version held against them."""

import base64
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ValidationError

from handlers.contract.report import PROBABILITY, Precision
from portal.catalog.report_schema import BadReport, first_problem
from portal.fields import Share

MOST_PROBE_TILES = 200


def _decoded(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError) as error:
        raise ValueError("an image in base64") from error


@dataclass(frozen=True)
class GoldenTile:
    """A JPEG and the probability of each label that was measured for it."""

    file: str
    jpeg: Annotated[bytes, BeforeValidator(_decoded)]
    probabilities: dict[str, Share]


@dataclass(frozen=True)
class Golden:
    """What a report promises of the weights with ``model_sha256``, seen in so many ``views``."""

    model_sha256: str
    tiles: tuple[GoldenTile, ...]
    tolerance: float
    views: int = 1


class _Answers(BaseModel):
    file: str
    probabilities: dict[str, Share]


class _Augmented(BaseModel):
    views: int
    probe: tuple[_Answers, ...] = ()  # of reports from before it could be served


class _File(BaseModel):
    model_sha256: str
    probe: tuple[_Answers, ...]
    test_time_augmentation: _Augmented | None = None


class _Probes(_File):
    """The part of report.json that is read to hold a version against it; see ``Report``."""

    probe: tuple[GoldenTile, ...]  # type: ignore[assignment]
    int8: _File | None = None


def parse_golden(content: Any) -> tuple[Golden, ...]:
    """Read the probe tiles of a report's JSON, as ``training/evaluate.py`` writes them.

    Returns:
        What it promises of the file in fp32, and of that in int8 if there is one; of each also what
        it promises of the mean over views, if that was measured.

    Raises:
        BadReport: there are none, or not of that form.
    """
    try:
        report = _Probes.model_validate(content)
    except ValidationError as refused:
        raise BadReport(first_problem(refused)) from refused
    files: list[tuple[str, Precision, _File]] = [("", "fp32", report)]
    if report.int8 is not None:
        files.append(("int8.", "int8", report.int8))
    images = {tile.file: tile.jpeg for tile in report.probe}
    found = []
    for place, precision, file in files:
        probes = {(f"{place}probe", 1): file.probe}
        if (mean := file.test_time_augmentation) is not None and mean.probe:
            probes[f"{place}test_time_augmentation.probe", mean.views] = mean.probe
        for (where, views), probe in probes.items():
            if unknown := [each.file for each in probe if each.file not in images]:
                raise BadReport(f"{where}: expected tiles of probe, found {unknown[0]!a}")
            answers = ((each.file, images[each.file], each.probabilities) for each in probe)
            tiles = tuple(GoldenTile(*answer) for answer in answers)
            found.append(Golden(file.model_sha256, tiles, PROBABILITY[precision], views))
    for golden in found:
        if not 1 <= (count := len(golden.tiles)) <= MOST_PROBE_TILES:
            raise BadReport(f"probe has {count} tiles, expected 1 to {MOST_PROBE_TILES}")
    return tuple(found)


def of_weights(promised: tuple[Golden, ...], model_sha256: str, views: int) -> Golden | None:
    """What is promised of the weights with that sha256; None if the report knows others only."""
    return next(
        (it for it in promised if (it.model_sha256, it.views) == (model_sha256, views)), None
    )

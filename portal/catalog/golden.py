"""Golden tiles: those in a report whose answers are known, and a version held against them."""

import base64
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ValidationError

from handlers.contract.report import PROBABILITY
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
    """What a report promises of the weights with ``model_sha256``."""

    model_sha256: str
    tiles: tuple[GoldenTile, ...]
    tolerance: float


class _Answers(BaseModel):
    file: str
    probabilities: dict[str, Share]


class _Int8(BaseModel):
    model_sha256: str
    probe: tuple[_Answers, ...]


class _Probes(BaseModel):
    """The part of report.json that is read to hold a version against it; see ``Report``."""

    model_sha256: str
    probe: tuple[GoldenTile, ...]
    int8: _Int8 | None = None


def parse_golden(content: Any) -> tuple[Golden, ...]:
    """Read the probe tiles of a report's JSON, as ``training/evaluate.py`` writes them.

    Returns:
        What it promises of the file in fp32, and of that in int8 if there is one.

    Raises:
        BadReport: there are none, or not of that form.
    """
    try:
        report = _Probes.model_validate(content)
    except ValidationError as refused:
        raise BadReport(first_problem(refused)) from refused
    found = [Golden(report.model_sha256, report.probe, PROBABILITY["fp32"])]
    if report.int8 is not None:
        images = {tile.file: tile.jpeg for tile in report.probe}
        if unknown := [each.file for each in report.int8.probe if each.file not in images]:
            raise BadReport(f"int8.probe: expected tiles of probe, found {unknown[0]!a}")
        answers = ((each.file, images[each.file], each.probabilities) for each in report.int8.probe)
        tiles = tuple(GoldenTile(*answer) for answer in answers)
        found.append(Golden(report.int8.model_sha256, tiles, PROBABILITY["int8"]))
    for golden in found:
        if not 1 <= (count := len(golden.tiles)) <= MOST_PROBE_TILES:
            raise BadReport(f"probe has {count} tiles, expected 1 to {MOST_PROBE_TILES}")
    return tuple(found)


def of_weights(promised: tuple[Golden, ...], model_sha256: str) -> Golden | None:
    """What is promised of the weights with that sha256; None if the report knows others only."""
    return next((golden for golden in promised if golden.model_sha256 == model_sha256), None)

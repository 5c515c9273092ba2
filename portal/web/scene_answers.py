"""Scenes and the comparison of two maps, as the API tells them and the pages show them."""

import math
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from functools import cache
from typing import Annotated, Any, cast

from flask import g, url_for
from pydantic import Field
from typing_extensions import TypedDict

from portal.fields import Count, ModelName, Number, Share, Version
from portal.scenes.manager import PREVIEWS, Pair
from portal.scenes.outputs import OUTPUTS
from portal.scenes.records import SceneRow, SceneState
from portal.web.context import services

Seconds = Annotated[float, Field(ge=0)]


class SceneWarning(TypedDict):
    """Something that speaks against believing the map."""

    code: str
    message: str


class ClassArea(TypedDict):
    """How much of a scene is of one class; once more "water", of all classes that are."""

    class_name: str
    hectares: Annotated[Number | None, Field(description="null: the scene has no place on Earth.")]
    share: Share
    color: Annotated[str, Field(pattern="^#[0-9a-f]{6}$")]


class SceneAnswer(TypedDict):
    """A scene, what was found in it, and how far its map is."""

    id: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    name: str
    state: SceneState
    reason: Annotated[str, Field(description="How it ended, or what it waits for.")]
    created: datetime
    started: datetime | None
    finished: datetime | None
    model: ModelName
    version: Annotated[Version | None, Field(description="null: not known yet.")]
    stride: Count
    bands: Annotated[list[Count], Field(min_length=3, max_length=3)]
    scale: str
    look: str
    windows: Count
    done: Annotated[Count, Field(description="Windows that are classified.")]
    total: Count
    seconds_left: Annotated[
        Seconds | None,
        Field(description="Without what waits before it; null: not known, or at an end."),
    ]
    found: Annotated[dict[str, Any], Field(description="What the file says.")]
    assumed: Annotated[dict[str, str], Field(description="What could be otherwise, by topic.")]
    warnings: list[SceneWarning]
    rows: Count
    columns: Count
    areas: list[ClassArea] | None
    outputs: Annotated[dict[str, str], Field(description="Addresses of the files of the map.")]
    previews: dict[str, str]
    request_id: str


class ScenesAnswer(TypedDict):
    """Scenes, the newest first."""

    scenes: list[SceneAnswer]


class ClassPair(TypedDict):
    """Cells of which two maps say this; null: no class."""

    first: str | None
    second: str | None
    cells: Count
    hectares: Number | None


class DifferencesAnswer(TypedDict):
    """Where two maps of the same scene agree, and where they do not."""

    scene: str
    other: str
    cells: Annotated[Count, Field(description="That have a class in both maps.")]
    agree: Annotated[Share | None, Field(description="Share of them with the same class.")]
    pairs: list[ClassPair]
    request_id: str


def listed(rows: list[SceneRow]) -> list[SceneAnswer]:
    """Scenes for whoever may see them."""
    pace = cache(services().scenes.pace)  # the same for each that waits for a model
    return [_answered(row, pace) for row in rows]


def answered(row: SceneRow) -> SceneAnswer:
    """A scene for whoever may see it."""
    return _answered(row, services().scenes.pace)


def _answered(row: SceneRow, pace: Callable[[str], float | None]) -> SceneAnswer:
    seen, left = row.seen, row.seconds_left
    if row.state in ("checked", "queued") and (each := pace(row.model)) is not None:
        left = each * seen.windows
    there = services().scenes.outputs(row)
    return {
        "id": row.id,
        "name": row.name,
        "state": row.state,
        "reason": row.reason,
        "created": row.created,
        "started": row.started,
        "finished": row.finished,
        "model": row.model,
        "version": row.version,
        "stride": seen.stride,
        "bands": list(seen.bands),
        "scale": seen.scale,
        "look": seen.look,
        "windows": seen.windows,
        "done": row.done,
        "total": row.total,
        "seconds_left": left,
        "found": seen.found,
        "assumed": seen.assumed,
        "warnings": [{"code": code, "message": said} for code, said in seen.warnings.items()],
        "rows": math.ceil(seen.geo.height / seen.stride),
        "columns": math.ceil(seen.geo.width / seen.stride),
        "areas": cast("list[ClassArea] | None", row.areas),
        "outputs": {name: _address(row, name) for name in OUTPUTS if name in there},
        "previews": {name: _address(row, name) for name in PREVIEWS},
        "request_id": g.request_id,
    }


def compared(one: SceneRow, other: SceneRow, pairs: list[Pair]) -> DifferencesAnswer:
    """What two maps say of the same cells."""
    both = [pair for pair in pairs if pair.first is not None and pair.second is not None]
    cells = sum(pair.cells for pair in both)
    same = sum(pair.cells for pair in both if pair.first == pair.second)
    return {
        "scene": one.id,
        "other": other.id,
        "cells": cells,
        "agree": same / cells if cells else None,
        "pairs": [cast("ClassPair", asdict(pair)) for pair in pairs],
        "request_id": g.request_id,
    }


def _address(row: SceneRow, name: str) -> str:
    return url_for("scenes.output", scene=row.id, file=name)

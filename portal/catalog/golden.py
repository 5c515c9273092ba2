"""Golden tiles: those in a report whose answers are known, and a version held against them."""

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from handlers.contract.tolerances import PROBABILITY, Precision
from portal.catalog.report_schema import BadReport

MOST_PROBE_TILES = 200


@dataclass(frozen=True)
class GoldenTile:
    """A JPEG and the probability (0..1) of each label that was measured for it."""

    file: str
    jpeg: bytes
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Golden:
    """What a report promises of the weights with ``model_sha256``."""

    model_sha256: str
    tiles: tuple[GoldenTile, ...]
    tolerance: float


def parse_golden(content: Any) -> tuple[Golden, ...]:
    """Read the probe tiles of a report's JSON, as ``training/evaluate.py`` writes them.

    Returns:
        What it promises of the file in fp32, and of that in int8 if there is one.

    Raises:
        BadReport: there are none, or not of that form.
    """
    try:
        images = {
            str(tile["file"]): base64.b64decode(tile["jpeg"], validate=True)
            for tile in content["probe"]
        }
        parts: dict[Precision, Any] = {"fp32": content, "int8": content.get("int8")}
        found = tuple(
            Golden(
                model_sha256=str(part["model_sha256"]),
                tiles=tuple(
                    GoldenTile(
                        file=str(tile["file"]),
                        jpeg=images[str(tile["file"])],
                        probabilities={str(k): float(v) for k, v in tile["probabilities"].items()},
                    )
                    for tile in part["probe"]
                ),
                tolerance=PROBABILITY[precision],
            )
            for precision, part in parts.items()
            if part is not None
        )
    except (AttributeError, KeyError, TypeError, ValueError, binascii.Error) as error:
        raise BadReport("probe is not a list of tiles with their probabilities") from error
    for golden in found:
        if not 1 <= len(golden.tiles) <= MOST_PROBE_TILES:
            raise BadReport(
                f"probe has {len(golden.tiles)} tiles, expected 1 to {MOST_PROBE_TILES}"
            )
    return found


def of_weights(promised: tuple[Golden, ...], model_sha256: str) -> Golden | None:
    """What is promised of the weights with that sha256; None if the report knows others only."""
    return next((golden for golden in promised if golden.model_sha256 == model_sha256), None)

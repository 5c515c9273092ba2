"""Golden tiles: those in a report whose answers are known, and a version held against them."""

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from portal.errors import ChangeFailed, PortalError
from portal.model_server import ModelServer
from portal.report_schema import BadReport
from portal.synthetic import SYNTHETIC_TILE

# Largest difference of a probability between report and server, across CPUs: 8-bit sums that fall
# on the other side of a rounding move a probability much further than those of floats.
TOLERANCES = {"fp32": 1e-3, "int8": 2e-2}
MOST_TILES = 200


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
                tolerance=TOLERANCES[precision],
            )
            for precision, part in (("fp32", content), ("int8", content.get("int8")))
            if part is not None
        )
    except (AttributeError, KeyError, TypeError, ValueError, binascii.Error) as error:
        raise BadReport("probe is not a list of tiles with their probabilities") from error
    for golden in found:
        if not 1 <= len(golden.tiles) <= MOST_TILES:
            raise BadReport(f"probe has {len(golden.tiles)} tiles, expected 1 to {MOST_TILES}")
    return found


def of_weights(promised: tuple[Golden, ...], model_sha256: str) -> Golden | None:
    """What is promised of the weights with that sha256; None if the report knows others only."""
    return next((golden for golden in promised if golden.model_sha256 == model_sha256), None)


def check(
    server: ModelServer, model: str, version: str, golden: Golden | None, labels: tuple[str, ...]
) -> str:
    """Ask a version for the golden tiles or, without a report, for the synthetic tile.

    Args:
        labels: the classes that its archive promises; empty if that is not known.

    Returns:
        One sentence about what was found.

    Raises:
        ChangeFailed: an answer is missing or differs.
    """
    if golden is None:
        _answer(server, model, version, "the synthetic tile", SYNTHETIC_TILE, labels)
        return "The synthetic tile got a well-formed answer; there is no report to compare with."
    largest = 0.0
    for tile in golden.tiles:
        found = _answer(server, model, version, tile.file, tile.jpeg, labels)
        if set(found) != set(tile.probabilities):
            raise ChangeFailed(
                f"{model} {version} answered {tile.file} with {len(found)} classes, its report "
                f"has {len(tile.probabilities)}: not the same ones. Build the archive of the "
                "model that the report is about."
            )
        difference = max(abs(found[label] - p) for label, p in tile.probabilities.items())
        largest = max(largest, difference)
        if difference > golden.tolerance:
            raise ChangeFailed(
                f"{model} {version} answered {tile.file} with probabilities that differ from its "
                f"report by up to {difference:.2g}, more than {golden.tolerance}. Build the "
                "archive again, or evaluate the model again."
            )
    return (
        f"{len(golden.tiles)} golden tiles are answered as the report says "
        f"(largest difference {largest:.1g})."
    )


def _answer(
    server: ModelServer, model: str, version: str, name: str, image: bytes, labels: tuple[str, ...]
) -> dict[str, float]:
    try:
        found = server.predict(image, model, version).probabilities
    except PortalError as error:
        raise ChangeFailed(f"{model} {version} did not answer {name}: {error}") from error
    if labels and set(found) != set(labels):
        raise ChangeFailed(
            f"{model} {version} answered {name} with {len(found)} classes, its archive promises "
            f"{len(labels)}: not the same ones. Export and archive the model again."
        )
    return found

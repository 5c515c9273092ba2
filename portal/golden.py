"""Golden tiles: those in a report whose answers are known, and a version held against them."""

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from portal.errors import ChangeFailed, PortalError
from portal.model_server import ModelServer
from portal.report_schema import BadReport
from portal.synthetic import SYNTHETIC_TILE

TOLERANCE = 1e-3  # largest difference of a probability between report and server, across CPUs
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


def parse_golden(content: Any) -> Golden:
    """Read the probe tiles of a report's JSON, as ``training/evaluate.py`` writes them.

    Raises:
        BadReport: there are none, or not of that form.
    """
    try:
        tiles = tuple(
            GoldenTile(
                file=str(tile["file"]),
                jpeg=base64.b64decode(tile["jpeg"], validate=True),
                probabilities={str(k): float(v) for k, v in tile["probabilities"].items()},
            )
            for tile in content["probe"]
        )
        sha256 = str(content["model_sha256"])
    except (AttributeError, KeyError, TypeError, ValueError, binascii.Error) as error:
        raise BadReport("probe is not a list of tiles with their probabilities") from error
    if not 1 <= len(tiles) <= MOST_TILES:
        raise BadReport(f"probe has {len(tiles)} tiles, expected 1 to {MOST_TILES}")
    return Golden(sha256, tiles)


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
        if difference > TOLERANCE:
            raise ChangeFailed(
                f"{model} {version} answered {tile.file} with probabilities that differ from its "
                f"report by up to {difference:.2g}, more than {TOLERANCE}. Build the archive "
                "again, or evaluate the model again."
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

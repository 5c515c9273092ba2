"""Parts 2 and 3: the product against other ways to serve the same file, and whole batches."""

import logging
import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import requests

from tests.bench.figures import Part, ratios, spread, table
from tests.bench.models import Subject
from tests.bench.servers import (
    Target,
    direct_of,
    peers,
    portal_of,
    product,
    settings_of,
    store_of,
    usual_torchserve,
    wait_until_idle,
)

logger = logging.getLogger(__name__)

CLIENTS = (1, 8, 32)
Cells = dict[str, dict[int, list[dict[str, Any]]]]


def measure(subjects: list[Subject], work: Path, bodies: Path, rounds: int, seconds: float) -> Part:
    """One model after the other; all servers stand side by side, and take turns in each round.

    Before each turn the machine comes to rest. Without that, a usual handler's queue went on into
    the turn of the product, which is first in line again: it lost a third of its throughput.
    """
    promises: dict[str, list[float]] = {}
    tables: list[tuple[str, str]] = []
    raw: dict[str, Any] = {}
    remarks = [
        "All but the usual handler serve the same int8 file through the same preprocessing; it "
        "serves plain scripted fp32 with torchvision's transforms and TorchServe's defaults.",
        "LitServe (2 workers, batches of 16 within 2 ms) takes forms, no raw bodies; it burns "
        "the CPU while it waits and is stopped while others are measured.",
        "The load generator shares the two cores with what it measures.",
    ]
    tile = next(iter(sorted(bodies.iterdir()))).read_bytes()
    settings = settings_of(work, store_of(subjects, work))
    with ExitStack() as stack:
        stack.enter_context(product(settings, subjects, tile))
        for subject in subjects:
            with ExitStack() as own:
                targets = [direct_of(settings, subject), portal_of(settings, subject)]
                targets += peers(own, subject, work, tile)
                targets.append(usual_torchserve(own, subject, work, tile))
                found = _rounds(targets, bodies, rounds, seconds)
            raw[subject.name] = found
            tables.append((f"{subject.name}: requests/s and median latency", _table(found)))
            remarks += _refusals(subject, found)
            promises |= _promises(subject, found)
    return Part(promises, tables, raw, remarks)


def _rounds(targets: list[Target], bodies: Path, rounds: int, seconds: float) -> Cells:
    found: Cells = {target.name: {count: [] for count in CLIENTS} for target in targets}
    for target in targets:
        with target.awake():
            target.load(bodies, 8, seconds / 2)  # warm, and not counted
    for number in range(rounds):
        for count in CLIENTS:
            for target in targets:
                wait_until_idle()
                with target.awake():
                    cell = target.load(bodies, count, seconds)
                found[target.name][count].append(cell)
        logger.info("serving: round %d of %d", number + 1, rounds)
    return found


def rates(found: Cells, name: str, count: int) -> list[float]:
    """Requests per second, one a round."""
    return [float(cell["requests_per_second"]) for cell in found[name][count]]


def _promises(subject: Subject, found: Cells) -> dict[str, list[float]]:
    direct, portal = rates(found, "TorchServe direct", 32), rates(found, "portal", 32)
    fastapi = ratios(direct, rates(found, "FastAPI, 2 processes", 32))
    if subject.name == "baseline":
        return {"c32-baseline-fastapi2": fastapi}
    alone = {
        name: [cell["p50_ms"] for cell in found[name][1]]
        for name in ("portal", "TorchServe direct")
    }
    return {
        "c32-resnet18-fastapi2": fastapi,
        "c32-resnet18-litserve": ratios(direct, rates(found, "LitServe", 32)),
        "c32-resnet18-usual": ratios(direct, rates(found, "usual TorchServe handler", 32)),
        "portal-direct": ratios(portal, direct),
        "portal-waitress": ratios(portal, rates(found, "Flask on waitress", 32)),
        "portal-adds": [
            ours - theirs
            for ours, theirs in zip(alone["portal"], alone["TorchServe direct"], strict=True)
        ],
    }


def _table(found: Cells) -> str:
    head = ["", *(f"{count} clients: {w}" for count in CLIENTS for w in ("req/s", "p50, p99 ms"))]
    rows = []
    for name, cells in found.items():
        row = [name]
        for count in CLIENTS:
            p50 = statistics.median(cell["p50_ms"] for cell in cells[count])
            p99 = statistics.median(cell["p99_ms"] for cell in cells[count])
            row += [spread(rates(found, name, count), 0), f"{p50:.1f}, {p99:.1f}"]
        rows.append(row)
    return table(head, rows)


def _refusals(subject: Subject, found: Cells) -> list[str]:
    remarks = []
    for name, cells in found.items():
        for count, rounds in cells.items():
            refused: dict[str, int] = {}
            for cell in rounds:
                for status, times in cell["refused"].items():
                    refused[status] = refused.get(status, 0) + times
            if refused:
                listed = ", ".join(f"{status}: {times}" for status, times in refused.items())
                remarks.append(
                    f"{subject.name}, {name}, {count} clients: answers other than 200 were not "
                    f"counted ({listed}; -1 is a connection that broke)."
                )
    return remarks


def measure_batches(
    subjects: list[Subject], work: Path, bodies: Path, rounds: int, seconds: float
) -> Part:
    """256 tiles in one request against as many clients of single ones as the promise says."""
    tiles = [path.read_bytes() for path in sorted(bodies.iterdir())][:256]
    files = [("files", (f"{n}.jpg", tile, "image/jpeg")) for n, tile in enumerate(tiles)]
    settings = settings_of(work, store_of(subjects, work))
    promises: dict[str, list[float]] = {}
    tables: list[tuple[str, str]] = []
    raw: dict[str, Any] = {}
    with product(settings, subjects, tiles[0]), requests.Session() as session:
        for subject in subjects:
            portal = portal_of(settings, subject)
            url = f"{settings.url}/api/predict/batch?model={subject.name}"
            # Made once, as the other load generator makes its requests.
            batch = requests.Request("POST", url, files=files).prepare()
            whole: list[float] = []
            single: list[float] = []
            for _ in range(rounds):
                wait_until_idle()
                whole.append(_batch_rate(session, batch, seconds))
                wait_until_idle()
                single.append(portal.load(bodies, 32, seconds)["requests_per_second"])
            promises[f"batch-{subject.name}"] = ratios(whole, single)
            rows = [
                ("one request of 256 tiles", spread(whole, 0)),
                ("32 clients", spread(single, 0)),
            ]
            head = ("", "tiles/s")
            tables.append((f"{subject.name}: tiles/s through the portal", table(head, rows)))
            raw[subject.name] = {"batch": whole, "single": single}
    return Part(promises, tables, raw, [])


def _batch_rate(
    session: requests.Session, batch: requests.PreparedRequest, seconds: float
) -> float:
    """Tiles answered per second by a client that sends one batch after the other."""
    started, answered = time.perf_counter(), 0
    while time.perf_counter() < started + seconds:
        answer = session.send(batch, timeout=120)
        answer.raise_for_status()
        answered += sum(1 for item in answer.json()["results"] if item["error"] is None)
    return answered / (time.perf_counter() - started)

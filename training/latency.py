"""Measure the speed of every release again, on this CPU: a table compares what one CPU did.

    python -m training.latency

For a machine that does nothing else. Reports, cards and tables get the new figures; nothing else in
them changes.
"""

import argparse
import json
import logging
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from handlers.landuse_handler import FUSED_SIZES, SIZES
from handlers.model import ask, fuse_layers
from handlers.vision import normalize
from training.card import README, model_card, read_reports, write_comparison
from training.hardware import cpu_name
from training.inference import load_exported
from training.runs import RELEASES_DIR, BadExport, is_fused, run_command

logger = logging.getLogger(__name__)


def measure_latency(folder: Path, precision: str, views: int = 1) -> dict[str, Any]:
    """Milliseconds of the model alone for one tile on one thread, median and 95th percentile.

    Args:
        views: of the tile, as of ``handlers.model.ask``.

    Raises:
        BadExport: a file is missing or unreadable.
    """
    # Loaded for this alone: a quantised convolution keeps what it prepared for the first shape that
    # it sees, in the handler one tile (the baseline takes 0.64 ms otherwise, not 0.44).
    model, spec = load_exported(folder, precision)
    shape = (1, spec.image_size, spec.image_size, 3)
    image = normalize(torch.zeros(shape, dtype=torch.uint8), spec)  # in memory as it is served
    most = FUSED_SIZES[-1] if is_fused(folder, precision) else SIZES[-1]
    seen = partial(model, image) if views == 1 else partial(ask, model, image, views, most)
    times = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if most == FUSED_SIZES[-1]:
            fuse_layers(model, image)
        with torch.inference_mode():
            for number in range(120):
                started = time.perf_counter()
                seen()
                if number >= 20:
                    times.append(1000 * (time.perf_counter() - started))
    finally:
        torch.set_num_threads(threads)
    return {
        "batch": 1,
        "threads": 1,
        "median_ms": statistics.median(times),
        "p95_ms": float(np.quantile(times, 0.95)),
        "cpu": cpu_name(),
    }


def measure_again(releases: Path = RELEASES_DIR, readme: Path = README) -> None:
    """Replace the latencies in each release's report and card, and in the tables of all."""
    for path in sorted(releases.glob("*/report.json")):
        report, spatial = read_reports(path.parent)
        for precision, part in (("fp32", report), ("int8", report.get("int8"))):
            if part is not None:
                part["latency"] = measure_latency(path.parent, precision)
                logger.info("%s, %s: %s", path.parent.name, precision, part["latency"])
                if "latency" in (views := part.get("test_time_augmentation", {})):
                    views["latency"] = measure_latency(path.parent, precision, views["views"])
        path.write_text(json.dumps(report, indent=1, allow_nan=False))
        path.with_name("MODEL_CARD.md").write_text(model_card(report, spatial))
    write_comparison(releases, readme)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    run_command(measure_again, BadExport)

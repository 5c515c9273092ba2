"""Measure the speed of every release again, on this CPU: a table compares what one CPU did.

    python -m training.latency

For a machine that does nothing else. Reports, cards and tables get the new figures; nothing else in
them changes.
"""

import argparse
import json
import logging
from pathlib import Path

from training.archive import RELEASES_DIR
from training.card import model_card
from training.evaluate import measure_latency
from training.export import is_fused, load_exported
from training.release import README, write_comparison

logger = logging.getLogger(__name__)


def measure_again(releases: Path = RELEASES_DIR, readme: Path = README) -> None:
    """Replace the latencies in each release's report and card, and in the tables of all."""
    for path in sorted(releases.glob("*/report.json")):
        report = json.loads(path.read_text())
        for precision in ("fp32", "int8"):
            part = report if precision == "fp32" else report.get("int8")
            if part is not None:
                model, spec = load_exported(path.parent, precision)
                fuse = is_fused(path.parent, precision)
                part["latency"] = measure_latency(model, spec, fuse=fuse)
                logger.info("%s, %s: %s", path.parent.name, precision, part["latency"])
        path.write_text(json.dumps(report, indent=1, allow_nan=False))
        spatial = path.with_name("report-spatial.json")
        second = json.loads(spatial.read_text()) if spatial.is_file() else None
        path.with_name("MODEL_CARD.md").write_text(model_card(report, second))
    write_comparison(releases, readme)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    measure_again()

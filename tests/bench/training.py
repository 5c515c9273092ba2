"""Part 5: whether anything but the model limits training."""

import json
import subprocess
import sys
from typing import Any

from tests.bench.figures import Part, ratios, spread, table
from tests.support.paths import ROOT


def measure(rounds: int, seconds: float) -> Part:
    """Both models, each in a process of its own."""
    promises, raw, rows = {}, {}, []
    for name in ("baseline", "resnet18"):
        command = [sys.executable, "-W", "ignore", "-m", "tests.bench.training_worker"]
        result = subprocess.run(
            [*command, name, str(rounds), str(seconds)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
        raw[name] = found
        promises[f"training-{name}"] = ratios(found["loop"], found["alone"])
        how = f"{name}, {found['image_size']} px, {found['precision']}"
        rows.append((how, spread(found["loop"], 0), spread(found["alone"], 0)))
    head = ("", "training, images/s", "model alone, images/s")
    remarks = ["Training was measured without a teacher and from random weights."]
    return Part(promises, [("training", table(head, rows))], raw, remarks)

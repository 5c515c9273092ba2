"""Archives of a tiny model: of the form that `make archive` builds, with nothing to run in them."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

LABELS = ("AnnualCrop", "River", "SeaLake")
WEIGHTS = b"weights"
CONFIG = "minWorkers: 2\nstartupTimeout: 60\nspec:\n  labels: [AnnualCrop, River, SeaLake]\n"

Entries = dict[str, bytes]


def entries(model: str = "baseline", version: str = "1.1") -> Entries:
    manifest = {
        "model": {
            "modelName": model,
            "modelVersion": version,
            "handler": "landuse_handler.py",
            "serializedFile": "model.pt",
            "configFile": "model-config.yaml",
        }
    }
    return {
        "model.pt": WEIGHTS,
        "landuse_handler.py": b"class LandUseHandler:\n    pass\n",
        "model-config.yaml": CONFIG.encode(),
        "handlers/__init__.py": b"",
        "handlers/contract/spec.py": b"",
        "MAR-INF/MANIFEST.json": json.dumps(manifest).encode(),
    }


def write_archive(
    store: Path,
    version: str = "1.1",
    model: str = "baseline",
    change: Callable[[Entries], None] | None = None,
) -> Path:
    content = entries(model, version)
    if change is not None:
        change(content)
    store.mkdir(parents=True, exist_ok=True)
    path = store / f"{model}-{version}.mar"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path

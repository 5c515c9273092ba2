"""Archives for deploys: further versions of the released baseline, and broken ones of each kind."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from handlers.contract.names import ModelVersion
from tests.support.paths import ROOT

Entries = dict[str, bytes]

# The latest version of the baseline that is released.
RELEASE = max(
    (ROOT / "training/releases").glob("baseline-*"), key=lambda path: ModelVersion.parse(path.name)
)
HANDLER = "landuse_handler.py"
MANIFEST = "MAR-INF/MANIFEST.json"
CONFIG = "model-config.yaml"


def release(reports: Path, version: str) -> None:
    """Report and card of the released baseline, as those of another version."""
    folder = reports / f"baseline-{version}"
    shutil.copytree(RELEASE, folder)
    report = json.loads((folder / "report.json").read_text())
    report["version"] = version
    (folder / "report.json").write_text(json.dumps(report))


def archive(
    store: Path, source: Path, version: str, change: Callable[[Entries], None] | None = None
) -> Path:
    """An archive as ``source``, of another version, with its entries changed."""
    with zipfile.ZipFile(source) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    edit_manifest(entries, modelVersion=version)
    if change is not None:
        change(entries)
    path = store / f"baseline-{version}.mar"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, content in entries.items():
            new.writestr(name, content)
    return path


def edit_manifest(entries: Entries, **fields: Any) -> None:
    manifest = json.loads(entries[MANIFEST])
    manifest["model"].update(fields)
    entries[MANIFEST] = json.dumps(manifest).encode()


def weights(entries: Entries) -> str:
    """The name of the entry with the weights."""
    return str(json.loads(entries[MANIFEST])["model"]["serializedFile"])


def replaced(entries: Entries, name: str, old: str, new: str) -> None:
    assert old.encode() in entries[name], (name, old)
    entries[name] = entries[name].replace(old.encode(), new.encode())


def raises_at_import(entries: Entries) -> None:
    entries[HANDLER] = b"raise RuntimeError('broken on purpose')\n" + entries[HANDLER]


def crashes_in_init(entries: Entries) -> None:
    replaced(entries, HANDLER, "torch.set_num_threads(1)", "raise RuntimeError('no memory')")


def exits_in_init(entries: Entries) -> None:
    replaced(entries, HANDLER, "torch.set_num_threads(1)", "import os; os._exit(3)")


def is_too_slow_in_init(entries: Entries) -> None:
    replaced(entries, HANDLER, "torch.set_num_threads(1)", "import time; time.sleep(60)")
    replaced(entries, CONFIG, "startupTimeout: 120", "startupTimeout: 5")


def answers_nan(entries: Entries) -> None:
    replaced(
        entries, HANDLER,
        "vision.to_probabilities(logits, self.spec)",
        "vision.to_probabilities(logits, self.spec) * float('nan')",
    )  # fmt: skip


def answers_otherwise(entries: Entries) -> None:
    replaced(
        entries, HANDLER,
        "vision.to_probabilities(logits, self.spec)",
        "vision.to_probabilities(logits, self.spec).flip(1)",
    )  # fmt: skip


def outputs_fewer_classes(entries: Entries) -> None:
    replaced(
        entries, HANDLER,
        "to_probabilities(logits, self.spec)", "to_probabilities(logits[:, :9], self.spec)",
    )  # fmt: skip


def promises_fewer_classes(entries: Entries) -> None:
    config = yaml.safe_load(entries[CONFIG])
    config["spec"]["labels"].remove("SeaLake")
    entries[CONFIG] = yaml.safe_dump(config).encode()


def has_no_weights(entries: Entries) -> None:
    del entries[weights(entries)]


def has_other_weights(entries: Entries) -> None:
    entries[weights(entries)] += b"\0"


def has_no_handlers(entries: Entries) -> None:
    for name in [name for name in entries if name.startswith("handlers/")]:
        del entries[name]


def is_no_python(entries: Entries) -> None:
    entries[HANDLER] = b"def (:\n"


def says_another_version(entries: Entries) -> None:
    edit_manifest(entries, modelVersion="7.7")


def says_another_model(entries: Entries) -> None:
    edit_manifest(entries, modelName="resnet18")


def has_no_manifest(entries: Entries) -> None:
    del entries[MANIFEST]


def leaves_its_folder(entries: Entries) -> None:
    entries["../../evil.py"] = b"print('out')\n"

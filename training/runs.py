"""The folder of a run or release: its names and files, its checkpoints, how it came about.

Torch is imported by what needs it alone: archives are built without waiting for it.
"""

import hashlib
import json
import logging
import os
import pickle
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from handlers.contract.spec import BadSpec, ModelSpec

logger = logging.getLogger(__name__)

RUNS_DIR = Path(__file__).parent / "runs"
RELEASES_DIR = Path(__file__).parent / "releases"
SPATIAL = "-spatial"  # behind the name of a run on the spatial split, of which nothing is released
# A run's or release's TorchScript and the configuration that it is served with. int8 is served by
# default: for one tile it takes a tenth (ResNet-18) to a fourth (baseline) of the time of fp32.
FILES = MappingProxyType(
    {"fp32": ("model.pt", "model-config.yaml"), "int8": ("model-int8.pt", "model-config-int8.yaml")}
)
DIRTY = "-dirty"  # behind a commit: files differed from it
SPLIT_FILE = "split.json"  # of a run or release on tiles of one's own: which are for what
# What to resume from, and that of an epoch before; a new one on its way to its place.
LAST, BEFORE, COMING = "last.pt", "last-but-one.pt", "last.new"
INT8_MAY_LOSE = 0.001  # of accuracy and of ECE, against fp32


class BadExport(Exception):
    """What a run or release holds is not whole, not what it says, or worse than it may be."""


@contextmanager
def logged_in(path: Path) -> Iterator[None]:
    """Have what is logged meanwhile stand behind what a file has."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def has_int8(folder: Path) -> bool:
    """Whether a run or release has an int8 file beside that in fp32."""
    return (folder / FILES["int8"][0]).is_file()


def read_spec(folder: Path, precision: str = "fp32") -> ModelSpec:
    """The spec of an exported model.

    Raises:
        BadExport: its configuration is missing or unreadable.
    """
    path = folder / FILES[precision][1]
    try:
        return ModelSpec.from_dict(yaml.safe_load(path.read_text())["spec"])
    except FileNotFoundError as error:
        raise BadExport(f"{path} does not exist: export first (`make export`)") from error
    except (yaml.YAMLError, KeyError, TypeError, BadSpec) as error:
        raise BadExport(f"{path} is not a model configuration: {error}") from error


def is_fused(folder: Path, precision: str = "fp32") -> bool:
    """Whether the layers of an exported model, whose spec can be read, are fused when served."""
    return "fuse_layers" in yaml.safe_load((folder / FILES[precision][1]).read_text())


def training_facts(folder: Path) -> dict[str, Any]:
    """How an exported model came about: from its run, or what its release kept of that.

    Raises:
        BadExport: neither is there.
    """
    if (path := folder / "training.json").is_file():
        return json.loads(path.read_text())
    if (path := folder / "report.json").is_file():
        return json.loads(path.read_text())["training"]
    raise BadExport(
        f"{folder}: expected training.json (an exported run) or report.json (a release), found "
        "neither; export first (`make export`)"
    )


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_commit() -> str:
    """The checkout's commit, ``DIRTY`` behind it if files differ; "unknown" outside of one."""
    words = ["git", "describe", "--always", f"--dirty={DIRTY}", "--abbrev=40", "--exclude=*"]
    folder = Path(__file__).parent
    try:
        found = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write whole or not at all: a kill in between must leave the old checkpoint."""
    import torch  # noqa: PLC0415 - see above

    partial = path.with_suffix(".part")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What ``save_checkpoint`` wrote; tensors on the CPU.

    Raises:
        BadExport: the file is damaged.
    """
    import torch  # noqa: PLC0415 - see above

    try:
        # torch checks no sums: a bit that fell over would be learned on with.
        with zipfile.ZipFile(path) as content:
            if broken := content.testzip():
                raise zipfile.BadZipFile(f"bad checksum of {broken}")
        found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, pickle.UnpicklingError) as error:
        said = str(error).partition("\n")[0]
        raise BadExport(f"{path} is damaged: expected a checkpoint, found {said}") from error
    return found


def save_last(run: Path, state: dict[str, Any]) -> None:
    """Write what to resume from; that of the epoch before is kept, should this be damaged."""
    save_checkpoint(run / COMING, state)
    if (last := run / LAST).is_file():
        last.replace(run / BEFORE)
    (run / COMING).replace(last)


def load_last(run: Path) -> dict[str, Any] | None:
    """What to resume from: the last checkpoint, or the one before; None if the run has none.

    Raises:
        BadExport: there are some, and all are damaged; the message says how to go on.
    """
    damaged = []
    for path in (run / COMING, run / LAST, run / BEFORE):
        if path.is_file():
            try:
                found = load_checkpoint(path)
            except BadExport as problem:
                logger.warning("%s", problem)
                damaged.append(problem)
            else:
                if damaged:
                    logger.warning("going on from %s instead", path)
                return found
    if damaged:
        best = run / "best.pt"
        on = f", from its best weights with `--set weights={best}`" if best.is_file() else ""
        raise BadExport(
            f"{'; '.join(map(str, damaged))}. Nothing is left to resume from: restore one of them, "
            f"or train another version{on}."
        )
    return None


def load_best(run: Path) -> dict[str, Any]:
    """The best checkpoint of a run.

    Raises:
        BadExport: there is none, or it is damaged.
    """
    if not (best := run / "best.pt").is_file():
        raise BadExport(f"{best} does not exist: train first (`make train`)")
    return load_checkpoint(best)


def write_json(path: Path, value: object) -> None:
    """Write whole or not at all, as ``save_checkpoint`` does."""
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(value, indent=1))
    partial.replace(path)


def run_command(main: Callable[[], None], *problems: type[Exception]) -> None:
    """Run a verb with its log on; a problem that the user can solve ends it with its sentence."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        main()
    except problems as problem:
        sys.exit(str(problem))

"""What is inside a model archive: read with a zip reader, without running anything of it."""

import ast
import errno
import hashlib
import json
import math
import re
import stat
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from handlers.contract.names import MOST_LABELS, BadName, ModelVersion
from handlers.contract.spec import BadSpec, views_of
from portal.catalog.report_schema import Labels
from portal.errors import BadArchive
from portal.fields import Count, ModelName, Number, Version

MOST_ENTRIES = 200  # files and folders in one archive; ours have about ten
LARGEST_UNPACKED = 2 * 1024**3  # bytes; TorchServe unpacks without a limit of its own
LARGEST_TEXT = 256 * 1024  # bytes of a manifest, a configuration or one module
MANIFEST = "MAR-INF/MANIFEST.json"
_LABELS = TypeAdapter[tuple[str, ...]](Labels)


@dataclass(frozen=True)
class Archive:
    """An archive that TorchServe may be asked to load.

    Attributes:
        sha256: of the file; ``model_sha256``: of the weights in it.
        labels: the classes, in the order of the model's outputs.
        workers: how many its own configuration asks for.
        startup_timeout: seconds that one of them may take to become ready.
        views: of each picture, over which its answer is the mean.
    """

    file: str
    model: ModelName
    version: Version
    size_bytes: Count
    sha256: str
    model_sha256: str
    labels: tuple[str, ...]
    workers: Count
    startup_timeout: Number
    views: Count = 1

    @property
    def name(self) -> ModelVersion:
        """Which version it is."""
        return ModelVersion(self.model, self.version)


def inspect(path: Path, name: str, max_bytes: int) -> Archive:
    """Hold an archive against what `make archive` builds.

    Args:
        path: the file; ``name`` is what it is, or will be, called in the model store.
        max_bytes: of the file.

    Raises:
        BadArchive: one sentence with what was found and what was expected.
        OSError: the file cannot be read.
    """
    try:
        named = ModelVersion.of_archive(name)
    except BadName as error:
        raise BadArchive(
            "it is not called <model>-<version>.mar, such as baseline-1.0.mar"
        ) from error
    size = path.stat().st_size
    if size > max_bytes:
        raise BadArchive(
            f"it has {size / 1e6:.0f} MB, more than the {max_bytes / 1e6:.0f} MB that "
            "PORTAL_MAX_ARCHIVE_BYTES allows"
        )
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        with zipfile.ZipFile(path) as content:
            return _read(content, named, size, sha256)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise  # EINVAL: its directory points outside the file
        raise BadArchive("it is no zip file, or a damaged one: build or upload it again") from error


def _read(content: zipfile.ZipFile, named: ModelVersion, size: int, sha256: str) -> Archive:
    entries = _safe_entries(content)
    digests = {entry: _digest(content, entry) for entry in entries}
    manifest = _manifest(content, entries, named)
    for module in [manifest["handler"], *_modules(entries)]:
        _parse(content, entries[module])
    config = _config(content, entries[manifest["configFile"]])
    return Archive(
        file=named.archive,
        model=named.model,
        version=named.version,
        size_bytes=size,
        sha256=sha256,
        model_sha256=digests[manifest["serializedFile"]],
        labels=_labels(config),
        workers=int(_number(config, "minWorkers", 1, 1, 64)),
        startup_timeout=_number(config, "startupTimeout", 120, 1, 3600),
        views=_views(config),
    )


def _safe_entries(content: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The files in the archive by name, none of which leaves the folder it is unpacked into."""
    infos = content.infolist()
    if len(infos) > MOST_ENTRIES:
        raise BadArchive(f"it has {len(infos)} entries, more than {MOST_ENTRIES}")
    unpacked = sum(info.file_size for info in infos)
    if unpacked > LARGEST_UNPACKED:
        raise BadArchive(
            f"unpacked it would have {unpacked / 1e9:.1f} GB, more than "
            f"{LARGEST_UNPACKED / 1e9:.1f} GB"
        )
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        parts = info.filename.rstrip("/").split("/")
        mode = info.external_attr >> 16
        # orig_filename: Python's reader cuts a name at a NUL byte, others do not
        if (
            not re.fullmatch(r"[\w .+/-]{1,200}", info.orig_filename, re.ASCII)
            or any(part in ("", ".", "..") for part in parts)
            or stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR)
        ):
            raise BadArchive(
                f"its entry {info.orig_filename[:100]!r} is no plain file inside the archive: "
                "absolute paths, `..` and links are refused"
            )
        if info.filename in entries:
            raise BadArchive(f"it has two entries called {info.filename[:100]!r}")
        entries[info.filename] = info
    return {name: info for name, info in entries.items() if not info.is_dir()}


def _digest(content: zipfile.ZipFile, name: str) -> str:
    """sha256 of an entry; to read it to its end also checks its checksum."""
    with content.open(name) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def _manifest(
    content: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], named: ModelVersion
) -> dict[str, str]:
    """Its part about the model; each file that it names is there."""
    if MANIFEST not in entries:
        raise BadArchive(f"there is no {MANIFEST} in it: build it with `make archive`")
    try:
        found = json.loads(_text(content, entries[MANIFEST]))["model"]
        manifest = {key: value for key, value in found.items() if isinstance(value, str)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadArchive(f"its {MANIFEST} is not what `make archive` writes") from error
    said = (manifest.get("modelName"), manifest.get("modelVersion"))
    if said != (named.model, named.version):
        raise BadArchive(
            f"its manifest says {str(said[0])[:80]} {str(said[1])[:80]}, its file name "
            f"{named}: the two must agree"
        )
    whats = {"handler": "handler", "serializedFile": "weights", "configFile": "model-config.yaml"}
    for key, what in whats.items():
        entry = manifest.get(key)
        if entry is None:
            raise BadArchive(f"its manifest names no {key}: build it with `make archive`")
        if entry not in entries:
            raise BadArchive(
                f"its {what}, {entry[:80]!r} as the manifest has it, is missing in the archive"
            )
    if not manifest["handler"].endswith(".py"):
        raise BadArchive("its handler is no Python file: build it with `make archive`")
    return manifest


def _modules(entries: dict[str, zipfile.ZipInfo]) -> list[str]:
    found = [name for name in entries if re.fullmatch(r"handlers/(\w+/)*\w+\.py", name)]
    # where the spec stands, before and since there is a contract
    if not {"handlers/spec.py", "handlers/contract/spec.py"} & set(found):
        raise BadArchive(
            "there is no handlers/ package in it: an archive carries the code that serves it; "
            "build it with `make archive`"
        )
    return found


def _parse(content: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    """Refuse a module that cannot even be parsed; none is run."""
    try:
        ast.parse(_text(content, info))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f": see line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise BadArchive(f"its {info.filename} is no valid Python{line}") from error


def _config(content: zipfile.ZipFile, info: zipfile.ZipInfo) -> dict[str, Any]:
    try:
        config = yaml.safe_load(_text(content, info))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadArchive(f"its {info.filename} is no valid YAML") from error
    if not isinstance(config, dict) or not isinstance(config.get("spec"), dict):
        raise BadArchive(f"its {info.filename} has no spec: export the model again")
    return config


def _labels(config: dict[str, Any]) -> tuple[str, ...]:
    try:
        return _LABELS.validate_python(config["spec"].get("labels"))
    except ValidationError as error:
        raise BadArchive(
            f"the labels of its spec are not 2 to {MOST_LABELS} different class names: "
            "export the model again"
        ) from error


def _views(config: dict[str, Any]) -> int:
    try:
        return views_of(config)
    except BadSpec as error:
        raise BadArchive(f"its configuration cannot be served: {error}") from error


def _number(config: dict[str, Any], key: str, usual: float, low: float, high: float) -> float:
    value = config.get(key, usual)
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise BadArchive(f"{key} in its configuration is no number")
    if not low <= value <= high:
        raise BadArchive(f"{key} in its configuration is {value}, expected {low:g} to {high:g}")
    return float(value)


def _text(content: zipfile.ZipFile, info: zipfile.ZipInfo) -> str:
    if info.file_size > LARGEST_TEXT:
        raise BadArchive(f"its {info.filename} is larger than {LARGEST_TEXT // 1024} KB")
    try:
        return content.read(info).decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadArchive(f"its {info.filename} is no UTF-8 text") from error

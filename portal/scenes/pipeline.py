"""One scene from its file to the folder of its map: the one way, for worker, command line, cluster.

The folder appears as a whole or not at all. What is under way stands beside it, and a later call
goes on there.
"""

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from portal.errors import UnusableScene
from portal.scenes.scene import Classifier, Inspection, Options, Provenance

SOFTWARE = "eurosat-landuse 1.0"  # name and version, as in pyproject.toml


def map_one(
    path: Path,
    options: Options,
    classify: Classifier,
    folder: Path,
    *,
    name: str = "",
    archive_sha256: str = "",
    scene_sha256: str = "",
    inspection: Inspection | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> None:
    """Map a scene into ``folder``; nothing is done if that is there already.

    Several processes may be told the same at once: one does it, the others wait for it.

    Args:
        options: with a version.
        folder: for ``portal.scenes.outputs``' files; its parent is made. Beside it stand
            ``<folder>.part``, with the strips that are finished, and ``<folder>.lock``.
        name: of the scene in its metadata; by default the file's.
        archive_sha256: of what answers, where it is known.
        scene_sha256, inspection: of the file, where they are known already.
        progress: called with windows done and in all; what it raises ends the work, which then
            stays to be gone on with.

    Raises:
        PortalError: of the scene (UnsupportedScene, UnusableScene and its kinds), or of whatever
            classifies.
        OSError: a file cannot be read or written.
    """
    # GDAL, of which whoever hands out the work has no need
    from portal.scenes import inspection as looking  # noqa: PLC0415
    from portal.scenes import mapping, outputs, raster  # noqa: PLC0415

    scene_sha256 = scene_sha256 or digest(path)
    found = inspection or looking.inspect(path, options)
    identity = identify(scene_sha256, archive_sha256, options)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f"{folder.name}.part")
    with _alone(folder.with_name(f"{folder.name}.lock")) as lock:
        if folder.exists():
            _end(part, lock)
            return
        _begin(part, identity)
        out = part / "out"
        try:
            with raster.open_raster(path, found) as scene:
                cells = mapping.map_scene(
                    scene, found.stride, classify, folder=part / "strips", progress=progress
                )
                preview, _scale = raster.preview(scene)
            out.mkdir()
            provenance = Provenance(
                model=options.model,
                version=options.version or "",
                archive_sha256=archive_sha256,
                scene=name or path.name,
                scene_sha256=scene_sha256,
                software=SOFTWARE,
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                options=asdict(options),
            )
            outputs.write_outputs(out, cells, found.geo, found, provenance, preview)
        except UnusableScene:
            _end(part, lock)
            raise
        out.rename(folder)
        _end(part, lock)


def identify(scene_sha256: str, archive_sha256: str, options: Options) -> str:
    """A name for the map of a scene: 64 hexadecimal digits, others for whatever could change it.

    Args:
        archive_sha256: "" where it is not known; the names in the options then stand for the model.
    """
    parts = [SOFTWARE, scene_sha256, archive_sha256, asdict(options)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def digest(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _begin(part: Path, identity: str) -> None:
    """A folder with the strips of this very map, none of another, and no outputs yet."""
    known = part / "identity"
    if not known.is_file() or known.read_text(encoding="ascii") != identity:
        shutil.rmtree(part, ignore_errors=True)
        (part / "strips").mkdir(parents=True)
        known.write_text(identity, encoding="ascii")
    shutil.rmtree(part / "out", ignore_errors=True)


def _end(part: Path, lock: Path) -> None:
    """Leave nothing beside the folder; who waits for the lock finds the map, or the same fault."""
    shutil.rmtree(part, ignore_errors=True)
    lock.unlink(missing_ok=True)


@contextmanager
def _alone(lock: Path) -> Iterator[Path]:
    """Wait until no other process holds the lock, and hold it; it ends with the process."""
    with lock.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield lock

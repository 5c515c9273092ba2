"""What people do with scenes: send, start, cancel, forget, look at, compare."""

import base64
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from handlers.contract.names import ModelVersion
from portal.errors import (
    BadAnswer,
    ModelNotReady,
    ModelServerDown,
    NotYourScene,
    SceneNotReady,
    TooSlow,
    UnknownModel,
    UnusableScene,
)
from portal.scenes.records import UNDER_WAY, SceneRecords, SceneRow, full, new_scene, unknown
from portal.scenes.store import Store, Upload
from portal.scenes.terms import Inspection, Options
from portal.serving.model_server import ModelServer
from portal.serving.predictor import ConcurrencyLimit
from portal.settings import Settings

MOST_UPLOADS = 4  # at the same time: each keeps one of gunicorn's threads for as long as it takes
MOST_INSPECTIONS = 2  # at the same time: each is a process that reads a scene
PREVIEWS = ("as-it-is.png", "as-the-model-sees.png")
HECTARE = 100  # px of 10 m

# Of the model server: the scene is mapped once it is back.
_LATER = (ModelServerDown, ModelNotReady, TooSlow, BadAnswer)


class Inspect(Protocol):
    """Looks at a file: ``portal.scenes.inspection.inspect``."""

    def __call__(self, path: Path, options: Options, *, previews: Path | None = None) -> Inspection:
        """What was found; UnsupportedScene or UnusableScene if it cannot be mapped."""


@dataclass(frozen=True)
class Pair:
    """What two maps say of the same cells; None: no class.

    Attributes:
        hectares: of whole cells, also where some of their pixels have no data; None where the
            scene has no place on Earth.
    """

    first: str | None
    second: str | None
    cells: int
    hectares: float | None


class Scenes:
    """The scenes of a portal. Safe to use from many threads.

    Every method raises StateUnavailable when the database cannot be used, StoreUnavailable when
    the folder of scenes cannot, and UnknownScene for one that is not there, or not for
    ``owner_keys``: who asks.
    """

    def __init__(
        self,
        records: SceneRecords,
        store: Store,
        settings: Settings,
        server: ModelServer,
        inspect: Inspect,
    ) -> None:
        self.inspect = inspect
        self._records = records
        self._store = store
        self._settings = settings
        self._server = server
        self._uploads = ConcurrencyLimit(
            MOST_UPLOADS,
            f"{MOST_UPLOADS} scenes are being sent, and the portal takes no more at a time. Try "
            "again in a minute.",
        )
        self._inspections = ConcurrencyLimit(
            MOST_INSPECTIONS,
            f"{MOST_INSPECTIONS} scenes are being looked at, and the portal looks at no more at a "
            "time. Try again in a few seconds.",
        )

    @contextmanager
    def upload(self, expected: int) -> Iterator[Upload]:
        """A place for a scene of about so many bytes that is being sent.

        Raises:
            NoRoom: there is none for it, neither now nor while it is written.
            Busy: enough are being sent, or wait.
        """
        self._check_queue()
        with self._uploads, self._store.upload(expected) as upload:
            yield upload

    def take(
        self, upload: Upload, name: str, options: Options, owner_key: str, *, start: bool
    ) -> SceneRow:
        """Look at a scene that was sent, and keep it; with ``start``, let it wait for a worker.

        Raises:
            UnknownModel: no such model or version is served.
            UnsupportedScene, UnusableScene: it cannot be mapped; nothing is kept.
            Busy: too many are being looked at, or wait.
        """
        options = self._resolved(options)
        with self._inspections:
            found = self.inspect(upload.path, options, previews=_made(upload.previews))
        row = new_scene(upload.number, owner_key, name, upload.size, upload.sha256, options, found)
        return self._keep(upload, row, start=start)

    def again(
        self,
        scene: str,
        owner_keys: set[str],
        owner_key: str,
        changes: dict[str, Any],
        *,
        start: bool,
    ) -> SceneRow:
        """Map the file of a scene once more, with other options: as a new scene.

        Raises:
            PortalError: whatever ``take`` raises.
        """
        self._check_queue()
        row = self.get(scene, owner_keys)
        options = self._resolved(_changed(row.asked, changes))
        with self._store.copy(scene) as copy:
            found = self._look(row, options, copy.path, copy.previews)
            again = new_scene(
                copy.number, owner_key, row.name, row.bytes, row.scene_sha256, options, found
            )
            return self._keep(copy, again, start=start)

    def start(
        self, scene: str, owner_keys: set[str], changes: dict[str, Any], *, start: bool
    ) -> SceneRow:
        """Let a scene that is checked wait for a worker; with other options it is looked at again.

        Args:
            changes: fields of ``Options``.
            start: False: only look at it again.

        Raises:
            SceneNotReady: it is not checked, or not any more.
            PortalError: whatever ``take`` raises.
        """
        row = self.changeable(scene, owner_keys)
        if row.state == "checked":
            if start:
                self._check_queue()
            options = self._resolved(_changed(row.asked, changes))
            folder = self._store.folder(scene)
            found = self._look(row, options, folder / "scene", folder / "previews")
        else:
            options, found = row.asked, row.seen
        if start or row.state != "checked":
            self._enqueue(scene, options, found)
        else:
            self._records.change(scene, options, found)
        return self._records.get(scene)

    def end(self, scene: str, owner_keys: set[str]) -> SceneRow:
        """Cancel a scene that is queued or runs, forget any other; as it is, or was at last."""
        row = self.changeable(scene, owner_keys)
        if self._records.cancel(scene):
            return self._records.get(scene)
        if self._records.remove(scene):
            self._store.remove(scene)
        return row

    def all(self, owner_keys: set[str]) -> list[SceneRow]:
        """The scenes that somebody sent, the newest first; where they are public, everybody's."""
        return self._records.of(None if self._settings.scenes_public else owner_keys)

    def get(self, scene: str, owner_keys: set[str]) -> SceneRow:
        """One scene."""
        row = self._records.get(scene)
        if row.owner_key not in owner_keys and not self._settings.scenes_public:
            raise unknown()
        return row

    def changeable(self, scene: str, owner_keys: set[str]) -> SceneRow:
        """As ``get``; NotYourScene if it may be seen only."""
        row = self.get(scene, owner_keys)
        if row.owner_key not in owner_keys:
            raise NotYourScene(
                "This scene may be seen by everybody, but only be started, cancelled or deleted "
                "by the browser or the operator that sent it."
            )
        return row

    def file(self, row: SceneRow, name: str) -> Path:
        """A picture of a scene, or a file of its map.

        Raises:
            SceneNotReady: there is no map yet, or none at all.
        """
        folder = self._store.folder(row.id)
        if name in PREVIEWS:
            path = folder / "previews" / name
        elif row.state == "done":
            path = folder / "out" / name
        else:
            raise SceneNotReady(
                f"This scene is {row.state} and has no map. Its outputs are there once it is done."
            )
        if not path.is_file():  # a map without a place on Earth lacks some
            raise unknown()
        return path

    def outputs(self, row: SceneRow) -> set[str]:
        """The names of the files of its map that are there."""
        folder = self._store.folder(row.id) / "out"
        try:
            return {path.name for path in folder.iterdir()} if row.state == "done" else set()
        except OSError:
            return set()

    def differences(self, one: SceneRow, other: SceneRow) -> list[Pair]:
        """What two maps of the same scene say of the same cells, the most frequent first.

        Raises:
            SceneNotReady: one of them is not done.
            UnusableScene: they are not of the same scene, or not on the same grid.
        """
        maps = [json.loads(self.file(row, "cells.json").read_bytes()) for row in (one, other)]
        grids = [
            [found[name] for name in ("rows", "columns", "stride", "width", "height")]
            for found in maps
        ]
        if one.scene_sha256 != other.scene_sha256 or grids[0] != grids[1]:
            sizes = [f"{grid[0]} x {grid[1]} cells of {grid[2]} px" for grid in grids]
            raise UnusableScene(
                f"Two maps are compared cell by cell, but {one.name} has {sizes[0]} and "
                f"{other.name} {sizes[1]}, or they are not of the same file. Map the same file "
                f"twice with the same stride: POST /api/scenes/{one.id}/again."
            )
        cells, pixels = Counter[tuple[int, int]](), Counter[tuple[int, int]]()
        classes = [base64.b64decode(found["classes"]) for found in maps]
        for first, second, px in zip(*classes, _cell_sizes(maps[0]), strict=True):
            cells[first, second] += 1
            pixels[first, second] += px
        names = [dict(enumerate(found["labels"])) for found in maps]
        located = all(found["located"] for found in maps)
        return [
            Pair(
                names[0].get(first),
                names[1].get(second),
                count,
                pixels[first, second] / HECTARE if located else None,
            )
            for (first, second), count in cells.most_common()
        ]

    def pace(self, model: str) -> float | None:
        """Seconds that a window takes, if a scene was mapped with this model."""
        return self._records.pace(model)

    def needed(self) -> set[ModelVersion]:
        """The versions that scenes under way ask, or will ask."""
        rows = self._records.of(None)
        return {
            ModelVersion(row.model, row.version)
            for row in rows
            if row.state in UNDER_WAY and row.version is not None
        }

    def _check_queue(self) -> None:
        """Refuse, before anything is read, what could not wait anyway."""
        most = self._settings.max_scenes_queued
        if self._records.queued() >= most:
            raise full(most)

    def _keep(self, upload: Upload, row: SceneRow, *, start: bool) -> SceneRow:
        upload.publish()
        try:
            self._records.add(row)
            if start:
                self._enqueue(row.id, row.asked, row.seen)
        except BaseException:  # nothing half taken: its client sends it again
            with suppress(Exception):
                self._records.remove(row.id)
            self._store.remove(row.id)
            raise
        return self._records.get(row.id)

    def _enqueue(self, scene: str, options: Options, found: Inspection) -> None:
        self._records.enqueue(scene, options, found, self._settings.max_scenes_queued)
        self._store.ring()

    def _look(self, row: SceneRow, options: Options, path: Path, previews: Path) -> Inspection:
        """What is found with other options; what is known already is not looked at again."""
        former = self._store.folder(row.id) / "previews"
        if replace(options, model=row.model, version=row.version) == row.asked:
            if previews != former:
                with self._store.room(), suppress(FileNotFoundError):
                    shutil.copytree(former, previews)
            return row.seen
        aside = previews.with_name("previews.new")
        shutil.rmtree(aside, ignore_errors=True)
        try:
            with self._inspections:
                found = self.inspect(path, options, previews=_made(aside))
            with self._store.room():
                shutil.rmtree(previews, ignore_errors=True)
                aside.rename(previews)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return found

    def _resolved(self, options: Options) -> Options:
        """With the version that answers now; None where the model server cannot say it.

        Raises:
            UnknownModel: there is no such model or version.
        """
        seconds = self._settings.predict_timeout
        version = options.version
        try:
            target = (
                self._server.default_version(options.model, seconds)
                if version is None
                else ModelVersion(options.model, version)
            )
            if self._server.describe(target, seconds) is None:
                raise UnknownModel(f"{target} is not served. See /api/health for what is.")
        except _LATER:
            return options
        return replace(options, version=target.version)


def _cell_sizes(found: dict[str, Any]) -> Iterator[int]:
    """Pixels of each cell, row by row; those at the far edges are cut off."""
    stride, width, height = found["stride"], found["width"], found["height"]
    for row in range(found["rows"]):
        for column in range(found["columns"]):
            yield min(stride, height - row * stride) * min(stride, width - column * stride)


def _changed(options: Options, changes: dict[str, Any]) -> Options:
    """Another model has another default version."""
    if changes.get("model", options.model) != options.model:
        changes = {"version": None, **changes}
    return replace(options, **changes)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder

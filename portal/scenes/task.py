"""What a worker does with a scene: from its file to the files of its map."""

import json
import time
from dataclasses import replace
from pathlib import Path

from handlers.contract.names import ModelVersion
from portal.errors import ModelNotReady, ModelServerDown, TooSlow
from portal.scenes import mapping, raster  # noqa: F401  (loaded before the first scene comes)
from portal.scenes.classifier import PATIENCE, PAUSE, Others, ThroughPredictor
from portal.scenes.pipeline import digest, map_one
from portal.scenes.records import SceneRow
from portal.scenes.watch import Mapped, Watch
from portal.serving.predictor import Predictor
from portal.serving.torchserve.client import TorchServe
from portal.settings import Settings


class Task:
    """The step of ``portal.scenes.worker``: asks the TorchServe of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._server = TorchServe(settings)
        self._predictor = Predictor(self._server, settings)
        self._others = Others(self._server)
        self._seconds = settings.predict_timeout
        self._model_store = settings.model_store

    def __call__(self, row: SceneRow, folder: Path, watch: Watch) -> Mapped:
        """Map a scene; what its folder has of the map already is not done again."""
        target = self._target(row, watch)
        classify = ThroughPredictor(
            self._predictor,
            target.model,
            target.version,
            waiting=watch.look,
            others=self._others,
        )
        archive = self._model_store / target.archive
        sha256 = digest(archive) if archive.is_file() else ""
        out = folder / "out"
        map_one(
            folder / "scene",
            replace(row.asked, version=target.version),
            classify,
            out,
            name=row.name,
            archive_sha256=sha256,
            scene_sha256=row.scene_sha256,
            inspection=row.seen,
            progress=watch.progress,
        )
        areas = json.loads((out / "areas.json").read_text(encoding="utf-8"))
        return Mapped(target.version, sha256, areas)

    def _target(self, row: SceneRow, watch: Watch) -> ModelVersion:
        """The version that answers; the default one is asked for once, and no other goes on."""
        if row.version is not None:
            return ModelVersion(row.model, row.version)
        began = time.monotonic()
        while True:
            try:
                found = self._server.default_version(row.model, self._seconds)
            except (ModelServerDown, ModelNotReady, TooSlow):
                if time.monotonic() - began > PATIENCE:
                    raise
            else:
                watch.know(version=found.version)
                return found
            watch.look()
            time.sleep(PAUSE)

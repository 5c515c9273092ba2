"""A client that is generated from the document calls everything that the document tells."""

import base64
import importlib
import json
import sys
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from openapi_python_client import generate
from openapi_python_client.config import Config, ConfigFile, MetaType

from portal.scenes.outputs import OUTPUTS
from portal.scenes.records import SceneRecords
from portal.services import Services
from tests.support.archive_files import write_archive
from tests.support.managed_models import own, quickly, report
from tests.support.openapi import DOCUMENT
from tests.support.operators import TOKEN, password_hash, settings
from tests.support.product import running_app
from tests.support.report_content import write_release
from tests.support.scenes import SCENE, Inspector, write_map

__all__ = ["own", "password_hash", "quickly", "settings"]  # fixtures

PACKAGE = "landuse_client"
IMAGES = [f"image/{kind}" for kind in ("jpeg", "png", "gif", "tiff", "webp", "bmp", "avif", "jp2")]
# Those of files of maps that the generator does not know by themselves.
FILES = [kind for kind, _ in OUTPUTS.values() if kind not in ("application/json", "text/csv")]


class Generated:
    """A portal's API through the modules of the client; ``called`` names its operations."""

    def __init__(self, url: str) -> None:
        client: Any = importlib.import_module(f"{PACKAGE}.client")
        self.models: Any = importlib.import_module(f"{PACKAGE}.models")
        self.file: Any = importlib.import_module(f"{PACKAGE}.types").File
        self.called: set[str] = set()
        self._client = client.AuthenticatedClient(base_url=url, token=TOKEN)

    def call(self, tag: str, operation: str, status: int = 200, **given: Any) -> Any:
        """The answer of one operation, in the types of the client."""
        module: Any = importlib.import_module(f"{PACKAGE}.api.{tag}.{operation}")
        answer = module.sync_detailed(client=self._client, **given)
        assert answer.status_code == status, answer.content
        assert not isinstance(answer.parsed, self.models.Error)
        self.called.add(operation)
        return answer.parsed

    def change(self, operation: str, **given: Any) -> None:
        """Begin a change, and ask for its job until it has ended."""
        job = self.call("models", operation, 202, **given).job
        deadline = time.monotonic() + 60
        while job.state == "running":
            assert time.monotonic() < deadline
            time.sleep(0.02)
            job = self.call("models", "job", job=job.id).job
        assert job.state == "done", job.reason


@pytest.fixture
def generated(
    app: Flask, own: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Generated]:
    """Generated from the document without a single warning; nothing is asked from outside."""
    document = tmp_path / "openapi.json"
    document.write_text(json.dumps(DOCUMENT))
    (tmp_path / "generated").mkdir()
    config = Config.from_sources(
        ConfigFile(
            post_hooks=[],
            # the generator knows bodies of bytes by this name alone
            content_type_overrides=dict.fromkeys([*IMAGES, *FILES], "application/octet-stream"),
        ),
        MetaType.NONE,
        document_source=document,
        file_encoding="utf-8",
        overwrite=False,
        output_path=tmp_path / "generated" / PACKAGE,
    )
    assert generate(config=config) == []
    monkeypatch.syspath_prepend(tmp_path / "generated")
    with running_app(app) as url:
        yield Generated(url)
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


def test_a_generated_client_calls_every_operation(
    generated: Generated, own: Services, reports_dir: Path, tmp_path: Path, tile: bytes
) -> None:
    write_release(reports_dir, report("1.1"))
    predict(generated, tile)
    read(generated)
    own.scenes.inspect = Inspector()
    scenes(generated, own)
    manage(generated, write_archive(tmp_path / "built"))
    methods = [operation for path in DOCUMENT["paths"].values() for operation in path.values()]
    assert generated.called == {operation["operationId"] for operation in methods}


def predict(api: Generated, tile: bytes) -> None:
    def file(content: bytes, name: str) -> Any:
        return api.file(BytesIO(content), name, "application/octet-stream")

    whole = api.call("predict", "predict", body=api.file(BytesIO(tile)))
    assert (whole.class_name, whole.confidence) == ("AnnualCrop", 0.75)
    form = api.models.PredictFilesBody(file=file(tile, "tile.jpg"), model="baseline")
    assert api.call("predict", "predict", body=form).probabilities["SeaLake"] == 0.2496
    known = api.models.PredictJsonBodyScale("10000")
    encoded = api.models.PredictJsonBody(image=base64.b64encode(tile).decode(), scale=known)
    answer = api.call("predict", "predict", body=encoded, look=api.models.PredictLook.L2A)
    assert (answer.prediction_set, answer.warnings) == (["AnnualCrop"], [])
    form = api.models.ExplainFilesBody(file=file(tile, "tile.jpg"))
    assert len(api.call("predict", "explain", body=form).heat) == 16
    form = api.models.PredictBatchBody(files=[file(tile, "a.jpg"), file(b"text", "b.txt")])
    good, bad = api.call("predict", "predict_batch", body=form).results
    assert (good.name, good.prediction.version, good.error) == ("a.jpg", "1.0", None)
    assert (bad.name, bad.prediction, bad.error.code) == ("b.txt", None, "unsupported_image")


def read(api: Generated) -> None:
    assert api.call("health", "live").status == "alive"
    assert api.call("health", "ready").status == "ready"
    assert api.call("health", "health").models_loaded[0].workers_ready == 1
    assert api.call("reports", "reports").reports[0].accuracy.value == 0.75
    measured = api.call("reports", "report", model="baseline", version="1.1").report
    assert measured.created.isoformat() == "2026-01-02T03:04:05+00:00"
    assert (measured.int8, measured.augmented.views) == (None, 8)


def scenes(api: Generated, own: Services) -> None:
    def send(start: str) -> Any:
        content = api.file(BytesIO(SCENE), "a.tif", "application/octet-stream")
        form = api.models.SendSceneBody(file=content, start=start == "true")
        return api.call("scenes", "send_scene", 202, body=form)

    def end() -> None:
        row = records.claim("worker")
        assert row is not None
        out = own.settings.scenes_dir / row.id / "out"
        out.mkdir()
        assert records.settle(row, "done", "The map is whole.", **vars(write_map(out)))

    records = SceneRecords(own.database)
    scene = send("false").id
    look = api.models.StartSceneBodyLook("l1c")
    body = api.models.StartSceneBody(look=look)
    assert api.call("scenes", "start_scene", 202, scene=scene, body=body).state == "queued"
    end()
    body = api.models.MapSceneAgainBody(stride=api.models.MapSceneAgainBodyStride("64"))
    other = api.call("scenes", "map_scene_again", 202, scene=scene, body=body).id
    end()
    assert api.call("scenes", "scene", scene=scene).areas[0].class_name == "River"
    assert len(api.call("scenes", "scenes").scenes) == 2
    assert api.call("scenes", "scene_differences", scene=scene, other=other).agree == 1
    file = api.models.SceneFileFile("as-it-is.png")
    api.call("scenes", "scene_file", scene=scene, file=file)
    assert api.call("scenes", "remove_scene", scene=scene).state == "done"


def manage(api: Generated, archive: Path) -> None:
    with archive.open("rb") as content:
        form = api.models.UploadArchiveBody(file=api.file(content, archive.name))
        stored = api.call("models", "upload_archive", 201, body=form).archive
    assert stored.labels == ["AnnualCrop", "River", "SeaLake"]
    old, new = {"model": "baseline", "version": "1.0"}, {"model": "baseline", "version": "1.1"}
    api.change("deploy", **new, body=api.models.DeployBody(default=True))
    api.change("roll_back", model="baseline")
    api.change("promote", **new)
    api.change("scale", **old, body=api.models.ScaleBody(workers=2))
    api.change("retire", **old)
    (model,) = api.call("models", "models").models
    assert [(line.version, line.default) for line in model.versions] == [("1.1", True)]
    assert len(api.call("models", "jobs").jobs) == 5
    assert api.call("models", "audit", limit=1).audit[0].outcome == "done"

import io
import logging

import pytest
from flask import Flask
from flask.testing import FlaskClient

from portal.errors import ModelServerDown, PortalError
from portal.services import Services
from portal.serving.predictor import Outcome, PredictionRequest, media_type
from tests.support.fake_torchserve import FakeTorchServe
from tests.support.paths import SAMPLES


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"GIF87a", "image/gif"),
        (b"GIF89a", "image/gif"),
        (b"II*\x00", "image/tiff"),
        (b"MM\x00*", "image/tiff"),
        (b"RIFF\x10\x00\x00\x00WEBPVP8 ", "image/webp"),
        (b"BM", "image/bmp"),
        (b"", None),
        (b"\x89PNG", None),
        (b"RIFF\x10\x00\x00\x00AVI ", None),
        (b"\x00\x00\x01\x00", None),
    ],
)
def test_the_signature_decides(start: bytes, kind: str | None) -> None:
    assert media_type(start) == kind


def test_every_sample_is_a_jpeg() -> None:
    samples = SAMPLES
    found = sorted(samples.iterdir())
    assert len(found) == 10
    assert {media_type(path.read_bytes()) for path in found} == {"image/jpeg"}


class Watching:
    """Notes what becomes of each image, by the way that it took."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bytes, str | None, str]] = []

    def observe(self, request: PredictionRequest, outcome: Outcome, elapsed: float) -> None:
        assert 0 <= elapsed < 60
        what = outcome.code if isinstance(outcome, PortalError) else outcome.version
        self.seen.append((request.kind, request.image, request.version, what))


@pytest.fixture
def watching(app: Flask) -> Watching:
    own = app.extensions["portal"]
    assert isinstance(own, Services)
    found = Watching()
    own.predictor.observers.append(found.observe)
    return found


def test_every_way_to_an_answer_passes_the_observers(
    client: FlaskClient, watching: Watching, tile: bytes
) -> None:
    client.post("/api/predict", data=tile)  # the fast path
    client.post("/api/predict", data={"file": (io.BytesIO(tile), "a.jpg"), "version": "1.0"})
    client.post("/", data={"file": (io.BytesIO(tile), "a.jpg")})
    client.post("/api/explain", data=tile)
    files = [(io.BytesIO(content), "a.jpg") for content in (tile, b"text")]
    client.post("/api/predict/batch", data={"files": files})
    assert watching.seen == [
        ("predict", tile, None, "1.0"),
        ("predict", tile, "1.0", "1.0"),
        ("predict", tile, None, "1.0"),
        ("explain", tile, None, "1.0"),
        ("batch", tile, None, "1.0"),
        ("batch", b"text", None, "unsupported_image"),
    ]


def test_a_failure_passes_them_once(
    client: FlaskClient, watching: Watching, torchserve: FakeTorchServe, tile: bytes
) -> None:
    torchserve.predict_error = ModelServerDown("down")
    assert client.post("/api/predict", data=tile).status_code == 503
    files = [(io.BytesIO(tile), "a.jpg"), (io.BytesIO(tile), "b.jpg")]
    assert client.post("/api/predict/batch", data={"files": files}).status_code == 503
    assert [(kind, what) for kind, _, _, what in watching.seen] == [
        ("predict", "model_server_down"),
        ("batch", "model_server_down"),
    ]


def test_an_observer_that_fails_costs_no_answer(
    app: Flask, client: FlaskClient, tile: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_what: object) -> None:
        raise RuntimeError("observer")

    app.extensions["portal"].predictor.observers.append(fail)
    with caplog.at_level(logging.ERROR, "portal.serving.predictor"):
        assert client.post("/api/predict", data=tile).status_code == 200
    assert "an observer of predictions failed" in caplog.text

import base64
import io
import logging

import pytest
from flask import Flask
from flask.testing import FlaskClient

from handlers.contract.image_body import wrap
from portal.errors import ModelServerDown, PortalError, TakesNoHints, UnsupportedImage
from portal.services import Services
from portal.serving.predictor import (
    Outcome,
    PredictionRequest,
    Predictor,
    Radiometry,
    check_image,
    media_type,
)
from portal.settings import Settings
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
        (b"II+\x00", "image/tiff"),
        (b"MM\x00+", "image/tiff"),
        (b"\x00\x00\x00\x0cjP  \r\n", "image/jp2"),
        (b"\xff\x4f\xff\x51", "image/jp2"),
        (b"\x00\x00\x00 ftypavif\x00\x00", "image/avif"),
        (b"\x00\x00\x00 ftypmif1\x00\x00\x00\x00mif1avif", "image/avif"),
        (b"\x00\x00\x00 ftypheic\x00\x00\x00\x00mif1heic", None),
        (b"\x00\x00\x00 ftypisom", None),
        (b"", None),
        (b"\x89PNG", None),
        (b"RIFF\x10\x00\x00\x00AVI ", None),
        (b"\x00\x00\x01\x00", None),
    ],
)
def test_the_signature_decides(start: bytes, kind: str | None) -> None:
    assert media_type(start) == kind


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (b"\x00\x00\x00 ftypheic\x00\x00\x00\x00mif1heic", "This is HEIC, which is not read"),
        (b"\x00\x00\x00 ftypisom", "This is not an image"),
        (b"notes", "This is not an image"),
    ],
)
def test_what_is_not_read_is_named(image: bytes, found: str) -> None:
    with pytest.raises(UnsupportedImage, match=f"{found}.* Send JPEG, PNG, TIFF, JPEG 2000"):
        check_image(image, 1000)


def test_every_sample_is_a_jpeg() -> None:
    samples = SAMPLES
    found = sorted(path for path in samples.iterdir() if path.is_file())
    assert len(found) == 10
    assert {media_type(path.read_bytes()) for path in found} == {"image/jpeg"}


KNOWN = Radiometry("10000", "l2a")


@pytest.fixture
def predictor(torchserve: FakeTorchServe, settings: Settings) -> Predictor:
    return Predictor(torchserve, settings)


def test_base64_is_undone_before_anything_else(
    predictor: Predictor, torchserve: FakeTorchServe, tile: bytes
) -> None:
    text = base64.b64encode(tile)
    predictor.predict(text, "baseline")
    predictor.explain(b"data:image/jpeg;base64," + text, "baseline")
    predictor.predict_many([tile, text], "baseline")
    asked = torchserve.asked + torchserve.explained
    assert asked == [(tile, "baseline", "1.0")] * 4


def test_what_is_known_of_the_values_travels_with_each_image(
    predictor: Predictor, torchserve: FakeTorchServe, tile: bytes
) -> None:
    body = wrap(tile, "10000", "l2a")
    predictor.predict(tile, "baseline", None, KNOWN)
    predictor.explain(tile, "baseline", None, KNOWN)
    predictor.predict_many([tile, b"text", tile], "baseline", None, KNOWN)
    asked = torchserve.asked + torchserve.explained
    assert asked == [(body, "baseline", "1.0")] * 4
    predictor.predict(tile, "baseline", None, Radiometry())
    assert torchserve.asked[-1] == (tile, "baseline", "1.0")


def test_an_older_version_cannot_be_told(
    predictor: Predictor, torchserve: FakeTorchServe, tile: bytes
) -> None:
    torchserve.old = {"1.0"}
    for ask in (predictor.predict, predictor.explain):
        with pytest.raises(TakesNoHints, match=r"baseline 1\.0 cannot be told scale or look"):
            ask(tile, "baseline", None, KNOWN)
    first, text, last = predictor.predict_many([tile, b"text", tile], "baseline", None, KNOWN)
    assert isinstance(first, TakesNoHints)
    assert type(text) is UnsupportedImage
    assert isinstance(last, TakesNoHints)
    assert predictor.predict(tile, "baseline").class_name == "AnnualCrop"
    assert predictor.predict(tile, "baseline", "2.0", KNOWN).class_name == "AnnualCrop"


def test_an_image_that_is_none_is_not_the_versions_fault(
    predictor: Predictor, torchserve: FakeTorchServe, tile: bytes
) -> None:
    torchserve.predict_error = UnsupportedImage("no image")
    with pytest.raises(UnsupportedImage, match="no image"):
        predictor.predict(tile, "baseline", None, KNOWN)
    outcomes = predictor.predict_many([tile, tile], "baseline", None, KNOWN)
    assert [type(outcome) for outcome in outcomes] == [UnsupportedImage] * 2


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

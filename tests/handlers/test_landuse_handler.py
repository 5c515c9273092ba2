"""The handler inside TorchServe's own context object, with a real TorchScript file."""

import io
import json
import logging
import re
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.transform import Affine
from torch import Tensor, nn
from ts.context import Context, RequestProcessor

from handlers import landuse_handler
from handlers.contract.image_body import MAGIC as MAGIC_OF_IMAGE
from handlers.contract.image_body import wrap
from handlers.contract.spec import BadSpec, Doubt, ModelSpec
from handlers.contract.tile_bundle import LARGEST_BUNDLE, MAGIC
from handlers.landuse_handler import SIZES, LandUseHandler
from handlers.reading import Picture, read
from handlers.vision import normalize, to_probabilities, turn
from tests.support.paths import SAMPLES


class ChannelMeans(nn.Module):
    """Logits are the mean of the blue, green and red channel."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3)).flip(1)


class NotANumber(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3)) / 0 * 0


class GoodOnlyAlone(nn.Module):
    """A single image gets numbers, several none: as the explanation's do."""

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean(dim=(2, 3))
        return means if x.size(0) == 1 else means / 0 * 0


def as_png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def shade(red: int, green: int, blue: int, height: int = 16, width: int = 16) -> bytes:
    """A picture of one colour, nearly: of one alone there is nothing to see."""
    ripple = np.where(np.arange(width) % 2, 5, -5)[None, :, None]
    pixels = (np.array((red, green, blue)) + ripple).clip(0, 255).astype(np.uint8)
    return as_png(pixels.repeat(height, axis=0))


def context_for(folder: Path, model: nn.Module, spec: ModelSpec) -> Any:
    torch.jit.save(torch.jit.script(model), str(folder / "model.pt"))
    context = Context(
        model_name="means",
        model_dir=str(folder),
        manifest={"model": {"serializedFile": "model.pt"}},
        batch_size=4,
        gpu=None,
        mms_version="0.12.0",
    )
    context.model_yaml_config = {"spec": spec.to_dict()}
    return context


def answers_of(handler: LandUseHandler, bodies: list[bytes], context: Any) -> list[dict[str, Any]]:
    found = handler.handle([{"body": bytearray(body)} for body in bodies], context)
    return [json.loads(answer) for answer in found]


def handle(
    context: Any, bodies: list[bytes], headers: dict[int, dict[str, str]] | None = None
) -> tuple[list[dict[str, Any]], list[int]]:
    context.request_processor = [
        RequestProcessor((headers or {}).get(index, {})) for index in range(len(bodies))
    ]
    handler = LandUseHandler()
    handler.initialize(context)
    answers = answers_of(handler, bodies, context)
    statuses = [processor.get_response_status_code() for processor in context.request_processor]
    return answers, statuses


@pytest.fixture(autouse=True)
def _log_levels() -> Iterator[None]:
    """What the handler does to its own process is undone in this one."""
    loggers = [logging.getLogger(), logging.getLogger("ts.metrics")]
    before = [found.level for found in loggers]
    yield
    for found, level in zip(loggers, before, strict=True):
        found.setLevel(level)


@pytest.fixture
def context(tmp_path: Path, spec: ModelSpec) -> Any:
    return context_for(tmp_path, ChannelMeans(), spec)


def test_a_bad_image_fails_alone_in_its_batch(context: Any, png: bytes) -> None:
    answers, statuses = handle(context, [png, b"no image", png, png[:-40]])
    assert statuses == [200, 415, 200, 422]
    assert answers[0] == answers[2]
    assert answers[0]["class_name"] in {"Blue", "Green", "Red"}
    assert sum(answers[0]["probabilities"].values()) == pytest.approx(1, abs=1e-9)
    assert answers[1]["error"]["code"] == "unsupported_image"
    assert answers[3]["error"]["code"] == "unusable_image"


def test_a_batch_of_bad_images_is_answered(context: Any) -> None:
    answers, statuses = handle(context, [b"", b"x", MAGIC[:-1]])
    assert statuses == [415, 415, 415]
    assert all("error" in answer for answer in answers)


def test_one_request_to_describe_does_not_disturb_the_others(
    context: Any, png: bytes, spec: ModelSpec
) -> None:
    answers, statuses = handle(context, [png, b""], {1: {"describe": "True"}})
    assert statuses == [200, 200]
    assert "class_name" in answers[0]
    assert answers[1] == {"spec": spec.to_dict()}


EXPLAIN = {"explain": "True"}


def test_an_explanation_says_where_the_class_is_seen(context: Any) -> None:
    pixels = np.full((16, 16, 3), 60, np.uint8)
    pixels[:8, 8:, 0] = 255  # red in the upper right
    answers, statuses = handle(context, [as_png(pixels)], {0: EXPLAIN})
    assert statuses == [200]
    assert set(answers[0]) == {"class_name", "confidence", "heat"}
    heat = np.array(answers[0]["heat"])
    assert heat.shape == (16, 16)
    red = heat if answers[0]["class_name"] == "Red" else -heat
    assert red[1:7, 9:15].min() > 0.01
    assert np.abs(heat[9:15, 1:7]).max() < red[1:7, 9:15].min()


def test_predictions_explanations_and_bad_images_share_a_batch(context: Any, png: bytes) -> None:
    bodies = [png, b"no image", png, png, png[:-40], b""]
    headers = {1: EXPLAIN, 2: EXPLAIN, 3: {"explain": "False"}, 5: {"describe": "True"}}
    answers, statuses = handle(context, bodies, headers)
    assert statuses == [200, 415, 200, 200, 422, 200]
    assert answers[0] == answers[3]
    assert "probabilities" in answers[0]
    assert answers[2]["class_name"] == answers[0]["class_name"]
    assert answers[2]["confidence"] == answers[0]["confidence"]
    assert answers[1]["error"]["code"] == "unsupported_image"
    assert set(answers[5]) == {"spec"}


def test_too_many_explanations_at_once_fail_alone(
    context: Any, png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landuse_handler, "EXPLAIN_SECONDS", -1.0)
    answers, statuses = handle(context, [png, png], {1: EXPLAIN})
    assert statuses == [200, 503]
    assert answers[1]["error"]["code"] == "explanation_too_slow"


def test_an_explanation_that_is_no_number_is_an_error(
    tmp_path: Path, spec: ModelSpec, png: bytes
) -> None:
    context = context_for(tmp_path, GoodOnlyAlone(), spec)
    answers, statuses = handle(context, [png], {0: EXPLAIN})
    assert statuses == [500]
    assert answers[0]["error"]["code"] == "bad_model_output"


def test_an_answer_that_is_no_number_is_an_error(
    tmp_path: Path, spec: ModelSpec, png: bytes
) -> None:
    answers, statuses = handle(context_for(tmp_path, NotANumber(), spec), [png])
    assert statuses == [500]
    assert answers[0]["error"]["code"] == "bad_model_output"


def test_a_fault_of_ours_in_reading_costs_one_image(
    context: Any, png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty = png + b"faulty"

    def read_or_fail(data: bytes, *rest: Any) -> Picture:
        if data == faulty:
            raise ZeroDivisionError("a fault")
        return read(data, *rest)

    monkeypatch.setattr(landuse_handler, "read", read_or_fail)
    answers, statuses = handle(context, [png, faulty, png])
    assert statuses == [200, 500, 200]
    assert answers[1]["error"]["code"] == "reading_failed"


def test_a_missing_spec_stops_the_worker(tmp_path: Path, spec: ModelSpec) -> None:
    context = context_for(tmp_path, ChannelMeans(), spec)
    context.model_yaml_config = {}
    with pytest.raises(KeyError):
        LandUseHandler().initialize(context)


def stack(*tiles: bytes) -> bytes:
    lengths = [len(tile) for tile in tiles]
    return MAGIC + struct.pack(f"!{len(tiles) + 1}I", len(tiles), *lengths) + b"".join(tiles)


def test_a_bundle_answers_each_tile_as_if_it_came_alone(context: Any, png: bytes) -> None:
    other = shade(9, 200, 30, 20, 20)
    tiles = [png, b"no image", other, png[:-40], b"", png]
    alone, alone_statuses = handle(context, tiles)
    answers, statuses = handle(context, [stack(*tiles)])
    assert statuses == [200]
    assert set(answers[0]) == {"tiles"}
    found = answers[0]["tiles"]
    assert [item.get("error", {}).get("status", 200) for item in found] == alone_statuses
    assert alone_statuses == [200, 415, 200, 422, 415, 200]
    for item, expected in zip(found, alone, strict=True):
        assert set(item) == set(expected)
        if "error" not in item:
            assert item["class_name"] == expected["class_name"]
            assert item["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-9)
    assert found[0] == found[5]
    assert found[0] != found[2]


def test_stacks_and_single_images_share_a_batch(context: Any, png: bytes) -> None:
    other = shade(9, 200, 30)
    (one, two), _ = handle(context, [png, other])
    bodies = [stack(png, other), other, stack(b"x"), png, stack(other)]
    answers, statuses = handle(context, bodies, {3: {"explain": "True"}})
    assert statuses == [200] * 5
    assert [item["class_name"] for item in answers[0]["tiles"]] == [
        one["class_name"],
        two["class_name"],
    ]
    assert answers[1]["class_name"] == two["class_name"]
    assert answers[2]["tiles"][0]["error"]["status"] == 415
    assert "heat" in answers[3]
    assert answers[3]["class_name"] == one["class_name"]
    assert answers[4]["tiles"][0]["class_name"] == two["class_name"]


def watch_sizes(own: LandUseHandler) -> list[int]:
    """The numbers of images that will go through the model together, as they come."""
    model, sizes = own.model, []

    def remember(batch: Tensor) -> Tensor:
        sizes.append(batch.size(0))
        logits: Tensor = model(batch)
        return logits

    own.model = remember  # type: ignore[assignment]
    return sizes


def test_more_tiles_than_go_through_the_model_at_a_time(context: Any) -> None:
    shades = [shade(3 * n, 90, 255 - 3 * n) for n in range(64)]
    own = LandUseHandler()
    own.initialize(context)
    context.request_processor = [RequestProcessor({}), RequestProcessor({})]
    sizes = watch_sizes(own)
    whole, other = answers_of(own, [stack(*shades[:57]), stack(*shades[:3])], context)
    assert sizes == [16, 16, 16, 12]
    reds = [item["probabilities"]["Red"] for item in whole["tiles"]]
    assert reds == sorted(reds)
    assert len(set(reds)) > 32
    assert [item["probabilities"]["Red"] for item in other["tiles"]] == pytest.approx(reds[:3])


def test_no_size_but_the_warm_ones_reaches_the_model(context: Any) -> None:
    shades = [shade(3 * n, 90, 255 - 3 * n) for n in range(50)]
    own = LandUseHandler()
    own.initialize(context)
    context.request_processor = [RequestProcessor({})]
    alone = [answers_of(own, [shade], context)[0] for shade in shades]

    sizes = watch_sizes(own)
    for count in range(1, 51):
        (answer,) = answers_of(own, [stack(*shades[:count])], context)
        assert len(answer["tiles"]) == count
        for tile, expected in zip(answer["tiles"], alone, strict=False):
            assert tile["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-6)
    assert set(sizes) == set(SIZES)


def test_a_bundle_of_none(context: Any, png: bytes) -> None:
    answers, statuses = handle(context, [stack(), png, stack(*[b"x"] * (LARGEST_BUNDLE + 1))])
    assert statuses == [400, 200, 400]
    assert answers[0]["error"]["code"] == answers[2]["error"]["code"] == "bad_tile_bundle"
    assert "129 tiles" in answers[2]["error"]["message"]


def test_a_large_image_is_sent_out_of_a_bundle(context: Any, png: bytes) -> None:
    large = shade(9, 200, 30, 1001, 1000)
    answers, statuses = handle(context, [stack(png, large), large])
    assert statuses == [200, 200]
    assert "class_name" in answers[0]["tiles"][0]
    assert answers[0]["tiles"][1]["error"]["code"] == "too_many_pixels"
    assert "class_name" in answers[1]


def test_no_line_is_logged_for_a_request_but_its_metrics_are(
    context: Any,
) -> None:
    LandUseHandler().initialize(context)
    assert not logging.getLogger().isEnabledFor(logging.INFO)
    assert logging.getLogger("ts.metrics.caching_metric").isEnabledFor(logging.INFO)
    assert logging.getLogger("handlers.landuse_handler").isEnabledFor(logging.ERROR)


def test_every_size_of_a_batch_is_warm_before_the_first_client(
    context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    ask = LandUseHandler._ask

    def remember(
        self: LandUseHandler, batch: Tensor, views: int
    ) -> tuple[Tensor, list[float | None]]:
        seen.append(tuple(batch.shape))
        return ask(self, batch, views)

    monkeypatch.setattr(LandUseHandler, "_ask", remember)
    LandUseHandler().initialize(context)
    assert {count for count, *_ in seen} == set(SIZES)
    assert {tuple(rest) for _, *rest in seen} == {(3, 16, 16)}


def test_layers_are_fused_on_demand_and_answer_alike(
    tmp_path: Path, spec: ModelSpec, png: bytes
) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 3), ChannelMeans()
    )
    context = context_for(tmp_path, layers.eval(), spec)
    torch.jit.save(
        torch.jit.freeze(torch.jit.script(layers)), str(tmp_path / "model.pt")
    )  # as exported
    plain, _ = handle(context, [png, png])
    context.model_yaml_config["fuse_layers"] = True
    fused, statuses = handle(context, [png, png])
    assert statuses == [200, 200]
    for one, other in zip(plain, fused, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
    assert not torch.jit.onednn_fusion_enabled()


def test_a_model_with_fused_layers_sees_one_image_at_a_time(
    context: Any, png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    context.model_yaml_config["fuse_layers"] = True
    handler = LandUseHandler()
    handler.initialize(context)
    shapes = []

    def remember(images: Tensor) -> Tensor:
        shapes.append(tuple(images.shape))
        return images.mean(dim=(2, 3))

    monkeypatch.setattr(handler, "model", remember)
    context.request_processor = [RequestProcessor({}), RequestProcessor({"explain": "True"})]
    found = answers_of(handler, [stack(png, png, png), png], context)
    assert [len(found[0]["tiles"]), len(found[1]["heat"])] == [3, 16]
    assert set(shapes) == {(1, 3, 16, 16)}


# --- answers that are means over views


class UpperHalf(nn.Module):
    """Logits are the means of blue, green and red in the upper half, and of a curve of them."""

    def forward(self, x: Tensor) -> Tensor:
        means = x[:, :, : x.size(2) // 2].mean(dim=(2, 3)).flip(1)
        return means + means.square()


@pytest.fixture
def upper(tmp_path: Path, spec: ModelSpec) -> Any:
    return context_for(tmp_path, UpperHalf(), spec)


def two_halves() -> np.ndarray:
    pixels = np.full((16, 16, 3), 60, np.uint8)
    pixels[:8, :, 0] = 90  # red above
    pixels[8:, :4, 2] = 200  # blue below, on the left
    return pixels


def test_one_view_is_the_answer_without_a_word_of_views(upper: Any, png: bytes) -> None:
    bodies = [png, as_png(two_halves()), stack(png, shade(9, 200, 30))]
    found = []
    for tta in ({}, {"tta": 1}):
        upper.model_yaml_config |= tta
        upper.request_processor = [RequestProcessor({}) for _ in bodies]
        handler = LandUseHandler()
        handler.initialize(upper)
        found.append(handler.handle([{"body": body} for body in bodies], upper))
    assert found[0] == found[1]


def test_eight_views_are_one_answer(upper: Any, spec: ModelSpec) -> None:
    pixels = two_halves()
    rows = torch.from_numpy(pixels)[None]
    views = torch.cat([turn(rows, number) for number in range(8)])
    logits = UpperHalf()(normalize(views, spec)).mean(dim=0, keepdim=True)
    expected = dict(zip(spec.labels, to_probabilities(logits, spec)[0].tolist(), strict=True))
    turned = [as_png(view.numpy()) for view in views]
    (plain, *others), _ = handle(upper, turned)
    assert max(abs(plain["confidence"] - each["confidence"]) for each in others) > 0.1
    upper.model_yaml_config["tta"] = 8
    answers, statuses = handle(upper, [*turned, stack(*turned)])
    assert statuses == [200] * 9
    for answer in (*answers[:8], *answers[8]["tiles"]):
        assert answer["probabilities"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("fuse", [False, True])
def test_all_views_together_are_no_more_than_go_through_the_model(
    upper: Any, *, fuse: bool
) -> None:
    upper.model_yaml_config |= {"tta": 8, "fuse_layers": fuse}
    handler = LandUseHandler()
    handler.initialize(upper)
    sizes = watch_sizes(handler)
    shades = [shade(40 * n, 90, 255 - 40 * n) for n in range(5)]
    headers = [EXPLAIN, {}, *[{}] * len(shades)]
    upper.request_processor = [RequestProcessor(header) for header in headers]
    explained, bundle, *alone = answers_of(handler, [shades[0], stack(*shades), *shades], upper)
    assert len({item["probabilities"]["Red"] for item in bundle["tiles"]}) == 5
    for item, expected in zip(bundle["tiles"], alone, strict=True):
        assert item["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-6)
    assert set(sizes) == ({1} if fuse else {8, 16})
    assert np.array(explained["heat"]).shape == (16, 16)


def test_an_explanation_is_of_the_picture_as_it_is(upper: Any) -> None:
    upper.model_yaml_config["tta"] = 8
    answers, _ = handle(upper, [as_png(two_halves())] * 2, {0: EXPLAIN})
    assert answers[0]["class_name"] == answers[1]["class_name"]
    assert answers[0]["confidence"] == answers[1]["confidence"]
    heat = np.array(answers[0]["heat"])
    assert np.abs(heat[:7]).max() > 0.01
    assert np.abs(heat[9:]).max() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("tta", [0, 2, "8", True, 8.0, None])
def test_other_views_keep_a_worker_from_being_ready(upper: Any, tta: object) -> None:
    upper.model_yaml_config["tta"] = tta
    expected = rf"tta: expected 1 \(each picture as it is\) or 8 .*, found {re.escape(repr(tta))}"
    with pytest.raises(BadSpec, match=expected):
        LandUseHandler().initialize(upper)


# --- what an answer says beside the class


class FarFromBlue(nn.Module):
    """Logits are the means of the channels; the distance is the mean of blue, in pixel values."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        means = x.mean(dim=(2, 3))
        return means.flip(1), (means[:, 2] * 0.5 + 0.6) * 255


def all_beside(spec: ModelSpec, colours_limit: float) -> ModelSpec:
    """Blue above 200 is unlike training, and colours are if their score is above a limit."""
    flat = (0.0,) * 16
    doubt = Doubt(
        mean=flat,
        deviation=(1.0,) * 16,
        log_weights=(0.0,),
        means=(flat,),
        factors=(tuple(tuple(float(i == j) for j in range(16)) for i in range(16)),),
        colours_limit=colours_limit,
        content_limit=200.0,
        least=0.01,
    )
    return replace(spec, doubt=doubt, threshold=0.0)


def codes(answer: dict[str, Any]) -> list[str]:
    return [warning["code"] for warning in answer["warnings"]]


def test_what_is_unlike_training_makes_an_answer_uncertain(tmp_path: Path, spec: ModelSpec) -> None:
    context = context_for(tmp_path, FarFromBlue(), all_beside(spec, 1e9))
    near, far = shade(90, 80, 60), shade(90, 80, 230)
    white = as_png(
        np.array([99] * 9 + [255] * 55, np.uint8)[:, None, None].repeat(64, 1).repeat(3, 2)
    )
    answers, statuses = handle(context, [near, far, white])
    assert statuses == [200] * 3
    assert codes(answers[0]) == []
    assert answers[0]["uncertain"] is False
    assert answers[0]["assumed"] == {}
    assert codes(answers[1]) == ["content_unlike_training"]
    assert codes(answers[2]) == ["too_bright", "content_unlike_training"]
    assert answers[1]["uncertain"] is answers[2]["uncertain"] is True
    assert all(warning["message"] for warning in answers[2]["warnings"])
    context.model_yaml_config = {"spec": all_beside(spec, -1e9).to_dict()}
    answers, _ = handle(context, [near, stack(near, far)])
    assert codes(answers[0]) == ["colours_unlike_training"]
    assert [codes(tile) for tile in answers[1]["tiles"]] == [
        ["colours_unlike_training"],
        ["colours_unlike_training", "content_unlike_training"],
    ]


def test_the_prediction_set_has_the_most_probable_first(tmp_path: Path, spec: ModelSpec) -> None:
    context = context_for(tmp_path, FarFromBlue(), all_beside(spec, 1e9))
    (answer,), _ = handle(context, [shade(110, 100, 90)])
    shares = answer["probabilities"]
    assert answer["prediction_set"] == [label for label, share in shares.items() if share >= 0.01]
    assert answer["prediction_set"][0] == answer["class_name"]
    assert len(answer["prediction_set"]) > 1


def test_a_version_without_figures_is_not_uncertain_for_it(context: Any) -> None:
    context.model_yaml_config["spec"]["threshold"] = 0.0
    (answer,), _ = handle(context, [shade(90, 80, 60)])
    assert codes(answer) == ["not_judged"]
    assert answer["uncertain"] is False
    assert answer["prediction_set"] is None


def raster(values: np.ndarray) -> bytes:
    with rasterio.MemoryFile() as file:
        with file.open(
            driver="GTiff", height=64, width=64, count=3, dtype=values.dtype,
            transform=Affine(10, 0, 600_000, 0, -10, 5_300_000),
        ) as target:  # fmt: skip
            target.write(values.transpose(2, 0, 1))
        content: bytes = file.read()
    return content


def test_scale_and_look_travel_with_the_image(context: Any) -> None:
    tile = np.asarray(Image.open(SAMPLES / "River.jpg"))
    values = np.rint((tile - 1.0) / 254 * 2750).astype(np.uint16)
    guessed, named = raster(values), wrap(raster(values), "65535", "l2a")
    unknown = MAGIC_OF_IMAGE + b"7 l2a\n" + guessed
    bodies = [guessed, named, stack(guessed, named, unknown), unknown, named]
    answers, statuses = handle(context, bodies, {4: EXPLAIN})
    assert statuses == [200, 200, 200, 400, 200]
    told = {"type": "uint16", "scale": "10000", "look": "l1c"}
    assert answers[0]["assumed"] == told
    assert answers[1]["assumed"] == told | {"scale": "65535", "look": "l2a"}
    assert answers[0]["probabilities"] != answers[1]["probabilities"]
    alone = answers[:2] + answers[3:4]
    for tile_answer, expected in zip(answers[2]["tiles"], alone, strict=True):
        assert tile_answer.get("assumed") == expected.get("assumed")
        assert tile_answer.get("error") == expected.get("error")
    assert "'7'" in answers[3]["error"]["message"]
    assert answers[4]["class_name"] == answers[1]["class_name"]
    assert answers[4]["confidence"] == pytest.approx(answers[1]["confidence"], abs=1e-9)


def test_nothing_to_see_fails_its_own_tile(context: Any, png: bytes) -> None:
    black = as_png(np.zeros((64, 64, 3), np.uint8))
    noise = np.random.default_rng(0).integers(0, 2**31, (64, 64, 3)).astype(np.int32)
    answers, statuses = handle(context, [black, stack(png, black), raster(noise)])
    assert statuses == [422, 200, 422]
    assert answers[0]["error"]["code"] == "nothing_to_see"
    assert "class_name" in answers[1]["tiles"][0]
    assert answers[1]["tiles"][1] == answers[0]
    assert answers[2]["error"]["code"] == "unknown_scale"


def test_what_was_squeezed_into_a_tile_is_uncertain(context: Any) -> None:
    context.model_yaml_config["spec"]["threshold"] = 0.0
    tile = np.asarray(Image.open(SAMPLES / "River.jpg"))
    whole = np.tile(tile, (9, 9, 1))
    answers, _ = handle(context, [as_png(whole), as_png(whole[:512, :512])])
    assert codes(answers[0]) == ["squeezed", "not_judged"]
    assert "576 x 576" in answers[0]["warnings"][0]["message"]
    assert [answer["uncertain"] for answer in answers] == [True, False]

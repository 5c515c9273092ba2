"""The TorchServe handler: bytes -> read -> normalize -> model -> to_answer -> JSON, no more.

TorchServe gives it a batch of requests and wants a list of as many answers; it needs no base class
and refuses a second class in this file. What it imports from ``handlers`` is the archive's own
copy, so an old version keeps its own code.
"""

import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from handlers import vision
from handlers.contract.image_body import unwrap
from handlers.contract.spec import ModelSpec, views_of
from handlers.contract.tile_bundle import LARGEST_TILE_PIXELS, MAGIC, BadTileBundle, unpack
from handlers.doubt import SIDE, warnings_of
from handlers.explain import ExplanationTooSlow, explain
from handlers.model import ask, fuse_layers, load_model
from handlers.reading import MAX_PIXELS, BadImage, Picture, read

logger = logging.getLogger(__name__)

# Seconds for all explanations of one batch together. Predictions wait for them, in this batch and
# in the next one: twice this must stay below the portal's deadline of 10 s, with room left, and
# once below the responseTimeout of 8 s, after which the worker is killed.
EXPLAIN_SECONDS = 3.0

# Numbers of images that go through the model at a time, however many a batch of requests holds; the
# last image is repeated up to the next of them. All are warmed up, and the kernels of each keep
# 2.4 MB (baseline) to 3.7 (ResNet-18) in a worker. Larger ones gain nothing: 32 take as long as
# twice 16, or longer, as oneDNN may bring weights into another order each time.
SIZES = (1, 2, 3, 4, 6, 8, 10, 12, 14, 16)
FUSED_SIZES = (1,)  # of a model in fp32 with fused layers; handlers.model.fuse_layers says why

Seen = list[tuple[dict[str, Any], Picture]]  # answers to fill in, each with its picture

_to_json = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


class LandUseHandler:
    """Answers the requests of one worker process."""

    def initialize(self, context: Any) -> None:
        """Load the model and answer at each size of a batch: no client waits for warming up.

        After an error the worker never becomes READY, and TorchServe's log says why.

        Args:
            context: TorchServe's; ``model_yaml_config`` is the archive's ``model-config.yaml``.
        """
        # One thread a worker: two workers with two threads each on two cores wait for each other
        # (32 clients: 520 instead of 3,100 tiles/s of the baseline).
        torch.set_num_threads(1)
        # A line of TorchServe's own for each batch would make the log hard to read; its metrics
        # travel as lines of the log too, and go on.
        logging.getLogger("ts.metrics").setLevel(logging.INFO)
        logging.getLogger().setLevel(logging.WARNING)
        logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # of broken files
        config = context.model_yaml_config
        self.spec = ModelSpec.from_dict(config["spec"])
        folder = Path(context.system_properties["model_dir"])
        self.model = load_model(folder / context.manifest["model"]["serializedFile"])
        self.views = views_of(config)
        self.most = SIZES[-1]  # images that go through the model at a time
        black = [np.zeros((self.spec.image_size, self.spec.image_size, 3), np.uint8)]
        if config.get("fuse_layers"):
            self.most = FUSED_SIZES[-1]
            fuse_layers(self.model, vision.stack_pixels(black, self.spec))
        # Numbers of pictures, so that in all their views they are no more than that.
        self.sizes = tuple(size for size in SIZES if size * self.views <= self.most) or (1,)
        # TorchScript specialises in its first two runs; its kernels prepare for each size anew.
        for count in (1, 1, *self.sizes):
            self._ask(vision.stack_pixels(black * count, self.spec), self.views)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Answer a batch; a bad image fails its own item, never the others.

        Args:
            data: one dict a request, its image or bundle of images
                (``handlers.contract.tile_bundle``) under ``body`` (raw) or ``data`` (multipart).
            context: TorchServe's, for statuses and headers by index.

        Returns:
            JSON, for each request of ``handlers.vision.to_answer``'s dict, with ``warnings`` (of a
            ``code`` and a ``message``; with any of them but not_judged the answer is uncertain) and
            ``assumed`` (see ``handlers.reading.Picture``); for one to explain, its
            ``class_name`` and ``confidence`` with ``handlers.explain.explain``'s ``heat``; or, with
            the status set to what stands there, ``{"error": {"status", "code", "message"}}``
            (400, 415, 422, 500 or 503); or the spec, if it asked to describe. For a bundle
            ``{"tiles": [...]}``: of each image what it would have got alone, but that at most
            ``LARGEST_TILE_PIXELS`` are taken.
        """
        seen: Seen = []
        answers: list[dict[str, Any]] = []
        to_explain: dict[int, np.ndarray] = {}
        for index, request in enumerate(data):
            body = bytes(request.get("body") or request.get("data") or b"")
            # TorchServe turns "describe this model" into a request with this header.
            if context.get_request_header(index, "describe") == "True":
                answers.append({"spec": self.spec.to_dict()})
            elif body.startswith(MAGIC):
                answers.append(self._look_at_bundle(body, seen))
            else:
                answers.append(self._look_at(body, MAX_PIXELS, seen))
                if context.get_request_header(index, "explain") == "True" and not answers[index]:
                    to_explain[index] = seen[-1][1].pixels
        most = self.sizes[-1]
        for start in range(0, len(seen), most):
            self._classify(seen[start : start + most])
        self._explain(to_explain, answers)
        for index, answer in enumerate(answers):
            if error := answer.get("error"):
                # ASCII, the phrase too: TorchServe counts its characters and sends bytes.
                context.set_response_status(error["status"], error["code"], index)
        # As a dict TorchServe would indent it, at four times the cost.
        return [_to_json(answer).encode() for answer in answers]

    def _look_at_bundle(self, body: bytes, seen: Seen) -> dict[str, Any]:
        """The answer to a bundle, its parts still to come."""
        try:
            tiles = unpack(body)
        except BadTileBundle as problem:
            return _refusal(problem.status, problem.code, problem)
        return {"tiles": [self._look_at(tile, LARGEST_TILE_PIXELS, seen) for tile in tiles]}

    def _look_at(self, image: bytes, most_pixels: int, seen: Seen) -> dict[str, Any]:
        """The answer to an image: empty and in ``seen``, or already what is wrong with it.

        No more pixels are kept than the model takes: of a batch of large ones one is in memory.
        """
        size = self.spec.image_size
        try:
            encoded, scale, look = unwrap(image)
        except ValueError as problem:
            return _refusal(400, "bad_request", problem)
        try:
            picture = read(encoded, most_pixels, scale, look)
        except BadImage as problem:
            return _refusal(problem.status, problem.code, problem)
        except Exception:  # a fault of ours costs this image, not all of the batch
            logger.exception("reading an image failed")
            return _refusal(500, "reading_failed", "reading it failed, and the log says why")
        if picture.pixels.size > 3 * size * size:
            picture.pixels = vision.resize(picture.pixels[None], size)[0]
        answer: dict[str, Any] = {}
        seen.append((answer, picture))
        return answer

    def _classify(self, seen: Seen) -> None:
        """Fill in the answers to at most ``sizes[-1]`` pictures."""
        images = [picture.pixels for _, picture in seen]
        size = next(size for size in self.sizes if size >= len(images))
        images += images[-1:] * (size - len(images))
        rows, distances = self._ask(vision.stack_pixels(images, self.spec), self.views)
        tiles = np.concatenate([vision.resize(picture.pixels[None], SIDE) for _, picture in seen])
        warned = warnings_of(tiles, distances[: len(seen)], self.spec)
        for (answer, picture), row, found in zip(seen, rows.tolist(), warned, strict=False):
            try:
                answer.update(vision.to_answer(row, self.spec))
            except ValueError as problem:
                # NaN would travel as invalid JSON with status 200.
                logger.exception("model answered with nonsense")
                answer.update(_refusal(500, "bad_model_output", problem))
            else:
                _doubt(answer, picture, found)

    def _explain(self, images: dict[int, np.ndarray], answers: list[dict[str, Any]]) -> None:
        """Turn the answers of those requests of a batch that ask for it into explanations.

        TorchServe sets the header that asks for one by the address, whatever the client sent. The
        class is that of all views, the map that of the picture as it is: in eight of them there
        would be no time for it.
        """
        asked = [index for index in images if "error" not in answers[index]]
        started = time.monotonic()
        for number, index in enumerate(asked, 1):
            answer = answers[index]
            try:
                heat = explain(
                    self._probabilities,
                    vision.stack_pixels([images[index]], self.spec)[0],
                    self.spec.labels.index(answer["class_name"]),
                    enough=started + EXPLAIN_SECONDS * number / len(asked),
                    deadline=started + EXPLAIN_SECONDS,
                )
                kept = {name: answer[name] for name in ("class_name", "confidence")}
                answers[index] = kept | {"heat": heat}
            except ExplanationTooSlow as problem:
                answers[index] = _refusal(503, "explanation_too_slow", problem)
            except ValueError as problem:
                logger.exception("model answered with nonsense")
                answers[index] = _refusal(500, "bad_model_output", problem)

    def _ask(self, batch: torch.Tensor, views: int) -> tuple[torch.Tensor, list[float | None]]:
        """Probabilities, float64 (N, C), and distances of the features, None if not given."""
        with torch.inference_mode():
            logits, apart = ask(self.model, batch, views, self.most)
            probabilities = vision.to_probabilities(logits, self.spec)
        return probabilities, [None] * len(batch) if apart is None else apart.tolist()

    def _probabilities(self, batch: torch.Tensor) -> torch.Tensor:
        return self._ask(batch, 1)[0]


def _doubt(answer: dict[str, Any], picture: Picture, found: dict[str, str]) -> None:
    """Add to an answer what speaks against believing it."""
    found = picture.warnings | found
    answer["uncertain"] = answer["uncertain"] or not found.keys() <= {"not_judged"}
    answer["warnings"] = [{"code": code, "message": said} for code, said in found.items()]
    answer["assumed"] = picture.assumed


def _refusal(status: int, code: str, problem: Exception | str) -> dict[str, Any]:
    """The answer to one image of a batch that gets none; ``code`` is ASCII."""
    return {"error": {"status": status, "code": code, "message": str(problem)}}

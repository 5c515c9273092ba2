"""The TorchServe handler: bytes -> decode -> to_batch -> model -> to_answer -> dict, no more.

An explanation is the same way with ``handlers.explain`` at its end.

TorchServe gives it a batch of requests and wants a list of as many answers; it needs no base class
and refuses a second class in this file. What it imports from ``handlers`` is the archive's own
copy, so an old version keeps its own code.
"""

import logging
import time
from pathlib import Path
from typing import Any

import torch

from handlers.explain import TooSlow, explain
from handlers.spec import ModelSpec
from handlers.vision import BadImage, decode, normalize, to_answer, to_batch, to_probabilities

logger = logging.getLogger(__name__)

# Seconds for all explanations of one batch together. Predictions wait for them, in this batch and
# in the next one: twice this must stay below the portal's deadline of 10 s, with room left, and
# once below the responseTimeout of 8 s, after which the worker is killed.
EXPLAIN_SECONDS = 3.0


class LandUseHandler:
    """Answers the requests of one worker process."""

    def initialize(self, context: Any) -> None:
        """Load the model and answer at each size of a batch: no client waits for warming up.

        Args:
            context: TorchServe's; ``model_yaml_config`` is the archive's ``model-config.yaml``.

        Raises:
            Any error: the worker then never becomes READY, and TorchServe's log says why.
        """
        # One thread a worker: two workers with two threads each on two cores wait for each other.
        torch.set_num_threads(1)
        config = context.model_yaml_config
        self.spec = ModelSpec.from_dict(config["spec"])
        folder = Path(context.system_properties["model_dir"])
        file = folder / context.manifest["model"]["serializedFile"]
        self.model = torch.jit.load(str(file), map_location="cpu").eval()
        if config.get("optimize_for_inference"):  # fp32 alone: it knows no int8 layers
            self.model = torch.jit.optimize_for_inference(self.model)
        size = self.spec.image_size
        # TorchScript specialises in its first two runs; its kernels prepare for each size anew.
        served = range(1, int(context.system_properties.get("batch_size") or 1) + 1)
        for count in (1, 1, *served):
            pixels = torch.zeros(count, size, size, 3, dtype=torch.uint8)
            self._probabilities(normalize(pixels, self.spec))

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[dict[str, Any]]:
        """Answer a batch; a bad image fails its own item, never the others.

        Args:
            data: one dict a request, its image under ``body`` (raw) or ``data`` (multipart).
            context: TorchServe's, for statuses and headers by index.

        Returns:
            For each request ``handlers.vision.to_answer``'s dict; for one to explain, its
            ``class_name`` and ``confidence`` with ``handlers.explain.explain``'s ``heat``; or, with
            the status set to 415, 422, 500 or 503, ``{"error": {"code", "message"}}``; or the spec,
            if it asked to describe.
        """
        answers: list[dict[str, Any]] = [{} for _ in data]
        images = {}
        for index, request in enumerate(data):
            # TorchServe turns "describe this model" into a request with this header.
            if context.get_request_header(index, "describe") == "True":
                answers[index] = {"spec": self.spec.to_dict()}
                continue
            try:
                images[index] = decode(bytes(request.get("body") or request.get("data") or b""))
            except BadImage as problem:
                answers[index] = _refuse(context, index, problem.status, problem.code, problem)
        if images:
            batch = to_batch(list(images.values()), self.spec)
            rows = self._probabilities(batch).tolist()
            for index, row in zip(images, rows, strict=True):
                try:
                    answers[index] = to_answer(row, self.spec)
                except ValueError as problem:
                    # NaN would travel as invalid JSON with status 200.
                    logger.exception("model answered with nonsense")
                    answers[index] = _refuse(context, index, 500, "bad_model_output", problem)
            self._explain(dict(zip(images, batch, strict=True)), answers, context)
        return answers

    def _explain(
        self, tensors: dict[int, torch.Tensor], answers: list[dict[str, Any]], context: Any
    ) -> None:
        """Turn the answers of those requests of a batch that ask for it into explanations.

        Explanations and predictions share TorchServe's queue and batches; it sets this header for
        each request by its address, whatever the client sent.
        """
        asked = [
            index
            for index in tensors
            if context.get_request_header(index, "explain") == "True"
            and "error" not in answers[index]
        ]
        started = time.monotonic()
        for number, index in enumerate(asked, 1):
            answer = answers[index]
            try:
                heat = explain(
                    self._probabilities,
                    tensors[index],
                    self.spec.labels.index(answer["class_name"]),
                    enough=started + EXPLAIN_SECONDS * number / len(asked),
                    deadline=started + EXPLAIN_SECONDS,
                )
            except TooSlow as problem:
                answers[index] = _refuse(context, index, 503, "explanation_too_slow", problem)
            except ValueError as problem:
                logger.exception("model answered with nonsense")
                answers[index] = _refuse(context, index, 500, "bad_model_output", problem)
            else:
                answers[index] = {
                    "class_name": answer["class_name"],
                    "confidence": answer["confidence"],
                    "heat": heat,
                }

    def _probabilities(self, batch: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return to_probabilities(self.model(batch), self.spec)


def _refuse(context: Any, index: int, status: int, code: str, problem: Exception) -> dict[str, Any]:
    """Fail one item of a batch, with its answer; ``code`` is ASCII.

    It is also the phrase beside the status: TorchServe counts its characters and sends bytes.
    """
    context.set_response_status(status, code, index)
    return {"error": {"code": code, "message": str(problem)}}

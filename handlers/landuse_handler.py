"""The TorchServe handler: bytes -> decode -> to_batch -> model -> to_answer -> dict, no more.

TorchServe gives it a batch of requests and wants a list of as many answers; it needs no base class
and refuses a second class in this file. What it imports from ``handlers`` is the archive's own
copy, so an old version keeps its own code.
"""

import logging
from pathlib import Path
from typing import Any

import torch

from handlers.spec import ModelSpec
from handlers.vision import BadImage, decode, normalize, to_answer, to_batch, to_probabilities

logger = logging.getLogger(__name__)


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
            For each request ``handlers.vision.to_answer``'s dict; or, with the status set to 415,
            422 or 500, ``{"error": {"code", "message"}}``; or the spec, if it asked to describe.
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
                # The phrase must be ASCII: TorchServe counts characters and sends bytes.
                context.set_response_status(problem.status, problem.code, index)
                answers[index] = {"error": {"code": problem.code, "message": str(problem)}}
        if images:
            batch = to_batch(list(images.values()), self.spec)
            rows = self._probabilities(batch).tolist()
            for index, row in zip(images, rows, strict=True):
                try:
                    answers[index] = to_answer(row, self.spec)
                except ValueError as problem:
                    # NaN would travel as invalid JSON with status 200.
                    logger.exception("model answered with nonsense")
                    context.set_response_status(500, "bad_model_output", index)
                    answers[index] = {
                        "error": {"code": "bad_model_output", "message": str(problem)}
                    }
        return answers

    def _probabilities(self, batch: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return to_probabilities(self.model(batch), self.spec)

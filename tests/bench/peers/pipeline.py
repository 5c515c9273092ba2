"""What every in-process peer does with a tile: the product's own lean code and int8 file.

So the comparison is of ways to serve, not of preprocessing.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from handlers.reading import read
from handlers.vision import stack_pixels, to_answer, to_probabilities
from training.inference import load_exported


class Pipeline:
    """The model of the folder in BENCH_FOLDER, on one thread a process, warmed up."""

    def __init__(self, most: int = 1) -> None:
        torch.set_num_threads(1)
        self.model, self.spec = load_exported(Path(os.environ["BENCH_FOLDER"]), "int8")
        size = self.spec.image_size
        with torch.inference_mode():
            for count in range(1, most + 1):
                for _ in range(3):
                    self.model(torch.zeros(count, 3, size, size))

    def __call__(self, images: Sequence[bytes]) -> list[dict[str, Any]]:
        """Encoded images -> the handler's answers."""
        batch = stack_pixels([read(image).pixels for image in images], self.spec)
        with torch.inference_mode():
            rows = to_probabilities(self.model(batch), self.spec).tolist()
        return [to_answer(row, self.spec) for row in rows]

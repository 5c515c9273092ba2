"""From pixels to a tensor and from logits to an answer: the only definition of both.

Training, evaluation and the handler call these functions; each archive carries its own copy.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from handlers.contract.spec import ModelSpec


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """Bring images of one size to the model's input size (bilinear, antialiased).

    Enlarged 64 x 64 tiles are Pillow's to the bit, others within 2 of 255. To 96 px, Pillow takes
    89 us a tile, this 12 where 16 of them come together.

    Args:
        pixels: uint8 (N, H, W, 3).

    Returns:
        uint8 (N, size, size, 3), writable and contiguous; ``pixels`` itself if that is their size.
    """
    if pixels.shape[1:3] == (size, size):
        return pixels
    planes = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    planes = interpolate(planes, (size, size), mode="bilinear", antialias=True)
    return planes.permute(0, 2, 3, 1).contiguous().numpy()


def normalize(pixels: Tensor, spec: ModelSpec) -> Tensor:
    """Scale pixels by the model's channel statistics.

    Args:
        pixels: uint8 or floating (N, H, W, 3), RGB, 0..255, on any device.

    Returns:
        float32 (N, 3, H, W) there, ``(pixels / 255 - mean) / std``, in channels_last memory: a view
        of the (N, H, W, 3) result, the layout in which convolutions are fastest on a CPU.
    """
    scale, shift = _factors(spec, pixels.shape[2], pixels.device)
    rows = pixels.flatten(2) * scale  # float32 (N, H, 3 W)
    return rows.add_(shift).view(pixels.shape).permute(0, 3, 1, 2)


@lru_cache(maxsize=16)
def _factors(spec: ModelSpec, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """What ``normalize`` multiplies with and adds, float32 (3 W) each.

    One factor for each value of a row instead of for each channel: a loop over three is too short
    for the CPU's wide registers (96 px: 45 us a tile, instead of 8). Made once: that takes 24 us.
    """
    with torch.inference_mode(mode=False):  # whoever comes next may want gradients
        scale = torch.tensor([1 / (255 * std) for std in spec.std])
        shift = torch.tensor([-mean / std for mean, std in zip(spec.mean, spec.std, strict=True)])
        return scale.repeat(width).to(device), shift.repeat(width).to(device)


def stack_pixels(images: Sequence[np.ndarray], spec: ModelSpec) -> Tensor:
    """RGB images, uint8 (H, W, 3) each, at least one -> float32 (N, 3, S, S), normalised."""
    size = spec.image_size
    shapes = {image.shape for image in images}
    if len(shapes) == 1:
        stack = resize(np.stack(images), size)
    else:
        stack = np.empty((len(images), size, size, 3), np.uint8)
        for shape in shapes:  # those of one size together
            which = [number for number, image in enumerate(images) if image.shape == shape]
            stack[which] = resize(np.stack([images[number] for number in which]), size)
    return normalize(torch.from_numpy(stack), spec)


def turn(pixels: Tensor, symmetry: int) -> Tensor:
    """One of the 8 symmetries of the square, 0..7 (0 is the identity), of (N, S, S, 3) pixels.

    Bit 0 flips up and down, bit 1 left and right, bit 2 turns by a quarter.
    """
    pixels = pixels.flip([axis for axis in (1, 2) if symmetry & axis])
    return pixels.rot90(1, (1, 2)) if symmetry & 4 else pixels


def to_probabilities(logits: Tensor, spec: ModelSpec) -> Tensor:
    """Calibrated class probabilities: float (N, C) logits -> float64 (N, C), rows sum to 1."""
    return torch.softmax(logits.double() / spec.temperature, dim=1)


def to_answer(probabilities: Sequence[float], spec: ModelSpec) -> dict[str, Any]:
    """One row of ``to_probabilities`` as the answer that a client gets.

    Returns:
        ``class_name``, ``confidence`` (0..1, the largest probability), ``probabilities`` (label to
        probability, largest first), ``uncertain`` (confidence below ``spec.threshold``) and
        ``prediction_set``: the classes among which the right one is, in 99 of 100 cases; null from
        a model of which that was not measured.

    Raises:
        ValueError: a probability is not finite, or there are not as many as labels.
    """
    if not all(map(math.isfinite, probabilities)):
        raise ValueError("the model answered with numbers that are not finite")
    ranked = sorted(zip(spec.labels, probabilities, strict=True), key=itemgetter(1), reverse=True)
    class_name, confidence = ranked[0]
    return {
        "class_name": class_name,
        "confidence": confidence,
        "probabilities": dict(ranked),
        "uncertain": confidence < spec.threshold,
        "prediction_set": _prediction_set(ranked, spec),
    }


def _prediction_set(ranked: Sequence[tuple[str, float]], spec: ModelSpec) -> list[str] | None:
    """Of classes, the most probable first, those probable enough; that one at least."""
    if spec.doubt is None:
        return None
    least = min(spec.doubt.least, ranked[0][1])
    return [label for label, share in ranked if share >= least]

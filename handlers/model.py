"""Loading TorchScript, in the one way in which it is measured, evaluated and served."""

from pathlib import Path
from typing import Any, BinaryIO

import torch

from handlers.vision import turn


def load_model(file: Path | BinaryIO) -> torch.jit.ScriptModule:
    """A model for this CPU, ready to answer.

    An int8 file may want to know whether there are matrix units for int8 (AMX): its answers are the
    same, but the way to them that is fast there is slow elsewhere (``training.quantize._InPairs``).

    Raises:
        RuntimeError: the file is missing or no TorchScript.
    """
    model: torch.jit.ScriptModule = torch.jit.load(file, map_location="cpu").eval()
    for part in (model, getattr(model, "trunk", model)):  # releases before 2.0 have no trunk
        if hasattr(part, "matrix_units"):
            part.matrix_units = bool(torch.cpu.get_capabilities().get("amx_int8"))
    return model


def fuse_layers(model: torch.jit.ScriptModule, images: torch.Tensor) -> None:
    """Let oneDNN fuse the layers of a model in fp32 that has not run yet, for images of that shape.

    The answers are the same but for rounding. Weights are brought into the order of the kernels
    once; plain TorchScript, and ``torch.jit.optimize_for_inference`` too, do so in each call: one
    tile takes ResNet-18 5.6 ms instead of 27 and 20 (one thread, AVX-512, jemalloc). That is as
    fast as tiles are in batches of 16, so it is for one shape alone: each other one would keep its
    own copy of the weights. int8 has kernels of its own.

    Args:
        images: float32 (N, 3, S, S).

    Raises:
        RuntimeError: oneDNN cannot; the model is of no use afterwards.
    """
    before = torch.jit.onednn_fusion_enabled()
    torch.jit.enable_onednn_fusion(True)  # of the whole process
    try:
        with torch.inference_mode():
            for _ in range(3):  # TorchScript looks, compiles, and runs what it compiled
                model(images)
    finally:
        torch.jit.enable_onednn_fusion(before)


def ask(
    model: torch.nn.Module, images: torch.Tensor, views: int, most: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What a model says of images, seen as they are or in all symmetries of the square.

    Args:
        images: float32 (N, 3, S, S), as of ``handlers.vision.normalize``.
        views: 1, or 8 for the mean over the symmetries. Of logits, not of probabilities: those
            come out less sure than they are right, and the temperature, fitted for single views,
            is wrong for them (ECE of the validation tiles, baseline 2.0 in int8: 0.51 % of one
            view, 0.30 of the mean of logits, 0.65 of that of probabilities, all three by the same
            temperature; both means name as many rightly).
        most: images that go through the model at a time.

    Returns:
        As ``logits_and_distances``. The distances are those of the images as they are, which is
        what their limit was fitted for.
    """
    seen = images
    if views > 1:
        rows = images.permute(0, 2, 3, 1)  # in memory as normalize leaves them, in all views
        seen = torch.cat([turn(rows, number) for number in range(views)]).permute(0, 3, 1, 2)
    found = [logits_and_distances(model(part)) for part in seen.split(most)]
    logits = torch.cat([part for part, _ in found])
    apart = [distances for _, distances in found if distances is not None]
    if views > 1:
        logits = logits.unflatten(0, (views, len(images))).mean(dim=0)
    return logits, torch.cat(apart)[: len(images)] if apart else None


def logits_and_distances(output: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What a model gives: float (N, C), and the squared distances of the features, (N,).

    Those are None from a model that was exported before it gave them.
    """
    return output if isinstance(output, tuple) else (output, None)

"""Loading TorchScript, in the one way in which it is measured, evaluated and served."""

from pathlib import Path
from typing import Any, BinaryIO

import torch


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


def logits_and_distances(output: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What a model gives: float (N, C), and the squared distances of the features, (N,).

    Those are None from a model that was exported before it gave them.
    """
    return output if isinstance(output, tuple) else (output, None)

"""Loading TorchScript, in the one way in which it is measured, evaluated and served."""

from pathlib import Path
from typing import BinaryIO

import torch


def load_model(file: Path | BinaryIO) -> torch.jit.ScriptModule:
    """A model for this CPU, ready to answer.

    An int8 file may want to know whether there are matrix units for int8 (AMX): its answers are the
    same, but the way to them that is fast there is slow elsewhere (``training.quantize._InPairs``).

    Raises:
        RuntimeError: the file is missing or no TorchScript.
    """
    model: torch.jit.ScriptModule = torch.jit.load(file, map_location="cpu").eval()
    if hasattr(model, "matrix_units"):
        model.matrix_units = bool(torch.cpu.get_capabilities().get("amx_int8"))
    return model

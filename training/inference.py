"""TorchScript on many tiles: what is exported, as it is served."""

from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from handlers.contract.spec import ModelSpec
from handlers.model import load_model, logits_and_distances
from handlers.vision import normalize
from training.runs import FILES, BadExport, read_spec

LOGITS_TOLERANCE = 1e-4  # between TorchScript and eager: fused norms round
BATCH = 64


def load_exported(
    folder: Path, precision: str = "fp32", device: torch.device | None = None
) -> tuple[torch.jit.ScriptModule, ModelSpec]:
    """The model of a run or release, ``fp32`` or ``int8``, as TorchServe will see it.

    Args:
        device: another one than the CPU, where TorchServe has it.

    Raises:
        BadExport: a file is missing or unreadable.
    """
    spec = read_spec(folder, precision)
    path = folder / FILES[precision][0]
    if not path.is_file():
        raise BadExport(f"{path} does not exist: export first (`make export`)")
    try:
        if device is None or device.type == "cpu":
            model = load_model(path)
        else:  # frozen weights are constants, which stay where they were loaded
            model = torch.jit.load(path, map_location=device).eval()
    except RuntimeError as error:
        raise BadExport(f"{path} cannot be loaded as TorchScript: {error}") from error
    return model, spec


def predict(model: nn.Module, pixels: Tensor, spec: ModelSpec, progress: str = "") -> Tensor:
    """Logits of many tiles, float32 (N, C); ``judge`` says what it takes."""
    return judge(model, pixels, spec, progress)[0]


def judge(
    model: nn.Module, pixels: Tensor, spec: ModelSpec, progress: str = ""
) -> tuple[Tensor, Tensor | None]:
    """What a model says of many tiles.

    Args:
        pixels: uint8 (N, S, S, 3), RGB, of the model's input size; N at least 1.
        progress: what the progress bar is called; none is shown when empty.

    Returns:
        Logits, float32 (N, C), and the squared distances of the features from the nearest class,
        float32 (N,); None from a model that gives none.
    """
    # An image's logits depend on its batch by rounding; batches are cut the same on every run.
    batches = tqdm(pixels.split(BATCH), progress, unit="batch", disable=not progress)
    with torch.inference_mode():
        found = [logits_and_distances(model(normalize(batch, spec))) for batch in batches]
    distances = [apart.float() for _, apart in found if apart is not None]
    logits = torch.cat([part.float() for part, _ in found])
    return logits, torch.cat(distances) if distances else None


def refuse_differences(model: nn.Module, scripted: nn.Module, images: Tensor) -> None:
    """Raise BadExport if logits of images, float32 (N, 3, S, S), differ beyond the tolerance."""
    with torch.inference_mode():
        one, other = (logits_and_distances(each(images))[0] for each in (model, scripted))
    difference = (one - other).abs().max().item()
    if not difference <= LOGITS_TOLERANCE:
        raise BadExport(
            f"TorchScript and eager logits differ by {difference:.2g}, expected at most "
            f"{LOGITS_TOLERANCE:.0e}; nothing was exported"
        )

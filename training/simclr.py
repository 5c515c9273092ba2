"""Two views of an image, and how they are told from those of others.

SimCLR: Chen et al., 2020, "A Simple Framework for Contrastive Learning of Visual Representations".
Two views of one image shall be alike in what the network says of them, and unlike those of every
other image of the batch. `lightly` has it and much else, for loaders of files, several GPUs and
Lightning; here tiles are in memory, and the pixel pipeline is the training's own, so that of all
that only the loss below would be used. DINO (Caron et al., 2021) asks a second network and, for
each image, some eight small crops as well: times the work of this, which on a CPU is what is short.
"""

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from training.config import AugmentConfig, SimclrConfig
from training.dataset.augment import CPU, augment, send


def make_view(
    pixels: Tensor,
    config: SimclrConfig,
    colours: AugmentConfig,
    generator: Generator,
    device: torch.device = CPU,
) -> Tensor:
    """One view of each image: as ``augment`` changes it, a part of that, some without colour.

    Args:
        pixels: uint8 (N, S, S, 3), RGB, on the CPU.
        generator: of the CPU.
        device: where the result is to be.

    Returns:
        float32 (N, V, V, 3), 0..255, V the config's ``view_size``, or S where that is 0.
    """
    changed = _crop(augment(pixels, colours, generator, device), config, generator)
    grey = send(torch.rand(len(pixels), generator=generator) < config.grey, device)
    return torch.where(grey.reshape(-1, 1, 1, 1), changed.mean(dim=3, keepdim=True), changed)


def _crop(pixels: Tensor, config: SimclrConfig, generator: Generator) -> Tensor:
    """A square or nearly square part of each image, at the size of a view."""
    n, side = pixels.shape[:2]
    size = config.view_size or side
    if config.crop == 1 and size == side:
        return pixels
    area = config.crop + (1 - config.crop) * torch.rand(n, generator=generator)
    # 3:4 to 4:3, evenly by its logarithm, as in the paper; no side is longer than the image's
    stretch = torch.exp((2 * torch.rand(n, generator=generator) - 1) * math.log(4 / 3) / 2)
    stretch = stretch.clamp(area.sqrt(), area.rsqrt())
    sides = area.sqrt().unsqueeze(1) * torch.stack([stretch, 1 / stretch], dim=1)
    middle = (2 * torch.rand(n, 2, generator=generator) - 1) * (1 - sides)  # the grid is -1..1
    rows = torch.zeros(n, 2, 3)
    rows[:, 0, 0], rows[:, 1, 1], rows[:, :, 2] = sides[:, 0], sides[:, 1], middle
    planes = pixels.permute(0, 3, 1, 2)
    grid = functional.affine_grid(
        send(rows, pixels.device), [n, 3, size, size], align_corners=False
    )
    parts = functional.grid_sample(planes, grid, padding_mode="border", align_corners=False)
    return parts.permute(0, 2, 3, 1)


def contrast(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """The loss NT-Xent: cross entropy of finding, among all other views, that of the same image.

    Args:
        first, second: float32 (N, P), one view of each image and the other one; N at least 2.

    Returns:
        float32 (); log(2 N - 1) where nothing tells one image from another.
    """
    n = len(first)
    views = functional.normalize(torch.cat([first, second]), dim=1)
    likeness = views @ views.T / temperature  # (2 N, 2 N)
    likeness = likeness.masked_fill(torch.eye(2 * n, dtype=torch.bool, device=views.device), -1e9)
    partners = torch.arange(2 * n, device=views.device).roll(n)
    return functional.cross_entropy(likeness, partners)


def cut_head(model: nn.Module) -> int:
    """Take the last layer, which is linear, away from a model; how many features it was given."""
    name, last = [
        (name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)
    ][-1]
    model.set_submodule(name, nn.Identity())
    return last.in_features


def projection_head(features: int, width: int) -> nn.Module:
    """float32 (N, features) -> (N, width): what is compared; the features themselves know more."""
    return nn.Sequential(
        nn.Linear(features, features, bias=False),
        nn.BatchNorm1d(features),
        nn.ReLU(inplace=True),
        nn.Linear(features, width),
    )

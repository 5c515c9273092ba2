"""Random changes of training tiles, whole batches at a time, every one a knob of AugmentConfig.

The order is that of nature: geometry, then atmosphere and product (colour), then sensor (noise).
Only what loses information (``degrade``) comes before colour, as it works on whole numbers. Colour
happens on pixel values, before ``handlers.vision.normalize``. All randomness comes from the
generator that is passed in, so that a resumed run draws what an uninterrupted one would have drawn.

Pixels are changed on the device on which they are to be learned from. Random numbers are drawn on
the CPU, so that a seed draws the same for every device; those of ``noise`` are as many as the
pixels. ``degrade`` is Pillow's work, on the CPU, and what comes before it stays there with it:
pixels on their way from the device and back would wait for all that it still computes.
"""

import math

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional

from handlers.radiometry import GAIN25_WHITE, PATH, TCI_WHITE, TRANSMITTANCE, WHITE
from handlers.vision import resize, turn
from training.config import AugmentConfig
from training.dataset.eurosat import TILE_SIZE
from training.dataset.shifts import L2A_OFFSET, blur, half_resolution, jpeg, to_uint8

# Path radiance in red, green and blue relative to blue.
HAZE_RGB = tuple(value / max(L2A_OFFSET) for value in L2A_OFFSET)

CPU = torch.device("cpu")


def augment(
    pixels: Tensor,
    config: AugmentConfig,
    generator: Generator,
    device: torch.device = CPU,
) -> Tensor:
    """Change a batch as the config says.

    Args:
        pixels: uint8 (N, S, S, 3), RGB, on the CPU.
        generator: of the CPU.
        device: where the result is to be.

    Returns:
        float32 (N, S, S, 3), 0..255.
    """
    if not config.degrade:
        pixels = send(pixels, device)
    pixels = _flip_and_turn(pixels, config, generator)
    if config.degrade:
        pixels = send(_degrade(pixels, config.degrade, generator), device)
    pixels = pixels.float()
    if config.rotation or config.zoom or config.shift:
        pixels = _warp(pixels, config, generator)
    return _recolour(pixels, config, generator)


def mix(
    images: Tensor, targets: Tensor, config: AugmentConfig, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Mix a batch with a shuffled copy of itself, when the config asks for it.

    By mixup (Zhang et al., 2018: a weighted sum) or cutmix (Yun et al., 2019: a pasted rectangle).

    Args:
        images: float32 (N, 3, S, S).
        targets: float32 (N, C), class probabilities, on the device of the images.
        generator: of the CPU.

    Returns:
        Both, mixed in the same proportion.
    """
    methods = [name for name in ("mixup", "cutmix") if getattr(config, name)]
    if not methods or _uniform(generator, 1).item() >= config.mix_probability:
        return images, targets
    method = methods[int(_uniform(generator, 1).item() * len(methods))]
    share = _beta(getattr(config, method), generator)
    order = send(torch.randperm(len(images), generator=generator), images.device)
    if method == "mixup":
        images = share * images + (1 - share) * images[order]
    else:
        height, width = images.shape[2:]
        side = math.sqrt(1 - share)
        centre_y, centre_x = _uniform(generator, 2).tolist()
        top, bottom = _span(centre_y, side, height)
        left, right = _span(centre_x, side, width)
        images = images.clone()
        images[:, :, top:bottom, left:right] = images[order, :, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)
    return images, share * targets + (1 - share) * targets[order]


def send(values: Tensor, device: torch.device) -> Tensor:
    """To the device, without waiting for what that still computes."""
    return values.to(device, non_blocking=True)


def _flip_and_turn(pixels: Tensor, config: AugmentConfig, generator: Generator) -> Tensor:
    # Handling the 8 symmetries group by group moves every tile once, as uint8.
    symmetries = torch.randint(8, (len(pixels),), generator=generator)
    if not config.flips:
        # Turned by a quarter or not, and half way round (both flips) or not.
        symmetries = symmetries & 4 | 3 * (symmetries & 1)
    if not config.quarter_turns:
        symmetries &= 3 if config.flips else 0
    result = torch.empty_like(pixels)
    for symmetry in range(8):
        chosen = send((symmetries == symmetry).nonzero().flatten(), pixels.device)
        result[chosen] = turn(pixels[chosen], symmetry)
    return result


def _degrade(pixels: Tensor, share: float, generator: Generator) -> Tensor:
    """Let a share of the tiles lose information, each in one way, mildly or strongly.

    The ranges reach beyond those of ``training.dataset.shifts``, at which models are measured.
    """
    side = pixels.shape[1]
    chosen = (_uniform(generator, len(pixels)) < share).nonzero().flatten()
    kinds = torch.randint(4, (len(chosen),), generator=generator).tolist()
    strengths = _uniform(generator, len(chosen)).tolist()
    for index, kind, strength in zip(chosen.tolist(), kinds, strengths, strict=True):
        tile = pixels[index].numpy()
        if side != TILE_SIZE:  # enlarged before; what is lost is lost at the native size
            native = Image.fromarray(tile).resize((TILE_SIZE,) * 2, Image.Resampling.BOX)
            tile = np.asarray(native)
        tile = tile[None]
        if kind == 0:
            tile = jpeg(round(90 - 70 * strength))(tile)
        elif kind == 1:
            tile = blur(1.3 * strength)(tile)
        elif kind == 2:
            tile = half_resolution(tile)
        else:
            spread = 13 * strength * torch.randn(tile.shape, generator=generator)
            tile = to_uint8(tile + spread.numpy())
        pixels[index] = torch.from_numpy(resize(tile, side)[0])
    return pixels


def _warp(pixels: Tensor, config: AugmentConfig, generator: Generator) -> Tensor:
    n = len(pixels)
    angle = _spread(generator, n, math.radians(config.rotation))
    zoom = 1 + _spread(generator, n, config.zoom)
    shift = _spread(generator, 2 * n, 2 * config.shift).reshape(n, 2)  # the grid spans -1..1
    cosine, sine = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    rows = torch.stack([cosine, -sine, shift[:, 0], sine, cosine, shift[:, 1]], dim=1)
    planes = pixels.permute(0, 3, 1, 2)
    rows = send(rows, pixels.device)
    grid = functional.affine_grid(rows.reshape(n, 2, 3), list(planes.shape), align_corners=False)
    warped = functional.grid_sample(planes, grid, padding_mode="reflection", align_corners=False)
    return warped.permute(0, 2, 3, 1)


def _recolour(pixels: Tensor, config: AugmentConfig, generator: Generator) -> Tensor:
    n = len(pixels)
    if config.air or config.white:
        lines = torch.stack(_other_product(n, config, generator))  # one copy to the device
        slope, intercept = send(lines.reshape(2, n, 1, 1, 3), pixels.device)
        pixels = torch.addcmul(intercept, pixels, slope)
    if config.haze:
        # Twice as far down as up: products remove haze, only weather adds it.
        amount = config.haze * (1.5 * _uniform(generator, n) - 1) * (_uniform(generator, n) < 0.5)
        added = 255 * amount.reshape(n, 1, 1, 1) * torch.tensor(HAZE_RGB)
        pixels = pixels + send(added, pixels.device)
    if config.brightness or config.channel_gain:
        gain = 1 + _spread(generator, n, config.brightness).reshape(n, 1)
        gain = gain * (1 + _spread(generator, 3 * n, config.channel_gain).reshape(n, 3))
        pixels = pixels * send(gain.reshape(n, 1, 1, 3), pixels.device)
    for limit, axes in ((config.contrast, (1, 2, 3)), (config.saturation, (3,))):
        if limit:
            grey = pixels.mean(dim=axes, keepdim=True)
            factor = 1 + _spread(generator, n, limit).reshape(n, 1, 1, 1)
            pixels = grey + (pixels - grey) * send(factor, pixels.device)
    if config.noise:
        deviation = 255 * config.noise * _uniform(generator, n).reshape(n, 1, 1, 1)
        added = deviation * torch.randn(pixels.shape, generator=generator)
        pixels = pixels + send(added, pixels.device)
    return pixels.clamp(0, 255)


def air(amount: Tensor) -> tuple[Tensor, Tensor]:
    """What more or less air than over EuroSAT's tiles makes of their pixels.

    What a satellite sees is ``path + transmittance * ground``. Of thin air the path radiance grows
    as the amount does, and the transmittance is one to its power (Beer and Lambert).

    Args:
        amount: float (N,), of the air over EuroSAT's tiles; 0 is none, 1 is as much.

    Returns:
        Slope and intercept, float32 (N, 3), of the pixels of EuroSAT's look, 1..255.
    """
    path = torch.from_numpy(254 / WHITE * PATH)
    amount = amount.reshape(-1, 1).double()
    slope = torch.from_numpy(TRANSMITTANCE) ** (amount - 1)
    return slope.float(), (1 + amount * path - slope * (1 + path)).float()


def _other_product(n: int, config: AugmentConfig, generator: Generator) -> tuple[Tensor, Tensor]:
    """Slope and intercept, float32 (N, 3), of pixels under other air and in another scale."""
    slope, intercept = air(1 + _spread(generator, n, config.air))
    if config.white:
        chosen, second = _uniform(generator, n) < config.white, _uniform(generator, n) < 0.5
        white = torch.where(second, GAIN25_WHITE, TCI_WHITE)
        factor = torch.where(chosen, 255 / 254 * WHITE / white, 1.0).reshape(n, 1)
        # EuroSAT's reflectance 0 is 1, that of the others 0.
        slope, intercept = slope * factor, (intercept - chosen.reshape(n, 1).float()) * factor
    return slope, intercept


def _uniform(generator: Generator, n: int) -> Tensor:
    return torch.rand(n, generator=generator)


def _spread(generator: Generator, n: int, limit: float) -> Tensor:
    """N numbers, uniform in -limit..limit."""
    return (2 * _uniform(generator, n) - 1) * limit


def _beta(alpha: float, generator: Generator) -> float:
    # torch.distributions takes no generator, NumPy takes a seed.
    seed = int(torch.randint(2**31, (1,), generator=generator).item())
    return float(np.random.default_rng(seed).beta(alpha, alpha))


def _span(centre: float, share: float, length: int) -> tuple[int, int]:
    """First and last-plus-one index of a stretch of that share around a centre, cut at the ends."""
    middle, half = centre * length, share * length / 2
    return max(0, round(middle - half)), min(length, round(middle + half))

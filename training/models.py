"""The architectures: a light baseline CNN, torchvision's ResNet-18, a ViT-Tiny.

All take float32 (N, 3, S, S), normalised, and give logits, float32 (N, C); all can be scripted.
"""

import hashlib
import logging
import math
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from training.config import BadConfig, TrainConfig, refuse_other_split

logger = logging.getLogger(__name__)


# What a file is, told by its content: for the model card.
_KNOWN = MappingProxyType(
    {
        "07f79689ca7c18a7": "ImageNet-1k weights of torchvision's ResNet-18, batch norms folded "
        "into the convolutions, without the four 3 x 3 convolutions of layer4",
        "6f3bb66fbf890308": "ImageNet-1k weights of DeiT-Tiny (Touvron et al., 2021)",
    }
)


def _conv(channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut: float (N, C, H, W) -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _conv(channels, channels)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Float (N, C, H, W) -> the same shape."""
        return self.relu(self.second(self.first(x)) + x)


class BaselineCNN(nn.Module):
    """Three convolution stages, each halving the resolution and adding residual blocks.

    The first convolution halves at once: at 64 x 64 batch norm and ReLU wait for memory, and the
    same parameters two stages later learn more (measured: three times the images/s of two
    convolutions at full resolution).
    """

    def __init__(
        self, classes: int, widths: tuple[int, ...], blocks: tuple[int, ...], dropout: float
    ) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        channels, kernel = 3, 5
        for width, count in zip(widths, blocks, strict=True):
            stages.append(
                nn.Sequential(
                    _conv(channels, width, kernel, stride=2),
                    *(ResidualBlock(width) for _ in range(count)),
                )
            )
            channels, kernel = width, 3
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Float (N, 3, S, S) -> logits (N, C)."""
        x = self.stages(x)  # (N, widths[2], S/8, S/8)
        x = x.mean(dim=(2, 3))  # (N, widths[2])
        return self.head(self.dropout(x))


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(n, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (N, heads, tokens, dim / heads)
        x = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(n, tokens, dim))


class _Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = _Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = _Mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _PatchEmbed(nn.Module):
    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)  # (N, patches, dim)


class ViTTiny(nn.Module):
    """DeiT-Tiny (Touvron et al., 2021) with timm's parameter names, for square inputs.

    12 blocks, width 192, 3 heads, patches of 16 px; the side must be a multiple of 16.
    """

    def __init__(self, classes: int, image_size: int, dropout: float) -> None:
        super().__init__()
        dim, heads, depth, patch = 192, 3, 12, 16
        if image_size % patch:
            raise BadConfig(f"image_size: expected a multiple of {patch}, found {image_size}")
        self.patch_embed = _PatchEmbed(dim, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, (image_size // patch) ** 2 + 1, dim))
        self.blocks = nn.Sequential(*(_Block(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(dim, classes)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Float (N, 3, S, S) -> logits (N, C)."""
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed
        x = self.norm(self.blocks(x))[:, 0]  # (N, dim)
        return self.head(self.dropout(x))


def _baseline(config: TrainConfig, classes: int) -> nn.Module:
    return BaselineCNN(classes, config.widths, config.blocks, config.dropout)


def _resnet18(config: TrainConfig, classes: int) -> nn.Module:
    model = torchvision.models.resnet18()
    model.fc = nn.Linear(model.fc.in_features, classes)
    if config.dropout:
        model.fc = nn.Sequential(nn.Dropout(config.dropout), model.fc)
    return model


def _vit_tiny(config: TrainConfig, classes: int) -> nn.Module:
    return ViTTiny(classes, config.image_size, config.dropout)


MODELS: MappingProxyType[str, Callable[[TrainConfig, int], nn.Module]] = MappingProxyType(
    {"baseline": _baseline, "resnet18": _resnet18, "vit_tiny": _vit_tiny}
)


def build_model(config: TrainConfig, classes: int) -> nn.Module:
    """The architecture that ``config.model`` names, freshly initialised.

    Raises:
        BadConfig: there is no such architecture.
    """
    try:
        build = MODELS[config.model]
    except KeyError as error:
        raise BadConfig(
            f"model: expected one of {', '.join(MODELS)}; found {config.model!r}"
        ) from error
    return build(config, classes)


def load_pretrained(model: nn.Module, config: TrainConfig) -> tuple[set[str], str]:
    """Fill the model with ``config.weights`` as far as they go.

    The classifier is never taken over from ImageNet. Position embeddings of another size are
    interpolated (bicubic, as DeiT does it).

    Returns:
        The names of the parameters that were filled, and one sentence on where they come from, for
        the model card.

    Raises:
        BadConfig: no such file, none for this architecture, or nothing in it fits the model.
    """
    if config.weights == "none":
        return set(), "Random start, no pretrained weights."
    if config.weights == "imagenet":
        if config.model != "resnet18":
            raise BadConfig(f"weights: imagenet is for resnet18; for {config.model} give a path")
        weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
        state = dict(weights.get_state_dict(progress=True, check_hash=True))
        origin = "torchvision ResNet18_Weights.IMAGENET1K_V1 (ImageNet-1k)"
    else:
        path = Path(config.weights).expanduser()
        if not path.is_file():
            raise BadConfig(f"weights: expected imagenet, none or a file; {path} does not exist")
        state, origin = _read_weights(path, config)
    mine = model.state_dict()
    if "pos_embed" in mine and "pos_embed" in state:
        state["pos_embed"] = _interpolate_positions(state["pos_embed"], mine["pos_embed"].shape[1])
    fitting = {
        name: value
        for name, value in state.items()
        if name in mine and mine[name].shape == value.shape
    }
    filled = set(fitting) & {name for name, _ in model.named_parameters()}
    if not filled:
        raise BadConfig(f"weights: nothing in {config.weights} fits the model {config.model}")
    model.load_state_dict(fitting, strict=False)
    random_start = sorted({name for name, _ in model.named_parameters()} - filled)
    logger.info("weights: %d parameters from %s", len(filled), origin)
    logger.info("random start: %s", ", ".join(random_start) or "nothing")
    sentence = origin + (
        f". Started at random: {', '.join(random_start)}." if random_start else "."
    )
    return filled, sentence


def _read_weights(path: Path, config: TrainConfig) -> tuple[dict[str, Tensor], str]:
    """An .npz of arrays by parameter name, or one of our checkpoints; and where it comes from."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                state = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
            return state, f"{_KNOWN.get(digest, path.name)} (sha256 {digest})"
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        split = checkpoint["config"]["split"]
        origin = (
            f"Epoch {checkpoint['epoch']} of an earlier training ({path.parent.name}, sha256 "
            f"{digest}), which started so: {checkpoint['weights_origin'].rstrip('.')}"
        )
        weights: dict[str, Tensor] = checkpoint["weights"]
    except Exception as error:  # readers of foreign files raise many types
        raise BadConfig(f"weights: {path} is neither .npz nor a checkpoint: {error}") from error
    refuse_other_split("weights", path, split, config)
    return weights, origin


def _interpolate_positions(positions: Tensor, tokens: int) -> Tensor:
    """(1, 1 + a * a, dim) -> (1, tokens, dim) with tokens = 1 + b * b; the class token stays."""
    if positions.shape[1] == tokens:
        return positions
    old, new = math.isqrt(positions.shape[1] - 1), math.isqrt(tokens - 1)
    grid = positions[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, (new, new), mode="bicubic", antialias=True)
    return torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


def recalibrate_batch_norm(model: nn.Module, images: Tensor) -> None:
    """Give batch norms that were folded into their convolutions the statistics of real images.

    A folded norm is the identity (weight 1, running mean 0, running variance 1): in training mode
    batch statistics would change the function that the weights compute. Each norm in turn gets the
    mean m and variance v of its own input and weight sqrt(v + eps), bias + m, which is the identity
    on these images again; channels that never vary (v near 0) keep a variance of 1.

    Args:
        images: float32 (N, 3, S, S), normalised; some hundred training images.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]

    def measure(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not isinstance(norm, nn.BatchNorm2d):
            raise TypeError(f"expected BatchNorm2d, found {type(norm).__name__}")
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
        dead = variance < 1e-4
        mean = torch.where(dead, torch.zeros_like(mean), mean)
        variance = torch.where(dead, torch.ones_like(variance), variance)
        running_mean, running_var = norm.running_mean, norm.running_var
        if running_mean is None or running_var is None:
            return
        running_mean.copy_(mean)
        running_var.copy_(variance)
        norm.weight.copy_(torch.sqrt(variance + norm.eps))
        norm.bias.add_(mean)

    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    was_training = model.training
    with torch.no_grad():
        model.eval()(images)
    model.train(was_training)
    for hook in hooks:
        hook.remove()


def is_folded(model: nn.Module) -> bool:
    """Whether batch norms were folded into the convolutions and left as identities.

    Folding leaves a running variance of 1 - eps, so that variance + eps is exactly 1; a fresh norm
    starts at 1 and a trained one is nowhere near.
    """
    return any(
        isinstance(module, nn.BatchNorm2d)
        and module.running_var is not None
        and bool(((module.running_var - (1 - module.eps)).abs() < 1e-7).all())
        for module in model.modules()
    )

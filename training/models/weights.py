"""Weights to start from: ImageNet's, an .npz or a checkpoint; batch norms that were folded away."""

import logging
import math
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
import torchvision
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from training.config import BadConfig, ModelConfig, refuse_other_split
from training.runs import load_checkpoint, sha256

logger = logging.getLogger(__name__)
# What a file is, told by its content: for the model card.
_KNOWN = MappingProxyType(
    {
        "07f79689ca7c18a7": "ImageNet-1k weights of torchvision's ResNet-18, batch norms folded "
        "into the convolutions, without the four 3 x 3 convolutions of layer4",
        "6f3bb66fbf890308": "ImageNet-1k weights of DeiT-Tiny (Touvron et al., 2021)",
    }
)


def load_pretrained(model: nn.Module, config: ModelConfig, split: str) -> tuple[set[str], str]:
    """Fill the model with ``config.weights`` as far as they go.

    The classifier is never taken over from ImageNet. Position embeddings of another size are
    interpolated (bicubic, as DeiT does it).

    Args:
        model: changed in place.
        split: that the training is on; a checkpoint that learned on another one is refused.

    Returns:
        The names of the parameters that were filled, and one sentence on where they come from, for
        the model card.

    Raises:
        BadConfig: no such file, none for this architecture, or nothing in it fits the model.
    """
    if config.weights == "none":
        return set(), "Random start, no pretrained weights."
    if config.weights == "imagenet":
        if config.name != "resnet18":
            raise BadConfig(f"weights: imagenet is for resnet18; for {config.name} give a path")
        weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
        state = dict(weights.get_state_dict(progress=True, check_hash=True))
        origin = "torchvision ResNet18_Weights.IMAGENET1K_V1 (ImageNet-1k)"
    else:
        path = Path(config.weights).expanduser()
        if not path.is_file():
            raise BadConfig(f"weights: expected imagenet, none or a file; {path} does not exist")
        state, origin = _read_weights(path, split)
    mine = model.state_dict()
    if "pos_embed" in mine and "pos_embed" in state:
        side = math.isqrt(mine["pos_embed"].shape[1] - 1)  # in patches; the first is of the class
        state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], [side, side])
    fitting = {
        name: value
        for name, value in state.items()
        if name in mine and mine[name].shape == value.shape
    }
    parameters = {name for name, _ in model.named_parameters()}
    filled = parameters & set(fitting)
    if not filled:
        raise BadConfig(f"weights: nothing in {config.weights} fits the model {config.name}")
    model.load_state_dict(fitting, strict=False)
    random_start = ", ".join(sorted(parameters - filled))
    logger.info("weights: %d parameters from %s", len(filled), origin)
    logger.info("random start: %s", random_start or "nothing")
    return filled, origin + (f". Started at random: {random_start}." if random_start else ".")


def _read_weights(path: Path, split: str) -> tuple[dict[str, Tensor], str]:
    """An .npz of arrays by parameter name, or one of our checkpoints; and where it comes from."""
    digest = sha256(path)[:16]
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                state = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
            return state, f"{_KNOWN.get(digest, path.name)} (sha256 {digest})"
        checkpoint = load_checkpoint(path)
        learned_on, weights = checkpoint["config"]["split"], checkpoint["weights"]
        origin = (
            f"Epoch {checkpoint['epoch']} of an earlier training ({path.parent.name}, sha256 "
            f"{digest}), which started so: {checkpoint['weights_origin'].rstrip('.')}"
        )
    except Exception as error:  # readers of foreign files raise many types
        raise BadConfig(f"weights: {path} is neither .npz nor a checkpoint: {error}") from error
    refuse_other_split("weights", path, learned_on, split)
    return weights, origin


def recalibrate_batch_norm(model: nn.Module, images: Tensor) -> None:
    """Give batch norms that were folded into their convolutions the statistics of real images.

    A folded norm is the identity: in training mode batch statistics would change the function that
    the weights compute. Each norm in turn gets the mean m and variance v of its own input and
    weight sqrt(v + eps), bias + m, which is the identity on these images again; channels that never
    vary (v near 0) keep a variance of 1.

    Args:
        images: float32 (N, 3, S, S), normalised; some hundred training images.
    """

    def measure(norm: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
        dead = variance < 1e-4
        mean, variance = mean.masked_fill(dead, 0), variance.masked_fill(dead, 1)
        norm.get_buffer("running_mean").copy_(mean)
        norm.get_buffer("running_var").copy_(variance)
        norm.weight.copy_(torch.sqrt(variance + norm.eps))
        norm.bias.add_(mean)

    norms = (module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
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
        bool(((module.get_buffer("running_var") - (1 - module.eps)).abs() < 1e-7).all())
        for module in model.modules()
        if isinstance(module, nn.BatchNorm2d)
    )

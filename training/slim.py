"""A ResNet-18 with fewer channels between the two convolutions of each block.

What the blocks add to stays as wide as published, so that shortcuts and stages keep their shapes;
only what a block computes on the way gets narrower, and with it the work, nearly in proportion.
"""

from collections.abc import Iterator

from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock


def blocks_of(model: ResNet) -> Iterator[tuple[str, BasicBlock]]:
    """The basic blocks of a ResNet in their order, each with its name in the state dict."""
    for name, module in model.named_modules():
        if isinstance(module, BasicBlock):
            yield name, module


def slim(model: ResNet, inner: tuple[int, ...]) -> None:
    """Make each block as narrow as it is told; what changes is initialised anew, by torch."""
    for (_, block), width in zip(blocks_of(model), inner, strict=True):
        first, second = block.conv1, block.conv2
        block.conv1 = nn.Conv2d(
            first.in_channels, width, 3, stride=first.stride, padding=1, bias=False
        )
        block.bn1 = nn.BatchNorm2d(width)
        block.conv2 = nn.Conv2d(width, second.out_channels, 3, padding=1, bias=False)


def cut(state: dict[str, Tensor], model: ResNet) -> dict[str, Tensor]:
    """The state of a wider ResNet-18, cut to the channels of a slim one.

    Of each block those inner channels stay that can say most: the norm of the weights that make a
    channel, as its batch norm scales them, times the norm of those that read it (after Li et al.,
    2017, "Pruning Filters for Efficient ConvNets", which has the first factor alone).

    Args:
        state: of a ResNet-18; it is not changed.

    Returns:
        The state that the model takes, channels in their order. A block that is missing, or has
        fewer channels than the model's, is left as it is.
    """
    state = dict(state)
    for name, block in blocks_of(model):
        first, second = f"{name}.conv1.weight", f"{name}.conv2.weight"
        if not {first, second} <= set(state) or len(state[first]) < block.conv1.out_channels:
            continue
        scale = state[f"{name}.bn1.weight"] / state[f"{name}.bn1.running_var"].sqrt()
        made = (state[first] * scale[:, None, None, None]).flatten(1).norm(dim=1)
        read = state[second].transpose(0, 1).flatten(1).norm(dim=1)
        kept = (made * read).topk(block.conv1.out_channels).indices.sort().values
        state[first] = state[first][kept]
        state[second] = state[second][:, kept]
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.bn1.{part}"] = state[f"{name}.bn1.{part}"][kept]
    return state

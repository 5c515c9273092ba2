"""Float model -> int8 TorchScript: static quantisation, calibrated on training tiles.

Convolutions and additions run on 8-bit integers, the classifier stays in float: it is a thousandth
of the work, and its rounding would be the only one that reaches the logits undiluted. Input and
output are those of the float model, so that whoever calls it sees no difference but the speed.

Four choices, each measured as the divergence of the answers from those in fp32:
- A step of the input is a step of the pixels: quantised as one range over three channels of unlike
  spread, the input alone cost more than everything behind it.
- Weights have a scale for each output channel and take 7 bits: with 8, the kernels of CPUs without
  VNNI would overflow their 16-bit sums and answer otherwise. To save the bit on the activations
  instead cost 0.1 to 0.3 points of accuracy; this costs nothing.
- Ranges of activations come from histograms, which leave out what hardly ever occurs.
- Then the biases learn from the float model's answers what rounding took from each channel in the
  mean (baseline: 4.1e-4 to 2.8e-4, ResNet-18: 5.1e-4 to 3.4e-4 on the validation tiles).
"""

import copy
import random
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.ao import quantization
from torch.ao.nn.quantized import FloatFunctional
from torch.nn import functional

from handlers.spec import ModelSpec
from training.models import BaselineCNN, ResidualBlock

CALIBRATION_TILES = 1024  # of the training list; 4096 gave the same accuracy
LESSON_RATE = 2e-4  # of Adam
NARROW = 4  # px: blocks that give images up to this wide see a batch side by side
_WEIGHTS = {
    "dtype": torch.qint8,
    "qscheme": torch.per_channel_symmetric,
    "quant_min": -64,
    "quant_max": 63,
}


class CannotQuantize(Exception):
    """The architecture has no int8 form."""


def quantize(
    model: nn.Module,
    spec: ModelSpec,
    batches: Iterable[Tensor],
    lessons: Iterable[Tensor] = (),
) -> torch.jit.ScriptModule:
    """The int8 form of a float model.

    Args:
        model: a BaselineCNN or torchvision's ResNet-18; it is not changed.
        spec: how its inputs were normalised.
        batches: float32 (N, 3, S, S), normalised, of training tiles: the ranges of the activations
            are measured on them.
        lessons: batches alike, from which the int8 model learns to answer as the float model does.
            Without any it is the float model, rounded.

    Returns:
        float32 (N, 3, S, S), normalised, to float32 logits (N, C); frozen, for the CPU.

    Raises:
        CannotQuantize: the architecture has no int8 form; the message says what to do.
    """
    ranges = _measure(_twin(model, spec), spec, batches)
    with _outdated():
        twin = _twin(model, spec).train()  # what is prepared to learn is, says torch
        _configure(
            twin,
            activations=quantization.FakeQuantize.with_args(
                observer=quantization.HistogramObserver, quant_min=0, quant_max=255
            ),
            weights=quantization.FakeQuantize.with_args(
                # With a constant of 1 the range is that of the weights as they are now.
                observer=quantization.MovingAveragePerChannelMinMaxObserver,
                averaging_constant=1.0,
                **_WEIGHTS,
            ),
            pixels=quantization.FixedQParamsFakeQuantize.with_args(observer=_pixels(spec)),
        )
        quantization.prepare_qat(twin, inplace=True)
        twin.eval()
        for name, module in twin.named_modules():
            if name in ranges:
                _fix(module, ranges[name])
        _learn(twin, model, lessons)
        quantization.convert(twin, inplace=True)
        twin.features = _side_by_side(twin.features, spec.image_size)
    frozen: torch.jit.ScriptModule = torch.jit.freeze(torch.jit.script(twin.eval()))
    return frozen


def _measure(
    twin: "_Quantizable", spec: ModelSpec, batches: Iterable[Tensor]
) -> dict[str, quantization.HistogramObserver]:
    """The ranges of activations, by the name of what gives them."""
    with _outdated():
        _configure(
            twin,
            activations=quantization.HistogramObserver,
            weights=quantization.PerChannelMinMaxObserver.with_args(**_WEIGHTS),
            pixels=_pixels(spec),
        )
        quantization.prepare(twin, inplace=True)
        with torch.inference_mode():
            for batch in batches:
                twin(batch)
    return {
        name: module
        for name, module in twin.named_modules()
        if isinstance(module, quantization.HistogramObserver)
    }


def _fix(rounding: Any, measured: quantization.HistogramObserver) -> None:
    """Let what rounds activations do so in the measured range, for ever."""
    rounding.activation_post_process = measured
    rounding.disable_observer()
    scale, zero_point = measured.calculate_qparams()
    rounding.scale.resize_(scale.shape).copy_(scale)
    rounding.zero_point.resize_(zero_point.shape).copy_(zero_point)


def _learn(twin: "_Quantizable", model: nn.Module, lessons: Iterable[Tensor]) -> None:
    """Let the rounded twin answer the lessons as the model does.

    The gradient goes through the rounding as if it were none (Jacob et al., 2018, "Quantization and
    Training of Neural Networks"). Biases alone learn, which is to take back what rounding adds to
    each channel in the mean: the divergence fell by a quarter. Where weights learned as well, it
    fell less or rose threefold, by the rate.
    """
    biases = [parameter for parameter in twin.features.parameters() if parameter.ndim == 1]
    for bias in biases:
        bias.requires_grad_(True)  # which folding a batch norm left off
    optimizer = torch.optim.Adam(biases, lr=LESSON_RATE)
    for images in lessons:
        with torch.no_grad():
            expected = functional.log_softmax(model(images), dim=1)
        found = functional.log_softmax(twin(images), dim=1)
        loss = functional.kl_div(found, expected, reduction="batchmean", log_target=True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _twin(model: nn.Module, spec: ModelSpec) -> "_Quantizable":
    """A copy of the model's parts, batch norms folded away."""
    twin = _Quantizable(*_parts(copy.deepcopy(model).eval()), spec).eval()
    for module in twin.modules():
        if isinstance(module, nn.Sequential):
            _fuse(module)
    return twin


def _configure(twin: "_Quantizable", activations: Any, weights: Any, pixels: Any) -> None:
    """Say how each part is to be observed, or rounded."""
    for part, kind in ((twin.features, activations), (twin.dequant, activations),
                       (twin.quant, pixels)):  # fmt: skip
        setattr(part, "qconfig", quantization.QConfig(kind, weights))  # noqa: B010 - as torch has it


def _pixels(spec: ModelSpec) -> Any:
    # The offset of the integers is that of the largest mean: the brightest values of the other two
    # channels saturate, above 234 at the worst.
    return quantization.FixedQParamsObserver.with_args(
        scale=1.0, zero_point=round(255 * max(spec.mean)), quant_min=0, quant_max=255
    )


@contextmanager
def _outdated() -> Iterator[None]:
    """Torch 2.14 points to torchao, which knows no static int8 TorchScript."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=UserWarning)
        yield


def calibration_names(names: tuple[str, ...], seed: int) -> tuple[str, ...]:
    """``CALIBRATION_TILES`` of the training tiles (all, if there are fewer), the same by seed."""
    count = min(CALIBRATION_TILES, len(names))
    return tuple(random.Random(f"calibration-{seed}").sample(names, count))


class _Residual(nn.Module):
    """``relu(second(first(x)) + shortcut(x))`` with the addition as a module that is measured."""

    def __init__(
        self, first: nn.Module, second: nn.Module, shortcut: nn.Module, stride: int = 1
    ) -> None:
        super().__init__()
        self.first, self.second, self.shortcut = first, second, shortcut
        self.stride = stride
        self.add = FloatFunctional()

    def forward(self, x: Tensor, images: int = 1) -> Tensor:
        """``images``: how many of them stand side by side in a quantised ``x``."""
        inner = _clear_gaps(self.first(x), images)
        x = self.add.add_relu(self.second(inner), self.shortcut(x))
        return _clear_gaps(x, images)


class _SideBySide(nn.Module):
    """Quantised blocks that see the images of a batch side by side, with gaps of zeros between.

    Kernels for matrix units (AMX) take the pixels of a row by 16, and a row of layer4 has 3; and
    for them oneDNN brings the weights into another order with each batch that is not of the size
    that came first. Side by side, layer4's convolutions with 512 channels take 26 instead of 73 us
    a tile, in batches of 16, and the model 0.54 instead of 0.69 ms. The answers are the same to the
    bit. A lone image goes the usual way, 0.03 ms the faster.
    """

    def __init__(self, blocks: list[nn.Module], stride: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.stride = stride  # of all blocks together

    def forward(self, x: Tensor) -> Tensor:
        """Quantised (N, C, S, S) -> quantised (N, C', S', S')."""
        images, channels, size, _ = x.shape
        if images == 1:
            for block in self.blocks:
                x = block(x)
            return x
        # Strides divide the distance of two images, and leave one column of zeros at the end.
        slot = ((size + self.stride - 1) // self.stride + 1) * self.stride
        row = torch._empty_affine_quantized(  # noqa: SLF001 - there is no other way
            [size, images, slot, channels],
            scale=x.q_scale(),
            zero_point=x.q_zero_point(),
            dtype=torch.quint8,
        )
        row[:, :, :size].copy_(x.permute(2, 0, 3, 1))
        row = row.view(1, size, images * slot, channels).permute(0, 3, 1, 2)
        x = _clear_gaps(row, images)
        for block in self.blocks:
            x = block(x, images)
        x = _apart(x, images)[:, :, : x.shape[2]].permute(1, 3, 0, 2)
        return x.contiguous(memory_format=torch.channels_last)


def _apart(x: Tensor, images: int) -> Tensor:
    """(1, C, S, N * slot) in channels_last memory -> a view of it, (S, N, slot, C)."""
    _, channels, size, width = x.shape
    return x.permute(0, 2, 3, 1).view(size, images, width // images, channels)


def _clear_gaps(x: Tensor, images: int) -> Tensor:
    """Put zeros between images side by side, where a convolution has mixed neighbours."""
    if images > 1:
        gaps = _apart(x, images)[:, :, x.shape[2] :]
        zero = torch.quantize_per_tensor(torch.zeros(1), x.q_scale(), x.q_zero_point(), x.dtype)
        gaps.copy_(zero.expand(gaps.shape))
    return x


def _side_by_side(features: nn.Module, size: int) -> nn.Module:
    """Quantised features for square images of that size, their last blocks so where narrow."""
    usual, narrow = nn.Sequential(), nn.Sequential()
    x = torch.quantize_per_tensor(torch.zeros(1, 3, size, size), 1.0, 0, torch.quint8)
    stride = 1
    for block in features.children():
        x = block(x)
        if isinstance(block, _Residual) and x.shape[3] <= NARROW:
            narrow.append(block)
            stride *= block.stride
        else:
            usual.append(block)
    return usual.append(_SideBySide(list(narrow), stride)) if len(narrow) else features


class _Quantizable(nn.Module):
    """Features between a quantiser and its inverse, sum and classifier behind them in float."""

    steps: Tensor

    def __init__(self, features: nn.Module, head: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        # Times this, the normalised input counts pixel values from each channel's mean; the first
        # convolution takes it back. A factor for each value of an image, as it lies in memory: one
        # for each channel took 20 us a tile of 64 px instead of 4.
        steps = torch.tensor([255 * std for std in spec.std]).reshape(1, 3, 1, 1)
        image = steps.expand(1, 3, spec.image_size, spec.image_size)
        self.register_buffer("steps", image.contiguous(memory_format=torch.channels_last))
        first = next(module for module in features.modules() if isinstance(module, nn.Conv2d))
        last = next(module for module in head.modules() if isinstance(module, nn.Linear))
        with torch.no_grad():
            first.weight.div_(steps)
            # The classifier reads sums instead of means: 10 us less.
            last.weight.div_(features(torch.zeros_like(image))[0, 0].numel())
        self.quant = quantization.QuantStub()
        self.features = features
        self.dequant = quantization.DeQuantStub()
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        # As served it lies so already; from an image in another order the product would be slow.
        x = x.contiguous(memory_format=torch.channels_last) * self.steps
        x = self.dequant(self.features(self.quant(x)))  # (N, C, H, W)
        return self.head(x.sum(dim=(2, 3)))


def _parts(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The model's convolutional part, additions as modules, and its classifier."""
    if isinstance(model, BaselineCNN):
        for stage in model.stages:
            if isinstance(stage, nn.Sequential):
                for index, block in enumerate(stage):
                    if isinstance(block, ResidualBlock):
                        stage[index] = _Residual(block.first, block.second, nn.Identity())
        return model.stages, model.head
    if isinstance(model, torchvision.models.ResNet):
        stem = nn.Sequential(model.conv1, model.bn1, model.relu)
        layers = [model.layer1, model.layer2, model.layer3, model.layer4]
        blocks = [_basic_block(block) for layer in layers for block in layer]
        return nn.Sequential(stem, model.maxpool, *blocks), model.fc
    raise CannotQuantize(
        f"{type(model).__name__} has no int8 form: expected convolutions with batch norms "
        "(baseline, resnet18); it is served in fp32"
    )


def _basic_block(block: nn.Module) -> nn.Module:
    if not isinstance(block, torchvision.models.resnet.BasicBlock):
        raise CannotQuantize(f"{type(block).__name__} has no int8 form: expected BasicBlock")
    return _Residual(
        nn.Sequential(block.conv1, block.bn1, block.relu),
        nn.Sequential(block.conv2, block.bn2),
        block.downsample or nn.Identity(),
        block.stride,
    )


def _fuse(sequence: nn.Sequential) -> None:
    """Fold a batch norm, and the ReLU behind it, into the convolution before them."""
    kinds = [type(module) for module in sequence]
    for count in (3, 2):
        if kinds[:count] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU][:count]:
            quantization.fuse_modules(sequence, [[str(i) for i in range(count)]], inplace=True)
            return

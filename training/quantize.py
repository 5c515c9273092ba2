"""Float model -> int8: static quantisation, calibrated on training tiles.

Convolutions and additions run on 8-bit integers, the classifier stays in float: it is a thousandth
of the work, and its rounding would be the only one that reaches the logits undiluted. Input and
output are those of the float model.

Four choices, each measured as the divergence of the answers from those in fp32:
- A step of the input is a step of the pixels: quantised as one range over three channels of unlike
  spread, the input alone cost more than everything behind it.
- Weights have a scale for each output channel and take 7 bits: with 8, the kernels of CPUs without
  VNNI would overflow their 16-bit sums and answer otherwise. To save the bit on the activations
  instead cost 0.1 to 0.3 points of accuracy; this costs nothing.
- Ranges of activations come from histograms, which leave out what hardly ever occurs.
- Then the biases learn from the float model's answers what rounding took from each channel in the
  mean, which takes a third off the divergence.
"""

import copy
import random
import warnings
from collections.abc import Iterable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.ao import quantization
from torch.ao.nn import quantized as nnq
from torch.ao.nn.quantized import FloatFunctional
from torch.nn import functional

from handlers.contract.spec import ModelSpec
from training.models.baseline import BaselineCNN, ResidualBlock

CALIBRATION_TILES = 1024  # of the training list; 4096 gave the same accuracy
LESSON_RATE = 2e-4  # of Adam
NARROW = 4  # px: a last stage that gives images up to this wide sees them in pairs


class CannotQuantize(Exception):
    """The architecture has no int8 form."""


def quantize(
    model: nn.Module, spec: ModelSpec, batches: Iterable[Tensor], lessons: Iterable[Tensor] = ()
) -> nn.Module:
    """The int8 form of a float model.

    Args:
        model: a BaselineCNN or torchvision's ResNet-18; it is not changed.
        spec: how its inputs were normalised.
        batches: float32 (N, 3, S, S), normalised, of training tiles: the ranges of the activations
            are measured on them.
        lessons: batches alike, from which the int8 model learns to answer as the float model does;
            without any it is rounded only.

    Returns:
        float32 (N, 3, S, S), normalised, to float32 logits (N, C), for the CPU; its classifier is
        ``head``.

    Raises:
        CannotQuantize: the architecture has no int8 form; the message says what to do.
    """
    observer = quantization.FixedQParamsObserver.with_args(
        # The offset of the integers is that of the largest mean: the brightest values of the other
        # two channels saturate, above 234 at the worst.
        scale=1.0, zero_point=round(255 * max(spec.mean)), quant_min=0, quant_max=255
    )  # fmt: skip
    # Torch 2.14 points to torchao, which knows no static int8 TorchScript.
    with warnings.catch_warnings(action="ignore"):
        measured = _twin(model, spec, quantization.HistogramObserver, observer)
        quantization.prepare(measured, inplace=True)
        with torch.inference_mode():
            for batch in batches:
                measured(batch)
        rounding = quantization.FakeQuantize.with_args(
            observer=quantization.HistogramObserver, quant_min=0, quant_max=255
        )
        pixels = quantization.FixedQParamsFakeQuantize.with_args(observer=observer)
        twin = _twin(model, spec, rounding, pixels)
        quantization.prepare_qat(twin.train(), inplace=True)  # torch refuses what does not train
        twin.eval()
        for name, module in measured.named_modules():
            if isinstance(module, quantization.HistogramObserver):
                _fix(twin.get_submodule(name), module)
        _learn(twin, model, lessons)
        quantization.convert(twin, inplace=True)
        twin.narrow = _take_narrow(twin.features, spec.image_size)
    return twin.eval()


def _fix(rounding: Any, measured: quantization.HistogramObserver) -> None:
    """Let what rounds activations do so in the measured range, for ever."""
    rounding.activation_post_process = measured
    rounding.disable_observer()
    scale, zero_point = measured.calculate_qparams()
    rounding.scale.copy_(scale)
    rounding.zero_point.copy_(zero_point)


def _learn(twin: "_Quantizable", model: nn.Module, lessons: Iterable[Tensor]) -> None:
    """Let the rounded twin answer the lessons as the model does.

    The gradient goes through the rounding as if it were none (Jacob et al., 2018, "Quantization and
    Training of Neural Networks"). Biases alone learn: where weights did too, the divergence fell
    less or rose threefold, by the rate.
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


def _twin(model: nn.Module, spec: ModelSpec, activations: Any, pixels: Any) -> "_Quantizable":
    """A copy of the model's parts, batch norms folded away, and how each is observed or rounded."""
    twin = _Quantizable(*_parts(copy.deepcopy(model).eval()), spec).eval()
    for module in list(twin.modules()):
        # A convolution, the batch norm behind it, and the ReLU behind that, if there is one.
        if isinstance(module, nn.Sequential) and isinstance(module[0], nn.Conv2d):
            quantization.fuse_modules(module, [list(dict(module.named_children()))], inplace=True)
    weights = quantization.FakeQuantize.with_args(
        # With a constant of 1 the range is that of the weights as they are now.
        observer=quantization.MovingAveragePerChannelMinMaxObserver, averaging_constant=1.0,
        dtype=torch.qint8, qscheme=torch.per_channel_symmetric, quant_min=-64, quant_max=63,
    )  # fmt: skip
    for part, kind in ((twin.features, activations), (twin.dequant, activations),
                       (twin.quant, pixels)):  # fmt: skip
        setattr(part, "qconfig", quantization.QConfig(kind, weights))  # noqa: B010 - as torch has it
    return twin


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

    def forward(self, x: Tensor, pairs: int = 0) -> Tensor:
        """``pairs``: as for ``_clear_gaps``."""
        inner = _clear_gaps(self.first(x), pairs)
        return _clear_gaps(self.add.add_relu(self.second(inner), self.shortcut(x)), pairs)


class _InPairs(nn.Module):
    """A stage of quantised blocks whose images are small, two of them interleaved by columns.

    Of a 3 x 3 convolution over 3 x 3 pixels, two columns in three meet the padding, and kernels
    multiply with its zeros. With the columns of two images in turn, and a step of two columns from
    one tap to the next, whole vectors of pixels meet it, which kernels leave out: layer4's
    convolutions with 512 channels take 27 us a tile each instead of 49 (AVX-512 VNNI).

    Kernels for matrix units (AMX) take 16 pixels of a row at a time instead. For them all pairs
    stand in one row, with gaps of zeros between. Either way the answers are the usual to the bit.

    The first block, which halves the size, sees the images side by side, with gaps between: oneDNN
    would bring its weights into another order with each batch of another size than the first.
    """

    def __init__(self, blocks: list[_Residual]) -> None:
        super().__init__()
        self.strided, *others = blocks
        self.blocks = nn.ModuleList(others)
        for block in (self.strided.second, *others):
            _dilate(block)

    def forward(self, x: Tensor, *, matrix_units: bool) -> Tensor:
        """Quantised (N, C, S, S) -> quantised (N, C', S', S')."""
        images = x.shape[0]
        row = _in_a_row(x, self.strided.stride)
        inner = _in_pairs(self.strided.first(row), images, matrix_units=matrix_units)
        shortcut = _in_pairs(self.strided.shortcut(row), images, matrix_units=matrix_units)
        pairs = (images + 1) // 2 if matrix_units else 0
        x = _clear_gaps(self.strided.add.add_relu(self.strided.second(inner), shortcut), pairs)
        for block in self.blocks:
            x = block(x, pairs)
        return _one_by_one(x, images, matrix_units=matrix_units)


def _in_a_row(x: Tensor, stride: int) -> Tensor:
    """(N, C, S, S) -> (1, C, S, N * slot): images side by side, with gaps of zeros between."""
    images, channels, size, _ = x.shape
    # Strides divide the distance of two images, and leave one column of zeros at the end.
    slot = ((size + stride - 1) // stride + 1) * stride
    row = _empty(x, [size, images, slot, channels])
    row[:, :, :size].copy_(x.permute(2, 0, 3, 1))
    _fill_with_zeros(row[:, :, size:])
    return row.view(1, size, images * slot, channels).permute(0, 3, 1, 2)


def _in_pairs(x: Tensor, images: int, *, matrix_units: bool) -> Tensor:
    """A row of images with one column between -> (pairs, C, S, 2 S), columns of two in turn.

    For matrix units (1, C, S, pairs * 2 (S + 1)), with zeros between the pairs. An image without
    a partner is its own.
    """
    _, channels, size, width = x.shape
    slot = width // images
    x = x.permute(0, 2, 3, 1).view(size, images, slot, channels)
    if images % 2:
        single, x = x, _empty(x, [size, images + 1, slot, channels])
        x[:, :images].copy_(single)
        x[:, images:].copy_(single[:, -1:])
    pairs = x.shape[1] // 2
    x = x.view(size, pairs, 2, slot, channels)
    if matrix_units:
        x = x.permute(0, 1, 3, 2, 4).contiguous().view(1, size, -1, channels)
        return _clear_gaps(x.permute(0, 3, 1, 2), pairs)
    x = x[:, :, :, :size].permute(1, 0, 3, 2, 4).contiguous()
    return x.view(pairs, size, -1, channels).permute(0, 3, 1, 2)


def _one_by_one(x: Tensor, images: int, *, matrix_units: bool) -> Tensor:
    """What ``_in_pairs`` gave -> (N, C, S, S)."""
    _, channels, size, _ = x.shape
    x = x.permute(0, 2, 3, 1)
    if matrix_units:
        x = x.view(size, -1, size + 1, 2, channels)[:, :, :size].permute(1, 3, 0, 2, 4)
    else:
        x = x.view(-1, size, size, 2, channels).permute(0, 3, 1, 2, 4)
    return x.contiguous().view(-1, size, size, channels)[:images].permute(0, 3, 1, 2)


def _clear_gaps(x: Tensor, pairs: int) -> Tensor:
    """Put zeros between so many pairs in a row, where a convolution has mixed neighbours."""
    if pairs:
        _, channels, size, _ = x.shape
        row = x.permute(0, 2, 3, 1).view(size, pairs, size + 1, 2, channels)
        _fill_with_zeros(row[:, :, size:])
    return x


def _empty(like: Tensor, shape: list[int]) -> Tensor:
    return torch._empty_affine_quantized(  # noqa: SLF001 - there is no other way
        shape, scale=like.q_scale(), zero_point=like.q_zero_point(), dtype=torch.quint8
    )


def _fill_with_zeros(x: Tensor) -> None:
    zero = torch.quantize_per_tensor(torch.zeros(1), x.q_scale(), x.q_zero_point(), x.dtype)
    x.copy_(zero.expand(x.shape))


def _dilate(block: nn.Module) -> None:
    """Let quantised convolutions step over the columns of the other image of a pair."""
    for module in block.modules():
        if isinstance(module, nnq.Conv2d) and module.kernel_size != (1, 1):
            weight, bias = module._weight_bias()  # noqa: SLF001 - there is no other way
            module.dilation, module.padding = (1, 2), (1, 2)
            module.set_weight_bias(weight, bias)


def _take_narrow(features: nn.Sequential, size: int) -> _InPairs | None:
    """Take the last stage off quantised features for square images of that size, if narrow."""
    x = torch.quantize_per_tensor(torch.zeros(1, 3, size, size), 1.0, 0, torch.quint8)
    blocks = list(enumerate(features))
    strided = [i for i, block in blocks if isinstance(block, _Residual) and block.stride > 1]
    if not strided or features(x).shape[3] > NARROW:
        return None
    stage = [block for _, block in blocks[strided[-1] :] if isinstance(block, _Residual)]
    del features[strided[-1] :]
    return _InPairs(stage)


class _Quantizable(nn.Module):
    """Features between a quantiser and its inverse, sum and classifier behind them in float."""

    steps: Tensor
    matrix_units: bool  # whether the CPU has any for int8; ``handlers.model.load_model`` asks

    def __init__(self, features: nn.Sequential, head: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        # Times this, the normalised input counts pixel values from each channel's mean; the first
        # convolution takes it back. A factor for each value of an image, as it lies in memory, is
        # five times as fast as one for each channel.
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
        self.narrow: _InPairs | None = None
        self.matrix_units = False
        self.dequant = quantization.DeQuantStub()
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        # As served it lies so already; from an image in another order the product would be slow.
        x = x.contiguous(memory_format=torch.channels_last) * self.steps
        x = self.features(self.quant(x))
        if self.narrow is not None:
            x = self.narrow(x, matrix_units=self.matrix_units)
        x = self.dequant(x)  # (N, C, H, W)
        return self.head(x.sum(dim=(2, 3)))


def _parts(model: nn.Module) -> tuple[nn.Sequential, nn.Module]:
    """The model's convolutional part, additions as modules, and its classifier."""
    if isinstance(model, BaselineCNN):
        for name, block in list(model.named_modules()):
            if isinstance(block, ResidualBlock):
                model.set_submodule(name, _Residual(block.first, block.second, nn.Identity()))
        return model.stages, model.head
    if isinstance(model, torchvision.models.ResNet):
        stem = nn.Sequential(model.conv1, model.bn1, model.relu)
        layers = [model.layer1, model.layer2, model.layer3, model.layer4]
        blocks = [
            _Residual(
                nn.Sequential(block.conv1, block.bn1, block.relu),
                nn.Sequential(block.conv2, block.bn2),
                block.downsample or nn.Identity(),
                block.stride,
            )
            for layer in layers
            for block in layer
        ]
        return nn.Sequential(stem, model.maxpool, *blocks), model.fc
    raise CannotQuantize(
        f"{type(model).__name__} has no int8 form: expected convolutions with batch norms "
        "(baseline, resnet18); it is served in fp32"
    )

"""The architectures by name: a light baseline CNN, torchvision's ResNet-18, three of timm.

All take float32 (N, 3, S, S), normalised, and give logits, float32 (N, C); all can be scripted.
"""

from collections.abc import Callable
from types import MappingProxyType

import timm
import torchvision
from torch import nn

from training.config import BadConfig, ModelConfig
from training.models.baseline import BaselineCNN


def _baseline(config: ModelConfig, classes: int) -> nn.Module:
    return BaselineCNN(classes, config.widths, config.blocks, config.dropout)


def _resnet18(config: ModelConfig, classes: int) -> nn.Module:
    model = torchvision.models.resnet18()
    model.fc = nn.Linear(model.fc.in_features, classes)
    if config.dropout:
        model.fc = nn.Sequential(nn.Dropout(config.dropout), model.fc)
    return model


def _vit_tiny(config: ModelConfig, classes: int) -> nn.Module:
    """DeiT-Tiny (Touvron et al., 2021): 12 blocks, width 192, 3 heads, patches of 16 px."""
    if config.image_size % 16:  # timm would leave out the rest
        raise BadConfig(f"image_size: expected a multiple of 16, found {config.image_size}")
    return timm.create_model(
        "deit_tiny_patch16_224",
        img_size=config.image_size,
        num_classes=classes,
        drop_rate=config.dropout,
    )


def _swin_tiny(config: ModelConfig, classes: int) -> nn.Module:
    """Swin-Tiny (Liu et al., 2021): patches of 4 px, four stages of 2, 2, 6, 2 blocks."""
    if config.image_size % 32:  # timm would fill it up in each stage
        raise BadConfig(f"image_size: expected a multiple of 32, found {config.image_size}")
    return timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=config.image_size,
        # ImageNet's windows of 7 patches would have to be filled up in any other image.
        window_size=8 if config.image_size % 224 else 7,
        num_classes=classes,
        drop_rate=config.dropout,
    )


def _efficientnet_lite2(config: ModelConfig, classes: int) -> nn.Module:
    """EfficientNet-Lite2 (Google, 2020), for images of any size; ImageNet's were of 260 px."""
    return timm.create_model("tf_efficientnet_lite2", num_classes=classes, drop_rate=config.dropout)


MODELS: MappingProxyType[str, Callable[[ModelConfig, int], nn.Module]] = MappingProxyType(
    {
        "baseline": _baseline,
        "resnet18": _resnet18,
        "vit_tiny": _vit_tiny,
        "swin_tiny": _swin_tiny,
        "efficientnet_lite2": _efficientnet_lite2,
    }
)


def build_model(config: ModelConfig, classes: int) -> nn.Module:
    """The architecture that ``config.name`` says, freshly initialised.

    Raises:
        BadConfig: there is no such architecture.
    """
    if config.name not in MODELS:
        raise BadConfig(f"model: expected one of {', '.join(MODELS)}; found {config.name!r}")
    return MODELS[config.name](config, classes)

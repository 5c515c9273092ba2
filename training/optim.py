"""The optimiser, its learning rate over the epochs, and the average of the weights."""

import copy
import math

import torch
from torch import nn

from training.config import OptimConfig


def make_optimizer(
    model: nn.Module, pretrained: set[str], config: OptimConfig
) -> torch.optim.Optimizer:
    """Two rates (new layers, pretrained layers), and no weight decay on biases and norms."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault((name in pretrained, parameter.ndim > 1), []).append(parameter)
    parameters = [
        {
            "params": members,
            "lr": config.lr * (config.pretrained_lr if came_with_weights else 1),
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (came_with_weights, decays), members in groups.items()
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0
        )
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    return kind(parameters, lr=config.lr)


def learning_rate_factor(epoch: float, config: OptimConfig) -> float:
    """What the learning rate is multiplied by at a (fractional) epoch, counted from 0."""
    if epoch < config.warmup_epochs:
        return epoch / config.warmup_epochs
    if config.schedule == "cosine":
        done = (epoch - config.warmup_epochs) / max(config.epochs - config.warmup_epochs, 1e-9)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    if config.schedule == "step":
        return 0.1 ** sum(epoch >= share * config.epochs for share in (0.6, 0.85))
    return 1.0


class WeightAverage:
    """Exponential moving average of the weights; with a decay of 0 simply the model itself."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.source = decay, model
        self.model = copy.deepcopy(model) if decay else model

    def update(self, step: int) -> None:
        """Take in the weights behind so many steps of the optimiser."""
        if not self.decay:
            return
        # A short memory at first, or the random start would stay in the average for long.
        decay = min(self.decay, (1 + step) / (10 + step))
        mine, new = self.model.state_dict(), self.source.state_dict()
        with torch.no_grad():
            for name, value in mine.items():
                if value.dtype.is_floating_point:
                    value.lerp_(new[name], 1 - decay)
                else:
                    value.copy_(new[name])

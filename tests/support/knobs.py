"""Configs by their knobs, without the names of the groups."""

from typing import Any

from training.config import TrainConfig, config_from_dict


def knobs(**values: Any) -> TrainConfig:
    """The defaults, with other values."""
    return config_from_dict(values)


def changed(config: TrainConfig, **values: Any) -> TrainConfig:
    """A config with other values."""
    return config_from_dict(values, config)

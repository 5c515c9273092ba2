"""The tiny EuroSAT and its run, as tests/training makes them."""

from tests.training.conftest import (
    config,
    finished_run,
    one_thread,
    talking,
    tiles,
    tiny_eurosat,
    tiny_world,
)

__all__ = [
    "config",
    "finished_run",
    "one_thread",
    "talking",
    "tiles",
    "tiny_eurosat",
    "tiny_world",
]

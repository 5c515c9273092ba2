"""The tiny EuroSAT and its run."""

from tests.support.tiny_eurosat import (
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

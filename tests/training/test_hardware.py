"""Which precision a machine is given, and that it is asked."""

from typing import Any

import pytest
import torch

from training import hardware as module
from training.config import HardwareConfig


@pytest.mark.parametrize(
    ("instructions", "faster", "expected"),
    [(True, True, "bf16"), (True, False, "fp32"), (False, True, "fp32")],
)
def test_auto_is_bf16_only_where_the_cpu_shows_that_it_is_faster(
    instructions: bool,  # noqa: FBT001
    faster: bool,  # noqa: FBT001
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
    monkeypatch.setattr(module, "_bf16_wins", lambda: faster)
    assert module.choose_precision(HardwareConfig(precision="auto")) == expected


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_cpu_shows_its_speed_even_where_nobody_wants_gradients(context: Any) -> None:
    module._bf16_wins.cache_clear()
    with context():
        assert module._bf16_wins() in {True, False}

import pytest
import torch
from torch import Tensor


@pytest.fixture
def images() -> Tensor:
    """float32 (48, 3, 32, 32), of another mean and spread in each channel."""
    noise = torch.randn(48, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    spread, mean = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([1.0, 0.0, -1.0])
    return noise * spread.reshape(1, 3, 1, 1) + mean.reshape(1, 3, 1, 1)

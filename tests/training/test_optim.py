import pytest

from training.config import OptimConfig
from training.optim import learning_rate_factor


def test_warming_up_ends_where_the_schedule_begins() -> None:
    config = OptimConfig(epochs=10, warmup_epochs=2.0)
    factors = [learning_rate_factor(epoch / 10, config) for epoch in range(101)]
    assert factors[0] == 0
    assert factors[20] == pytest.approx(1)
    assert factors[:21] == sorted(factors[:21])
    assert factors[20:] == sorted(factors[20:], reverse=True)
    assert factors[-1] == pytest.approx(0.01)

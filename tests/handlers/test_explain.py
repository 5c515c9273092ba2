import time

import numpy as np
import pytest
import torch
from torch import Tensor

from handlers.explain import ExplanationTooSlow, explain


def later() -> float:
    return time.monotonic() + 60


def sees(top: int, bottom: int, left: int, right: int) -> object:
    """A model of two classes whose log-odds of the second are the mean of a part of the image."""

    def probabilities(batch: Tensor) -> Tensor:
        second = torch.sigmoid(batch[:, :, top:bottom, left:right].double().mean(dim=(1, 2, 3)))
        return torch.stack([1 - second, second], dim=1)

    return probabilities


@pytest.fixture
def corner() -> Tensor:
    """Black, but for a bright upper left quarter."""
    image = torch.zeros(3, 64, 64)
    image[:, :32, :32] = 4
    return image


def heat_of(model: object, image: Tensor, label: int = 1) -> np.ndarray:
    heat = explain(model, image, label, later(), later())  # type: ignore[arg-type]
    assert len(heat) == 16
    assert all(len(row) == 16 for row in heat)
    return np.array(heat)


def test_a_model_that_looks_at_one_corner_is_hot_there_alone(corner: Tensor) -> None:
    heat = heat_of(sees(0, 32, 0, 32), corner)
    # The corner is 4 where shown and the mean, 1, where hidden: each of its 16 places adds 3 / 16.
    assert heat[1:7, 1:7] == pytest.approx(3 / 16, abs=1e-6)
    assert heat[9:15, 9:15] == pytest.approx(0, abs=1e-6)
    assert heat[1:7, 9:15] == pytest.approx(0, abs=1e-6)


def test_rows_run_from_top_to_bottom(corner: Tensor) -> None:
    image = corner.roll(32, dims=2)  # the bright quarter is now the upper right one
    heat = heat_of(sees(0, 32, 32, 64), image)
    assert heat[2:6, 10:14].min() > 0.1
    assert heat[10:14, 2:6] == pytest.approx(0, abs=1e-6)


def test_what_speaks_for_one_class_speaks_against_the_other(corner: Tensor) -> None:
    model = sees(0, 32, 0, 32)
    assert heat_of(model, corner, 0) == pytest.approx(-heat_of(model, corner, 1), abs=1e-9)


def test_a_model_that_looks_at_nothing_gives_no_heat(corner: Tensor) -> None:
    def constant(batch: Tensor) -> Tensor:
        return torch.tensor([[0.1, 0.9]]).double().repeat(len(batch), 1)

    assert np.abs(heat_of(constant, corner)).max() < 1e-12


def test_an_image_of_one_colour_gives_no_heat() -> None:
    heat = heat_of(sees(0, 64, 0, 64), torch.full((3, 64, 64), 2.0))
    assert np.abs(heat).max() < 1e-6


def test_the_same_image_gets_the_same_map(corner: Tensor) -> None:
    model = sees(0, 64, 0, 20)
    assert (heat_of(model, corner) == heat_of(model, corner)).all()


def test_places_that_matter_only_together_are_not_blamed_on_others(corner: Tensor) -> None:
    def both(batch: Tensor) -> Tensor:
        first = batch[:, 0, :8, :8].mean(dim=(1, 2)).double()
        second = batch[:, 0, 16:24, 16:24].mean(dim=(1, 2)).double()
        chance = torch.sigmoid(first * second / 8)
        return torch.stack([1 - chance, chance], dim=1)

    heat = heat_of(both, corner)
    assert heat[0, 0] > 0.2
    assert heat[5, 5] > 0.2
    assert np.abs(heat[9:]).max() < 1e-6


def test_certainty_stays_finite_and_in_the_range(corner: Tensor) -> None:
    def certain(batch: Tensor) -> Tensor:
        second = (batch[:, 0, :8, :8].mean(dim=(1, 2)) > 2).double()
        return torch.stack([1 - second, second], dim=1)

    heat = heat_of(certain, corner)
    assert 0 < np.abs(heat).max() <= 18.43


@pytest.mark.parametrize("size", [8, 37, 100, 224])
def test_any_size_of_image_gives_16_x_16(size: int) -> None:
    image = torch.rand(3, size, size, generator=torch.Generator().manual_seed(0))
    heat = heat_of(sees(0, size, 0, size // 2), image)
    assert np.isfinite(heat).all()
    assert np.abs(heat[:, :6]).max() > 10 * np.abs(heat[:, 10:14]).max()


def test_numbers_that_are_none_are_refused(corner: Tensor) -> None:
    def broken(batch: Tensor) -> Tensor:
        return torch.full((len(batch), 2), float("nan"))

    with pytest.raises(ValueError, match="not finite"):
        explain(broken, corner, 1, later(), later())


def test_a_deadline_that_has_passed_is_told(corner: Tensor) -> None:
    with pytest.raises(ExplanationTooSlow):
        explain(sees(0, 8, 0, 8), corner, 1, later(), time.monotonic() - 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("enough", [-1.0, 50.0])
def test_when_time_is_short_the_rounds_that_are_done_are_enough(
    corner: Tensor, monkeypatch: pytest.MonkeyPatch, enough: float
) -> None:
    model = sees(0, 32, 0, 32)
    passes = 0
    clock = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)

    def counting(batch: Tensor) -> Tensor:
        nonlocal passes, clock
        passes += len(batch)
        clock = 100.0 * (passes > 128)  # the second round has begun
        return model(batch)  # type: ignore[operator, no-any-return]

    heat = np.array(explain(counting, corner, 1, enough, 150.0))
    monkeypatch.undo()
    assert 128 <= passes < 256
    assert heat[:8, :8] == pytest.approx(3 / 16, abs=1e-6)
    assert heat[8:, 8:] == pytest.approx(0, abs=1e-6)

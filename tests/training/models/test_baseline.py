from torch import Tensor

from training.models.baseline import BaselineCNN


def test_each_stage_of_the_baseline_halves_the_resolution(images: Tensor) -> None:
    model = BaselineCNN(4, (4, 6, 8), (1, 1, 1), 0.0)
    assert model.stages(images).shape == (48, 8, 4, 4)

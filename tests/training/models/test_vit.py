import pytest

from training.config import BadConfig, ModelConfig
from training.models.registry import build_model


def test_a_vit_refuses_a_side_that_patches_do_not_fill() -> None:
    with pytest.raises(BadConfig, match="image_size: expected a multiple of 16, found 40"):
        build_model(ModelConfig(name="vit_tiny", image_size=40), 4)

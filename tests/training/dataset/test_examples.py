import numpy as np
import pytest
import torch

from handlers.contract.spec import ModelSpec
from handlers.reading import read
from handlers.vision import normalize, stack_pixels
from training.dataset.eurosat import BadData, Tiles
from training.dataset.examples import load_examples


@pytest.mark.parametrize("size", [64, 32])
def test_examples_are_what_serving_sees(tiles: Tiles, spec: ModelSpec, size: int) -> None:
    spec = ModelSpec.from_dict(spec.to_dict() | {"image_size": size})
    names = ("SeaLake_4.jpg", "Forest_2.jpg")
    examples = load_examples(tiles, names, spec)
    assert examples.targets.tolist() == [3, 0]
    images = normalize(examples.pixels, spec)
    for image, name in zip(images, names, strict=True):
        assert torch.equal(image, stack_pixels([read(tiles.read(name)).pixels], spec)[0])


def test_examples_can_be_changed_before_they_are_resized(tiles: Tiles, spec: ModelSpec) -> None:
    shapes = []

    def blacken(pixels: np.ndarray) -> np.ndarray:
        shapes.append(pixels.shape)
        return np.zeros_like(pixels)

    examples = load_examples(tiles, ("River_1.jpg",), spec, change=blacken)
    assert shapes == [(1, 64, 64, 3)]
    assert examples.pixels.max() == 0


def test_a_class_without_label_is_named(tiles: Tiles, spec: ModelSpec) -> None:
    spec = ModelSpec.from_dict(spec.to_dict() | {"labels": ["Forest", "Industrial"]})
    with pytest.raises(BadData, match="tiles of River, but the labels are Forest, Industrial"):
        load_examples(tiles, ("Forest_1.jpg", "River_1.jpg"), spec)

import numpy as np
import pytest
import torch
from PIL import Image

from handlers.contract.spec import ModelSpec
from handlers.vision import (
    normalize,
    resize,
    stack_pixels,
    to_answer,
    to_probabilities,
    turn,
)


def test_a_grey_value_is_normalised_by_hand(spec: ModelSpec) -> None:
    grey = Image.new("RGB", (16, 16), (128, 128, 128))
    tensor = stack_pixels([np.asarray(grey)], spec)[0]
    assert tensor.dtype == torch.float32
    assert tensor.shape == (3, 16, 16)
    for channel in range(3):
        expected = (128 / 255 - spec.mean[channel]) / spec.std[channel]
        assert tensor[channel].numpy() == pytest.approx(expected, abs=1e-5)


def test_an_image_of_another_size_is_resized(spec: ModelSpec, tile: Image.Image) -> None:
    wide = np.asarray(tile.resize((100, 40)))
    assert stack_pixels([wide], spec).shape == (1, 3, 16, 16)


def test_resizing_blends_neighbours(spec: ModelSpec) -> None:
    edge = np.zeros((32, 32, 3), np.uint8)
    edge[:, 15:] = 255
    row = resize(edge[None], spec.image_size)[0, 8, :, 0].tolist()
    assert row == sorted(row)
    assert (row[0], row[-1]) == (0, 255)
    assert any(0 < value < 255 for value in row)


def test_tiles_are_enlarged_as_pillow_does_it(tile: Image.Image) -> None:
    tile = tile.resize((64, 64))
    theirs = np.asarray(tile.resize((96, 96), Image.Resampling.BILINEAR))
    ours = resize(np.array(tile)[None], 96)
    assert ours.flags.c_contiguous
    assert np.array_equal(ours[0], theirs)


@pytest.mark.parametrize("shape", [(200, 300), (33, 90), (8, 500), (16, 9)])
def test_other_sizes_are_resized_nearly_as_pillow_does_it(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    theirs = Image.fromarray(pixels).resize((64, 64), Image.Resampling.BILINEAR)
    ours = resize(pixels[None], 64)
    assert ours.flags.c_contiguous
    assert np.abs(ours[0].astype(int) - np.asarray(theirs)).max() <= 2


def test_a_batch_is_its_images_one_by_one(spec: ModelSpec, tile: Image.Image) -> None:
    images = [np.asarray(image) for image in (tile, tile.rotate(90), tile.resize((50, 50)))]
    batch = stack_pixels(images, spec)
    for row, image in zip(batch, images, strict=True):
        assert torch.equal(row, stack_pixels([image], spec)[0])


def test_normalised_batches_lie_in_channels_last_memory(spec: ModelSpec) -> None:
    batch = normalize(torch.zeros(2, 16, 16, 3, dtype=torch.uint8), spec)
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_normalised_pixels_have_gradients_wherever_others_were_normalised_before() -> None:
    spec = ModelSpec(("a", "b"), 8, (0.2, 0.3, 0.4), (0.5, 0.25, 0.125))
    pixels = torch.full((1, 8, 8, 3), 51.0)
    with torch.inference_mode():
        first = normalize(pixels, spec)
    pixels.requires_grad_(True)
    images = normalize(pixels, spec)
    (gradient,) = torch.autograd.grad(images.sum(), pixels)
    assert torch.equal(images, first)
    assert torch.allclose(gradient[0, 0, 0], 1 / (255 * torch.tensor(spec.std)))


def test_the_temperature_softens(spec: ModelSpec) -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0]])
    warm = ModelSpec.from_dict(spec.to_dict() | {"temperature": 2.0})
    assert torch.equal(to_probabilities(logits, warm), to_probabilities(logits / 2, spec))
    assert to_probabilities(logits, warm).sum().item() == pytest.approx(1, abs=1e-12)


def test_an_answer_is_sorted_and_knows_doubt(spec: ModelSpec) -> None:
    answer = to_answer([0.2, 0.45, 0.35], spec)
    assert answer["class_name"] == "Green"
    assert answer["confidence"] == 0.45
    assert list(answer["probabilities"]) == ["Green", "Red", "Blue"]
    assert answer["uncertain"] is True
    assert to_answer([0.2, 0.7, 0.1], spec)["uncertain"] is False


def test_nonsense_is_no_answer(spec: ModelSpec) -> None:
    with pytest.raises(ValueError, match="finite"):
        to_answer([float("nan"), 0.5, 0.5], spec)
    with pytest.raises(ValueError, match="zip"):
        to_answer([0.5, 0.5], spec)


def test_there_are_eight_symmetries() -> None:
    corners = torch.zeros(1, 3, 3, 3, dtype=torch.uint8)
    corners[0, 0, 0], corners[0, 0, 2] = 1, 2
    views = [turn(corners, symmetry) for symmetry in range(8)]
    assert torch.equal(views[0], corners)
    assert len({tuple(view[..., 0].flatten().tolist()) for view in views}) == 8
    for view in views:
        assert view[0, 1, 1].tolist() == [0, 0, 0]
        assert sorted(view.flatten().tolist()) == sorted(corners.flatten().tolist())

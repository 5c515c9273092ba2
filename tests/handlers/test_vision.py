import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from handlers.contract.spec import ModelSpec
from handlers.vision import (
    BadImage,
    UnsupportedImage,
    decode,
    normalize,
    resize,
    stack_pixels,
    to_answer,
    to_probabilities,
)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [b"IHDR" + header, b"IDAT"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    )


def test_a_lossless_image_is_decoded_to_its_pixels(tile: Image.Image) -> None:
    for kind in ("PNG", "BMP", "TIFF"):
        assert np.array_equal(np.asarray(decode(encoded(tile, kind))), np.asarray(tile))


@pytest.mark.parametrize(
    "convert",
    [
        lambda image: encoded(image.convert("CMYK"), "TIFF"),
        lambda image: encoded(image.convert("P"), "PNG"),
        lambda image: encoded(image.convert("RGBA"), "PNG"),
        lambda image: encoded(image, "WEBP"),
        lambda image: encoded(image, "GIF", save_all=True, append_images=[image.rotate(90)]),
    ],
    ids=["CMYK", "palette", "RGBA", "WebP", "animated GIF"],
)
def test_other_kinds_of_colour_become_rgb(
    tile: Image.Image, convert: Callable[[Image.Image], bytes]
) -> None:
    image = decode(convert(tile))
    assert image.mode == "RGB"
    assert image.size == tile.size


def test_transparency_lies_over_black() -> None:
    clear = Image.new("RGBA", (16, 16), (200, 100, 50, 0))
    assert np.asarray(decode(encoded(clear, "PNG"))).max() == 0


def test_the_exif_orientation_is_applied() -> None:
    wide = Image.new("RGB", (20, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    assert decode(encoded(wide, "JPEG", exif=exif)).size == (10, 20)


@pytest.mark.parametrize("data", [b"", b"hello", b"<svg/>", b"\x00" * 100, b"%PDF-1.7"])
def test_what_is_no_image_is_unsupported(data: bytes) -> None:
    with pytest.raises(UnsupportedImage, match="expected JPEG"):
        decode(data)


def test_a_truncated_image_is_unusable(tile: Image.Image) -> None:
    data = encoded(tile.resize((64, 64)), "JPEG")
    with pytest.raises(BadImage, match="truncated"):
        decode(data[: len(data) // 2])


def test_a_huge_image_is_refused_before_it_is_decoded() -> None:
    for side in (6_000, 12_000, 100_000):
        with pytest.raises(BadImage, match="too many pixels"):
            decode(png_header(side, side))


def test_single_bands_and_crumbs_are_refused(tile: Image.Image) -> None:
    for mode in ("L", "I;16", "1"):
        with pytest.raises(BadImage, match="single-band"):
            decode(encoded(tile.convert("L").convert(mode), "PNG"))
    with pytest.raises(BadImage, match="too small"):
        decode(encoded(tile.resize((7, 16)), "PNG"))


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

"""What is random is drawn from the generator alone, and each change is the one it is named after.

That each knob works at all is shown in test_knobs.py.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from handlers.contract.spec import ModelSpec
from handlers.radiometry import WHITE, find_reading
from handlers.vision import normalize, turn
from training.config import AugmentConfig
from training.dataset.augment import HAZE_RGB, air, augment, mix

PLAIN = AugmentConfig(flips=False, quarter_turns=False)
EVERYTHING = AugmentConfig(
    rotation=30, zoom=0.2, shift=0.1, brightness=0.2, channel_gain=0.1, haze=0.2, contrast=0.2,
    saturation=0.2, noise=0.05, mixup=0.4, cutmix=1.0, mix_probability=1.0, air=0.5, white=0.3,
)  # fmt: skip
MEANS = [96.664, 110.955, 144.105, 132.994]  # of four tiles, drawn from seed 7


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


@pytest.fixture
def pixels() -> Tensor:
    """Smooth, not symmetric, in the middle of the range: nothing is clipped."""
    y, x = np.mgrid[:32, :32] / 31
    planes = np.stack([90 + 60 * x, 90 + 60 * y, 90 + 30 * x * y + 20 * x], axis=-1)
    return torch.from_numpy(np.stack([planes + n for n in range(16)]).astype(np.uint8))


@pytest.fixture
def images() -> Tensor:
    """Image n is n everywhere, so that a mixed one shows its shares."""
    return torch.arange(8.0).reshape(8, 1, 1, 1).expand(8, 3, 16, 16).clone()


def one_hot(n: int) -> Tensor:
    return torch.eye(n)


def test_the_same_seed_draws_the_same(pixels: Tensor) -> None:
    first, second = (augment(pixels, EVERYTHING, seeded(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, augment(pixels, EVERYTHING, seeded(4)))


class OneDevice(TorchDispatchMode):
    """No operation may need values of two devices but copies and single numbers."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        values = [v for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor) and v.ndim]
        assert len({v.device.type for v in values}) < 2 or "copy" in str(func), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("degrade", [0.0, 0.3])
def test_on_its_device_the_pipeline_needs_nothing_of_the_cpu(
    pixels: Tensor, degrade: float
) -> None:
    # "meta" has no numbers: whatever asks for one there, as a copy to the CPU does, fails.
    device = torch.device("meta")
    spec = ModelSpec(("land", "water"), 32, (0.3, 0.4, 0.4), (0.2, 0.1, 0.1))
    everything = replace(EVERYTHING, degrade=degrade)
    here, there = seeded(), seeded()
    with OneDevice():  # type: ignore[no-untyped-call]
        for seed in range(8):
            there.manual_seed(seed)
            changed = augment(pixels, everything, there, device)
            targets = one_hot(16).to(device)
            images, targets = mix(normalize(changed, spec), targets, everything, there)
            assert (images.device, targets.device) == (device, device)
            here.manual_seed(seed)
            on_cpu = normalize(augment(pixels, everything, here), spec)
            on_cpu, _ = mix(on_cpu, one_hot(16), everything, here)
            assert images.shape == on_cpu.shape
            # The same seed draws the same for every device.
            assert torch.equal(here.get_state(), there.get_state())


def test_a_seed_draws_the_same_from_one_release_to_the_next(pixels: Tensor) -> None:
    everything = replace(EVERYTHING, degrade=0.3, air=0.0, white=0.0)  # as they were before these
    found = augment(pixels, everything, seeded(7)).mean((1, 2, 3))[:4]
    assert found.tolist() == pytest.approx(MEANS, abs=0.01)


def test_nothing_is_drawn_from_elsewhere(pixels: Tensor, images: Tensor) -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - the global state is what must stay untouched
    before = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"]  # noqa: NPY002
    augment(pixels, EVERYTHING, seeded())
    mix(images, one_hot(8), EVERYTHING, seeded())
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state(legacy=False)["state"]["key"])  # noqa: NPY002


def test_the_batch_that_comes_in_stays_as_it_is(pixels: Tensor, images: Tensor) -> None:
    pixels_before, images_before = pixels.clone(), images.clone()
    augment(pixels, EVERYTHING, seeded())
    mix(images, one_hot(8), EVERYTHING, seeded())
    assert torch.equal(pixels, pixels_before)
    assert torch.equal(images, images_before)


def test_what_comes_out_is_float_and_in_range(pixels: Tensor) -> None:
    changed = augment(pixels, replace(EVERYTHING, brightness=0.9, haze=1.0), seeded())
    assert changed.dtype == torch.float32
    assert changed.shape == pixels.shape
    assert changed.min() >= 0
    assert changed.max() <= 255


def test_without_knobs_nothing_changes(pixels: Tensor) -> None:
    assert torch.equal(augment(pixels, PLAIN, seeded()), pixels.float())


def test_flips_and_turns_draw_all_symmetries_evenly(pixels: Tensor) -> None:
    many = pixels[:1].expand(800, -1, -1, -1)
    changed = augment(many, AugmentConfig(), seeded())
    drawn = [
        int((changed == turn(pixels[:1], symmetry).float()).flatten(1).all(1).sum())
        for symmetry in range(8)
    ]
    assert sum(drawn) == 800
    assert min(drawn) > 60


def test_haze_is_bluish_and_spares_half_of_the_tiles(pixels: Tensor) -> None:
    many = pixels[:1].expand(400, -1, -1, -1)
    added = augment(many, replace(PLAIN, haze=0.2), seeded()) - many.float()
    per_tile = added[:, 0, 0]  # (N, 3), the same all over a tile
    assert torch.allclose(added, per_tile.reshape(-1, 1, 1, 3).expand_as(added), atol=1e-3)
    touched = per_tile[:, 2].abs() > 1e-3
    assert 150 < int(touched.sum()) < 250
    shares = per_tile[touched] / per_tile[touched, 2:]
    assert torch.allclose(shares, torch.tensor(HAZE_RGB).expand_as(shares), atol=1e-2)
    blue = per_tile[:, 2] / 255
    assert -0.2 <= blue.min() < -0.15
    assert 0.07 < blue.max() <= 0.1


def test_no_air_is_what_the_product_undoes_of_a_surface_product(pixels: Tensor) -> None:
    # What is simulated is brought back by the product's reading of L2A, to the rounding.
    slope, intercept = air(torch.zeros(len(pixels)))
    without = pixels.float() * slope[:, None, None] + intercept[:, None, None]
    reflectance = (WHITE * (without - 1) / 254).numpy()
    again = find_reading(reflectance.reshape(-1, 3), "1", "l2a").apply(reflectance)
    assert np.abs(again.astype(int) - pixels.numpy()).max() <= 1


def test_as_much_air_changes_nothing() -> None:
    slope, intercept = air(torch.ones(2))
    assert torch.allclose(slope, torch.ones(2, 3))
    assert torch.allclose(intercept, torch.zeros(2, 3), atol=1e-4)


def test_a_scene_of_another_white_is_no_darker_for_what_is_brighter_than_eurosat(
    pixels: Tensor,
) -> None:
    # More air brings the brightest pixels beyond 255; a darker scale has them within again.
    bright = torch.full_like(pixels, 250)
    changed = augment(bright, replace(PLAIN, air=1.0, white=1.0), seeded())
    assert changed.max() < 255
    assert len(changed[..., 2].unique()) == len(pixels)


def test_edges_are_reflected_not_black(pixels: Tensor) -> None:
    moved = augment(pixels, replace(PLAIN, rotation=45, zoom=0.3, shift=0.2), seeded())
    assert moved.min() >= pixels.min() - 1


def test_mixup_mixes_images_and_targets_in_the_same_proportion(images: Tensor) -> None:
    config = AugmentConfig(mixup=1.0, mix_probability=1.0)
    mixed, targets = mix(images, one_hot(8), config, seeded(1))
    assert not torch.equal(mixed, images)
    assert torch.allclose(targets.sum(1), torch.ones(8))
    # Image n is n everywhere, so the targets foretell the pixels.
    expected = targets @ torch.arange(8.0)
    assert torch.allclose(mixed, expected.reshape(8, 1, 1, 1).expand_as(mixed), atol=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_cutmix_pastes_the_share_that_the_targets_say(images: Tensor, seed: int) -> None:
    config = AugmentConfig(cutmix=1.0, mix_probability=1.0)
    mixed, targets = mix(images, one_hot(8), config, seeded(seed))
    for own, (image, target) in enumerate(zip(mixed, targets, strict=True)):
        for other in range(8):
            share = (image[0] == other).float().mean().item()
            assert share == pytest.approx(target[other].item(), abs=1e-6)
        pasted = (image[0] != own).nonzero()
        if len(pasted):
            (top, left), (bottom, right) = pasted.min(0).values, pasted.max(0).values
            assert len(pasted) == (bottom - top + 1) * (right - left + 1)  # one rectangle


def test_both_methods_of_mixing_take_turns(images: Tensor) -> None:
    config = AugmentConfig(mixup=1.0, cutmix=1.0, mix_probability=1.0)
    kinds = []
    for seed in range(60):
        mixed, _ = mix(images, one_hot(8), config, seeded(seed))
        kinds.append(bool((mixed == mixed.round()).all()))  # pasted pixels stay whole numbers
    assert 15 < sum(kinds) < 45

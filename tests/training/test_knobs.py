"""Each knob of TrainConfig changes what its comment says, and no knob is forgotten."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from timm.models import VisionTransformer
from torch import Generator, Tensor, nn

from handlers.contract.spec import ModelSpec
from handlers.radiometry import GAIN25_WHITE, PATH, TCI_WHITE, TRANSMITTANCE, WHITE
from tests.support.knobs import changed, knobs
from tests.support.places import write_places
from tests.support.split_lists import write_split
from training.config import KNOBS as ALL_KNOBS
from training.config import (
    AugmentConfig,
    BadConfig,
    DataConfig,
    HardwareConfig,
    LossConfig,
    OptimConfig,
)
from training.dataset import splits
from training.dataset.augment import augment, mix
from training.dataset.eurosat import Tiles
from training.dataset.examples import Examples
from training.dataset.mined import Mined, write_mined
from training.dataset.neighbours import move
from training.distill import training_loss
from training.hardware import autocast, choose_precision
from training.models.baseline import BaselineCNN, ResidualBlock
from training.optim import learning_rate_factor, make_optimizer
from training.train import _order, _patience_is_over, _prepare, _Run, train

BASE = knobs(widths=(4, 4, 4), image_size=16, epochs=1, batch_size=16, warmup_epochs=0.0, threads=1)


@dataclass
class World:
    """What a knob can act on."""

    tiles: Tiles
    folder: Path
    teacher: Path
    patch: pytest.MonkeyPatch

    def prepare(self, **knobs: Any) -> _Run:
        return _prepare(changed(BASE, **knobs), self.tiles)

    def train(self, **knobs: Any) -> dict[str, Any]:
        """Train from the start; the last checkpoint."""
        runs = self.folder / f"runs{len(list(self.folder.iterdir()))}"
        run = train(changed(BASE, **knobs), self.tiles, runs)
        checkpoint: dict[str, Any] = torch.load(run / "last.pt", weights_only=True)
        return checkpoint


@pytest.fixture
def world(
    tiles: Tiles, tmp_path: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> World:
    folder = tmp_path / "world"
    folder.mkdir()
    return World(tiles, folder, finished_run, monkeypatch)


def steps(checkpoint: dict[str, Any]) -> int:
    return int(checkpoint["scheduler"]["last_epoch"])


def distance(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    return max((first[name] - second[name]).abs().max().item() for name in first)


# What is trained, on what


def check_model(world: World) -> None:
    assert isinstance(world.prepare(model="baseline").model, BaselineCNN)
    assert isinstance(world.prepare(model="vit_tiny").model, VisionTransformer)


def check_version(world: World) -> None:
    assert changed(BASE, version="3.4").run_name == "baseline-3.4"


def check_served_as(world: World) -> None:
    assert changed(BASE, served_as="coast").run_name == "coast-0.1"
    with pytest.raises(
        BadConfig, match="served_as: expected small letters, digits, _ or -, at most"
    ):
        changed(BASE, served_as="My Coast")


def check_split(world: World) -> None:
    labels = world.tiles.labels
    parts = {
        part: [f"{label}_{number}.jpg" for label in labels]
        for number, part in enumerate(splits.PARTS, start=1)
    }
    sums = {}
    for part, names in parts.items():
        text = "".join(f"{name}\n" for name in names)
        name = f"eurosat-spatial-{part}.txt"
        (world.folder / name).write_text(text)
        sums[name] = hashlib.md5(text.encode()).hexdigest()
    world.patch.setattr(splits, "SPATIAL_MD5", sums)
    world.patch.setattr(splits, "DEFAULT_DIR", world.folder)
    assert world.prepare(split="spatial").train_set.names == tuple(parts["train"])
    assert len(world.prepare(split="custom").train_set) == 56  # 70 % of 80
    assert len(world.prepare(split="random").train_set) == 48


def check_seed(world: World) -> None:
    first, again, other = (world.prepare(seed=seed).model.state_dict() for seed in (1, 1, 2))
    assert distance(first, again) == 0
    assert distance(first, other) > 0


# Architecture


def check_image_size(world: World) -> None:
    run = world.prepare(image_size=48)
    assert run.spec.image_size == 48
    assert run.train_set.pixels.shape == (48, 48, 48, 3)


def check_statistics(world: World) -> None:
    eurosat, imagenet, inception = (
        world.prepare(statistics=name).spec for name in ("eurosat", "imagenet", "inception")
    )
    assert (eurosat.mean[2], eurosat.std[2]) == (0.4078, 0.1156)
    assert (imagenet.mean[2], imagenet.std[2]) == (0.406, 0.225)
    assert (inception.mean[2], inception.std[2]) == (0.5, 0.5)


def check_widths(world: World) -> None:
    model = world.prepare(widths=(5, 6, 7)).model
    strided = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]
    assert [conv.out_channels for conv in strided] == [5, 6, 7]


def check_blocks(world: World) -> None:
    stages: Any = world.prepare(blocks=(0, 2, 1)).model.stages
    counts = [sum(isinstance(m, ResidualBlock) for m in stage.modules()) for stage in stages]
    assert counts == [0, 2, 1]


def check_dropout(world: World) -> None:
    for model in ("baseline", "vit_tiny", "resnet18", "swin_tiny"):
        layers = world.prepare(model=model, dropout=0.3, image_size=32).model.modules()
        # timm has more of them, all but the last one off.
        assert [m.p for m in layers if isinstance(m, nn.Dropout) and m.p] == [0.3]


def check_weights(world: World) -> None:
    checkpoint = world.teacher / "best.pt"
    run = world.prepare(weights=str(checkpoint))
    weights = torch.load(checkpoint, weights_only=True)["weights"]
    assert distance(run.model.state_dict(), weights) == 0
    assert distance(world.prepare(weights="none").model.state_dict(), weights) > 0


# Optimisation


def check_epochs(world: World) -> None:
    assert len(world.train(epochs=2)["history"]) == 2


def check_passes(world: World) -> None:
    assert steps(world.train(batch_size=20, passes=1)) == 3
    assert steps(world.train(batch_size=20, passes=5)) == 12  # 240 tiles
    lr = world.train(batch_size=20, passes=5, epochs=2)["history"][-1]["lr"]
    assert lr == pytest.approx(0.01 * BASE.optim.lr)  # a cosine over all of them


def check_head_epochs(world: World) -> None:
    trained = world.prepare(seed=5).model.state_dict()
    stages = {n: v.numpy() for n, v in trained.items() if n.startswith("stages.0")}
    np.savez(world.folder / "stages.npz", **stages)
    knobs = {"weights": str(world.folder / "stages.npz"), "epochs": 2}
    name = "stages.0.0.0.weight"
    frozen = world.train(**knobs, head_epochs=2)["weights"]
    assert torch.equal(frozen[name], trained[name])
    assert not torch.equal(frozen["head.weight"], world.prepare().model.state_dict()["head.weight"])
    thawed = world.train(**knobs, head_epochs=1)["weights"]
    assert not torch.equal(thawed[name], trained[name])


def check_batch_size(world: World) -> None:
    assert steps(world.train(batch_size=16)) == 3
    assert steps(world.train(batch_size=20)) == 3
    assert steps(world.train(batch_size=48)) == 1


def check_accumulate(world: World) -> None:
    assert steps(world.train(batch_size=8, accumulate=1)) == 6
    assert steps(world.train(batch_size=8, accumulate=4)) == 2


def check_optimizer(world: World) -> None:
    for name, kind in (
        ("adam", torch.optim.Adam),
        ("adamw", torch.optim.AdamW),
        ("sgd", torch.optim.SGD),
    ):
        assert type(world.prepare(optimizer=name).optimizer) is kind


def groups(pretrained: set[str], **knobs: Any) -> list[dict[str, Any]]:
    model = BaselineCNN(4, (4, 4, 4), (0, 0, 0), 0.0)
    optimizer = make_optimizer(model, pretrained, OptimConfig(**knobs))
    return optimizer.param_groups


def check_lr(world: World) -> None:
    assert {group["lr"] for group in groups(set(), lr=0.25)} == {0.25}


def check_pretrained_lr(world: World) -> None:
    found = groups({"head.weight", "head.bias"}, lr=0.2, pretrained_lr=0.1)
    rates = {tuple(p.shape): group["lr"] for group in found for p in group["params"]}
    assert rates[4, 4] == pytest.approx(0.02)  # head.weight
    assert rates[4, 3, 5, 5] == 0.2  # the first convolution


def check_momentum(world: World) -> None:
    (found,) = {group["momentum"] for group in groups(set(), optimizer="sgd", momentum=0.8)}
    assert found == 0.8
    (nesterov,) = {group["nesterov"] for group in groups(set(), optimizer="sgd", momentum=0.0)}
    assert not nesterov


def check_weight_decay(world: World) -> None:
    decays = {
        (parameter.ndim > 1, group["weight_decay"])
        for group in groups(set(), weight_decay=0.3)
        for parameter in group["params"]
    }
    assert decays == {(True, 0.3), (False, 0.0)}


def check_schedule(world: World) -> None:
    def factors(schedule: Literal["cosine", "constant", "step"]) -> list[float]:
        config = OptimConfig(schedule=schedule, epochs=100, warmup_epochs=0.0)
        return [learning_rate_factor(epoch, config) for epoch in (0, 50, 59.9, 60, 85, 100)]

    assert factors("constant") == [1, 1, 1, 1, 1, 1]
    assert factors("step") == pytest.approx([1, 1, 1, 0.1, 0.01, 0.01])
    cosine = factors("cosine")
    assert cosine[0] == 1
    assert cosine[1] == pytest.approx(0.505)
    assert cosine[-1] == pytest.approx(0.01)


def check_warmup_epochs(world: World) -> None:
    config = OptimConfig(warmup_epochs=4.0, schedule="constant")
    assert [learning_rate_factor(e, config) for e in (0, 1, 2, 4)] == [0, 0.25, 0.5, 1]


def check_grad_clip(world: World) -> None:
    knobs: dict[str, Any] = {
        "optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "lr": 1.0, "batch_size": 48,
        "schedule": "constant",
    }  # fmt: skip
    before = dict(world.prepare(**knobs).model.named_parameters())

    def moved(**more: Any) -> float:
        after = world.train(**knobs, **more)["weights"]
        return math.sqrt(sum(((after[n] - p) ** 2).sum().item() for n, p in before.items()))

    assert moved(grad_clip=0.01) == pytest.approx(0.01, rel=1e-3)
    assert moved(grad_clip=0.0) > 0.1


def check_ema(world: World) -> None:
    off = world.train(ema=0.0)
    assert distance(off["weights"], off["averaged"]) == 0
    on = world.train(ema=0.9)
    assert distance(on["weights"], off["weights"]) == 0  # it watches, it does not steer
    assert distance(on["weights"], on["averaged"]) > 0


def check_patience(world: World) -> None:
    history = [{"epoch": n, "val_accuracy": a} for n, a in ((1, 0.5), (2, 0.7), (3, 0.7), (4, 0.6))]
    assert _patience_is_over(history, 2)
    assert not _patience_is_over(history, 3)
    assert not _patience_is_over(history, 0)
    # At a rate of 0 only the batch norms' statistics move, and soon nothing gets better.
    stopped = world.train(epochs=9, patience=2, lr=0.0, ema=0.0)["history"]
    assert len(stopped) < 9


# Loss


def loss(logits: Tensor, targets: Tensor, weights: Tensor | None = None, **knobs: Any) -> float:
    return training_loss(logits, targets, LossConfig(**knobs), weights).item()


SURE = torch.tensor([[9.0, 0.0, 0.0, 0.0]])
TRUTH = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
DOUBT = torch.full((1, 4), 0.25)


def check_label_smoothing(world: World) -> None:
    logs = torch.log_softmax(SURE, 1)[0]
    expected = -(0.8 * logs[0] + 0.2 * logs.mean()).item()
    assert loss(SURE, TRUTH, label_smoothing=0.2) == pytest.approx(expected, rel=1e-5)
    assert loss(SURE, TRUTH) == pytest.approx(-logs[0].item(), rel=1e-5)


def unbalance(world: World) -> None:
    """12 tiles of Forest, 3 each of the others."""
    split = splits.load_split("random", world.tiles)
    kept = tuple(
        name
        for name in split.train
        if name.startswith("Forest") or int(name.rpartition("_")[2].removesuffix(".jpg")) <= 3
    )
    folder = world.folder / "unbalanced"
    write_split(replace(split, train=kept), folder)
    world.patch.setattr(splits, "SPLITS_DIR", folder)


def check_class_weights(world: World) -> None:
    unbalance(world)
    weights = world.prepare(class_weights=True).class_weights
    assert weights is not None
    assert weights.tolist() == pytest.approx([21 / 48, 21 / 12, 21 / 12, 21 / 12])
    assert world.prepare(class_weights=False).class_weights is None
    logits = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    targets = torch.eye(4)[:2]
    assert loss(logits, targets, weights) > loss(logits, targets)


def check_balanced_sampler(world: World) -> None:
    targets = torch.tensor([0] * 900 + [1] * 100)
    examples = Examples(("",) * 1000, torch.zeros(1000), targets)

    def drawn(*, balanced: bool) -> list[int]:
        config = DataConfig(balanced_sampler=balanced)
        order = _order(examples, config, Generator().manual_seed(0))
        return torch.bincount(targets[order]).tolist()

    assert drawn(balanced=False) == [900, 100]
    assert drawn(balanced=True) == pytest.approx([500, 500], abs=60)


def listed(world: World) -> Path:
    """A list of two hard tiles and one that is suspicious."""
    path = world.folder / "hard.csv"
    tiles = {"Forest_2.jpg": False, "River_5.jpg": False, "SeaLake_7.jpg": True}
    write_mined(path, [Mined(tile, 1.0, 0.5, 0.1, bad) for tile, bad in tiles.items()])
    return path


def check_mining(world: World) -> None:
    run = world.prepare(mining=str(listed(world)))
    order = _order(run.train_set, run.config.data, Generator().manual_seed(0), run.mined)
    drawn = Counter(run.train_set.names[number] for number in order.tolist())
    assert len(order) == 48
    # A quarter of 48 comes from two tiles; each may also be among the other 36.
    assert {drawn["Forest_2.jpg"], drawn["River_5.jpg"]} <= {6, 7}
    assert drawn["SeaLake_7.jpg"] <= 1
    assert max(drawn[name] for name in drawn if name not in ("Forest_2.jpg", "River_5.jpg")) == 1
    assert world.prepare(mining="").mined == []
    world.train(mining=str(listed(world)))


def check_mining_share(world: World) -> None:
    run = world.prepare(mining=str(listed(world)))

    def hard(share: float) -> int:
        config = DataConfig(mining_share=share)
        order = _order(run.train_set, config, Generator().manual_seed(0), run.mined)
        names = [run.train_set.names[number] for number in order.tolist()]
        assert len(names) == 48
        return names.count("Forest_2.jpg") + names.count("River_5.jpg")

    assert hard(0.0) == 2
    assert 24 <= hard(0.5) <= 26
    assert hard(1.0) == 48


def check_neighbours(world: World) -> None:
    world.patch.setattr(splits, "DEFAULT_DIR", world.folder)
    with pytest.raises(BadConfig, match="it is not known where the tiles lie; put eurosat_lat"):
        world.prepare(neighbours=0.5)
    write_places(world.folder, {f"Forest_{n}.jpg": (n, 0) for n in range(1, 13)})
    run = world.prepare(neighbours=0.5)
    table = run.neighbours
    assert table is not None
    forests, rest = table[:12], table[12:]
    assert forests[:, 3].tolist() == [*range(1, 12), -1]
    assert bool((rest == -1).all())
    assert world.prepare(neighbours=0.0).neighbours is None

    def changed_ones(share: float) -> list[bool]:
        batch, _, _ = move(
            run.train_set.pixels, torch.arange(48).repeat(10), table, share,
            Generator().manual_seed(0),
        )  # fmt: skip
        same = batch == run.train_set.pixels.repeat(10, 1, 1, 1)
        return [not each for each in same.flatten(1).all(1).tolist()]

    assert not any(changed_ones(0.0))
    assert 0.4 * 120 < sum(changed_ones(0.5)) < 0.6 * 120
    assert changed_ones(1.0) == [n < 12 for n in range(48)] * 10
    plain, moved = (world.train(neighbours=share)["weights"] for share in (0.0, 1.0))
    assert distance(plain, moved) > 0
    again = world.train(neighbours=1.0)["weights"]
    assert distance(moved, again) == 0
    world.train(neighbours=1.0, teacher=str(world.teacher), cutmix=1.0)


def check_label_fraction(world: World) -> None:
    part = world.prepare(label_fraction=0.25)
    assert torch.bincount(part.train_set.targets).tolist() == [3, 3, 3, 3]
    assert set(part.train_set.names) < set(part.split.train)
    assert len(part.val_set) == 16
    other = world.prepare(label_fraction=0.25, seed=1).train_set.names
    assert set(other) != set(part.train_set.names)
    runs = world.folder / "part"
    drawn = train(changed(BASE, label_fraction=0.25), world.tiles, runs) / "labelled.json"
    assert tuple(json.loads(drawn.read_text())) == part.train_set.names


def check_teacher(world: World) -> None:
    answers = world.prepare(teacher=str(world.teacher)).teacher
    assert answers is not None
    assert answers.shape == (48, 4)
    assert torch.allclose(answers.sum(1), torch.ones(48))
    assert world.prepare(teacher="").teacher is None


def check_teacher_views(world: World) -> None:
    one, eight = (
        world.prepare(teacher=str(world.teacher), teacher_views=views).teacher for views in (1, 8)
    )
    assert one is not None
    assert eight is not None
    assert one.shape == eight.shape
    assert not torch.allclose(one, eight)


def check_distill_online(world: World) -> None:
    run = world.prepare(teacher=str(world.teacher), distill_online=True)
    assert run.teacher is None
    assert run.online is not None
    answers = run.online(torch.zeros(2, 3, 16, 16))
    assert answers.shape == (2, 4)
    assert world.prepare(teacher=str(world.teacher)).online is None
    with pytest.raises(BadConfig, match="distill_online: expected a teacher to ask, found none"):
        changed(BASE, distill_online=True)


def check_distill(world: World) -> None:
    both = torch.cat([TRUTH, DOUBT], dim=1)
    hard = loss(SURE, both, distill=0.0)
    soft = loss(SURE, both, distill=1.0)
    assert hard == pytest.approx(loss(SURE, TRUTH))
    assert soft > 1
    mixed = loss(SURE, both, distill=0.25)
    assert mixed == pytest.approx(0.75 * hard + 0.25 * soft)


def check_distill_temperature(world: World) -> None:
    # A teacher whose softened answer is the softened answer of the student teaches nothing.
    for temperature in (1.0, 3.0):
        agreed = torch.cat([TRUTH, torch.softmax(SURE / temperature, 1)], dim=1)
        found = loss(SURE, agreed, distill=1.0, distill_temperature=temperature)
        assert found == pytest.approx(0, abs=1e-4)
    agreed = torch.cat([TRUTH, torch.softmax(SURE / 3, 1)], dim=1)
    assert loss(SURE, agreed, distill=1.0, distill_temperature=1.0) > 0.1
    soft, hard = (
        world.prepare(teacher=str(world.teacher), distill_temperature=t).teacher for t in (8.0, 1.0)
    )
    assert soft is not None
    assert hard is not None
    assert soft.max(1).values.mean() < hard.max(1).values.mean()


# Augmentation

SILENT = AugmentConfig(flips=False, quarter_turns=False)


def sample() -> Tensor:
    """64 different colour gradients, in the middle of the range so that nothing is clipped."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:16, :16] / 15
    slopes = random.uniform(-30, 30, (64, 1, 1, 3, 2))
    planes = 128 + slopes[..., 0] * x[..., None] + slopes[..., 1] * y[..., None]
    return torch.from_numpy(planes.astype(np.uint8))


def augmented(**knobs: Any) -> tuple[Tensor, Tensor]:
    """The sample before and after, float (64, 16, 16, 3)."""
    before = sample()
    return before.float(), augment(before, replace(SILENT, **knobs), Generator().manual_seed(0))


def kinds(after: Tensor, views: list[Tensor]) -> list[int]:
    """How many tiles are each of the views; every tile must be one of them."""
    same = torch.stack([(after == view).flatten(1).all(1) for view in views])
    assert bool(same.any(0).all())
    return same.sum(1).tolist()


def check_flips(world: World) -> None:
    before, after = augmented(flips=True)
    views = [before, before.flip(1), before.flip(2), before.flip(1, 2)]
    assert min(kinds(after, views)) > 5


def check_quarter_turns(world: World) -> None:
    before, after = augmented(quarter_turns=True)
    views = [before.rot90(turns, (1, 2)) for turns in range(4)]
    assert min(kinds(after, views)) > 5


def centre(values: Tensor) -> Tensor:
    """Where a warped tile shows nothing reflected."""
    return values[:, 5:11, 5:11]


def slopes(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean gradient of the red channel in the centre, down and to the right: (N,), (N,)."""
    red = centre(values)[..., 0]
    return red.diff(dim=1).mean((1, 2)), red.diff(dim=2).mean((1, 2))


def check_rotation(world: World) -> None:
    before, after = augmented(rotation=20.0)
    (down, right), (down_after, right_after) = slopes(before), slopes(after)
    steep = torch.hypot(down, right) > 1
    angle = torch.rad2deg(torch.atan2(down_after, right_after) - torch.atan2(down, right))[steep]
    angle = (angle + 180) % 360 - 180
    assert 12 < angle.abs().max() < 24
    assert angle.min() < 0 < angle.max()


def check_zoom(world: World) -> None:
    before, after = augmented(zoom=0.4)
    (down, right), (down_after, right_after) = slopes(before), slopes(after)
    length = torch.hypot(down, right)
    steep = length > 1
    factor = (torch.hypot(down_after, right_after) / length)[steep]
    assert 0.5 < factor.min() < 0.8
    assert 1.2 < factor.max() < 1.5


def check_shift(world: World) -> None:
    before, after = augmented(shift=0.25)
    down, right = slopes(before)
    moved = (centre(after) - centre(before))[..., 0].mean((1, 2))
    limit = 16 * 0.25 * (down.abs() + right.abs())
    assert bool((moved.abs() <= limit + 1).all())
    assert moved.abs().max() > 0.4 * limit.max()


def check_brightness(world: World) -> None:
    before, after = augmented(brightness=0.3)
    gain = (after / before).flatten(1)
    assert torch.allclose(gain, gain[:, :1].expand_as(gain), atol=1e-4)
    assert 0.7 <= gain.min() < 0.8
    assert 1.2 < gain.max() <= 1.3001


def check_channel_gain(world: World) -> None:
    before, after = augmented(channel_gain=0.3)
    gain = (after / before).flatten(1, 2)  # (N, pixels, 3)
    assert torch.allclose(gain, gain[:, :1].expand_as(gain), atol=1e-4)
    assert (gain[:, 0, 0] - gain[:, 0, 2]).abs().max() > 0.1
    assert 0.7 <= gain.min() < gain.max() <= 1.3001


def check_air(world: World) -> None:
    before, after = augmented(air=0.5)
    # Half to one and a half times the air: read through the product's own figures.
    for channel in range(3):
        path, through = PATH[channel], TRANSMITTANCE[channel]
        ground = (WHITE * (before[..., channel] - 1) / 254 - path) / through
        seen = WHITE * (after[..., channel] - 1) / 254
        little, much = (path * part + through**part * ground for part in (0.5, 1.5))
        low, high = torch.minimum(little, much), torch.maximum(little, much)
        assert bool(((seen >= low - 1e-5) & (seen <= high + 1e-5)).all())
    moved = (after - before).mean((1, 2))
    assert moved[:, 2].min() < -10
    assert moved[:, 2].max() > 10


def check_white(world: World) -> None:
    before, after = augmented(white=0.5)
    reflectance = WHITE * (before - 1) / 254
    views = [before, 255 * reflectance / TCI_WHITE, 255 * reflectance / GAIN25_WHITE]
    same = torch.stack([(after - view).abs().flatten(1).amax(1) < 1e-2 for view in views])
    assert bool((same.sum(0) == 1).all())
    as_before, tci, gain = same.sum(1).tolist()
    assert 20 <= as_before <= 44
    assert min(tci, gain) >= 8


def check_haze(world: World) -> None:
    before, after = augmented(haze=0.2)
    red, _, blue = (after - before)[:, 0, 0].T
    assert torch.allclose(red, 0.11 / 0.24 * blue, atol=0.01)
    assert 0.1 * 64 < int((blue == 0).sum()) < 0.9 * 64
    assert -0.2 * 255 <= blue.min() < -20


def check_contrast(world: World) -> None:
    before, after = augmented(contrast=0.5)
    assert torch.allclose(before.mean((1, 2, 3)), after.mean((1, 2, 3)), atol=0.01)
    factor = after.flatten(1).std(1) / before.flatten(1).std(1)
    assert 0.5 <= factor.min() < 0.7
    assert 1.3 < factor.max() <= 1.5001


def check_saturation(world: World) -> None:
    before, after = augmented(saturation=0.5)
    assert torch.allclose(before.mean(3), after.mean(3), atol=0.01)
    factor = after.std(3).mean((1, 2)) / before.std(3).mean((1, 2))
    assert 0.5 <= factor.min() < 0.7
    assert 1.3 < factor.max() <= 1.5001


def check_noise(world: World) -> None:
    before, after = augmented(noise=0.04)
    deviation = (after - before).flatten(1).std(1)
    assert deviation.min() < 0.01 * 255
    assert 0.03 * 255 < deviation.max() < 0.045 * 255


def check_degrade(world: World) -> None:
    def changed(share: float) -> float:
        before, after = augmented(degrade=share)
        # Information is lost, the tile is not: its mean colour stays.
        assert (before.mean((1, 2)) - after.mean((1, 2))).abs().max() < 3
        return (before != after).flatten(1).any(1).float().mean().item()

    # A mild loss may leave a gradient as it is.
    assert 0.1 < changed(0.3) < 0.35
    assert changed(1.0) > 0.4


def mixed(seed: int, **knobs: Any) -> tuple[Tensor, Tensor]:
    images = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 3, 8, 8)
    return mix(images, torch.eye(4), replace(SILENT, **knobs), Generator().manual_seed(seed))


def share_of_mixed_batches(**knobs: Any) -> float:
    return sum(not torch.equal(mixed(seed, **knobs)[1], torch.eye(4)) for seed in range(200)) / 200


def check_mixup(world: World) -> None:
    assert share_of_mixed_batches(mixup=0.0, mix_probability=1.0) == 0
    assert share_of_mixed_batches(mixup=1.0, mix_probability=1.0) > 0.8

    def smaller_share(alpha: float) -> float:
        targets = [mixed(seed, mixup=alpha, mix_probability=1.0)[1] for seed in range(100)]
        return float(np.mean([1 - batch.max().item() for batch in targets]))

    assert smaller_share(8.0) > smaller_share(0.1) + 0.1


def check_cutmix(world: World) -> None:
    assert share_of_mixed_batches(cutmix=0.0, mix_probability=1.0) == 0
    images, _ = mixed(0, cutmix=8.0, mix_probability=1.0)
    assert any(len(image.unique()) == 2 for image in images)


def check_mix_probability(world: World) -> None:
    assert share_of_mixed_batches(mixup=1.0, mix_probability=0.0) == 0
    low, high = (share_of_mixed_batches(mixup=1.0, mix_probability=p) for p in (0.3, 1.0))
    assert 0.15 < low < 0.4
    assert high > 0.7


# Speed


def check_precision(world: World) -> None:
    layer, image = nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8)
    for hardware, dtype in (
        (HardwareConfig(precision="fp32"), torch.float32),
        (HardwareConfig(precision="bf16"), torch.bfloat16),
        (HardwareConfig(precision="fp16"), torch.float16),
    ):
        with autocast(hardware):
            assert layer(image).dtype == dtype
    assert choose_precision(HardwareConfig(precision="auto")) in {"fp32", "bf16"}
    assert math.isfinite(world.train(precision="bf16")["history"][-1]["loss"])


def check_channels_last(world: World) -> None:
    for on in (True, False):
        weight = world.prepare(channels_last=on).model.get_parameter("stages.0.0.0.weight")
        assert weight.is_contiguous(memory_format=torch.channels_last) is on


def check_threads(world: World) -> None:
    world.prepare(threads=2)
    assert torch.get_num_threads() == 2
    world.prepare(threads=0)
    assert torch.get_num_threads() == 2


def check_device(world: World) -> None:
    # "meta" is the one other device that every machine has; it holds shapes without numbers.
    parameter = next(world.prepare(device="meta").model.parameters())
    assert parameter.device.type == "meta"


KNOBS: dict[str, Callable[[World], None]] = {
    name.removeprefix("check_"): check
    for name, check in list(globals().items())
    if name.startswith("check_")
}


def test_no_knob_is_forgotten() -> None:
    assert set(KNOBS) == set(ALL_KNOBS)


@pytest.mark.parametrize("name", KNOBS)
def test_a_knob_changes_what_it_says(name: str, world: World) -> None:
    KNOBS[name](world)


def test_the_spec_of_a_run_follows_the_tiles(world: World, spec: ModelSpec) -> None:
    assert world.prepare(image_size=32).spec == spec

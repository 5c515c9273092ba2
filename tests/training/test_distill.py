"""Learning from a stronger model's answers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from handlers.contract.spec import ModelSpec
from handlers.vision import normalize
from tests.support.knobs import changed
from training import distill as module
from training.config import BadConfig, TrainConfig
from training.dataset.eurosat import Tiles
from training.dataset.examples import load_examples
from training.inference import load_exported, predict
from training.train import _look_at, _prepare, train


def history_of(run: Path) -> list[dict[str, Any]]:
    lines = json.loads((run / "history.json").read_text())
    clocks = {"seconds", "images_per_second"}
    return [{key: line[key] for key in line if key not in clocks} for line in lines]


def test_a_teacher_that_is_none_says_why(
    run: Path, config: TrainConfig, tiles: Tiles, tmp_path: Path
) -> None:
    with pytest.raises(BadConfig, match=r"teacher: .*nobody: expected training\.json"):
        train(changed(config, teacher=str(tmp_path / "nobody")), tiles, tmp_path)
    served = run / "model-config.yaml"
    served.write_text(served.read_text().replace("SeaLake", "Lagoon"))
    with pytest.raises(BadConfig, match=r"teacher: expected the labels .*SeaLake.*found .*Lagoon"):
        train(changed(config, teacher=str(run)), tiles, tmp_path)


def test_a_teacher_of_another_split_is_refused(
    run: Path, config: TrainConfig, tiles: Tiles, tmp_path: Path
) -> None:
    facts = run / "training.json"
    facts.write_text(facts.read_text().replace('"random"', '"spatial"'))
    with pytest.raises(BadConfig, match="learned on the spatial split"):
        train(changed(config, teacher=str(run)), tiles, tmp_path)


def test_a_teacher_is_asked_once(
    finished_run: Path,
    config: TrainConfig,
    tiles: Tiles,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taught = changed(config, teacher=str(finished_run), version="2.0", epochs=1)
    first = train(taught, tiles, tmp_path / "first")

    def ask(*arguments: object) -> None:
        raise AssertionError("the teacher was asked again")

    with monkeypatch.context() as patch:
        patch.setattr(module, "predict", ask)
        again = train(taught, tiles, tmp_path / "again")
    assert history_of(first) == history_of(again)
    alone = train(changed(taught, teacher=""), tiles, tmp_path / "alone")
    assert history_of(alone)[0]["loss"] != history_of(first)[0]["loss"]


@pytest.fixture
def online(config: TrainConfig, finished_run: Path) -> TrainConfig:
    """Taught batch by batch, with all that changes it."""
    return changed(
        config, teacher=str(finished_run), distill_online=True, distill=1.0, version="2.0",
        epochs=2, ema=0.9, cutmix=1.0, mix_probability=1.0, noise=0.02, dropout=0.1,
    )  # fmt: skip


@pytest.mark.parametrize("size", [32, 48])
def test_an_online_teacher_answers_as_it_is_served(
    size: int, online: TrainConfig, finished_run: Path, tiles: Tiles
) -> None:
    """What the model sees, of another size and other statistics, in the teacher's terms."""
    run = _prepare(changed(online, image_size=size, statistics="imagenet"), tiles)
    teacher, spec = load_exported(finished_run)
    logits = predict(teacher, load_examples(tiles, run.train_set.names, spec).pixels, spec)
    assert run.online is not None
    found = run.online(normalize(run.train_set.pixels, run.spec))
    expected = torch.softmax(logits / run.config.loss.distill_temperature, dim=1)
    # Of tiles that were made smaller twice only nearly.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 if size == 32 else 0.2)
    assert (found.argmax(1) == expected.argmax(1)).float().mean() > 0.9


class Watched(nn.Module):
    """A teacher that keeps what it is shown, and is of one opinion."""

    def forward(self, images: Tensor) -> Tensor:
        self.shown = images
        assert not torch.is_grad_enabled()
        return torch.tensor([9.0, 0.0, 0.0, 0.0], device=images.device).expand(len(images), 4)


def test_an_online_teacher_sees_what_the_model_sees(online: TrainConfig, tiles: Tiles) -> None:
    run = _prepare(online, tiles)
    seen: list[Tensor] = []
    run.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    assert run.online is not None
    teacher = Watched()
    run.online._teachers = [(teacher, run.spec)]
    loss, _ = _look_at(run, torch.arange(16), seed=1)
    whole = normalize(run.train_set.pixels[:16], run.spec)
    assert (seen[0] - whole).abs().amax(dim=(1, 2, 3)).min() > 0.1  # all of them were changed
    torch.testing.assert_close(teacher.shown, seen[0], rtol=0, atol=1e-4)
    loss.backward()  # what it said is a target like any other


def test_an_online_teacher_asks_nothing_back_from_the_device(
    config: TrainConfig, tiles: Tiles
) -> None:
    run = _prepare(changed(config, device="meta", cutmix=1.0), tiles)
    hardware = run.config.hardware
    run.online = module.OnlineTeachers(run.config.loss, hardware, run.spec, torch.device("meta"))
    larger = ModelSpec(run.spec.labels, 48, run.spec.mean, run.spec.std)
    run.online._teachers = [(Watched(), larger)]
    loss, _ = _look_at(run, torch.arange(16), seed=0)
    assert loss.device.type == "meta"
    loss.backward()


def test_a_model_learns_from_online_answers_alone(
    online: TrainConfig, finished_run: Path, tiles: Tiles, tmp_path: Path
) -> None:
    longer = changed(online, epochs=6, dropout=0.0, ema=0.0)
    run = train(longer, tiles, tmp_path)
    losses = [line["loss"] for line in history_of(run)]
    assert losses[-1] < 0.7 * losses[0]
    best = torch.load(run / "best.pt", weights_only=True)
    assert best["teacher_origin"].startswith(
        "Learned as well, image by image, from the answers of baseline-1.0 (sha256 "
    )
    assert not module.TEACHER_DIR.exists()  # nothing of it is kept
    # Interrupted and gone on with, to the same end.
    parts = tmp_path / "parts"
    train(changed(longer, epochs=4, schedule="constant"), tiles, parts)
    train(changed(longer, epochs=6, schedule="constant"), tiles, parts)
    whole = train(changed(longer, schedule="constant"), tiles, tmp_path / "whole")
    assert history_of(parts / whole.name) == history_of(whole)

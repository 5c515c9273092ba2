"""Pretraining: it learns, goes on as if nothing had been, and a training takes what comes out."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.support.checkpoints import checkpoint, same
from tests.support.knobs import changed
from tests.support.own_tiles import picture
from training import pretrain as module
from training.config import (
    BadConfig,
    PretrainConfig,
    TrainConfig,
    change_config,
    read_config,
)
from training.dataset.eurosat import BadData, Tiles
from training.dataset.splits import load_split
from training.models.registry import build_model
from training.models.weights import is_folded, load_pretrained
from training.pretrain import pretrain
from training.train import train

ROOT = Path(__file__).resolve().parents[2]
TINY = change_config(
    PretrainConfig(),
    {
        "widths": [4, 4, 4],
        "image_size": 32,
        "view_size": 24,
        "split": "random",
        "epochs": 3,
        "batch_size": 16,
        "lr": 0.01,
        "warmup_epochs": 0.0,
        "projection": 8,
        "brightness": 0.2,
        "saturation": 0.2,
        "noise": 0.02,
        "threads": 1,
        "precision": "fp32",
    },
)


def tiny(**knobs: Any) -> PretrainConfig:
    return change_config(TINY, knobs)


@pytest.fixture(autouse=True)
def _named(tiny_eurosat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EUROSAT_DIR", str(tiny_eurosat))


@pytest.fixture(scope="session")
def undisturbed(tiny_eurosat: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished pretraining. Read only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EUROSAT_DIR", str(tiny_eurosat))
        patch.setattr("training.dataset.splits.SPLITS_DIR", tiny_eurosat / "splits")
        return pretrain(TINY, tmp_path_factory.mktemp("pretrained"))


def test_it_learns_to_tell_images_from_one_another(tmp_path: Path) -> None:
    run = pretrain(tiny(epochs=20, widths=[8, 8, 8]), tmp_path)
    losses = [line["loss"] for line in json.loads((run / "history.json").read_text())]
    assert len(losses) == 20
    # Of 31 other views nothing known: log 31. Which of four classes: log 7, and no class's tiles
    # differ in more than their noise.
    assert sum(losses[-5:]) / 5 < 0.5 * (math.log(31) + math.log(7))


def test_an_interrupted_run_ends_as_an_undisturbed_one(undisturbed: Path, tmp_path: Path) -> None:
    calls = iter(range(100))
    look_at = module._look_at

    def dying(*arguments: Any) -> Any:
        if next(calls) == 4:  # of 3 batches an epoch, the second of epoch 2
            raise KeyboardInterrupt
        return look_at(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_look_at", dying)
        with pytest.raises(KeyboardInterrupt):
            pretrain(TINY, tmp_path)
    run = tmp_path / undisturbed.name
    assert len(checkpoint(run / "last.pt")["history"]) == 1
    torch.manual_seed(99)  # whatever else was drawn
    assert pretrain(TINY, tmp_path) == run
    for name in ("weights.pt", "last.pt"):
        found, expected = checkpoint(run / name), checkpoint(undisturbed / name)
        found.pop("history", None), expected.pop("history", None)
        assert same(found, expected)
    losses = [
        [line["loss"] for line in json.loads((folder / "history.json").read_text())]
        for folder in (run, undisturbed)
    ]
    assert losses[0] == losses[1]


def test_only_training_tiles_are_seen(
    undisturbed: Path, tiles: Tiles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[str] = []
    decode = Tiles.decode

    def watched(self: Tiles, names: Any, *more: Any) -> Any:
        seen.extend(names)
        return decode(self, names, *more)

    monkeypatch.setattr(Tiles, "decode", watched)
    pretrain(tiny(epochs=1), tmp_path)
    assert sorted(seen) == sorted(load_split("random", tiles).train)
    told = checkpoint(undisturbed / "weights.pt")["pretraining"]
    assert told == (
        "SimCLR without labels, 3 of 3 epochs, on the 48 training tiles of the split random"
    )


def test_a_training_starts_from_what_comes_out(
    undisturbed: Path, config: TrainConfig, tiles: Tiles, tmp_path: Path
) -> None:
    weights = undisturbed / "weights.pt"
    begun = changed(config, weights=str(weights), epochs=1, lr=0.0)
    run = train(begun, tiles, tmp_path)
    best, given = checkpoint(run / "best.pt"), checkpoint(weights)["weights"]
    parameters = [name for name in given if name.endswith(("weight", "bias"))]
    assert len(parameters) > 20
    assert all(torch.equal(best["weights"][name], given[name]) for name in parameters)
    assert re.fullmatch(
        r"SimCLR without labels, 3 of 3 epochs, on the 48 training tiles of the split random "
        r"\(pretrain-baseline-0\.1, sha256 \w{16}\), which started so: Random start, no pretrained "
        r"weights\. Started at random: head\.bias, head\.weight\.",
        best["weights_origin"],
    )


def test_a_training_on_another_split_refuses_them(undisturbed: Path, config: TrainConfig) -> None:
    given = changed(config, weights=str(undisturbed / "weights.pt")).model
    with pytest.raises(BadConfig, match="learned on the random split, whose training tiles are"):
        load_pretrained(build_model(given, 4), given, "spatial")


def test_images_do_not_launder_what_their_start_has_seen(
    config: TrainConfig, finished_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "pile").mkdir()
    for number in range(16):
        (tmp_path / "pile" / f"{number}.jpg").write_bytes(picture("Reben", number))
    start = {"weights": str(finished_run / "best.pt"), "images": str(tmp_path / "pile")}
    run = pretrain(tiny(**start, epochs=1), tmp_path)
    given = changed(config, weights=str(run / "weights.pt")).model
    _, origin = load_pretrained(build_model(given, 4), given, "random")
    assert "on 16 images of pile (pretrain-baseline-0.1, " in origin
    assert "which started so: Epoch 3 of an earlier training (baseline-1.0, " in origin
    with pytest.raises(BadConfig, match="learned on the random split, whose training tiles are"):
        load_pretrained(build_model(given, 4), given, "spatial")


def test_tiles_that_a_drawn_split_keeps_back_are_not_seen(
    config: TrainConfig,
    tiles: Tiles,
    own_eurosat: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EUROSAT_DIR", str(own_eurosat))
    weights = pretrain(tiny(split="custom", epochs=1), tmp_path) / "weights.pt"
    lists = json.loads((weights.parent / "split.json").read_text())
    assert "on the 56 training tiles of the split custom" in checkpoint(weights)["pretraining"]
    begun = changed(config, weights=str(weights), split="custom", epochs=1)
    train(begun, tiles, tmp_path)
    (own_eurosat / "2750" / "River" / "River_1.jpg").unlink()
    with pytest.raises(BadConfig, match="other settings: images_sha256"):
        pretrain(tiny(split="custom", epochs=2), tmp_path)
    assert json.loads((weights.parent / "split.json").read_text()) == lists  # still that of the run
    lists["train"] += [lists["test"].pop()]
    (weights.parent / "split.json").write_text(json.dumps(lists))
    with pytest.raises(BadConfig, match=r"weights\.pt learned from 1 tiles that are kept back"):
        train(changed(begun, version="1.1"), tiles, tmp_path)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny"])
def test_other_models_are_pretrained_too(name: str, tmp_path: Path) -> None:
    knobs = {"model": name, "view_size": 0, "epochs": 1, "batch_size": 24}
    weights = checkpoint(pretrain(tiny(**knobs), tmp_path) / "weights.pt")["weights"]
    given = changed(TrainConfig(), model=name, image_size=32).model
    own = set(build_model(given, 4).state_dict())
    assert {key.partition(".")[0] for key in own - set(weights)} <= {"fc", "head"}
    assert not set(weights) - own


def test_the_user_s_own_images_are_of_no_split(
    config: TrainConfig, tiles: Tiles, tiny_eurosat: Path, tmp_path: Path
) -> None:
    pile = tmp_path / "pile"
    for number, path in enumerate(sorted((tiny_eurosat / "2750").rglob("*.jpg"))):
        (pile / str(number % 3)).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, pile / str(number % 3) / f"{number}.jpg")
    run = pretrain(tiny(images=str(pile), epochs=1), tmp_path)
    assert run.name == "pretrain-baseline-0.1"
    given = changed(config, weights=str(run / "weights.pt")).model
    _, origin = load_pretrained(build_model(given, 4), given, "spatial")
    assert origin.startswith("SimCLR without labels, 1 of 1 epochs, on 80 images of pile (")
    custom = changed(config, weights=str(run / "weights.pt"), split="custom", epochs=1)
    train(custom, tiles, tmp_path)
    (pile / "0" / "0.jpg").unlink()
    with pytest.raises(BadConfig, match=r"other settings: images_sha256 was \w+, is \w+\. Choose"):
        pretrain(tiny(images=str(pile), epochs=2), tmp_path)


def test_folded_weights_to_start_from_can_be_learned_on(tmp_path: Path) -> None:
    model = build_model(TINY.model, 4)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.get_buffer("running_var").fill_(1 - norm.eps)
    assert is_folded(model)
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    np.savez(tmp_path / "folded.npz", **arrays)
    run = pretrain(tiny(weights=str(tmp_path / "folded.npz"), lr=0.0, epochs=1), tmp_path)
    found = checkpoint(run / "weights.pt")
    assert found["weights_origin"].startswith("folded.npz (sha256 ")
    first = "stages.0.0.0.weight"
    assert torch.equal(found["weights"][first], torch.from_numpy(arrays[first]))
    model.load_state_dict(found["weights"], strict=False)
    assert not is_folded(model)


def test_other_settings_are_refused_more_epochs_are_not(undisturbed: Path, tmp_path: Path) -> None:
    run = shutil.copytree(undisturbed, tmp_path / undisturbed.name)
    with pytest.raises(BadConfig, match=r"other settings: temperature was 0\.2, is 0\.5\. Choose"):
        pretrain(tiny(temperature=0.5), tmp_path)
    pretrain(tiny(epochs=4), tmp_path)
    assert checkpoint(run / "weights.pt")["epoch"] == 4


def test_a_loss_that_is_no_number_ends_it_and_the_last_epoch_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain(tiny(epochs=1), tmp_path)
    monkeypatch.setattr(module, "contrast", lambda *_: torch.tensor(torch.nan, requires_grad=True))
    with pytest.raises(BadConfig, match="the loss is nan in epoch 2; lower lr or use fp32"):
        pretrain(tiny(epochs=2), tmp_path)
    assert checkpoint(tmp_path / "pretrain-baseline-0.1" / "weights.pt")["epoch"] == 1


def test_what_cannot_be_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="found 48 images, expected at least a batch of 49; lower"):
        pretrain(tiny(batch_size=49), tmp_path)
    with pytest.raises(BadConfig, match="batch_size: expected 2 or more"):
        tiny(batch_size=1)
    with pytest.raises(BadConfig, match="cutmix: has no meaning in a pretraining; leave it out"):
        tiny(cutmix=1.0)
    with pytest.raises(BadConfig, match="unknown key label_smoothing; valid keys: version, seed"):
        tiny(label_smoothing=0.1)
    with pytest.raises(BadData, match=r"expected a folder, a zip or an image; .* does not exist"):
        pretrain(tiny(images=str(tmp_path / "nowhere")), tmp_path)


def test_the_command_pretrains_by_the_committed_config(
    tiny_eurosat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = ROOT / "training" / "configs" / "pretrain.yaml"
    assert read_config(PretrainConfig(), path).data.split == "spatial"
    monkeypatch.setattr(module, "keep_memory", lambda: None)
    monkeypatch.setattr(module.pretrain, "__defaults__", (tmp_path,))
    words = ["split=random", "epochs=1", "batch_size=16", "widths=[4, 4, 4]", "threads=1"]
    knobs = [word for knob in words for word in ("--set", knob)]
    monkeypatch.setattr("sys.argv", ["pretrain", "--config", str(path), *knobs])
    module.main()
    assert capsys.readouterr().out == f"{tmp_path}/pretrain-baseline-1.0/weights.pt\n"
    assert (tmp_path / "pretrain-baseline-1.0" / "weights.pt").is_file()

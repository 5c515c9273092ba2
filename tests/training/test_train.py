"""The loop: it learns, it goes on after a kill as if nothing had been, it refuses clearly."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from handlers.contract.spec import ModelSpec
from tests.support.checkpoints import AROUND, checkpoint, same
from tests.support.knobs import changed, knobs
from tests.support.own_tiles import write_own_tiles
from training import train as module
from training.average import average
from training.config import (
    BadConfig,
    TrainConfig,
    config_from_dict,
    config_to_dict,
    load_config,
)
from training.dataset import splits
from training.dataset.eurosat import BadData, Tiles, find_tiles
from training.dataset.examples import load_examples
from training.dataset.splits import load_split
from training.evaluate import evaluate
from training.export import export
from training.inference import load_exported, predict
from training.models.registry import build_model
from training.release import release
from training.requantize import requantize
from training.runs import BadExport, has_int8, is_fused
from training.train import train, validate

ROOT = Path(__file__).resolve().parents[2]


def history_of(run: Path) -> list[dict[str, Any]]:
    """Without what a clock says."""
    lines = json.loads((run / "history.json").read_text())
    return [{key: line[key] for key in line if key not in AROUND} for line in lines]


# A training


def test_the_tiny_set_is_learned(config: TrainConfig, tiles: Tiles, tmp_path: Path) -> None:
    wider = changed(config, widths=[8, 8, 8], brightness=0.0)  # most seeds get all right
    run = train(changed(wider, epochs=20, lr=0.01, batch_size=8), tiles, tmp_path)
    history = history_of(run)
    assert [line["epoch"] for line in history] == list(range(1, 21))
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    assert history[-1]["val_accuracy"] > 0.9


def test_a_run_is_a_folder_of_fixed_names(finished_run: Path, config: TrainConfig) -> None:
    assert finished_run.name == "baseline-1.0"
    names = {path.name for path in finished_run.iterdir()}
    assert names >= {"config.yaml", "best.pt", "last.pt", "history.json", "train.log"}
    assert sum(name.startswith("events.") for name in names) == 1
    assert yaml.safe_load((finished_run / "config.yaml").read_text()) == config_to_dict(config)
    log = (finished_run / "train.log").read_text()
    assert "training tiles: {'Forest': 12, 'Industrial': 12, 'River': 12, 'SeaLake': 12}" in log
    assert "epoch 3/3: loss" in log
    assert not [name for name in names if name.endswith(".part")]


def test_the_best_checkpoint_has_the_accuracy_that_it_claims(
    finished_run: Path, tiles: Tiles
) -> None:
    best = checkpoint(finished_run / "best.pt")
    history = history_of(finished_run)
    assert best["val_accuracy"] == max(line["val_accuracy"] for line in history)
    assert best["val_accuracy"] == history[best["epoch"] - 1]["val_accuracy"]
    spec = ModelSpec.from_dict(best["spec"])
    config = config_from_dict(best["config"])
    model = build_model(config.model, len(spec.labels))
    model.load_state_dict(best["weights"])
    val = load_examples(tiles, load_split("random", tiles).val, spec)
    assert validate(model, val, spec, config.hardware)[1] == best["val_accuracy"]


def test_the_first_of_the_best_epochs_is_kept(
    config: TrainConfig, tiles: Tiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([0.5, 0.9, 0.7, 0.9])
    monkeypatch.setattr(module, "validate", lambda *_: (1.0, next(found)))
    run = train(changed(config, epochs=4, ema=0.0), tiles, tmp_path)
    best, last = checkpoint(run / "best.pt"), checkpoint(run / "last.pt")
    assert (best["epoch"], best["val_accuracy"]) == (2, 0.9)
    assert not same(best["weights"], last["weights"])


SHORT = ("epochs=1", "head_epochs=0", "batch_size=16", "precision=fp32", "threads=1", "version=0.9")


def test_a_vit_trains_exports_and_evaluates_by_its_config(tiles: Tiles, tmp_path: Path) -> None:
    run = train(load_config(ROOT / "training/configs/vit_tiny.yaml", SHORT), tiles, tmp_path)
    export(run, tiles)
    assert not is_fused(run)  # oneDNN cannot, and says so only when it runs
    report = json.loads(evaluate(run, tiles, full=False).read_text())
    assert report["model"] == "vit_tiny"
    assert np.sum(report["confusion"]) == 16


def test_a_swin_trains_and_exports_by_its_config(tiles: Tiles, tmp_path: Path) -> None:
    run = train(load_config(ROOT / "training/configs/swin_tiny.yaml", SHORT), tiles, tmp_path)
    export(run, tiles)
    assert not is_fused(run)
    assert not has_int8(run)
    model, spec = load_exported(run)
    val = load_examples(tiles, load_split("random", tiles).val, spec)
    assert val.pixels.shape[1:3] == (64, 64)
    right = predict(model, val.pixels, spec).argmax(1) == val.targets
    assert right.float().mean() == checkpoint(run / "best.pt")["val_accuracy"]


@pytest.fixture(scope="module")
def lite2_run(tiny_eurosat: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """EfficientNet-Lite2 from the installed package's weights, its new layer first; exported."""
    path = ROOT / "training/configs/efficientnet_lite2.yaml"
    words = (*SHORT, "epochs=2", "head_epochs=1", "image_size=32", "ema=0", "warmup_epochs=0")
    tiles = find_tiles(tiny_eurosat)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "SPLITS_DIR", tiny_eurosat / "splits")
        run = train(load_config(path, words), tiles, tmp_path_factory.mktemp("lite2"))
        export(run, tiles)
    return run


def test_an_efficientnet_learns_from_the_weights_of_its_package(
    lite2_run: Path, tiles: Tiles
) -> None:
    best = checkpoint(lite2_run / "best.pt")
    losses = [line["loss"] for line in history_of(lite2_run)]
    assert losses[1] < losses[0]
    assert "Started at random: classifier.bias, classifier.weight." in best["weights_origin"]
    assert not has_int8(lite2_run)
    model, spec = load_exported(lite2_run)
    assert (spec.image_size, spec.mean) == (32, (0.5, 0.5, 0.5))
    val = load_examples(tiles, load_split("random", tiles).val, spec)
    found = predict(model, val.pixels, spec).argmax(1)
    assert (found == val.targets).float().mean() == best["val_accuracy"]


@pytest.mark.parametrize("online", [False, True])
def test_an_efficientnet_teaches(
    *, online: bool, lite2_run: Path, config: TrainConfig, tiles: Tiles, tmp_path: Path
) -> None:
    taught = changed(config, teacher=str(lite2_run), distill=1.0, distill_online=online, epochs=2)
    first, second = history_of(train(taught, tiles, tmp_path))
    assert second["loss"] < first["loss"]


def test_an_efficientnet_goes_on_from_its_export(
    lite2_run: Path, tiles: Tiles, tmp_path: Path
) -> None:
    before = checkpoint(lite2_run / "best.pt")
    knobs = before["config"] | {"weights": str(lite2_run), "head_epochs": 0, "version": "2.0"}
    run = module._prepare(config_from_dict(knobs), tiles)
    _, accuracy = validate(run.model, run.val_set, run.spec, run.config.hardware)
    assert accuracy == before["val_accuracy"]


def test_a_step_asks_nothing_back_from_the_device(config: TrainConfig, tiles: Tiles) -> None:
    # "meta" has no numbers: who asks for one fails.
    balanced = changed(config, device="meta", ema=0.9, class_weights=True, cutmix=1.0)
    run = module._prepare(balanced, tiles)
    loss, right = module._look_at(run, torch.arange(16), seed=0)
    assert (loss.device.type, right.device.type) == ("meta", "meta")
    loss.backward()
    module._step(run)
    assert run.scheduler.last_epoch == 1


# Resuming


@pytest.fixture(scope="module")
def long_config(config: TrainConfig) -> TrainConfig:
    """Everything whose state could be lost between two epochs."""
    return changed(config, epochs=4, ema=0.9, cutmix=1.0, noise=0.02, dropout=0.1, rotation=5.0)


@pytest.fixture(scope="module")
def killed_runs(
    tiny_eurosat: Path, long_config: TrainConfig, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    runs = tmp_path_factory.mktemp("killed")
    script = Path(__file__).with_name("train_and_die.py")
    words = [str(tiny_eurosat), str(runs), json.dumps(config_to_dict(long_config))]
    subprocess.run([sys.executable, script, *words], cwd=ROOT, env=_environment(), check=True)
    return runs


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    ("place", "finished"), [("in the middle of an epoch", 2), ("between two files", 1)]
)
def test_a_killed_training_ends_like_an_uninterrupted_one(
    place: str,
    finished: int,
    killed_runs: Path,
    long_config: TrainConfig,
    tiles: Tiles,
    tmp_path: Path,
) -> None:
    killed = killed_runs / place / "baseline-1.0"
    assert len(checkpoint(killed / "last.pt")["history"]) == finished
    resumed = train(long_config, tiles, killed_runs / place)
    assert f"going on behind epoch {finished} of" in (resumed / "train.log").read_text()
    uninterrupted = train(long_config, tiles, tmp_path)
    assert len(history_of(uninterrupted)) == 4
    assert history_of(resumed) == history_of(uninterrupted)
    for name in ("last.pt", "best.pt"):
        assert same(checkpoint(resumed / name), checkpoint(uninterrupted / name)), name


def test_a_finished_run_goes_on_when_it_is_made_longer(
    run: Path, config: TrainConfig, tiles: Tiles
) -> None:
    before = history_of(run)
    assert train(changed(config, epochs=4), tiles, run.parent) == run
    assert history_of(run)[:3] == before
    assert len(history_of(run)) == 4


def test_a_run_goes_on_in_the_precision_that_it_began_with(
    config: TrainConfig, tiles: Tiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = changed(config, epochs=1, precision="auto")
    monkeypatch.setattr(module, "choose_precision", lambda _: "fp32")
    run = train(short, tiles, tmp_path)
    monkeypatch.setattr(module, "choose_precision", lambda _: "bf16")  # as another CPU would
    train(changed(short, epochs=2), tiles, tmp_path)
    assert checkpoint(run / "last.pt")["config"]["precision"] == "fp32"
    assert len(history_of(run)) == 2


def test_a_finished_run_is_left_as_it_is(run: Path, config: TrainConfig, tiles: Tiles) -> None:
    before = (run / "best.pt").read_bytes(), (run / "last.pt").read_bytes()
    train(config, tiles, run.parent)
    assert ((run / "best.pt").read_bytes(), (run / "last.pt").read_bytes()) == before


def test_a_run_with_other_settings_is_not_gone_on_with(
    run: Path, config: TrainConfig, tiles: Tiles
) -> None:
    message = (
        r"baseline-1\.0 holds a run with other settings: seed was 0, is 5, lr was 0\.03, "
        r"is 0\.02\. Choose another version, or move the folder"
    )
    with pytest.raises(BadConfig, match=message):
        train(changed(config, lr=0.02, seed=5), tiles, run.parent)


def test_a_damaged_checkpoint_costs_an_epoch_and_nothing_else(
    run: Path, config: TrainConfig, tiles: Tiles
) -> None:
    before = history_of(run)
    weights = {name: checkpoint(run / name) for name in ("best.pt", "last.pt")}
    data = bytearray((run / "last.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (run / "last.pt").write_bytes(data)
    train(config, tiles, run.parent)
    log = (run / "train.log").read_text()
    assert "going on behind epoch 2 of" in log
    assert history_of(run) == before
    assert all(same(checkpoint(run / name), kept) for name, kept in weights.items())


def test_where_nothing_is_left_to_resume_from_nothing_is_lost(
    run: Path, config: TrainConfig, tiles: Tiles
) -> None:
    for name in ("last.pt", "last-but-one.pt"):
        (run / name).write_bytes(b"")
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(BadExport, match=r"or train another version, from its best weights with"):
        train(config, tiles, run.parent)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_a_run_that_is_older_than_a_knob_goes_on(
    run: Path, config: TrainConfig, tiles: Tiles
) -> None:
    state = checkpoint(run / "last.pt")
    del state["config"]["served_as"]
    torch.save(state, run / "last.pt")
    train(changed(config, epochs=4), tiles, run.parent)
    assert len(history_of(run)) == 4
    with pytest.raises(BadConfig, match=r"other settings: dropout was 0\.0, is 0\.5"):
        train(changed(config, epochs=5, dropout=0.5), tiles, run.parent)


# Tiles of one's own


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    return write_own_tiles(tmp_path_factory.mktemp("own") / "mine", each=20, side=80)


@pytest.fixture(scope="module")
def own_run(own: Path, config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    runs = tmp_path_factory.mktemp("runs")
    return train(changed(config, epochs=1, served_as="coast"), find_tiles(own), runs)


def test_of_ones_own_tiles_a_split_is_drawn_and_kept(
    own: Path, own_run: Path, config: TrainConfig, tmp_path: Path
) -> None:
    assert own_run.name == "coast-1.0"
    assert yaml.safe_load((own_run / "config.yaml").read_text())["split"] == "custom"
    lists = json.loads((own_run / "split.json").read_text())
    assert {part: len(names) for part, names in lists.items()} == {"train": 42, "val": 9, "test": 9}
    assert "split custom of" in (own_run / "train.log").read_text()
    tiles, run = tmp_path / "mine", tmp_path / "runs" / own_run.name
    shutil.copytree(own, tiles)
    shutil.copytree(own_run, run)
    for number in range(5):  # came later
        shutil.copy(tiles / "Reben" / "tile 0.jpg", tiles / "Reben" / f"later {number}.jpg")
    train(changed(config, epochs=2, served_as="coast"), find_tiles(tiles), run.parent)
    assert json.loads((run / "split.json").read_text()) == lists
    assert len(history_of(run)) == 2


def test_a_run_on_ones_own_tiles_goes_all_the_way(
    own: Path, own_run: Path, config: TrainConfig, tmp_path: Path
) -> None:
    tiles, first = find_tiles(own), tmp_path / "runs" / own_run.name
    shutil.copytree(own_run, first)
    second = train(changed(config, version="1.1", epochs=1, served_as="coast"), tiles, first.parent)
    mean = average([first, second], "1.2", tiles, first.parent)
    export(mean, tiles)
    evaluate(mean, tiles)
    # On nine test tiles chance decides whether int8 is as good.
    released = release(mean, tmp_path / "releases", tmp_path / "README.md", force=True)
    assert (released / "split.json").read_text() == (first / "split.json").read_text()
    card = (released / "MODEL_CARD.md").read_text()
    assert "3 classes of tiles of its own: Dünen & Strand, Reben, hafen 2." in card
    assert "60 tiles of a folder of class folders" in card
    assert "EuroSAT" not in card
    assert "ten" not in card.split()
    table = (tmp_path / "releases" / "README.md").read_text()
    assert "| coast 1.2 (own tiles) |" in table
    again = requantize(released, "1.3", first.parent, tiles)
    assert (again / "split.json").read_text() == (first / "split.json").read_text()
    report = json.loads(evaluate(again, tiles, full=False).read_text())
    assert report["split"]["name"] == "custom"


def test_a_version_of_other_classes_is_no_successor(
    own: Path, finished_run: Path, config: TrainConfig, tmp_path: Path
) -> None:
    tiles = find_tiles(own)
    release(finished_run, tmp_path / "releases", tmp_path / "README.md", force=True)
    run = train(changed(config, version="1.1", epochs=1), tiles, tmp_path / "runs")
    export(run, tiles)
    evaluate(run, tiles)
    with pytest.raises(
        BadExport, match=r"baseline-1\.0 knows other classes: Forest, .*served_as=NAME"
    ):
        release(run, tmp_path / "releases", tmp_path / "README.md")


def test_what_knows_tiles_that_are_kept_back_is_not_learned_from(
    own: Path, own_run: Path, finished_run: Path, config: TrainConfig, tmp_path: Path
) -> None:
    tiles = find_tiles(own)
    going_on = changed(config, version="2.0", epochs=1)
    for weights in (finished_run / "best.pt", own_run / "best.pt"):  # EuroSAT's, and the same split
        train(changed(going_on, weights=str(weights)), tiles, tmp_path / weights.parent.name)
    other = tmp_path / "other" / own_run.name
    shutil.copytree(own_run, other)
    lists = json.loads((other / "split.json").read_text())
    lists["train"], lists["test"] = lists["test"], lists["train"]
    (other / "split.json").write_text(json.dumps(lists))
    message = r"weights: best\.pt learned from 9 tiles that are kept back here, .* first, if their"
    with pytest.raises(BadConfig, match=message):
        train(changed(going_on, weights=str(other / "best.pt")), tiles, tmp_path / "refused")
    (other / "split.json").rename(other / "elsewhere.json")
    with pytest.raises(BadData, match=r"split\.json is missing"):
        train(changed(going_on, weights=str(other / "best.pt")), tiles, tmp_path / "refused")


def test_part_of_eurosat_may_not_go_on_from_all_of_it(
    own_eurosat: Path, finished_run: Path, config: TrainConfig, tmp_path: Path
) -> None:
    (own_eurosat / "2750" / "River" / "River_7.jpg").unlink()
    going_on = changed(config, version="2.0", weights=str(finished_run))
    with pytest.raises(
        BadConfig, match=r"weights: baseline-1\.0 learned from \d+ tiles that are kep"
    ):
        train(going_on, find_tiles(own_eurosat), tmp_path)


# Refusing


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"lr": 0.5}, "other settings: lr was"),
        ({"version": "1.1", "weights": "nowhere.pt"}, "weights: expected imagenet, none or a file"),
        ({"version": "1.1", "device": "abacus"}, "device: 'abacus' is not here"),
        ({"version": "1.1", "teacher": "nowhere"}, "teacher: nowhere: expected training.json"),
        ({"version": "1.1", "split": "spatial"}, "replace it with"),
    ],
)
def test_what_is_refused_is_refused_before_tiles_are_decoded(
    knobs: dict[str, Any],
    message: str,
    run: Path,
    config: TrainConfig,
    own_eurosat: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (own_eurosat / "2750" / "eurosat-spatial-train.txt").write_text("River_1.jpg\n")

    def decode(*_: object) -> None:
        raise AssertionError("tiles were decoded first")

    monkeypatch.setattr(Tiles, "decode", decode)
    with pytest.raises((BadConfig, BadData), match=message):
        train(changed(config, **knobs), find_tiles(own_eurosat), run.parent)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        (
            {"model": "resnet19"},
            "model: expected one of baseline, resnet18, vit_tiny, swin_tiny, ef",
        ),
        ({"weights": "nowhere.npz"}, r"weights: expected imagenet, none or a file; nowhere\.npz d"),
        ({"weights": "imagenet"}, "weights: imagenet is for resnet18"),
        ({"device": "abacus"}, "device: 'abacus' is not here; expected cpu or cuda"),
        ({"lr": 1e30, "optimizer": "sgd"}, r"the loss is (nan|inf) in epoch \d; lower lr or use f"),
    ],
)
def test_a_training_that_cannot_be_says_why(
    knobs: dict[str, Any], message: str, config: TrainConfig, tiles: Tiles, tmp_path: Path
) -> None:
    with pytest.raises(BadConfig, match=message):
        train(changed(config, **knobs), tiles, tmp_path)


def test_a_folder_called_as_a_word_is_no_release(
    config: TrainConfig, tiles: Tiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for word in ("imagenet", "none"):
        (tmp_path / word).mkdir()
    with pytest.raises(BadConfig, match="weights: imagenet is for resnet18"):
        train(changed(config, weights="imagenet"), tiles, tmp_path / "runs")
    with pytest.raises(BadConfig, match=r"the loss is (nan|inf)"):  # it did begin
        train(changed(config, weights="none", lr=1e30, optimizer="sgd"), tiles, tmp_path / "runs")


def test_a_head_needs_something_else_to_wait_for_it(
    finished_run: Path, config: TrainConfig, tiles: Tiles, tmp_path: Path
) -> None:
    weights = str(finished_run / "best.pt")
    with pytest.raises(BadConfig, match="head_epochs: expected 0, as every layer came with weight"):
        train(changed(config, weights=weights, head_epochs=1), tiles, tmp_path)


def test_bad_data_stops_a_training_with_its_name(own_eurosat: Path, config: TrainConfig) -> None:
    (own_eurosat / "2750" / "River" / "River_2.jpg").write_bytes(b"torn")
    with pytest.raises(BadData, match=r"1 bad tiles in .*\n  River_2\.jpg: "):
        train(config, find_tiles(own_eurosat), own_eurosat / "runs")
    (own_eurosat / "splits" / "random-train.txt").write_text("")
    with pytest.raises(BadData, match="split random: the train list is empty"):
        train(config, find_tiles(own_eurosat), own_eurosat / "runs")


# The command


def test_the_command_ends_with_a_sentence_not_a_traceback(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "training.train", "--set", "learning=1"],
        cwd=ROOT,
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("unknown key learning; valid keys: version, seed, model.name, ")
    assert "Traceback" not in result.stderr


def test_the_command_trains_what_file_and_words_say(
    tiny_eurosat: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text("image_size: 16\nwidths: [4, 4, 4]\nepochs: 9\nthreads: 1\n")
    monkeypatch.setenv("EUROSAT_DIR", str(tiny_eurosat))
    asked: list[tuple[TrainConfig, Path]] = []

    def remember(config: TrainConfig, tiles: Tiles) -> Path:
        asked.append((config, tiles.location))
        return tmp_path / config.run_name

    monkeypatch.setattr(module, "train", remember)
    monkeypatch.setattr(
        sys, "argv", ["train", "--config", str(path), "--set", "epochs=1", "--set", "version=0.3"]
    )
    module.main()
    expected = knobs(image_size=16, widths=(4, 4, 4), epochs=1, threads=1, version="0.3")
    assert asked == [(expected, tiny_eurosat / "2750")]
    assert capsys.readouterr().out == f"{tmp_path / 'baseline-0.3'}\n"

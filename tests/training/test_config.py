import dataclasses
import json
from pathlib import Path

import pytest

from tests.support.knobs import knobs
from training.config import (
    KNOBS,
    BadConfig,
    TrainConfig,
    config_from_dict,
    config_to_dict,
    describe_config,
    load_config,
)

TRAINING = Path(__file__).resolve().parents[2] / "training"
CONFIGS, RELEASES = TRAINING / "configs", TRAINING / "releases"
TRAININGS = [path for path in sorted(CONFIGS.glob("*.yaml")) if path.stem != "pretrain"]


@pytest.mark.parametrize("path", TRAININGS, ids=lambda path: path.stem)
def test_every_committed_config_is_valid_and_begins_with_its_model(path: Path) -> None:
    config = load_config(path)
    name = config.model.name
    assert path.stem == name or path.stem.startswith(f"{name}-")


@pytest.mark.parametrize("path", TRAININGS, ids=lambda path: path.stem)
def test_every_committed_training_waits_for_long_but_not_for_ever(path: Path) -> None:
    optim = load_config(path).optim
    assert 0.3 * optim.epochs < optim.patience < 0.5 * optim.epochs


def test_a_file_changes_what_it_names_and_words_change_the_file(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_text("epochs: 7\nlr: 3e-3\nwidths: [8, 8, 8]\n")
    config = load_config(path, ["epochs=9", "ema=0.9", "flips=false"])
    changed = knobs(epochs=9, lr=0.003, widths=(8, 8, 8), ema=0.9, flips=False)
    assert config == changed


def test_knobs_may_stand_in_their_groups_or_alone(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_text(
        "model: {name: resnet18, dropout: 0.1}\noptim:\n  epochs: 7\n  lr: 3e-3\nhaze: 0.2\n"
    )
    config = load_config(path, ["optim.epochs=9", "seed=4", "data.split=spatial"])
    assert (config.model.name, config.model.dropout) == ("resnet18", 0.1)
    assert (config.optim.epochs, config.optim.lr) == (9, 0.003)
    assert (config.augment.haze, config.seed, config.data.split) == (0.2, 4, "spatial")
    assert load_config(None, ["model=resnet18"]).model.name == "resnet18"
    assert load_config(None, ["model.name=resnet18"]).model.name == "resnet18"


def test_no_two_groups_have_a_knob_of_one_name() -> None:
    groups = [getattr(TrainConfig(), field.name) for field in dataclasses.fields(TrainConfig)]
    inner = [dataclasses.fields(group) for group in groups if dataclasses.is_dataclass(group)]
    alone = len(groups) - len(inner)
    assert len(KNOBS) == alone + sum(map(len, inner))


@pytest.mark.parametrize(
    "path", sorted(RELEASES.glob("*/report*.json")), ids=lambda path: path.parent.name
)
def test_the_config_of_every_released_report_is_read(path: Path) -> None:
    written = json.loads(path.read_text())["training"]["config"]
    # Knobs that are newer than it have their defaults.
    assert describe_config(config_from_dict(written)) == describe_config(TrainConfig()) | written


def test_text_on_the_command_line_is_taken_as_it_stands() -> None:
    config = load_config(None, ["version=1.10", "teacher="])
    assert config.version == "1.10"
    assert config.loss.teacher == ""


def test_a_config_survives_its_written_form() -> None:
    config = knobs(widths=(1, 2, 3), teacher="runs/big-1.0", flips=False)
    assert config_from_dict(config_to_dict(config)) == config


def test_a_report_hears_nothing_of_folders() -> None:
    config = knobs(weights="/data/secret/w.npz", teacher="/home/me/runs/big-1.0")
    described = describe_config(config)
    assert (described["weights"], described["teacher"]) == ("w.npz", "big-1.0")


def test_an_unknown_key_is_answered_with_the_valid_ones() -> None:
    message = (
        r"unknown key epoch, learn, optim\.rate; valid keys: version, seed, model\.name, .*device"
    )
    with pytest.raises(BadConfig, match=message):
        config_from_dict({"learn": 1, "epoch": 2, "optim": {"rate": 3}})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("epochs", "many", r"epochs: expected int, found 'many' \(str\)"),
        ("epochs", True, r"epochs: expected int, found True \(bool\)"),
        ("epochs", 1.5, r"epochs: expected int, found 1.5 \(float\)"),
        ("lr", "fast", r"lr: expected float, found 'fast'"),
        ("lr", False, r"lr: expected float, found False"),
        ("flips", 1, r"flips: expected bool, found 1 \(int\)"),
        ("widths", [4, "4", 4], r"widths: expected a list of whole numbers"),
        ("widths", 4, r"widths: expected a list of whole numbers, found 4"),
        ("version", 1.0, r"version: expected text, found the number 1.0; write it in quotes"),
        ("teacher", None, r"teacher: expected str, found None \(NoneType\)"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_the_right_one(
    key: str, value: object, message: str
) -> None:
    with pytest.raises(BadConfig, match=message):
        config_from_dict({key: value})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("optimizer", "lion", "optimizer: expected one of adam, adamw, sgd; found 'lion'"),
        ("split", "temporal", "split: expected one of random, spatial, custom; found 'temporal'"),
        ("epochs", 0, "epochs: expected 1 to 100000, found 0"),
        ("dropout", float("nan"), "dropout: expected 0 to 0.99, found nan"),
        ("mix_probability", 1.1, "mix_probability: expected 0 to 1, found 1.1"),
        ("widths", [4, 4], "three numbers each"),
        ("widths", [0, 4, 4], "at least 1"),
        ("version", "best", "version: expected digits such as 1.0 or 1.0.2, found 'best'"),
        ("version", "../1.0", "version: expected digits"),
        ("label_fraction", 0, "label_fraction: expected 0.0001 to 1, found 0.0"),
    ],
)
def test_a_value_out_of_range_is_named_with_the_range(
    key: str, value: object, message: str
) -> None:
    with pytest.raises(BadConfig, match=message):
        config_from_dict({key: value})


def test_what_is_no_config_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"nowhere\.yaml cannot be read"):
        load_config(tmp_path / "nowhere.yaml")
    (tmp_path / "list.yaml").write_text("- epochs\n")
    with pytest.raises(BadConfig, match=r"list\.yaml: expected `key: value` lines, found list"):
        load_config(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("widths: [1, 2\n")
    with pytest.raises(BadConfig, match=r"broken\.yaml cannot be read as YAML"):
        load_config(tmp_path / "broken.yaml")


def test_a_word_that_is_no_setting_says_so() -> None:
    with pytest.raises(BadConfig, match="--set epochs: expected key=value"):
        load_config(None, ["epochs"])
    with pytest.raises(BadConfig, match=r"--set widths=.* cannot be read as YAML"):
        load_config(None, ["widths=[1, 2"])


def test_a_run_is_named_after_model_version_and_the_unusual_split() -> None:
    assert knobs(version="1.2").run_name == "baseline-1.2"
    assert knobs(version="1.2", split="spatial").run_name == "baseline-1.2-spatial"

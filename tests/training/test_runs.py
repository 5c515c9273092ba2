"""What a run's folder is called and holds, and how it is written."""

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from handlers.contract.spec import ModelSpec
from training import runs as module
from training.runs import (
    BEFORE,
    COMING,
    LAST,
    BadExport,
    git_commit,
    has_int8,
    is_fused,
    load_checkpoint,
    load_last,
    read_spec,
    save_checkpoint,
    save_last,
    sha256,
    training_facts,
    write_json,
)


def test_a_finished_run_tells_what_it_holds(finished_run: Path, spec: ModelSpec) -> None:
    assert has_int8(finished_run)
    assert not has_int8(finished_run.parent)
    for precision in ("fp32", "int8"):
        assert read_spec(finished_run, precision).labels == spec.labels
    assert is_fused(finished_run)
    assert not is_fused(finished_run, "int8")
    model = finished_run / "model.pt"
    assert sha256(model) == hashlib.sha256(model.read_bytes()).hexdigest()


def test_how_a_model_came_about_is_known_of_a_run_and_of_its_release(run: Path) -> None:
    facts = training_facts(run)
    (run / "training.json").unlink()
    assert training_facts(run) == facts  # now out of its report
    (run / "report.json").unlink()
    with pytest.raises(BadExport, match=r"expected training\.json .* or report\.json"):
        training_facts(run)


def test_what_breaks_while_it_is_written_leaves_the_earlier_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"epoch": 1, "weights": {"w": torch.ones(2)}})

    def fail(*_: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fail)
        with pytest.raises(OSError, match="no space left"):
            save_checkpoint(path, {"epoch": 2})
    found = load_checkpoint(path)
    assert found["epoch"] == 1
    assert torch.equal(found["weights"]["w"], torch.ones(2))
    write_json(tmp_path / "history.json", [{"epoch": 1}])
    with pytest.raises(TypeError):
        write_json(tmp_path / "history.json", object())
    assert json.loads((tmp_path / "history.json").read_text()) == [{"epoch": 1}]


def test_a_commit_tells_whether_files_are_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        command = ["git", "-c", "user.name=n", "-c", "user.email=n@example.org", *words]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.strip()

    (tmp_path / "runs.py").write_text("before")
    git("init", "--quiet")
    git("add", "runs.py")
    git("commit", "--quiet", "--message", "Begin")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "runs.py"))
    commit = git("rev-parse", "HEAD")
    assert git_commit() == commit
    (tmp_path / "new.py").touch()
    assert git_commit() == commit
    (tmp_path / "runs.py").write_text("after")
    assert git_commit() == f"{commit}-dirty"


def test_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    assert load_last(tmp_path) is None
    for epoch in (1, 2, 3):
        save_last(tmp_path, {"epoch": epoch})
    assert {path.name for path in tmp_path.iterdir()} == {LAST, BEFORE}
    assert load_checkpoint(tmp_path / LAST)["epoch"] == 3
    assert load_checkpoint(tmp_path / BEFORE)["epoch"] == 2


def flip(path: Path) -> None:
    """Turn one bit of a tensor over."""
    data = bytearray(path.read_bytes())
    data[data.index(torch.ones(8).numpy().tobytes())] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:300]),
    "other": lambda path: path.write_bytes(b"no checkpoint"),
    "flipped": flip,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_of_a_damaged_checkpoint_the_one_before_is_taken(
    damage: Callable[[Path], object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for epoch in (1, 2):
        save_last(tmp_path, {"epoch": epoch, "weights": torch.ones(8)})
    damage(tmp_path / LAST)
    found = load_last(tmp_path)
    assert found is not None
    assert found["epoch"] == 1
    assert "last.pt is damaged: expected a checkpoint, found" in caplog.text
    assert "last-but-one.pt instead" in caplog.text


def test_where_both_are_damaged_there_is_a_way_on(tmp_path: Path) -> None:
    for epoch in (1, 2):
        save_last(tmp_path, {"epoch": epoch})
    for name in (LAST, BEFORE):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(
        BadExport, match=r"last-but-one\.pt is damaged.*Nothing is left to resume from"
    ):
        load_last(tmp_path)
    save_checkpoint(tmp_path / "best.pt", {"epoch": 1})
    with pytest.raises(
        BadExport, match=r"another version, from its best .*--set weights=.*best\.pt`"
    ):
        load_last(tmp_path)
    assert (tmp_path / LAST).is_file()


def test_a_kill_between_two_files_loses_none(tmp_path: Path) -> None:
    for epoch in (1, 2):
        save_last(tmp_path, {"epoch": epoch})
    save_checkpoint(tmp_path / COMING, {"epoch": 3})
    found = load_last(tmp_path)
    assert found is not None
    assert found["epoch"] == 3
    (tmp_path / LAST).replace(tmp_path / BEFORE)
    assert load_last(tmp_path) == found


def test_outside_of_a_checkout_the_commit_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(module, "__file__", str(tmp_path / "runs.py"))
    assert git_commit() == "unknown"

"""What a run's folder is called and holds, and how it is written."""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from handlers.contract.spec import ModelSpec
from training import runs as module
from training.runs import (
    BadExport,
    git_commit,
    has_int8,
    is_fused,
    load_checkpoint,
    read_spec,
    save_checkpoint,
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


def test_outside_of_a_checkout_the_commit_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(module, "__file__", str(tmp_path / "runs.py"))
    assert git_commit() == "unknown"

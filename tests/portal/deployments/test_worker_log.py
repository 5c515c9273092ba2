from pathlib import Path

import pytest

from handlers.contract.names import ModelVersion
from portal.deployments.worker_log import LARGEST_PART, LONGEST_REASON, WorkerLog

CRASH = (
    "Failed to load model baseline, exception no memory",
    "Traceback (most recent call last):",
    '  File "/srv/tmp/models/abc/landuse_handler.py", line 40, in initialize',
    "    raise RuntimeError('no memory')",
    "RuntimeError: no memory",
    "Backend worker process died.",
    "Traceback (most recent call last):",
    '    raise RuntimeError("{} - {}".format(code, result))',
    "RuntimeError: 500 - Unknown exception",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model_log.log"


def write(path: Path, *words: str, served: str = "baseline_1.2") -> None:
    with path.open("a", encoding="utf-8") as file:
        for text in words:
            file.write(f"2026-01-02T03:04:05,006 INFO  W-9000-{served}-stdout: {text}\n")


def test_the_last_error_of_the_version_is_found(path: Path) -> None:
    write(path, *CRASH)
    write(path, "ValueError: of another", served="baseline_1.1")
    write(path, "Loaded 3 modules")
    log = WorkerLog(path)
    assert log.last_error(ModelVersion("baseline", "1.2"), 0) == "RuntimeError: no memory"
    assert log.last_error(ModelVersion("baseline", "1.1"), 0) == "ValueError: of another"
    assert log.last_error(ModelVersion("baseline", "1"), 0) == ""
    with path.open("a") as file:  # TorchServe's own pattern
        file.write("2026-01-02 [INFO ] W-9000-b_1.0-stderr MODEL_LOG - torch.cuda.OutOfError: x\n")
    assert log.last_error(ModelVersion("b", "1.0"), 0) == "torch.cuda.OutOfError: x"


def test_only_what_was_written_since_counts(path: Path) -> None:
    write(path, *CRASH)
    log = WorkerLog(path)
    since = log.end()
    assert log.last_error(ModelVersion("baseline", "1.2"), since) == ""
    write(path, "KeyError: 'spec'")
    assert log.last_error(ModelVersion("baseline", "1.2"), since) == "KeyError: 'spec'"
    path.unlink()
    write(path, "KeyError: 'x'")  # begun anew
    assert log.last_error(ModelVersion("baseline", "1.2"), since) == "KeyError: 'x'"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (
            "FileNotFoundError: [Errno 2] No such file or directory: '/srv/secret/folder/model.pt'",
            "FileNotFoundError: [Errno 2] No such file or directory: 'model.pt'",
        ),
        ("OSError: https://user:geheim@host/x is down", "OSError: <address> is down"),
        (f"ValueError: bad key {'a1' * 20}", "ValueError: bad key <...>"),
        ("ValueError: \u00fcber\x07", "ValueError:  ber"),
        ("RuntimeError", "RuntimeError"),
        (f"ValueError: {'no ' * 500}", f"ValueError: {'no ' * 500}"[:LONGEST_REASON]),
    ],
)
def test_nothing_private_is_shown(path: Path, words: str, shown: str) -> None:
    write(path, words)
    assert WorkerLog(path).last_error(ModelVersion("baseline", "1.2"), 0) == shown


def test_only_its_end_is_read(path: Path) -> None:
    write(path, *CRASH)
    write(path, "x" * LARGEST_PART, served="baseline_1.1")
    assert WorkerLog(path).last_error(ModelVersion("baseline", "1.2"), 0) == ""


@pytest.mark.parametrize("name", [None, "missing.log", ""])
def test_without_a_log_nothing_is_known(tmp_path: Path, name: str | None) -> None:
    log = WorkerLog(tmp_path / name if name is not None else None)
    assert log.last_error(ModelVersion("baseline", "1.2"), log.end()) == ""

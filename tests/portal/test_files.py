import os
from pathlib import Path

import pytest

from portal.files import StampedFile


class Reader:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.times = 0

    def __call__(self) -> str:
        self.times += 1
        return self.path.read_text()


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    path = tmp_path / "file"
    path.write_text("one")
    return Reader(path)


def test_a_file_is_read_once_until_it_changes(reader: Reader) -> None:
    file = StampedFile(reader, reader.path)
    assert [file.get(), file.get()] == ["one", "one"]
    assert reader.times == 1
    reader.path.write_text("three")
    assert [file.get(), file.get()] == ["three", "three"]
    assert reader.times == 2


def test_another_file_of_the_same_size_and_time_is_seen(reader: Reader, tmp_path: Path) -> None:
    file = StampedFile(reader, reader.path)
    assert file.get() == "one"
    (tmp_path / "other").write_text("two")
    before = reader.path.stat()
    os.utime(tmp_path / "other", ns=(before.st_atime_ns, before.st_mtime_ns))
    (tmp_path / "other").replace(reader.path)
    assert file.get() == "two"


def test_nothing_is_kept_of_an_error(reader: Reader) -> None:
    file = StampedFile(reader, reader.path)
    reader.path.unlink()
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            file.get()
    reader.path.write_text("back")
    assert file.get() == "back"


def test_each_of_some_files_counts(reader: Reader, tmp_path: Path) -> None:
    file = StampedFile(reader, reader.path, tmp_path / "beside")
    assert file.get() == "one"
    (tmp_path / "beside").touch()
    file.get()
    assert reader.times == 2


def test_what_is_forgotten_is_read_again(reader: Reader) -> None:
    file = StampedFile(reader, reader.path)
    file.get()
    file.forget()
    file.get()
    assert reader.times == 2

import errno
import os
import shutil
import time
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import pytest

from portal.errors import NoRoom, StoreUnavailable, UnknownScene
from portal.scenes import store as module
from portal.scenes.records import SceneRecords, SceneRow
from portal.scenes.store import Store, clean_name
from portal.storage.database import Database
from tests.support.scenes import SCENE, age, stored

HOURS, DAYS = timedelta(hours=2), timedelta(days=8)


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(f"sqlite:///{tmp_path}/portal.db")


@pytest.fixture
def records(database: Database) -> SceneRecords:
    return SceneRecords(database)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "scenes"


@pytest.fixture
def store(folder: Path, records: SceneRecords) -> Store:
    return Store(folder, records, 10_000, 7)


def ended(records: SceneRecords, row: SceneRow) -> SceneRow:
    records.cancel(row.id)
    return records.get(row.id)


def test_an_upload_is_seen_when_it_is_published(store: Store, folder: Path) -> None:
    with store.upload(10) as upload:
        upload.write(b"first ")
        upload.write(b"second")
        upload.close()
        assert not store.folder(upload.number).exists()
        assert (upload.size, upload.sha256) == (12, sha256(b"first second").hexdigest())
        upload.publish()
    assert (store.folder(upload.number) / "scene").read_bytes() == b"first second"
    assert [path.name for path in folder.iterdir()] == [upload.number]


def test_nothing_is_left_of_an_upload_that_breaks(store: Store, folder: Path) -> None:
    def break_off() -> None:
        with store.upload(10) as upload:
            upload.write(b"first")
            raise KeyError

    with pytest.raises(KeyError):
        break_off()
    assert list(folder.iterdir()) == []
    with store.upload(10_000):  # and its room is free again
        pass


@pytest.mark.parametrize("number", ["..", "a/b", "", "F" * 32])
def test_no_other_folder_is_a_scenes(store: Store, number: str) -> None:
    with pytest.raises(UnknownScene):
        store.folder(number)


def test_the_oldest_that_have_ended_make_room(
    store: Store, records: SceneRecords, database: Database
) -> None:
    rows = [stored(records, store) for _ in range(4)]
    for row in (rows[1], rows[2]):
        ended(records, row)
    with store.upload(10_000 - 3 * len(SCENE)):
        pass
    assert {row.id for row in records.of(None)} == {rows[n].id for n in (0, 2, 3)}
    assert not store.folder(rows[1].id).exists()
    with (
        pytest.raises(NoRoom, match=r"has 0\.0 MiB of 0\.0 MiB, all of them under way"),
        store.upload(9_000),
    ):
        pass
    assert {row.id for row in records.of(None)} == {rows[n].id for n in (0, 3)}


def test_room_that_is_promised_is_not_promised_again(store: Store) -> None:
    with store.upload(6_000):
        with pytest.raises(NoRoom), store.upload(6_000):
            pass
        with store.upload(4_000):
            pass


def test_a_copy_takes_no_room(store: Store, records: SceneRecords) -> None:
    row = stored(records, store)
    with store.copy(row.id) as copy:
        assert copy.path.samefile(store.folder(row.id) / "scene")
        copy.publish()
    with store.upload(10_000 - len(SCENE)):
        pass
    store.remove(row.id)
    assert (store.folder(copy.number) / "scene").read_bytes() == SCENE
    with pytest.raises(UnknownScene), store.copy(row.id):
        pass


def test_a_disk_without_room_is_told_before_anything_is_written(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = module.SPARE + 500 * 1024
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, free))
    with store.upload(1_000):
        pass
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, module.SPARE + 100))
    with (
        pytest.raises(NoRoom, match=r"has 256\.0 MiB left, of which 256\.0 MiB stay free"),
        store.upload(1_000),
    ):
        pass
    assert list(folder.iterdir()) == []


def test_a_disk_that_fills_meanwhile_is_told(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STEP", 100)

    def fill() -> None:
        with store.upload(10) as upload:
            upload.write(bytes(90))
            monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 5))
            upload.write(bytes(90))

    with pytest.raises(NoRoom, match=r"this needs 0\.0 MiB"):
        fill()
    assert list(folder.iterdir()) == []


def test_what_the_disk_says_is_told_with_the_figure(store: Store, tmp_path: Path) -> None:
    full = module.unusable(OSError(errno.ENOSPC, "No space left on device"), tmp_path)
    assert isinstance(full, NoRoom)
    free = shutil.disk_usage(tmp_path).free / 1024 / 1024
    assert f"{free:,.0f}"[:3] in str(full)
    assert "MiB of it is left (No space left on device)" in str(full)
    other = module.unusable(OSError(errno.EACCES, "Permission denied"), tmp_path)
    assert isinstance(other, StoreUnavailable)
    assert "PORTAL_SCENES_DIR" in str(other)


def test_a_folder_that_cannot_be_made_is_told(records: SceneRecords, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = Store(tmp_path / "file" / "scenes", records, 10_000, 7)
    with pytest.raises(StoreUnavailable, match="PORTAL_SCENES_DIR"), store.upload(1):
        pass


def test_scenes_are_kept_for_days(store: Store, records: SceneRecords, database: Database) -> None:
    old, young, running, idle = (stored(records, store) for _ in range(4))
    for row in (old, young):
        ended(records, row)
    checked = stored(records, store, queued=False)
    age(database, records.get(old.id), DAYS, "created", "finished")
    for row in (running, checked):
        age(database, records.get(row.id), DAYS, "created")
    store.clean()
    assert {row.id for row in records.of(None)} == {young.id, running.id, idle.id}
    assert not store.folder(old.id).exists()


def test_a_scene_that_nobody_started_makes_room_after_a_while(
    store: Store, records: SceneRecords, database: Database
) -> None:
    idle, fresh = stored(records, store, queued=False), stored(records, store, queued=False)
    age(database, idle, HOURS, "created")
    with pytest.raises(NoRoom), store.upload(10_000):
        pass
    assert [row.id for row in records.of(None)] == [fresh.id]


def test_what_a_portal_that_was_killed_left_is_removed(store: Store, folder: Path) -> None:
    folder.mkdir()
    names = [".upload-" + "a" * 32, "b" * 32, "notes", ".upload-" + "c" * 32]
    for name in names:
        (folder / name).mkdir()
        (folder / name / "scene").touch()
    long_ago = time.time() - HOURS.total_seconds()
    for name in names[:3]:
        os.utime(folder / name / "scene", (long_ago, long_ago))
        os.utime(folder / name, (long_ago, long_ago))
    store.clean()
    assert sorted(path.name for path in folder.iterdir()) == [names[3], "notes"]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("scene.tif", "scene.tif"),
        ("../../etc/passwd", "passwd"),
        ("C:\\maps\\T30UVC 2021 (1).jp2", "T30UVC 2021 (1).jp2"),
        ("/", "scene"),
        ("..", "scene"),
        ("", "scene"),
        ("a\0b\n.tif", "a_b_.tif"),
        ("<img src=x onerror='alert(1)'>.tif", "_img src_x onerror__alert(1)__.tif"),
        ("Köln.tif", "Köln.tif"),
        ("x" * 300 + ".tif", "x" * 96 + ".tif"),
    ],
)
def test_of_a_name_only_the_harmless_end_is_kept(sent: str, kept: str) -> None:
    assert clean_name(sent) == kept

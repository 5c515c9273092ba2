"""The folder of scenes: each file that was sent and its map, and room for the next ones.

A scene has a folder, named as its number: ``scene``, the file; ``previews``; ``out.part``, while it
is mapped; ``out``, its map, there as soon as it is whole. What is still being sent lies in a folder
whose name begins with a dot.
"""

import errno
import hashlib
import logging
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from portal.errors import NoRoom, StoreUnavailable
from portal.scenes.records import ENDED, SCENE_ID, SceneRecords, SceneRow, unknown

log = logging.getLogger("portal.scenes.store")

SPARE = 256 * 1024 * 1024  # bytes of the disk that are left to the database, the logs and others
STEP = 16 * 1024 * 1024  # bytes that are written between two looks at the disk
LEFT_BEHIND = timedelta(hours=1)  # without a change: nobody is at work on it any more
UPLOAD = ".upload-"  # how the folder of a scene begins that is still being sent
LONGEST_NAME = 100  # characters

MIB = 1024 * 1024


class Upload:
    """A scene that is being sent; nobody else sees it before ``publish``.

    Attributes:
        number: that the scene will have.
        folder: where it lies so far.
        size: bytes so far.
    """

    def __init__(self, number: str, folder: Path, store: "Store") -> None:
        self.number = number
        self.folder = folder
        self.size = 0
        self._sha256 = hashlib.sha256()
        self._store = store
        self._next_look = STEP
        self._file = (folder / "scene").open("xb")

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / "scene"

    @property
    def previews(self) -> Path:
        """The folder of the pictures of it."""
        return self.folder / "previews"

    @property
    def sha256(self) -> str:
        """Of the file."""
        return self._sha256.hexdigest()

    def write(self, block: bytes | bytearray) -> None:
        """Add to the file; NoRoom when the disk is full, or would be."""
        if self.size + len(block) > self._next_look:
            self._next_look = self.size + len(block) + STEP
            self._store.check_disk(STEP)
        with self._store.room():
            self._file.write(block)
        self._sha256.update(block)
        self.size += len(block)

    def close(self) -> None:
        """The file is whole."""
        with self._store.room():
            self._file.close()

    def publish(self) -> None:
        """Let it be the folder of its scene."""
        with self._store.room():
            self.folder.rename(self.folder.with_name(self.number))


class Store:
    """The folder and its limits. Safe to use from many threads.

    Every method raises StoreUnavailable when the folder cannot be used, NoRoom when it is full.
    """

    def __init__(self, folder: Path, records: SceneRecords, most_bytes: int, days: int) -> None:
        self._folder = folder
        self._records = records
        self._most_bytes = most_bytes
        self._kept = timedelta(days=days)
        self._lock = threading.Lock()
        self._expected: dict[Path, int] = {}  # bytes of each upload under way

    def folder(self, scene: str) -> Path:
        """Of a scene."""
        if not SCENE_ID.fullmatch(scene):
            raise unknown()
        return self._folder / scene

    @contextmanager
    def upload(self, expected: int) -> Iterator[Upload]:
        """A place for a scene of about so many bytes; what was not published is removed.

        Scenes that have ended make room, the oldest first.
        """
        number = uuid.uuid4().hex
        folder = self._folder / f"{UPLOAD}{number}"
        self._make_room(folder, expected)
        upload = None
        try:
            with self.room():
                folder.mkdir()
                upload = Upload(number, folder, self)
            yield upload
        finally:
            if upload is not None:
                with suppress(OSError):
                    upload._file.close()  # noqa: SLF001  (of this very module)
            shutil.rmtree(folder, ignore_errors=True)  # not there any more once it is published
            with self._lock:
                del self._expected[folder]

    @contextmanager
    def copy(self, scene: str) -> Iterator[Upload]:
        """As ``upload``, with the file of another scene; it takes no room of its own."""
        with self.upload(0) as upload:
            upload.close()
            upload.path.unlink()
            try:
                os.link(self.folder(scene) / "scene", upload.path)
            except FileNotFoundError as error:
                raise unknown() from error
            except OSError as error:
                raise unusable(error, self._folder) from error
            yield upload

    def remove(self, scene: str) -> None:
        """Remove all files of a scene."""
        folder = self.folder(scene)
        aside = folder.with_name(f"{UPLOAD}{scene}-gone")
        with suppress(OSError):  # at once for whoever looks; a worker may still write
            folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)

    def ring(self) -> None:
        """Let workers know that a scene waits; those that do not hear it look a second later."""
        with suppress(OSError):
            now = time.time_ns()  # the system's own time of a change is 4 ms coarse
            os.utime(self._folder, ns=(now, now))

    def rung(self) -> int:
        """Another number after each ``ring``, and whenever a scene comes or goes."""
        try:
            return self._folder.stat().st_mtime_ns
        except OSError:
            return 0

    def clean(self) -> None:
        """Forget scenes that are too old, and remove what nobody knows of."""
        rows = {row.id: row for row in self._records.of(None)}
        before = datetime.now(UTC) - self._kept
        for row in rows.values():
            if _may_go(row) and row.last_use < before:
                self._forget(row)
        for folder in self._folders():
            if folder.name not in rows and time.time() - _changed(folder) > LEFT_BEHIND.seconds:
                log.warning("%s was left behind and is removed", folder.name)
                shutil.rmtree(folder, ignore_errors=True)

    def check_disk(self, expected: int) -> None:
        """NoRoom if the disk has no place for so many bytes more."""
        with self.room():
            free = shutil.disk_usage(self._folder).free
        if free - SPARE < expected:
            raise NoRoom(
                f"The disk has {_mib(free)} left, of which {_mib(SPARE)} stay free, and this needs "
                f"{_mib(expected)}. Delete scenes, or let the operator make room."
            )

    @contextmanager
    def room(self) -> Iterator[None]:
        """What the disk says of its end, in our words."""
        try:
            yield
        except OSError as error:
            raise unusable(error, self._folder) from error

    def _make_room(self, upload: Path, expected: int) -> None:
        """Reserve so many bytes."""
        with self.room():
            self._folder.mkdir(parents=True, exist_ok=True)
        self.clean()
        with self._lock:
            rows = sorted(filter(_may_go, self._records.of(None)), key=lambda row: row.last_use)
            while (used := self._used()) + expected > self._most_bytes and rows:
                self._forget(rows.pop(0))
            if used + expected > self._most_bytes:
                raise NoRoom(
                    f"The folder of scenes has {_mib(used)} of {_mib(self._most_bytes)}, all of "
                    f"them under way, and this needs {_mib(expected)}. Wait until they have ended, "
                    "or delete some."
                )
            self.check_disk(expected + sum(self._expected.values()))
            self._expected[upload] = expected

    def _forget(self, row: SceneRow) -> None:
        if self._records.remove(row.id):
            log.info("scene %s of %s makes room", row.id, row.last_use)
            self.remove(row.id)

    def _used(self) -> int:
        """Bytes in the folder, and those that are still to come."""
        sizes: dict[int, int] = {}
        for folder in self._folders():
            if folder not in self._expected:
                for status in _statuses(folder):
                    sizes[status.st_ino] = status.st_size  # a file of two scenes counts once
        return sum(sizes.values()) + sum(self._expected.values())

    def _folders(self) -> list[Path]:
        """Of scenes, and of uploads."""
        try:
            found = list(self._folder.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise unusable(error, self._folder) from error
        return [path for path in found if SCENE_ID.match(path.name) or path.name.startswith(UPLOAD)]


def clean_name(name: str) -> str:
    """The name of a file, without its folders and without what could mean something to a page."""
    base = re.split(r"[/\\]", name)[-1]
    base = re.sub(r"[^\w .()+-]", "_", base).strip(" .")
    if len(base) > LONGEST_NAME:
        stem, dot, ending = base.rpartition(".")
        ending = dot + ending if stem and len(ending) < 10 else ""
        base = base[: LONGEST_NAME - len(ending)] + ending
    return base or "scene"


def unusable(error: OSError, folder: Path) -> NoRoom | StoreUnavailable:
    """What is said of an error of the folder of scenes."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        left = "an unknown part"
        with suppress(OSError):
            left = _mib(shutil.disk_usage(folder).free)
        return NoRoom(
            f"The disk with the folder of scenes is full: {left} of it is left "
            f"({error.strerror}). Delete scenes, or let the operator make room."
        )
    log.warning("the folder of scenes cannot be used: %s", error)
    return StoreUnavailable(
        f"The folder of scenes cannot be used ({error.strerror or type(error).__name__}). Let "
        "PORTAL_SCENES_DIR name one that the portal may write."
    )


def _mib(size: int) -> str:
    return f"{size / MIB:,.1f} MiB"


def _may_go(row: SceneRow) -> bool:
    """Whether a scene may make room: it has ended, or nobody has started it."""
    idle = row.state == "checked" and datetime.now(UTC) - row.created > LEFT_BEHIND
    return row.state in ENDED or idle


def _statuses(folder: Path) -> Iterable[os.stat_result]:
    """Of the files in a folder; it may change meanwhile."""
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                yield (Path(root) / name).lstat()


def _changed(folder: Path) -> float:
    """When something in a folder was changed for the last time, in seconds since the epoch."""
    with suppress(OSError):
        own = folder.stat().st_mtime
        return max([own, *(status.st_mtime for status in _statuses(folder))])
    return time.time()

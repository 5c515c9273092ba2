"""The model store: its archives, looked at without loading them, and how new ones get in."""

import logging
import os
import shutil
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from handlers.contract.names import BadName, ModelVersion
from portal.catalog.archive_inspection import Archive, inspect
from portal.errors import BadArchive, NotPossible, PortalError, StoreUnavailable, UnknownArchive
from portal.files import StampedFile

log = logging.getLogger("portal.catalog.archives")


@dataclass(frozen=True)
class Rejected:
    """A file of the model store that is no usable archive, and why."""

    file: str
    reason: str


class Archives:
    """The archives in a folder, inspected again when a file changes.

    Safe to use from many threads.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._known: dict[str, StampedFile[Archive | Rejected]] = {}

    def all(self) -> list[Archive | Rejected]:
        """Every archive of the model store, by name."""
        try:
            names = sorted(path.name for path in self._folder.glob("*.mar"))
        except OSError as error:
            raise _unreadable() from error
        found = []
        for name in names:
            with suppress(UnknownArchive):  # removed since it was listed
                found.append(self._look(name))
        return found

    def get(self, name: ModelVersion) -> Archive:
        """The archive of a version.

        Raises:
            UnknownArchive: the model store has none.
            BadArchive: it has one that cannot be used.
        """
        found = self._look(name.archive)
        if isinstance(found, Rejected):
            raise BadArchive(f"{found.file}: {found.reason}")
        return found

    def add(self, stream: IO[bytes], name: str, *, replace: bool) -> Archive:
        """Put an uploaded archive into the model store; nothing of it is seen there before.

        Args:
            name: of the file, as it was sent.
            replace: an archive of this name with another content may be replaced.

        Raises:
            BadArchive: the name or the content is not that of an archive.
            NotPossible: there is another archive of this name.
            StoreUnavailable: the model store cannot be written.
        """
        try:
            ModelVersion.of_archive(name)
        except BadName as error:
            raise BadArchive(
                "The file must be called <model>-<version>.mar, for example baseline-1.1.mar: "
                f"found {name[:100]!r}. Upload it as `make archive` named it."
            ) from error
        target = self._folder / name
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # Beside the target, so that moving it there is atomic; TorchServe ignores the name.
            handle, temporary = tempfile.mkstemp(dir=self._folder, prefix=".upload-")
        except OSError as error:
            raise _unwritable() from error
        path = Path(temporary)
        try:
            with os.fdopen(handle, "wb") as file:
                shutil.copyfileobj(stream, file, 1024 * 1024)
                file.flush()
                os.fsync(file.fileno())
            archive = inspect(path, name, self._max_bytes)
            if not replace and target.exists() and self._differs(archive):
                raise NotPossible(
                    f"{name} is served with another content. A version never changes: give the "
                    "new archive another version, or retire this one first."
                )
            path.chmod(0o644)
            path.replace(target)
        except OSError as error:
            raise _unwritable() from error
        finally:
            path.unlink(missing_ok=True)
        return archive

    def _differs(self, archive: Archive) -> bool:
        try:
            return self.get(archive.name).sha256 != archive.sha256
        except PortalError:
            return True

    def _look(self, name: str) -> Archive | Rejected:
        path = self._folder / name
        with self._lock:
            known = self._known.setdefault(name, StampedFile(lambda: self._inspect(path), path))
        return known.get()

    def _inspect(self, path: Path) -> Archive | Rejected:
        try:
            return inspect(path, path.name, self._max_bytes)
        except FileNotFoundError as error:
            raise UnknownArchive(
                f"There is no {path.name} in the model store. Upload it, or build it with "
                "`make archive`."
            ) from error
        except BadArchive as problem:
            log.warning("archive %r cannot be used: %s", path.name, problem)
            return Rejected(path.name, str(problem))
        except OSError as error:
            raise _unreadable() from error


def _unreadable() -> StoreUnavailable:
    return StoreUnavailable(
        "The model store cannot be read. Let PORTAL_MODEL_STORE name TorchServe's model store, "
        "readable for the portal."
    )


def _unwritable() -> StoreUnavailable:
    return StoreUnavailable(
        "The archive could not be stored: the model store is read-only or full. Make room, or put "
        "the file there by other means."
    )

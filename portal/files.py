"""What was read from files, kept until one of them changes."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

Content = TypeVar("Content")

_Stamp = tuple[int, int, int] | None


class StampedFile(Generic[Content]):
    """The content of a file, or of a few that belong together, read again when one has changed.

    Safe to use from many threads.

    Args:
        read: reads them. An error that it raises is the caller's, and nothing is kept of it.
    """

    def __init__(self, read: Callable[[], Content], *paths: Path) -> None:
        self._paths = paths
        self._read = read
        self._lock = threading.Lock()
        self._kept: tuple[tuple[_Stamp, ...], Content] | None = None

    def get(self) -> Content:
        """What the files hold now."""
        stamps = tuple(map(_stamp, self._paths))  # before reading: it may go on changing
        with self._lock:
            kept = self._kept
        if kept is not None and kept[0] == stamps:
            return kept[1]
        content = self._read()
        with self._lock:
            self._kept = stamps, content
        return content

    def forget(self) -> None:
        """Read again at the next call, whether or not they look changed."""
        with self._lock:
            self._kept = None


def _stamp(path: Path) -> _Stamp:
    """What tells one content of a file from another; None where there is none to be seen."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino

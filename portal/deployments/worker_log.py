"""Why a worker ended while it started: the last error in the log of TorchServe's handlers."""

import os
import re
from pathlib import Path

from handlers.contract.names import ModelVersion

LARGEST_PART = 256 * 1024  # bytes that are read of the log's end; a crash writes about 2,000
LONGEST_REASON = 200  # characters
# The worker's thread stands in each line: W-<port>-<model>_<version>-stdout, or -stderr.
_LINE = re.compile(r"\bW-\d+-(?P<served>[\w.-]+)-std(?:out|err)(?: MODEL_LOG -|:) (?P<words>.*)")
_ERROR = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception|SystemExit|Interrupt)(?:: .*)?")
_ECHO = re.compile(r"RuntimeError: \d{3} - ")  # TorchServe's own, after the handler's
_SCRUBBED = (
    (re.compile(r"\w+://\S+"), "<address>"),
    (re.compile(r"(?:~|[A-Za-z]:)?(?:[/\\][^\s/\\'\":,]+)*[/\\](?=[^\s/\\])"), ""),  # folders
    (re.compile(r"[A-Za-z0-9+/=_-]{24,}"), "<...>"),  # keys, digests
    (re.compile(r"[^\x20-\x7e]+"), " "),
)


class WorkerLog:
    """The log file, if the portal knows where it is. Safe to use from many threads."""

    def __init__(self, path: Path | None) -> None:
        self._path = path or Path(os.devnull)

    def end(self) -> int:
        """Where the log ends now, in bytes; what is written later stands behind it."""
        try:
            return self._path.stat().st_size
        except OSError:
            return 0

    def last_error(self, target: ModelVersion, since: int) -> str:
        """The last line of a version's last traceback, free of folders, addresses and keys, or "".

        Args:
            since: what ``end`` said before the version was started.
        """
        for line in reversed(self._lines(since)):
            found = _LINE.search(line)
            if found is None or found["served"] != f"{target.model}_{target.version}":
                continue
            words = found["words"].strip()
            if _ERROR.fullmatch(words) and not _ECHO.match(words):
                return _scrubbed(words)
        return ""

    def _lines(self, since: int) -> list[str]:
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                begin = since if since <= size else 0  # else the log was begun anew
                file.seek(max(begin, size - LARGEST_PART))
                return file.read(LARGEST_PART).decode("utf-8", "replace").splitlines()
        except OSError:
            return []


def _scrubbed(words: str) -> str:
    for pattern, instead in _SCRUBBED:
        words = pattern.sub(instead, words)
    return words.strip()[:LONGEST_REASON].rstrip(".")

"""The tiles that reports name, where the portal has them: in a folder or a zip."""

import threading
import unicodedata
import zipfile
from operator import itemgetter
from pathlib import Path

from handlers.contract.names import LAYOUTS, ZIPS

LARGEST_TILE = 1024 * 1024  # bytes; a 64 x 64 JPEG has a few thousand


class TileSource:
    """Tiles by class and file name, in a folder, in a zip, or in a folder with the zip.

    Safe to use from many threads. Callers pass only names that a report has been checked for
    (``handlers.contract.names``): they lead nowhere else.
    """

    def __init__(self, location: Path) -> None:
        zips = [location / name for name in ZIPS if (location / name).is_file()]
        unpacked = any((location / layout).is_dir() for layout in LAYOUTS)
        self._location = zips[0] if zips and not unpacked else location
        self._lock = threading.Lock()
        self._zip: zipfile.ZipFile | None = None
        self._entries: dict[str, zipfile.ZipInfo] = {}

    def read(self, label: str, file: str) -> bytes | None:
        """The encoded tile; None if there is none, or none that can be read.

        Args:
            file: ``<Class>_<n>.jpg`` in the folder of its class, or ``<Class>/<file>``.
        """
        name = file if "/" in file else f"{label}/{file}"
        try:
            if not self._location.is_dir():
                return self._from_zip(name)
            homes = (self._location / layout for layout in (*LAYOUTS, ""))
            path = next(path for home in homes if (path := home / name).is_file())
            return path.read_bytes() if path.stat().st_size <= LARGEST_TILE else None
        except (OSError, StopIteration, KeyError, zipfile.BadZipFile):
            return None

    def _from_zip(self, name: str) -> bytes | None:
        with self._lock:
            if self._zip is None:  # kept open: to read its 27,000 entries takes half a second
                self._zip = zipfile.ZipFile(self._location)
                self._entries = _by_class_and_file(self._zip)
            entry = self._entries[name]
            return self._zip.read(entry) if entry.file_size <= LARGEST_TILE else None


def _by_class_and_file(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Entries by the last two parts of their names, of equal ones that in the first of ``LAYOUTS``.

    Zips of Windows may have backslashes, those of macOS decomposed names.
    """
    found: dict[str, tuple[int, zipfile.ZipInfo]] = {}
    for entry in archive.infolist():
        *above, label, file = ["", "", *entry.filename.replace("\\", "/").split("/")]
        rank = LAYOUTS.index(above[-1]) if above[-1] in LAYOUTS else len(LAYOUTS)
        name = f"{unicodedata.normalize('NFC', label)}/{file}"
        found[name] = min(found.get(name, (rank, entry)), (rank, entry), key=itemgetter(0))
    return {name: entry for name, (_, entry) in found.items()}

"""The tiles that reports name, where the portal has them: in a folder or a zip."""

import threading
import zipfile
from pathlib import Path

LARGEST_TILE = 1024 * 1024  # bytes; a 64 x 64 JPEG has a few thousand
# The folder in which the class folders are; the last: that which is named.
LAYOUTS = ("2750/", "EuroSAT_RGB/", "EuroSAT/", "train/", "")
ZIPS = ("EuroSAT.zip", "EuroSAT_RGB.zip")  # as they are downloaded


class TileSource:
    """Tiles by class and file name, in a folder, in a zip, or in a folder with the zip.

    Safe to use from many threads. Callers pass only names that a report has been checked for
    (``handlers.contract.names``): they lead nowhere else.
    """

    def __init__(self, location: Path) -> None:
        zips = [location / name for name in ZIPS if (location / name).is_file()]
        unpacked = any((location / layout).is_dir() for layout in LAYOUTS[:-1])
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
        for layout in LAYOUTS:
            try:
                path = self._location / layout / name
                if not self._location.is_dir():
                    image = self._from_zip(layout + name)
                else:
                    image = path.read_bytes() if path.stat().st_size <= LARGEST_TILE else None
            except (OSError, KeyError, zipfile.BadZipFile):
                continue
            if image is not None:
                return image
        return None

    def _from_zip(self, name: str) -> bytes | None:
        with self._lock:
            if self._zip is None:  # kept open: to read its 27,000 entries takes half a second
                self._zip = zipfile.ZipFile(self._location)
                self._entries = {
                    entry.filename.replace("\\", "/"): entry for entry in self._zip.infolist()
                }  # those of Windows may have backslashes
            entry = self._entries[name]
            return self._zip.read(entry) if entry.file_size <= LARGEST_TILE else None

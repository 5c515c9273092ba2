"""The EuroSAT tiles that reports name, where the portal has them: a folder or a zip."""

import threading
import zipfile
from pathlib import Path

LARGEST_TILE = 1024 * 1024  # bytes; a 64 x 64 JPEG has a few thousand
LAYOUTS = ("2750", "EuroSAT_RGB")  # the folder in which the class folders are
ZIPS = ("EuroSAT.zip", "EuroSAT_RGB.zip")  # as they are downloaded


class TileSource:
    """Tiles by class and file name, in a folder, in a zip, or in a folder with the zip.

    Safe to use from many threads. Callers pass only names that a report has been checked for: a
    class name and a file name, free of separators.
    """

    def __init__(self, location: Path) -> None:
        zips = [location / name for name in ZIPS if (location / name).is_file()]
        unpacked = any((location / layout).is_dir() for layout in LAYOUTS)
        self._location = zips[0] if zips and not unpacked else location
        self._lock = threading.Lock()
        self._zip: zipfile.ZipFile | None = None

    def read(self, label: str, file: str) -> bytes | None:
        """The encoded tile; None if there is none, or none that can be read."""
        for layout in LAYOUTS:
            try:
                path = self._location / layout / label / file
                if not self._location.is_dir():
                    image = self._from_zip(f"{layout}/{label}/{file}")
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
            entry = self._zip.getinfo(name)
            return self._zip.read(entry) if entry.file_size <= LARGEST_TILE else None

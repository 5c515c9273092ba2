"""Tiles on disk: files, folders with all below, and zip files."""

import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from portal.errors import PortalError

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".jp2", ".j2k", ".webp", ".bmp", ".gif", ".avif")
)


class UnreadableFile(PortalError, title="This file cannot be read"):
    """A file whose bytes cannot be had."""


@dataclass(frozen=True)
class Tile:
    """One file.

    Attributes:
        name: below the one folder or zip that was named; else as it was named.
        read: its bytes, as many as it is told at most; raises UnreadableFile. Thread-safe.
    """

    name: str
    read: Callable[[int], bytes]


def find_tiles(sources: Sequence[Path]) -> tuple[list[Tile], int]:
    """The tiles that are named, and in the order of their names those in folders and zips.

    A file that is named is a tile whatever it is called, and whether or not it is there; others
    are by their names. Hidden files and what macOS adds to zips are left out.

    Returns:
        Each tile once, and how many other files were left out in folders and zips.

    Raises:
        UnreadableFile: none of the sources is there, or a zip is damaged.
    """
    if not any(source.exists() for source in sources):
        raise UnreadableFile(
            f"{', '.join(map(str, sources[:3]))}: there is no such file or folder."
        )
    tiles: dict[str, Tile] = {}
    left_out = 0
    for source in sources:
        if source.is_dir():
            below = (path for path in source.rglob("*") if path.is_file())
            found = {path.relative_to(source).as_posix(): partial(_read, path) for path in below}
        elif source.suffix.lower() == ".zip" and source.is_file():
            found = _in_zip(source)
        else:
            tiles.setdefault(str(source), Tile(str(source), partial(_read, source)))
            continue
        names = _shown(found)
        for name in sorted(
            name for name in names if PurePosixPath(name).suffix.lower() in SUFFIXES
        ):
            full = name if len(sources) == 1 else f"{source}/{name}"
            tiles.setdefault(full, Tile(full, found[name]))
            names.remove(name)
        left_out += len(names)
    return list(tiles.values()), left_out


def _shown(names: Iterable[str]) -> set[str]:
    return {
        name
        for name in names
        if not any(part == "__MACOSX" or part.startswith(".") for part in name.split("/"))
    }


def _in_zip(path: Path) -> dict[str, partial[bytes]]:
    try:
        content = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise UnreadableFile(f"{path} is no zip file, or a damaged one: {error}.") from error
    lock = threading.Lock()
    return {
        info.filename: partial(_read_entry, content, lock, info)
        for info in content.infolist()
        if not info.is_dir()
    }


def _read(path: Path, most: int) -> bytes:
    try:
        if path.exists() and not path.is_file():  # a pipe, which would be waited for
            raise UnreadableFile("It is no file.")
        with path.open("rb") as file:
            return file.read(most)
    except (OSError, ValueError) as error:
        raise UnreadableFile(_reason(error)) from error


def _read_entry(
    content: zipfile.ZipFile, lock: threading.Lock, info: zipfile.ZipInfo, most: int
) -> bytes:
    try:
        with lock, content.open(info) as file:
            return file.read(most)
    except (OSError, ValueError, RuntimeError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise UnreadableFile(_reason(error)) from error  # RuntimeError: it is encrypted


def _reason(error: Exception) -> str:
    said = error.strerror if isinstance(error, OSError) else None
    return f"It cannot be read: {said or error}."

"""What lies in a folder or a zip, sorted into the classes of a dataset and what is none of it."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from handlers.contract.names import LAYOUTS, TILE

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")  # in any case
DEPTH = 4  # folders below that which was named: eurosat/2750/River is three
# Folders that hold a part of a dataset each, and are no classes.
_PARTS = {"train", "training", "val", "valid", "validation", "test", "testing"}


@dataclass(frozen=True)
class Sorted:
    """Paths of tiles by the folder that holds their class folders ("": the named one), by class.

    Attributes:
        homes: a class without a path is an empty folder.
        left_out: how many files are none of it, by the reason.
    """

    homes: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    def choose(self) -> list[str]:
        """The homes that may be meant: one, several among which nothing decides, or none.

        A home has two or more classes with tiles. By name first, then the outermost.
        """

        def rank(home: str) -> tuple[int, int]:
            name = PurePosixPath(home).name
            known = LAYOUTS.index(name) if name in LAYOUTS else len(LAYOUTS)
            return known, len(PurePosixPath(home).parts)

        ranks = {home: rank(home) for home in self.homes if self._is_dataset(home)}
        return sorted(home for home, found in ranks.items() if found == min(ranks.values()))

    def _is_dataset(self, home: str) -> bool:
        labels = {label for label, paths in self.homes[home].items() if paths}
        return len(labels) > 1 and not {label.lower() for label in labels} <= _PARTS

    def left_out_with(self, home: str) -> dict[str, int]:
        """``left_out`` where this home is chosen: tiles in others are none of it."""
        others = {
            f"tiles in {other or 'folders beside it'}": sum(map(len, classes.values()))
            for other, classes in sorted(self.homes.items())
            if other != home
        }
        return {why: count for why, count in (self.left_out | others).items() if count}


def walk(folder: Path) -> Iterator[str]:
    """The files down to ``DEPTH``, and with a "/" behind them the folders, as a zip names both.

    Of hidden folders only the files directly in them: nobody wants all of a .git counted.
    """
    top = len(folder.parts)
    for found, folders, files in os.walk(folder, followlinks=True):
        here = Path(found)
        inside = here.relative_to(folder).as_posix() + "/" if here != folder else ""
        if inside:
            yield inside
        yield from (inside + name for name in sorted(files))
        deep = len(here.parts) - top >= DEPTH
        if deep or (here.name.startswith(".") and here != folder):
            folders.clear()
        folders.sort()


def sort_out(paths: Iterable[str]) -> Sorted:
    """Sort paths as ``walk`` or a zip gives them; those of Windows may have backslashes.

    Names of classes are brought to composed Unicode (NFC): macOS writes others.
    """
    found = Sorted()
    folders: set[tuple[str, ...]] = set()
    used: set[tuple[str, ...]] = set()
    for path in paths:
        *above, name = path.replace("\\", "/").split("/")
        parts = tuple(part for part in above if part not in ("", "."))
        if "__MACOSX" in parts:
            found.left_out["files in __MACOSX"] += name != ""
        elif any(part.startswith(".") for part in (*parts, name)):
            found.left_out["hidden files"] += name != ""
        elif not name:
            folders.add(parts)
        else:
            used.update(parts[:length] for length in range(1, len(parts) + 1))
            if PurePosixPath(name).suffix.lower() not in SUFFIXES:
                found.left_out["files of another kind"] += 1
            elif not TILE.fullmatch(name):
                found.left_out["oddly named files"] += 1
            elif not parts:
                found.left_out["tiles in no class folder"] += 1
            else:
                _class_of(found, parts).append(path)
    for parts in sorted(folders - used):
        if parts:
            _class_of(found, parts)
    return found


def _class_of(found: Sorted, parts: tuple[str, ...]) -> list[str]:
    label = unicodedata.normalize("NFC", parts[-1])
    return found.homes.setdefault("/".join(parts[:-1]), {}).setdefault(label, [])

"""The reports of all released models: the only reader of report files."""

import json
import logging
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from portal.catalog.golden import Golden, parse_golden
from portal.catalog.report_schema import BadReport, Report, parse_report
from portal.errors import UnknownReport, UnreadableReport
from portal.versions import MODEL_NAME, VERSION

log = logging.getLogger("portal.catalog.reports")

LARGEST_FILE = 20 * 1024 * 1024  # bytes; the report of 4,050 test tiles has a quarter of a megabyte
_FOLDER = re.compile(rf"(?P<model>{MODEL_NAME.pattern})-(?P<version>{VERSION.pattern})", re.ASCII)
_FILES = ("report.json", "report-spatial.json", "MODEL_CARD.md")


@dataclass(frozen=True)
class Release:
    """What is known of a released model.

    Attributes:
        report: of the released file.
        spatial: of the same training on the spatial split, if it was made.
        spatial_problem: why there is a spatial report that cannot be read.
        card: the model card in Markdown, if there is one.
    """

    report: Report
    spatial: Report | None
    spatial_problem: str | None
    card: str | None


@dataclass(frozen=True)
class Unreadable:
    """A folder without a usable report, and why it is not usable."""

    folder: str
    reason: str


class Reports:
    """The releases in a folder, read again when their files change.

    Safe to use from many threads.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._read: dict[str, tuple[object, Release | Unreadable]] = {}  # name -> (stamp, content)

    def all(self) -> tuple[list[Release], list[Unreadable]]:
        """Every release, and what is no readable one; by model, the newest version first."""
        try:
            folders = [path for path in self._folder.iterdir() if path.is_dir()]
        except OSError:
            folders = []  # nothing was released yet
        found = [self._look(path) for path in folders if not path.name.startswith(".")]
        releases = [release for release in found if isinstance(release, Release)]
        releases.sort(key=lambda release: _numbers(release.report.version), reverse=True)
        releases.sort(key=lambda release: release.report.model)
        unreadable = [entry for entry in found if isinstance(entry, Unreadable)]
        return releases, sorted(unreadable, key=lambda entry: entry.folder)

    def get(self, model: str, version: str) -> Release:
        """The release of a model's version.

        Raises:
            UnknownReport: there is none.
            UnreadableReport: there is one, but it cannot be used.
        """
        known = MODEL_NAME.fullmatch(model) and VERSION.fullmatch(version)
        path = self._folder / f"{model}-{version}"
        if not known or not path.is_dir():
            raise UnknownReport("There is no report of this model and version. See /reports.")
        found = self._look(path)
        if isinstance(found, Unreadable):
            raise UnreadableReport(
                f"The report of {model} {version} cannot be read: {found.reason}. "
                "Evaluate the model again, or correct the file."
            )
        return found

    def golden(self, model: str, version: str) -> tuple[Golden, ...]:
        """The tiles in a version's report whose answers are known, for each of its files.

        Returns:
            Nothing without a report.

        Raises:
            UnreadableReport: there is one, but it cannot be used.
        """
        path = self._folder / f"{model}-{version}"
        if not path.is_dir():
            return ()
        self.get(model, version)
        try:
            return parse_golden(json.loads(_read_text(path / "report.json")))
        except BadReport as problem:
            raise UnreadableReport(
                f"The golden tiles of {model} {version} cannot be read: {problem}. "
                "Evaluate the model again."
            ) from problem

    def _look(self, path: Path) -> Release | Unreadable:
        stamp = tuple(_stamp(path / file) for file in _FILES)
        with self._lock:
            kept = self._read.get(path.name)
        if kept is not None and kept[0] == stamp:
            return kept[1]
        try:
            found: Release | Unreadable = _read_release(path)
        except BadReport as problem:
            found = Unreadable(path.name, str(problem))
            log.warning("report %r cannot be read: %s", path.name, problem)
        with self._lock:
            self._read[path.name] = (stamp, found)
        return found


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read_release(folder: Path) -> Release:
    name = _FOLDER.fullmatch(folder.name)
    if name is None:
        raise BadReport("the folder's name is not <model>-<version>, such as baseline-1.0")
    report = _read_report(folder / "report.json", name["model"], name["version"])
    spatial, problem = None, None
    if (path := folder / "report-spatial.json").exists():
        try:
            spatial = _read_report(path, name["model"], name["version"])
        except BadReport as error:
            problem = str(error)
    try:
        card = _read_text(folder / "MODEL_CARD.md")
    except BadReport:
        card = None  # a release is shown without its card
    return Release(report, spatial, problem, card)


def _read_report(path: Path, model: str, version: str) -> Report:
    try:
        content = json.loads(_read_text(path), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        if isinstance(error, BadReport):
            raise
        raise BadReport(f"{path.name} is not valid JSON") from error
    report = parse_report(content)
    if (report.model, report.version) != (model, version):
        raise BadReport(
            f"{path.name} is about {report.model} {report.version}, "
            f"not about the {model} {version} of its folder"
        )
    return report


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise BadReport(f"{path.name} is larger than {LARGEST_FILE // 1024**2} MB")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise BadReport(f"there is no {path.name}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadReport(f"{path.name} cannot be read as a text file") from error


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(word)  # NaN and Infinity are not JSON


def _numbers(version: str) -> tuple[Any, ...]:
    return tuple(int(part) for part in version.split("."))

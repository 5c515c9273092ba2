"""The reports of all released models: the only reader of report files."""

import json
import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from handlers.contract.names import BadName, ModelVersion
from portal.catalog.golden import Golden, parse_golden
from portal.catalog.report_schema import BadReport, Int8, Report, parse_report
from portal.errors import UnknownReport, UnreadableReport
from portal.files import StampedFile

log = logging.getLogger("portal.catalog.reports")

LARGEST_FILE = 20 * 1024 * 1024  # bytes; the report of 4,050 test tiles has a quarter of a megabyte
_FILES = ("report.json", "report-spatial.json", "MODEL_CARD.md")

# Why a version has no figures; empty where it has some. "unknown weights": its archive was
# replaced since it was loaded, or is not in the model store.
Unmeasured = Literal["", "no report", "unreadable report", "other weights", "unknown weights"]


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
        self._known: dict[str, StampedFile[Release | Unreadable]] = {}

    def all(self) -> tuple[list[Release], list[Unreadable]]:
        """Every release, and what is no readable one; by model, the newest version first."""
        try:
            folders = [path for path in self._folder.iterdir() if path.is_dir()]
        except OSError:
            folders = []  # nothing was released yet
        found = [self._look(path) for path in folders if not path.name.startswith(".")]
        releases = [release for release in found if isinstance(release, Release)]
        releases.sort(key=lambda release: release.report.name, reverse=True)
        releases.sort(key=lambda release: release.report.model)
        unreadable = [entry for entry in found if isinstance(entry, Unreadable)]
        return releases, sorted(unreadable, key=lambda entry: entry.folder)

    def get(self, name: ModelVersion) -> Release:
        """The release of a model's version.

        Raises:
            UnknownReport: there is none.
            UnreadableReport: there is one, but it cannot be used.
        """
        path = self._folder / name.slug
        if not name.possible or not path.is_dir():
            raise UnknownReport("There is no report of this model and version. See /reports.")
        found = self._look(path)
        if isinstance(found, Unreadable):
            raise UnreadableReport(
                f"The report of {name} cannot be read: {found.reason}. "
                "Evaluate the model again, or correct the file."
            )
        return found

    def of_weights(self, name: ModelVersion, sha256: str) -> Report | Int8 | Unmeasured:
        """What a version's report says of one of its files, or why it says nothing.

        Args:
            sha256: of the TorchScript file; empty if it is not known.
        """
        try:
            report = self.get(name).report
        except UnknownReport:
            return "no report"
        except UnreadableReport:
            return "unreadable report"
        if not sha256:
            return "unknown weights"
        found = (file for file in report.files if file.model_sha256 == sha256)
        return next(found, "other weights")

    def golden(self, name: ModelVersion) -> tuple[Golden, ...]:
        """The tiles in a version's report whose answers are known, for each of its files.

        Returns:
            Nothing without a report.

        Raises:
            UnreadableReport: there is one, but it cannot be used.
        """
        path = self._folder / name.slug
        if not path.is_dir():
            return ()
        self.get(name)
        try:
            return parse_golden(json.loads(_read_text(path / "report.json")))
        except BadReport as problem:
            raise UnreadableReport(
                f"The golden tiles of {name} cannot be read: {problem}. Evaluate the model again."
            ) from problem

    def _look(self, path: Path) -> Release | Unreadable:
        with self._lock:
            known = self._known.setdefault(
                path.name, StampedFile(lambda: _try(path), *(path / file for file in _FILES))
            )
        return known.get()


def _try(folder: Path) -> Release | Unreadable:
    try:
        return _read_release(folder)
    except BadReport as problem:
        log.warning("report %r cannot be read: %s", folder.name, problem)
        return Unreadable(folder.name, str(problem))


def _read_release(folder: Path) -> Release:
    try:
        name = ModelVersion.parse(folder.name)
    except BadName as error:
        raise BadReport(
            "the folder's name is not <model>-<version>, such as baseline-1.0"
        ) from error
    report = _read_report(folder / "report.json", name)
    spatial, problem = None, None
    if (path := folder / "report-spatial.json").exists():
        try:
            spatial = _read_report(path, name)
        except BadReport as error:
            problem = str(error)
    try:
        card = _read_text(folder / "MODEL_CARD.md")
    except BadReport:
        card = None  # a release is shown without its card
    return Release(report, spatial, problem, card)


def _read_report(path: Path, name: ModelVersion) -> Report:
    text = _read_text(path)
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadReport(f"{path.name} is not valid JSON") from error
    report = parse_report(content)
    if report.name != name:
        raise BadReport(f"{path.name} is about {report.name}, not about the {name} of its folder")
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

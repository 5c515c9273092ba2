"""The pages about reports: comparison, one report, and the tiles that a model got wrong."""

from collections.abc import Sequence
from dataclasses import dataclass

from flask import Blueprint, Response, render_template

from handlers.contract.names import ModelVersion
from portal.catalog.report_schema import Figure, Int8, PredictionSets, Report, Scenes
from portal.catalog.reports import Release
from portal.deployments.overview import all_weights_served
from portal.errors import UnknownReport, UnknownTile
from portal.serving.predictor import media_type
from portal.web.context import services
from portal.web.rendering import charts
from portal.web.rendering.model_card import parse_card
from portal.web.rendering.wording import human

blueprint = Blueprint("report_pages", __name__, url_prefix="/reports")

HEAT_LEVELS = 8  # colours of the confusion matrix besides that of an empty cell
WORST = 12  # most certain mistakes on the page of a report


@blueprint.get("")
def comparison() -> str:
    """All models and versions side by side."""
    own = services()
    releases, unreadable = own.reports.all()
    return render_template(
        "report_pages/comparison.html",
        releases=[(release, release.report.files) for release in releases],
        unreadable=unreadable,
        served=all_weights_served(own.archives, own.records),
    )


@blueprint.get("/<model>/<version>")
def report(model: str, version: str) -> str:
    """Everything about one model."""
    own = services()
    release = own.reports.get(ModelVersion(model, version))
    history = release.report.training.history
    return render_template(
        "report_pages/report.html",
        release=release,
        report=release.report,
        files=release.report.files,
        served=all_weights_served(own.archives, own.records),
        spatial=release.spatial,
        int8_f1=_f1(release.report.int8),
        spatial_f1=_f1(release.spatial),
        heat=heat_map(release.report),
        reliability=charts.reliability(release.report.calibration),
        curves=charts.learning_curves(history) if history else None,
        worst=release.report.mistakes[:WORST],
        with_images=own.tiles is not None,
        card=parse_card(release.card) if release.card else None,
        judged=[file for file in release.report.files if file.unlike_training],
        covered=_covered(release),
        mapped=_mapped(release),
    )


def _f1(file: Report | Int8 | None) -> dict[str, float]:
    """Of each class, as far as it was measured."""
    return {score.label: score.f1 for score in file.per_class} if file else {}


@blueprint.get("/<model>/<version>/mistakes/<truth>/<predicted>")
def mistakes(model: str, version: str, truth: str, predicted: str) -> str:
    """The tiles of one cell of the confusion matrix."""
    found = services().reports.get(ModelVersion(model, version)).report
    if truth == predicted or not {truth, predicted} <= set(found.labels):
        raise UnknownReport("The report has no such cell. Choose one in its confusion matrix.")
    return render_template(
        "report_pages/mistakes.html",
        report=found,
        truth=truth,
        predicted=predicted,
        mistakes=[it for it in found.mistakes if (it.truth, it.predicted) == (truth, predicted)],
        with_images=services().tiles is not None,
    )


@blueprint.get("/<model>/<version>/tiles/<path:file>")
def tile(model: str, version: str, file: str) -> Response:
    """The image of a tile that the report names as a mistake or as reviewed; of no other file."""
    report, tiles = services().reports.get(ModelVersion(model, version)).report, services().tiles
    reviewed = report.audited_labels.lines if report.audited_labels else ()
    named = {mistake.file: mistake.truth for mistake in report.mistakes}
    named |= {line.file: line.label for line in reviewed}
    if file not in named:
        raise UnknownTile("The report names no such tile.")
    image = tiles.read(named[file], file) if tiles is not None else None
    kind = media_type(image) if image is not None else None
    if image is None or kind not in ("image/jpeg", "image/png"):
        raise UnknownTile(
            "The portal does not have this tile. PORTAL_TILES_DIR says where to look."
        )
    return Response(image, mimetype=kind)


@blueprint.app_template_filter()
def share(value: float) -> str:
    """0.98765 -> ``98.77 %``."""
    return f"{100 * value:.2f} %"


@blueprint.app_template_filter()
def figure(measured: Figure) -> str:
    """``98.77 % (98.40-99.09)``: a figure with its 95 % interval."""
    return f"{share(measured.value)} ({100 * measured.low:.2f}-{100 * measured.high:.2f})"


def _covered(release: Release) -> list[tuple[str, PredictionSets]]:
    """The prediction sets of each file that has some, and of the spatial split, with a title."""
    measured: list[tuple[str, Report | Int8 | None]] = [
        (file.precision, file) for file in release.report.files
    ]
    measured.append(("fp32, spatial split", release.spatial))
    return [
        (title, part.prediction_sets)
        for title, part in measured
        if part is not None and part.prediction_sets is not None
    ]


def _mapped(release: Release) -> list[tuple[str, Scenes]]:
    """The scene figures of each split that has some, with a title."""
    found = []
    for report in (release.report, release.spatial):
        if report is not None and report.scenes is not None:
            title = f"{report.scenes.precision}, {human(report.split.name).lower()} split"
            found.append((title, report.scenes))
    return found


@dataclass(frozen=True)
class MatrixCell:
    """A cell of the confusion matrix; ``share`` of the tiles of its true class, 0..1."""

    predicted: str
    count: int
    share: float

    @property
    def level(self) -> int:
        """How dark it is drawn, 0..HEAT_LEVELS: by the root, so that 1 in 100 can be seen."""
        return min(int(self.share**0.5 * HEAT_LEVELS) + 1, HEAT_LEVELS) if self.share else 0


def heat_map(measured: Report) -> list[tuple[str, list[MatrixCell]]]:
    """For each true class the cells of its row."""

    def row(counts: Sequence[int]) -> list[MatrixCell]:
        total = max(sum(counts), 1)
        pairs = zip(measured.labels, counts, strict=True)
        return [MatrixCell(label, count, count / total) for label, count in pairs]

    return list(zip(measured.labels, map(row, measured.confusion), strict=True))

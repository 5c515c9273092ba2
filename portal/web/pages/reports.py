"""The pages about reports: comparison, one report, and the tiles that a model got wrong."""

from dataclasses import dataclass

from flask import Blueprint, Response, render_template

from handlers.contract.names import ModelVersion
from portal.catalog.report_schema import Figure, Mistake, Report
from portal.catalog.variants import variants_of
from portal.deployments.overview import all_weights_served
from portal.errors import UnknownReport, UnknownTile
from portal.serving.predictor import media_type
from portal.web.context import services
from portal.web.rendering import charts
from portal.web.rendering.model_card import parse_card

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
        releases=[(release, variants_of(release.report)) for release in releases],
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
        files=variants_of(release.report),
        served=all_weights_served(own.archives, own.records),
        spatial=release.spatial,
        spatial_f1=_f1(release.spatial) if release.spatial else {},
        heat=heat_map(release.report),
        reliability=charts.reliability(release.report.calibration),
        curves=charts.learning_curves(history) if history else None,
        worst=release.report.mistakes[:WORST],
        with_images=own.tiles is not None,
        card=parse_card(release.card) if release.card else None,
    )


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
        mistakes=[
            tile for tile in found.mistakes if (tile.truth, tile.predicted) == (truth, predicted)
        ],
        with_images=services().tiles is not None,
    )


@blueprint.get("/<model>/<version>/tiles/<file>")
def tile(model: str, version: str, file: str) -> Response:
    """The image of a tile that the report names as a mistake; of no other file."""
    found = _mistake(services().reports.get(ModelVersion(model, version)).report, file)
    tiles = services().tiles
    image = tiles.read(found.truth, found.file) if tiles is not None else None
    if image is None or media_type(image) != "image/jpeg":
        raise UnknownTile(
            "The portal does not have this tile. PORTAL_TILES_DIR says where to look."
        )
    return Response(image, mimetype="image/jpeg")


@blueprint.app_template_filter()
def share(value: float) -> str:
    """0.98765 -> ``98.77 %``."""
    return f"{100 * value:.2f} %"


@blueprint.app_template_filter()
def figure(measured: Figure) -> str:
    """``98.77 % (98.40-99.09)``: a figure with its 95 % interval."""
    return f"{share(measured.value)} ({100 * measured.low:.2f}-{100 * measured.high:.2f})"


@dataclass(frozen=True)
class MatrixCell:
    """A cell of the confusion matrix: ``level`` 0..HEAT_LEVELS says how dark it is drawn."""

    predicted: str
    count: int
    share: float
    level: int


def heat_map(measured: Report) -> list[tuple[str, list[MatrixCell]]]:
    """For each true class the cells of its row; shares and colours are of the row's tiles."""
    rows = []
    for truth, counts in zip(measured.labels, measured.confusion, strict=True):
        total = max(sum(counts), 1)
        rows.append(
            (
                truth,
                [
                    MatrixCell(label, count, count / total, _level(count / total))
                    for label, count in zip(measured.labels, counts, strict=True)
                ],
            )
        )
    return rows


def _level(share: float) -> int:
    """Darkness of a share; its square root, so that one mistake in a hundred can be seen."""
    return min(int(share**0.5 * HEAT_LEVELS) + 1, HEAT_LEVELS) if share else 0


def _mistake(measured: Report, file: str) -> Mistake:
    for candidate in measured.mistakes:
        if candidate.file == file:
            return candidate
    raise UnknownTile("The report names no such tile among the mistakes.")


def _f1(measured: Report) -> dict[str, float]:
    return {score.label: score.f1 for score in measured.per_class}

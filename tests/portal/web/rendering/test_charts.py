from dataclasses import replace

import pytest

from portal.catalog.report_schema import Epoch, parse_report
from portal.web.rendering import charts
from portal.web.rendering.charts import BOTTOM, LEFT, RIGHT, TOP, Chart
from tests.support.report_content import report_content


@pytest.fixture
def history() -> tuple[Epoch, ...]:
    return parse_report(report_content()).training.history


def inside(chart: Chart) -> bool:
    return all(
        LEFT <= x <= RIGHT and TOP <= y <= BOTTOM for line in chart.lines for x, y in line.points
    )


def test_reliability_puts_accuracy_over_confidence() -> None:
    chart = charts.reliability(parse_report(report_content()).calibration)
    ideal, measured = chart.lines
    assert ideal.points == ((LEFT, BOTTOM), (RIGHT, TOP))
    x, y = measured.points[1]  # confidence 0.9, accuracy 0.8
    assert x == pytest.approx(LEFT + 0.9 * (RIGHT - LEFT), abs=0.1)
    assert y == pytest.approx(BOTTOM - 0.8 * (BOTTOM - TOP), abs=0.1)
    heights = [height for _, _, _, height in chart.bars]
    assert heights[1] == pytest.approx(5 * heights[0], rel=0.01)  # 10 tiles and 2


def test_curves_have_a_point_for_each_epoch(history: tuple[Epoch, ...]) -> None:
    for chart in charts.learning_curves(history):
        assert [line.name for line in chart.lines] == ["training", "validation"]
        assert [len(line.points) for line in chart.lines] == [2, 2]
        assert [tick.text for tick in chart.x_ticks] == ["1", "2"]
        assert inside(chart)


def test_one_epoch_and_no_loss_can_be_drawn(history: tuple[Epoch, ...]) -> None:
    only = replace(history[0], loss=0, val_loss=0, accuracy=1, val_accuracy=1)
    assert all(inside(chart) for chart in charts.learning_curves([only]))


def test_many_epochs_have_few_numbers(history: tuple[Epoch, ...]) -> None:
    many = [replace(history[0], epoch=number) for number in range(1, 201)]
    assert len(charts.learning_curves(many)[0].x_ticks) <= 7

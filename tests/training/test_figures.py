import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from training.figures import write_figures

NAMES = ("confusion.svg", "reliability.svg", "history.svg")


@pytest.fixture
def report(finished_run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((finished_run / "report.json").read_text())
    return content


def texts(path: Path) -> list[str]:
    return ["".join(e.itertext()).strip() for e in ET.parse(path).iter() if e.text]


def test_the_same_report_gives_the_same_figures(report: dict[str, Any], tmp_path: Path) -> None:
    for folder in ("first", "again"):
        (tmp_path / folder).mkdir()
        write_figures(tmp_path / folder, report)
    for name in NAMES:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == sorted(NAMES)


def test_the_figures_say_what_the_report_says(report: dict[str, Any], tmp_path: Path) -> None:
    report["confusion"][0][1] = 8765
    report["calibration"]["ece"] = 0.0321
    report["calibration"]["reliability"][0]["count"] = 4321
    write_figures(tmp_path, report)
    confusion = texts(tmp_path / "confusion.svg")
    assert set(report["spec"]["labels"]) <= set(confusion)
    assert "8765" in confusion
    assert "baseline 1.0: random test split" in confusion
    reliability = texts(tmp_path / "reliability.svg")
    assert "ECE 3.21 %; tiles beside the points" in reliability
    assert "4321" in reliability
    assert "validation" in texts(tmp_path / "history.svg")


def test_a_figure_asks_nothing_of_other_hosts(report: dict[str, Any], tmp_path: Path) -> None:
    write_figures(tmp_path, report)
    for name in NAMES:
        for element in ET.parse(tmp_path / name).iter():
            links = [value for key, value in element.attrib.items() if key.endswith("href")]
            assert all(link.startswith(("#", "data:")) for link in links)

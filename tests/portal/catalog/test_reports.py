import json
from pathlib import Path

import pytest

from handlers.contract.names import ModelVersion
from portal.catalog.reports import LARGEST_FILE, Release, Reports
from portal.errors import UnknownReport, UnreadableReport
from tests.support.report_content import CARD, report_content, write_release


@pytest.fixture
def reports(reports_dir: Path) -> Reports:
    return Reports(reports_dir)


def names(releases: list[Release]) -> list[str]:
    return [f"{release.report.model} {release.report.version}" for release in releases]


def test_no_folder_is_no_release(reports: Reports) -> None:
    assert reports.all() == ([], [])


def test_releases_come_by_model_and_the_newest_first(reports: Reports, reports_dir: Path) -> None:
    for model, version in (("b", "1.0"), ("a", "9.0"), ("a", "10.0"), ("a", "9.0.1")):
        write_release(reports_dir, report_content(model, version))
    (reports_dir / "README.md").write_text("not a release")
    (reports_dir / ".a-11.0.new").mkdir()
    assert names(reports.all()[0]) == ["a 10.0", "a 9.0.1", "a 9.0", "b 1.0"]
    assert reports.all()[1] == []


def test_a_release_has_its_spatial_report_and_card(reports: Reports, reports_dir: Path) -> None:
    spatial = report_content()
    spatial["split"]["name"] = "spatial"
    write_release(reports_dir, report_content(), spatial=spatial, card=CARD)
    found = reports.get(ModelVersion("baseline", "1.0"))
    assert found.report.split.name == "random"
    assert found.spatial is not None
    assert found.spatial.split.name == "spatial"
    assert found.card == CARD


def test_a_bad_spatial_report_does_not_hide_the_other(reports: Reports, reports_dir: Path) -> None:
    folder = write_release(reports_dir, report_content())
    (folder / "report-spatial.json").write_text("{")
    found = reports.get(ModelVersion("baseline", "1.0"))
    assert (found.spatial, found.spatial_problem) == (None, "report-spatial.json is not valid JSON")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "report.json is not valid JSON"),
        ("{" * 100_000, "report.json is not valid JSON"),
        ('{"schema_version": NaN}', "report.json is not valid JSON"),
        ("[1]", "report: expected an object, found [1]"),
        ('{"schema_version": 9}', "it is newer than this portal"),
        (json.dumps(report_content("other")), "report.json is about other 1.0, not about the"),
        (" " * (LARGEST_FILE + 1), "report.json is larger than 20 MB"),
    ],
    ids=["empty", "deep", "nan", "list", "newer", "foreign", "large"],
)
def test_an_unusable_report_is_listed_with_its_reason(
    reports: Reports, reports_dir: Path, text: str, reason: str
) -> None:
    write_release(reports_dir, report_content("good"))
    folder = reports_dir / "baseline-1.0"
    folder.mkdir()
    (folder / "report.json").write_text(text)
    releases, unreadable = reports.all()
    assert names(releases) == ["good 1.0"]
    assert [entry.folder for entry in unreadable] == ["baseline-1.0"]
    assert reason in unreadable[0].reason
    with pytest.raises(UnreadableReport) as refused:
        reports.get(ModelVersion("baseline", "1.0"))
    assert reason in str(refused.value)


def test_more_folders_without_a_usable_report(reports: Reports, reports_dir: Path) -> None:
    for name in ("baseline-1.0", "notes"):
        (reports_dir / name).mkdir(parents=True)
    (reports_dir / "binary-1.0").mkdir()
    (reports_dir / "binary-1.0" / "report.json").write_bytes(b"\xff\xfe\x00")
    (reports_dir / "folder-1.0" / "report.json").mkdir(parents=True)
    reasons = {entry.folder: entry.reason for entry in reports.all()[1]}
    assert reasons == {
        "baseline-1.0": "there is no report.json",
        "binary-1.0": "report.json cannot be read as a text file",
        "folder-1.0": "report.json cannot be read as a text file",
        "notes": "the folder's name is not <model>-<version>, such as baseline-1.0",
    }


@pytest.mark.parametrize(
    ("model", "version"),
    [("none", "1.0"), ("baseline", "2.0"), ("..", "1.0"), ("baseline", "../x")],
)
def test_there_is_no_such_report(
    reports: Reports, reports_dir: Path, model: str, version: str
) -> None:
    write_release(reports_dir, report_content())
    with pytest.raises(UnknownReport):
        reports.get(ModelVersion(model, version))


def test_a_changed_file_is_read_again(reports: Reports, reports_dir: Path) -> None:
    folder = write_release(reports_dir, report_content())
    first = reports.get(ModelVersion("baseline", "1.0"))
    assert reports.get(ModelVersion("baseline", "1.0")) is first
    content = {**report_content(), "size_bytes": 7}
    (folder / "report.json.new").write_text(json.dumps(content))
    (folder / "report.json.new").replace(folder / "report.json")
    assert reports.get(ModelVersion("baseline", "1.0")).report.size_bytes == 7

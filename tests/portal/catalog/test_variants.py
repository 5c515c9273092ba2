from hashlib import sha256
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from handlers.contract.names import ModelVersion
from portal.catalog.variants import find_variant
from portal.deployments.deploy import Wish
from portal.deployments.overview import all_weights_served, weights_served
from portal.services import Services
from tests.support.archive_files import WEIGHTS, write_archive
from tests.support.fake_torchserve import PROBABILITIES
from tests.support.managed_models import JPEG, end, own, quickly
from tests.support.report_content import int8_content, report_content, write_release

__all__ = ["own", "quickly"]  # fixtures

IN_THE_ARCHIVE = sha256(WEIGHTS).hexdigest()


@pytest.fixture
def released(own: Services, reports_dir: Path) -> Services:
    """Baseline 1.1 has a report on both files; the archive in the model store is in int8."""
    content = report_content(version="1.1")
    content["int8"] = {**int8_content(), "model_sha256": IN_THE_ARCHIVE}
    tile = {"file": "River_1.jpg", "probabilities": dict(PROBABILITIES)}
    content["probe"] = [{**tile, "jpeg": JPEG}]
    content["int8"]["probe"] = [tile]
    write_release(reports_dir, content)
    write_archive(own.settings.model_store)
    return own


@pytest.fixture
def served(released: Services) -> Services:
    """The same, deployed."""
    deployed = released.deployments.deploy(ModelVersion("baseline", "1.1"), "operator", Wish())
    assert end(released, deployed).state == "done"
    return released


def test_the_file_is_known_by_its_weights(released: Services) -> None:
    found = find_variant(released.reports, ModelVersion("baseline", "1.1"), IN_THE_ARCHIVE)
    assert not isinstance(found, str)
    assert (found.precision, found.accuracy.value, found.size_bytes) == ("int8", 0.8125, 331_795)
    found = find_variant(released.reports, ModelVersion("baseline", "1.1"), "ff" * 32)
    assert not isinstance(found, str)
    assert (found.precision, found.accuracy.value, found.size_bytes) == ("fp32", 0.75, 1_226_298)


def test_why_there_are_no_figures(released: Services, reports_dir: Path) -> None:
    (reports_dir / "broken-1.0").mkdir()
    reports = released.reports
    assert find_variant(reports, ModelVersion("baseline", "1.1"), "ab" * 32) == "other weights"
    assert find_variant(reports, ModelVersion("baseline", "1.1"), "") == "unknown weights"
    assert find_variant(reports, ModelVersion("baseline", "1.0"), "ff" * 32) == "no report"
    assert find_variant(reports, ModelVersion("broken", "1.0"), "ff" * 32) == "unreadable report"


def test_what_is_served_is_shown_with_its_figures(served: Services, client: FlaskClient) -> None:
    assert all_weights_served(served.archives, served.records) == {IN_THE_ARCHIVE}
    page = client.get("/models").text
    assert "81.25 %</a>" in page
    assert "75.00 %" not in page
    assert "in int8, ECE 1.55 %, 0.4 ms" in page
    (line,) = [
        line
        for line in client.get("/api/models").get_json()["models"][0]["versions"]
        if line["version"] == "1.1"
    ]
    assert (line["report"]["precision"], line["report"]["latency_ms"]) == ("int8", 0.42)
    rows = client.get("/reports").text.split("<tbody>")[1].split("</tr>")
    assert 'int8 <span class="tag">served</span>' in rows[0]
    assert "served" not in rows[1]
    assert 'int8 <span class="tag">served</span>' in client.get("/reports/baseline/1.1").text
    files = client.get("/api/reports").get_json()["reports"][0]["files"]
    assert [file["served"] for file in files] == [True, False]


def test_an_archive_that_was_replaced_is_not_what_is_served(
    served: Services, client: FlaskClient
) -> None:
    write_archive(
        served.settings.model_store, change=lambda entries: entries.update({"model.pt": b"other"})
    )
    row = served.records.deployment(ModelVersion("baseline", "1.1"))
    assert weights_served(served.archives, ModelVersion("baseline", "1.1"), row) == ""
    page = client.get("/models").text
    assert "its archive was replaced or removed since it was loaded" in page
    assert "81.25 %" not in page


def test_an_archive_with_other_weights_is_not_called_unmeasured(
    released: Services, client: FlaskClient
) -> None:
    write_archive(
        released.settings.model_store, change=lambda entries: entries.update({"model.pt": b"x"})
    )
    page = client.get("/models").text
    assert "is of other weights" in page
    assert "Serve it although nobody measured it" not in page

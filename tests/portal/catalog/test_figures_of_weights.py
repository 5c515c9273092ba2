from pathlib import Path

from handlers.contract.names import ModelVersion
from portal.services import Services
from tests.support.managed_models import IN_THE_ARCHIVE, own, quickly, released

__all__ = ["own", "quickly", "released"]  # fixtures


def test_the_file_is_known_by_its_weights(released: Services) -> None:
    found = released.reports.of_weights(ModelVersion("baseline", "1.1"), IN_THE_ARCHIVE)
    assert not isinstance(found, str)
    assert (found.precision, found.accuracy.value, found.size_bytes) == ("int8", 0.8125, 331_795)
    found = released.reports.of_weights(ModelVersion("baseline", "1.1"), "ff" * 32)
    assert not isinstance(found, str)
    assert (found.precision, found.accuracy.value, found.size_bytes) == ("fp32", 0.75, 1_226_298)


def test_why_there_are_no_figures(released: Services, reports_dir: Path) -> None:
    (reports_dir / "broken-1.0").mkdir()
    reports = released.reports
    assert reports.of_weights(ModelVersion("baseline", "1.1"), "ab" * 32) == "other weights"
    assert reports.of_weights(ModelVersion("baseline", "1.1"), "") == "unknown weights"
    assert reports.of_weights(ModelVersion("baseline", "1.0"), "ff" * 32) == "no report"
    assert reports.of_weights(ModelVersion("broken", "1.0"), "ff" * 32) == "unreadable report"

from pathlib import Path

import pytest
from flask.testing import FlaskClient

from handlers.contract.names import ModelVersion
from portal.deployments.deploy import Wish
from portal.deployments.overview import (
    Overview,
    VariantFigures,
    VersionLine,
    all_weights_served,
    overview,
    weights_served,
)
from portal.errors import ModelServerDown, StateUnavailable
from portal.services import Services
from tests.support.archive_files import write_archive
from tests.support.fake_torchserve import FakeTorchServe
from tests.support.fake_torchserve import served as served_version
from tests.support.managed_models import IN_THE_ARCHIVE, archive, end, own, quickly, released, two

__all__ = ["archive", "own", "quickly", "released", "two"]  # fixtures

FIRST, SECOND = ModelVersion("baseline", "1.0"), ModelVersion("baseline", "1.1")


@pytest.fixture
def served(released: Services) -> Services:
    """The same, deployed."""
    deployed = released.deployments.deploy(SECOND, "operator", Wish())
    assert end(released, deployed).state == "done"
    return released


def look(own: Services) -> Overview:
    return overview(own.steps, own.health, own.scale_to_zero)


def versions(own: Services) -> dict[str, VersionLine]:
    (model,) = look(own).models
    return {line.version: line for line in model.versions}


def states(own: Services) -> dict[str, tuple[str, str]]:
    return {version: (line.state, line.reason) for version, line in versions(own).items()}


# --- versions


def test_what_works_is_ready(two: Services) -> None:
    assert states(two) == {"1.0": ("ready", ""), "1.1": ("ready", "")}
    (model,) = look(two).models
    assert [line.version for line in model.versions] == ["1.1", "1.0"]  # the newest first
    assert (model.model, model.default, model.previous) == ("baseline", "1.0", None)
    assert look(two).problem == ""


def test_what_is_recorded_is_shown(two: Services, archive: Path) -> None:
    row = two.records.deployment(SECOND)
    assert row is not None
    line = versions(two)["1.1"]
    assert (line.default, line.previous, line.recorded, line.lazy) == (False, False, True, False)
    assert (line.workers_ready, line.workers_wanted) == (2, 2)
    assert (line.sha256, line.size_bytes) == (row.sha256, archive.stat().st_size)
    assert (line.deployed_by, line.deployed_at) == ("operator", row.deployed_at.isoformat())
    assert line.deployed_at.endswith("+00:00")
    two.records.serve(row, default=True)
    two.steps.server.set_default(SECOND, 5)
    assert (versions(two)["1.1"].default, versions(two)["1.0"].previous) == (True, True)
    (model,) = look(two).models
    assert (model.default, model.previous) == ("1.1", "1.0")


def test_one_that_nobody_recorded(two: Services, torchserve: FakeTorchServe) -> None:
    torchserve.versions.append(served_version("1.2", default=False, pids=(21, 22), wanted=3))
    line = versions(two)["1.2"]
    assert (line.state, line.recorded, line.workers_ready, line.workers_wanted) == (
        "ready", False, 2, 3,
    )  # fmt: skip
    assert (line.sha256, line.size_bytes, line.deployed_by, line.deployed_at) == ("", 0, "", "")


def test_one_that_is_to_be_served_no_more_is_not_missing(
    two: Services, torchserve: FakeTorchServe
) -> None:
    two.records.withdraw(SECOND)
    line = versions(two)["1.1"]
    assert (line.state, line.recorded, line.sha256) == ("ready", False, "")
    torchserve.unregister(SECOND, 5)
    assert versions(two).keys() == {"1.0"}


def test_one_that_the_server_has_lost(two: Services, torchserve: FakeTorchServe) -> None:
    torchserve.unregister(FIRST, 5)
    line = versions(two)["1.0"]
    assert (line.state, line.reason) == (
        "missing", "TorchServe does not have it; it is registered again",
    )  # fmt: skip
    assert (line.default, line.workers_ready, line.workers_wanted) == (True, 0, 1)


def test_one_whose_worker_starts(two: Services, torchserve: FakeTorchServe) -> None:
    torchserve.versions = [served_version(), served_version("1.1", default=False, ready=False)]
    assert states(two)["1.1"] == ("loading", "its worker is loading")


def test_one_that_does_not_work(two: Services, torchserve: FakeTorchServe) -> None:
    torchserve.versions = [
        served_version(),
        served_version("1.1", default=False, pids=(), wanted=0),
    ]
    assert states(two)["1.1"] == ("broken", "no worker is started for it")


def test_one_that_is_being_deployed(two: Services, torchserve: FakeTorchServe) -> None:
    torchserve.versions.append(served_version("1.2", default=False, ready=False))
    with torchserve.gate.trial(ModelVersion("baseline", "1.2")):
        assert states(two)["1.2"] == ("loading", "it is being deployed")


def test_one_that_sleeps(two: Services, torchserve: FakeTorchServe) -> None:
    torchserve.versions = [
        served_version(),
        served_version("1.1", default=False, pids=(), wanted=0),
    ]
    torchserve.gate.set_lazy("baseline", {SECOND: True})
    assert states(two)["1.1"] == ("sleeping", "it wakes when somebody asks it")


def test_without_the_model_server_nothing_is_known_of_the_moment(
    two: Services, torchserve: FakeTorchServe
) -> None:
    torchserve.served_error = ModelServerDown("It is down.")
    assert look(two).problem == "It is down."
    assert states(two) == dict.fromkeys(("1.1", "1.0"), ("unknown", "TorchServe cannot be asked"))
    assert versions(two)["1.0"].default


def test_models_are_sorted_by_name(two: Services, torchserve: FakeTorchServe) -> None:
    torchserve.versions += [served_version(model="vit"), served_version(model="alexnet")]
    found = look(two).models
    assert [model.model for model in found] == ["alexnet", "baseline", "vit"]
    assert [model.previous for model in found] == [None] * 3


def test_without_the_database_there_is_no_overview(
    two: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise StateUnavailable("no database")

    monkeypatch.setattr(two.records, "deployments", fail)
    with pytest.raises(StateUnavailable):
        look(two)


# --- archives that are not served


def test_archives_that_are_not_served(released: Services) -> None:
    (released.settings.model_store / "x.mar").write_bytes(b"")
    write_archive(released.settings.model_store, "1.0")  # served
    good, bad = look(released).archives
    assert (good.file, good.model, good.version) == ("baseline-1.1.mar", "baseline", "1.1")
    assert (good.classes, good.problem, good.unmeasured) == (3, "", "")
    assert good.size_bytes == (released.settings.model_store / good.file).stat().st_size
    assert good.report == VariantFigures("int8", 0.8125, 0.5, 1.0, 0.797, 0.0155, 0.42)
    assert (bad.file, bad.model, bad.version, bad.report) == ("x.mar", "", "", None)
    assert bad.problem.startswith("it is not called")


def test_a_lost_version_keeps_its_archive_to_itself(
    two: Services, torchserve: FakeTorchServe
) -> None:
    torchserve.unregister(SECOND, 5)
    assert look(two).archives == []


def test_a_model_store_that_cannot_be_read(two: Services) -> None:
    store = two.settings.model_store
    store.rename(store.with_name("elsewhere"))
    store.mkdir()
    loop = store / "baseline-1.2.mar"
    loop.symlink_to(loop)  # nothing that can be read
    found = look(two)
    assert found.archives == []
    assert "The model store cannot be read" in found.problem
    assert [line.state for line in found.models[0].versions] == ["ready", "ready"]


# --- the weights that are served


def test_weights_of_an_archive_that_nobody_recorded(released: Services) -> None:
    assert weights_served(released.archives, SECOND, None) == IN_THE_ARCHIVE
    assert weights_served(released.archives, FIRST, None) == ""  # it has no archive


def test_only_what_is_to_be_served_counts(served: Services) -> None:
    assert all_weights_served(served.archives, served.records) == {IN_THE_ARCHIVE}
    served.records.withdraw(SECOND)
    assert all_weights_served(served.archives, served.records) == set()


def test_without_the_database_no_weights_are_called_served(
    served: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise StateUnavailable("no database")

    monkeypatch.setattr(served.records, "deployments", fail)
    assert all_weights_served(served.archives, served.records) == set()


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
    row = served.records.deployment(SECOND)
    assert weights_served(served.archives, SECOND, row) == ""
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

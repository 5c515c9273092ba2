import io
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from handlers.contract.names import ModelVersion
from portal.deployments.deploy import Wish
from portal.services import Services
from tests.support.archive_files import write_archive
from tests.support.fake_torchserve import FakeTorchServe
from tests.support.managed_models import archive, end, own, quickly
from tests.support.operators import form_token, log_in, password_hash, settings

__all__ = ["archive", "own", "password_hash", "quickly", "settings"]  # fixtures


@pytest.fixture
def token(client: FlaskClient) -> str:
    """Of the forms of a client that has logged in."""
    log_in(client)
    return form_token(client, "/models")


def test_a_reader_sees_all_and_no_form(client: FlaskClient, own: Services, archive: Path) -> None:
    page = client.get("/models").text
    assert "1 of 1 ready" in page
    assert "baseline 1.1" in page
    assert "found running at the first start" in page
    assert 'action="/models' not in page
    assert "Log in</a> to deploy" in page


def test_an_operator_deploys_and_sees_the_steps(
    client: FlaskClient, own: Services, token: str, archive: Path, torchserve: FakeTorchServe
) -> None:
    form = {"csrf_token": token, "default": "true"}
    answer = client.post("/models/baseline/1.1/deploy", data=form)
    assert answer.status_code == 303
    place = answer.headers["Location"]
    end(own, own.deployments.jobs.get(place.rpartition("/")[2]))
    page = client.get(place).text
    assert "baseline 1.1 is served and is the default." in page
    assert "golden tiles are answered as the report says" in page
    page = client.get("/models").text
    assert "Roll back to 1.0" in page
    answer = client.post("/models/baseline/rollback", data={"csrf_token": token})
    end(own, own.deployments.jobs.get(answer.headers["Location"].rpartition("/")[2]))
    assert torchserve.versions[0].default


def test_a_failed_deploy_says_which_step_and_why(
    client: FlaskClient, own: Services, archive: Path, torchserve: FakeTorchServe
) -> None:
    torchserve.crashing = True
    job = end(own, own.deployments.deploy(ModelVersion("baseline", "1.1"), "operator", Wish()))
    page = client.get(f"/models/jobs/{job.id}").text
    assert "Failed, and taken back" in page
    assert "Load it: baseline 1.1 does not load" in page
    assert "http-equiv" not in page
    assert "does not load" in client.get("/models").text  # the audit


def test_a_job_under_way_reads_without_javascript(
    client: FlaskClient, own: Services, archive: Path, torchserve: FakeTorchServe
) -> None:
    assert (
        end(own, own.deployments.deploy(ModelVersion("baseline", "1.1"), "o", Wish())).state
        == "done"
    )
    with torchserve.gate.passing(ModelVersion("baseline", "1.1"), 1e12):  # it cannot be drained yet
        job = own.deployments.retire(ModelVersion("baseline", "1.1"), "operator")
        page = client.get(f"/models/jobs/{job.id}").text
        overview = client.get("/models").text
    assert '<noscript><meta http-equiv="refresh"' in page
    assert "Retire baseline 1.1 is under way" in overview
    assert end(own, job).state == "done"


def test_a_form_without_its_token_is_refused(
    client: FlaskClient, own: Services, token: str, archive: Path, torchserve: FakeTorchServe
) -> None:
    assert client.post("/models/baseline/1.1/deploy").status_code == 403
    assert torchserve.changes == []


def test_an_upload_is_listed(
    client: FlaskClient, own: Services, token: str, tmp_path: Path
) -> None:
    content = write_archive(
        tmp_path / "elsewhere", change=lambda entries: entries.update({"a.bin": bytes(300_000)})
    ).read_bytes()
    form = {"csrf_token": token, "file": (io.BytesIO(content), "baseline-1.1.mar")}
    answer = client.post("/models/archives", data=form)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/models#archives")
    page = client.get("/models").text
    assert "Serve it although nobody measured it" in page
    form = {"csrf_token": token, "file": (io.BytesIO(b"text"), "baseline-1.2.mar")}
    answer = client.post("/models/archives", data=form)
    assert answer.status_code == 422
    assert "no zip file" in answer.text


def test_an_error_is_a_page(client: FlaskClient, own: Services, token: str) -> None:
    answer = client.post("/models/baseline/1.0/retire", data={"csrf_token": token})
    assert answer.status_code == 409
    assert "cannot be retired" in answer.text
    answer = client.post("/models/baseline/1.0/scale", data={"csrf_token": token})
    assert answer.status_code == 400
    assert client.get("/models/jobs/none").status_code == 404

import io
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from handlers.contract.names import ModelVersion
from portal.errors import ModelServerDown
from portal.services import Services
from portal.serving.model_server import ServedVersion
from tests.support.archive_files import write_archive
from tests.support.fake_torchserve import FakeTorchServe
from tests.support.managed_models import archive, end, own, quickly
from tests.support.openapi import conforms
from tests.support.operators import BEARER, WRONG_BEARER, password_hash, settings

__all__ = ["archive", "own", "password_hash", "quickly", "settings"]  # fixtures

VERSION = "/api/models/{model}/{version}"


def post(client: FlaskClient, path: str, **body: Any) -> Any:
    return client.post(path, json=body, headers=BEARER)


def test_everything_is_listed(client: FlaskClient, own: Services, archive: Path) -> None:
    (own.settings.model_store / "x.mar").write_bytes(b"")
    body = conforms(client.get("/api/models"), "/api/models", "get", 200)
    (model,) = body["models"]
    assert (model["default"], model["previous"]) == ("1.0", None)
    (version,) = model["versions"]
    assert (version["state"], version["workers_ready"], version["recorded"]) == ("ready", 1, True)
    good, bad = body["archives"]
    assert (good["file"], good["classes"], good["problem"]) == ("baseline-1.1.mar", 3, "")
    assert (good["report"]["precision"], good["report"]["accuracy"]) == ("fp32", 0.75)
    assert (version["report"], version["unmeasured"]) == (None, "no report")
    assert bad["problem"].startswith("it is not called")


def test_the_model_server_is_asked_once(
    client: FlaskClient, own: Services, torchserve: FakeTorchServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []

    def count(timeout: float) -> list[ServedVersion]:
        looks.append(timeout)
        return torchserve.versions

    monkeypatch.setattr(torchserve, "served", count)
    with torchserve.gate.trial(ModelVersion("baseline", "1.0")):
        (model,) = client.get("/api/models").get_json()["models"]
    assert (model["versions"][0]["state"], len(looks)) == ("loading", 1)


def test_a_server_that_is_down_is_told(
    client: FlaskClient, own: Services, torchserve: FakeTorchServe
) -> None:
    torchserve.served_error = ModelServerDown("It is down.")
    body = conforms(client.get("/api/models"), "/api/models", "get", 200)
    assert body["problem"] == "It is down."
    assert body["models"][0]["versions"][0]["state"] == "unknown"


def test_a_deploy_is_a_job(client: FlaskClient, own: Services, archive: Path) -> None:
    answer = post(client, "/api/models/baseline/1.1/deploy", default=True)
    body = conforms(answer, f"{VERSION}/deploy", "post", 202)
    assert answer.headers["Location"] == f"/api/jobs/{body['job']['id']}"
    end(own, own.deployments.jobs.get(body["job"]["id"]))
    job = conforms(client.get(answer.headers["Location"]), "/api/jobs/{job}", "get", 200)["job"]
    assert (job["state"], job["operator"]) == ("done", "token")
    assert conforms(client.get("/api/jobs"), "/api/jobs", "get", 200)["jobs"] == [job]
    for path, operation, body in (
        ("baseline/rollback", "/api/models/{model}/rollback", {}),
        ("baseline/1.1/promote", f"{VERSION}/promote", {}),
        ("baseline/1.0/scale", f"{VERSION}/scale", {"workers": 2}),
    ):
        answer = post(client, f"/api/models/{path}", **body)
        job = conforms(answer, operation, "post", 202)["job"]
        end(own, own.deployments.jobs.get(job["id"]))
    answer = post(client, "/api/models/baseline/1.0/retire")
    conforms(answer, f"{VERSION}/retire", "post", 202)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("baseline/1.1/deploy", {"default": "maybe"}, 400),
        ("baseline/1.1/deploy", {"workers": "many"}, 400),
        ("baseline/1.1/deploy", {"workers": True}, 400),
        ("baseline/1.1/deploy", {"workers": 0}, 400),
        ("baseline/1.1/deploy", {}, 404),
        ("Baseline/1.1/deploy", {}, 404),
        ("baseline/all/deploy", {}, 404),
        ("baseline/1.0/scale", {}, 400),
        ("baseline/1.0/promote", {}, 409),
        ("baseline/1.0/retire", {}, 409),
    ],
)
def test_what_is_refused(
    client: FlaskClient, own: Services, path: str, body: dict[str, Any], status: int
) -> None:
    action = path.rpartition("/")[2]
    conforms(post(client, f"/api/models/{path}", **body), f"{VERSION}/{action}", "post", status)


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("1.1/deploy", {"default": "maybe"}, "default must be a valid boolean"),
        ("1.1/deploy", {"workers": "many"}, "workers must be a valid integer"),
        ("1.1/deploy", {"workers": True}, "workers must be a valid integer"),
        ("1.0/scale", {"workers": None}, "Say how many workers: send the field `workers`"),
        ("1.0/scale", {"workers": 17}, "A version has 1 to 16 workers, found 17."),
    ],
)
def test_what_is_wrong_with_a_field_is_told(
    client: FlaskClient, own: Services, path: str, body: dict[str, Any], sentence: str
) -> None:
    answer = post(client, f"/api/models/baseline/{path}", **body).get_json()
    assert answer["error"]["message"].startswith(sentence)


def test_a_limit_is_told_with_what_was_found(client: FlaskClient) -> None:
    answer = client.get("/api/audit?limit=1001").get_json()
    expected = "limit must be less than or equal to 1000, found '1001'."
    assert answer["error"]["message"] == expected
    twice = client.get("/api/audit?limit=1&limit=2").get_json()
    assert twice["error"]["message"] == "The request names more than one limit. Send one."


def test_a_body_that_is_no_object_is_refused(client: FlaskClient, own: Services) -> None:
    path = "/api/models/baseline/1.1/deploy"
    for data in ("[1]", "{", "3"):
        answer = client.post(path, data=data, content_type="application/json", headers=BEARER)
        conforms(answer, f"{VERSION}/deploy", "post", 400)


def test_nothing_changes_without_an_operator(
    client: FlaskClient, own: Services, torchserve: FakeTorchServe, archive: Path
) -> None:
    for path in (
        "models/baseline/1.1/deploy",
        "models/baseline/1.0/promote",
        "models/baseline/1.0/scale",
        "models/baseline/1.0/retire",
        "models/baseline/rollback",
        "archives",
    ):
        assert client.post(f"/api/{path}").status_code == 401
        assert client.post(f"/api/{path}", headers=WRONG_BEARER).status_code == 401
    assert torchserve.changes == []
    assert [line.action for line in own.records.audit(10)] == ["adopt"]


def test_an_upload(client: FlaskClient, own: Services, tmp_path: Path) -> None:
    # larger than an image may be
    big = write_archive(
        tmp_path / "elsewhere", change=lambda entries: entries.update({"a.bin": bytes(300_000)})
    ).read_bytes()

    def send(content: bytes, name: str) -> Any:
        return client.post(
            "/api/archives", data={"file": (io.BytesIO(content), name)}, headers=BEARER
        )

    body = conforms(send(big, "baseline-1.1.mar"), "/api/archives", "post", 201)
    assert body["archive"]["labels"] == ["AnnualCrop", "River", "SeaLake"]
    conforms(send(b"text", "baseline-1.2.mar"), "/api/archives", "post", 422)
    conforms(client.post("/api/archives", headers=BEARER), "/api/archives", "post", 400)
    body = conforms(client.get("/api/models"), "/api/models", "get", 200)
    assert [line["file"] for line in body["archives"]] == ["baseline-1.1.mar"]


def test_the_audit(client: FlaskClient, own: Services) -> None:
    post(client, "/api/models/baseline/1.0/retire")
    body = conforms(client.get("/api/audit?limit=1"), "/api/audit", "get", 200)
    (line,) = body["audit"]
    assert (line["actor"], line["action"], line["outcome"]) == ("token", "retire", "refused")
    for limit in ("0", "1001", "x", "-1"):
        conforms(client.get(f"/api/audit?limit={limit}"), "/api/audit", "get", 400)


def test_an_unknown_job(client: FlaskClient) -> None:
    conforms(client.get("/api/jobs/0123456789ab"), "/api/jobs/{job}", "get", 404)

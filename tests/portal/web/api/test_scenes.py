import io
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from portal.errors import ModelServerDown, UnusableScene
from portal.scenes.records import SceneRecords
from portal.scenes.store import Store
from portal.scenes.terms import Inspection
from portal.services import Services
from portal.settings import Settings
from portal.web.app import create_app
from portal.web.scene_requests import BROWSER_COOKIE
from tests.support.fake_torchserve import FakeTorchServe
from tests.support.openapi import conforms
from tests.support.operators import BEARER, form_token, password_hash
from tests.support.operators import settings as with_operators
from tests.support.paths import ROOT
from tests.support.product import free_ports
from tests.support.scenes import AREAS, NUMBER, SCENE, Inspector, age, write_map

__all__ = ["password_hash", "with_operators"]  # fixtures

SCENES = "/api/scenes"
ONE = "/api/scenes/{scene}"
START, AGAIN, FILE = f"{ONE}/start", f"{ONE}/again", f"{ONE}/{{file}}"
DIFFERENCES = f"{ONE}/differences/{{other}}"
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.tif"\r\n\r\n'
ELSEWHERE = {"Sec-Fetch-Site": "cross-site"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_scene_bytes": 2_000_000, "max_scenes_queued": 3})


@pytest.fixture
def own(app: Flask) -> Services:
    found = app.extensions["portal"]
    assert isinstance(found, Services)
    return found


@pytest.fixture(autouse=True)
def inspector(own: Services) -> Inspector:
    found = Inspector()
    own.scenes.inspect = found
    return found


@pytest.fixture
def folder(settings: Settings) -> Path:
    return settings.scenes_dir


@pytest.fixture
def records(own: Services) -> SceneRecords:
    return SceneRecords(own.database)


@pytest.fixture
def other(app: Flask) -> FlaskClient:
    """Another browser."""
    return app.test_client()


def send(
    client: FlaskClient, content: bytes = SCENE, name: str = "a scene.tif", /, **fields: str
) -> TestResponse:
    data: dict[str, Any] = {**fields, "file": (io.BytesIO(content), name)}
    return client.post(SCENES, data=data)


def send_whole(client: FlaskClient, path: str, content: bytes) -> TestResponse:
    """Without the file in which Werkzeug's client keeps what is large."""
    body = PART + content + b"\r\n--b--\r\n"
    return client.post(path, data=body, content_type="multipart/form-data; boundary=b")


def sent(client: FlaskClient, **fields: str) -> Any:
    return conforms(send(client, **fields), SCENES, "post", 202)


def post(client: FlaskClient, scene: str, action: str, **fields: Any) -> TestResponse:
    return client.post(f"{SCENES}/{scene}/{action}", json=fields)


def get(client: FlaskClient, scene: str) -> Any:
    return conforms(client.get(f"{SCENES}/{scene}"), ONE, "get", 200)


def mapped(records: SceneRecords, folder: Path, classes: bytes = bytes(6), **changes: Any) -> str:
    """The next scene as a worker leaves it."""
    row = records.claim("worker")
    assert row is not None
    out = folder / row.id / "out"
    out.mkdir()
    found = write_map(out, classes, **changes)
    assert records.settle(row, "done", "The map is whole.", done=6, **vars(found))
    return row.id


def sentence(response: TestResponse) -> str:
    return str(response.get_json()["error"]["message"])


class TestSending:
    """A scene comes and is looked at."""

    def test_what_was_found_is_answered(
        self, client: FlaskClient, inspector: Inspector, folder: Path
    ) -> None:
        scene = sent(client, stride="32", bands="4,3,2", look="l1c", force="true")
        asked = inspector.asked[-1]
        assert (asked.model, asked.version, asked.stride) == ("baseline", "1.0", 32)
        assert (asked.bands, asked.look, asked.force) == ((4, 3, 2), "l1c", True)
        assert (scene["state"], scene["name"]) == ("queued", "a scene.tif")
        assert (scene["rows"], scene["columns"], scene["stride"]) == (3, 5, 32)
        assert (scene["done"], scene["total"], scene["windows"]) == (0, 6, 6)
        assert scene["found"]["format"] == "GTiff"
        assert scene["assumed"] == {"look": "l2a"}
        assert scene["warnings"] == [{"code": "resampled", "message": "The pixels had 20 m."}]
        assert (scene["seconds_left"], scene["areas"], scene["outputs"]) == (None, None, {})
        assert (folder / scene["id"] / "scene").read_bytes() == SCENE
        assert client.get(SCENES).get_json()["scenes"][0]["id"] == scene["id"]

    def test_the_answer_leads_to_the_scene(self, client: FlaskClient) -> None:
        answer = send(client)
        assert get(client, answer.headers["Location"].rpartition("/")[2])["state"] == "queued"

    def test_fields_may_come_after_the_file(self, client: FlaskClient) -> None:
        data = {"file": (io.BytesIO(SCENE), "a.tif"), "look": "tci", "start": "false"}
        scene = conforms(client.post(SCENES, data=data), SCENES, "post", 202)
        assert (scene["state"], scene["look"]) == ("checked", "tci")

    @pytest.mark.parametrize(
        ("fields", "status", "said"),
        [
            ({"model": "No"}, 404, "The model's name"),
            ({"model": "vgg"}, 404, "vgg 1.0 is not served"),
            ({"version": "9.9"}, 404, "baseline 9.9 is not served"),
            ({"stride": "10"}, 400, "stride must be auto or one of 64, 32, 16, found '10'."),
            ({"bands": "4,3"}, 400, "bands must be the numbers of the red, green and blue"),
            ({"bands": "4,3,0"}, 400, "bands must be"),
            ({"look": "nice"}, 400, "look must be one of auto, "),
            ({"scale": "7"}, 400, "scale must be one of auto, "),
            ({"force": "perhaps"}, 400, "force must be a valid boolean"),
            ({"start": "later"}, 400, "start must be a valid boolean"),
            ({"look": "x" * 5000}, 400, "The field 'look' is too long."),
        ],
    )
    def test_a_field_that_cannot_be_is_refused(
        self, client: FlaskClient, folder: Path, fields: dict[str, str], status: int, said: str
    ) -> None:
        answer = send(client, **fields)
        conforms(answer, SCENES, "post", status)
        assert sentence(answer).startswith(said)
        assert list(folder.iterdir()) == []

    def test_a_file_that_is_no_scene_is_not_kept(
        self, client: FlaskClient, own: Services, folder: Path
    ) -> None:
        conforms(send(client, b"<VRTDataset>"), SCENES, "post", 415)

        def unusable(*_: object, **__: object) -> Inspection:
            raise UnusableScene("Its values fit two scales.")

        own.scenes.inspect = unusable
        answer = send(client)
        conforms(answer, SCENES, "post", 422)
        assert sentence(answer) == "Its values fit two scales."
        assert list(folder.iterdir()) == []
        assert client.get(SCENES).get_json()["scenes"] == []

    @pytest.mark.parametrize("data", [{}, b"II*\0", {"files": "x"}, {"file": "a text"}])
    def test_a_request_without_a_scene(self, client: FlaskClient, data: Any) -> None:
        answer = client.post(SCENES, data=data)
        conforms(answer, SCENES, "post", 400)

    def test_an_empty_file(self, client: FlaskClient) -> None:
        conforms(send(client, b""), SCENES, "post", 400)

    def test_of_a_name_the_harmless_part_is_kept(self, client: FlaskClient) -> None:
        names = {
            "../../etc/passwd": "passwd",
            "<b>x</b>.tif": "b_.tif",
            "C:\\s\\a.tif": "a.tif",
        }
        for name, kept in names.items():
            scene = conforms(send(client, SCENE, name), SCENES, "post", 202)
            assert scene["name"] == kept

    def test_one_that_is_too_large(self, client: FlaskClient, folder: Path) -> None:
        answer = send_whole(client, SCENES, bytes(2_000_001))
        conforms(answer, SCENES, "post", 413)
        assert "The scene is larger than 1.91 MiB" in sentence(answer)
        assert not folder.exists() or list(folder.iterdir()) == []

    def test_a_larger_body_is_taken_here_alone(self, client: FlaskClient) -> None:
        large = SCENE + bytes(500_000)
        scene = conforms(send_whole(client, SCENES, large), SCENES, "post", 202)["id"]
        for path in ("/api/predict", f"{SCENES}/{scene}/again"):
            assert send_whole(client, path, large).status_code == 413

    def test_a_damaged_form_leaves_nothing(self, client: FlaskClient, folder: Path) -> None:
        body = PART + SCENE
        answer = client.post(SCENES, data=body, content_type="multipart/form-data; boundary=b")
        conforms(answer, SCENES, "post", 400)
        assert "cut off" in sentence(answer)
        assert list(folder.iterdir()) == []

    def test_a_full_disk_is_told_with_figures(
        self, client: FlaskClient, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from portal.scenes import store as module

        monkeypatch.setattr(module, "SPARE", 2**60)
        answer = send(client)
        conforms(answer, SCENES, "post", 507)
        assert re.search(r"The disk has [\d,.]+ MiB left", sentence(answer))
        assert list(folder.iterdir()) == []

    def test_a_model_server_that_is_down_does_not_cost_the_upload(
        self, client: FlaskClient, torchserve: FakeTorchServe
    ) -> None:
        torchserve.served_error = ModelServerDown("It is down.")
        scene = sent(client)
        assert (scene["state"], scene["version"]) == ("queued", None)

    def test_the_queue_has_an_end(self, client: FlaskClient, folder: Path) -> None:
        for _ in range(3):
            sent(client)
        answer = send(client)
        conforms(answer, SCENES, "post", 503)
        assert (answer.headers["Retry-After"], answer.get_json()["error"]["code"]) == ("60", "busy")
        assert sentence(answer).startswith("3 scenes wait")
        assert len(list(folder.iterdir())) == 3

    def test_a_list_asks_once_how_long_a_model_takes(
        self, client: FlaskClient, own: Services, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []

        def pace(model: str) -> float:
            asked.append(model)
            return 0.5

        monkeypatch.setattr(own.scenes, "pace", pace)
        for _ in range(3):
            sent(client)
        asked.clear()
        scenes = client.get("/api/scenes").get_json()["scenes"]
        assert [scene["seconds_left"] for scene in scenes] == [0.5 * scenes[0]["windows"]] * 3
        assert asked == [scenes[0]["model"]]

    def test_the_expected_time_is_told_once_a_scene_was_mapped(
        self, client: FlaskClient, own: Services, records: SceneRecords, folder: Path
    ) -> None:
        sent(client)
        done = records.get(mapped(records, folder))
        age(own.database, done, timedelta(seconds=12), "started")
        assert sent(client)["seconds_left"] == pytest.approx(12, rel=0.2)


class TestStarting:
    """A scene that waits for its sender's word, and one that is mapped once more."""

    def test_it_is_started_as_it_was_checked(
        self, client: FlaskClient, inspector: Inspector
    ) -> None:
        scene = sent(client, start="false", look="l1c")
        assert scene["state"] == "checked"
        started = conforms(post(client, scene["id"], "start"), START, "post", 202)
        assert (started["state"], started["look"]) == ("queued", "l1c")
        assert len(inspector.asked) == 1
        conforms(post(client, scene["id"], "start"), START, "post", 409)

    def test_with_other_options_it_is_looked_at_again(
        self, client: FlaskClient, inspector: Inspector
    ) -> None:
        scene = sent(client, start="false", look="l1c", bands="4,3,2")
        seen = conforms(
            post(client, scene["id"], "start", look="tci", stride="32", start=False),
            START, "post", 202,
        )  # fmt: skip
        assert (seen["state"], seen["look"], seen["stride"]) == ("checked", "tci", 32)
        with client.get(seen["previews"]["as-it-is.png"]) as picture:
            assert picture.data == b"as-it-is.png tci"
        started = post(client, scene["id"], "start", bands="auto", model="baseline")
        assert conforms(started, START, "post", 202)["state"] == "queued"
        last = inspector.asked[-1]
        assert (last.look, last.stride, last.bands) == ("tci", 32, None)

    def test_what_cannot_be_is_refused_and_nothing_changes(self, client: FlaskClient) -> None:
        scene = sent(client, start="false")
        for fields, status in (
            ({"look": "nice"}, 400),
            ({"model": "vgg"}, 404),
            ({"version": "x"}, 404),
        ):
            conforms(post(client, scene["id"], "start", **fields), START, "post", status)
        assert get(client, scene["id"])["state"] == "checked"
        conforms(post(client, NUMBER, "start"), START, "post", 404)

    def test_a_full_queue(self, client: FlaskClient) -> None:
        scene = sent(client, start="false")
        for _ in range(3):
            sent(client)
        conforms(post(client, scene["id"], "start"), START, "post", 503)
        assert get(client, scene["id"])["state"] == "checked"

    def test_the_same_file_is_mapped_again(
        self, client: FlaskClient, inspector: Inspector, folder: Path
    ) -> None:
        first = sent(client)
        second = conforms(post(client, first["id"], "again"), AGAIN, "post", 202)
        assert second["id"] != first["id"]
        assert (second["name"], second["state"]) == (first["name"], "queued")
        files = [folder / scene["id"] / "scene" for scene in (first, second)]
        assert files[0].samefile(files[1])
        assert len(inspector.asked) == 1
        with client.get(second["previews"]["as-it-is.png"]) as picture:
            assert picture.status_code == 200
        third = conforms(post(client, first["id"], "again", stride="16"), AGAIN, "post", 202)
        assert (third["stride"], len(inspector.asked)) == (16, 2)
        conforms(post(client, first["id"], "again"), AGAIN, "post", 503)
        conforms(post(client, NUMBER, "again"), AGAIN, "post", 503)


class TestTheMap:
    """Progress, files, the end."""

    def test_its_files_are_there_once_it_is_done(
        self, client: FlaskClient, records: SceneRecords, folder: Path
    ) -> None:
        scene = sent(client)["id"]
        conforms(client.get(f"{SCENES}/{scene}/class.tif"), FILE, "get", 409)
        mapped(records, folder)
        body = get(client, scene)
        assert (body["state"], body["areas"], body["done"]) == ("done", AREAS, 6)
        assert set(body["outputs"]) == {"class.tif", "cells.json"}
        with client.get(body["outputs"]["class.tif"]) as raster:
            assert raster.data == b"II*\0"
            assert raster.mimetype == "image/tiff"
            assert 'filename="a scene-class.tif"' in raster.headers["Content-Disposition"]
            assert raster.headers["X-Content-Type-Options"] == "nosniff"
        for name in ("scene", "..%2Fscene", "classes.geojson", "start"):
            assert client.get(f"{SCENES}/{scene}/{name}").status_code == 404

    def test_one_that_waits_is_cancelled_and_then_forgotten(
        self, client: FlaskClient, folder: Path
    ) -> None:
        scene = sent(client)["id"]
        ended = conforms(client.delete(f"{SCENES}/{scene}"), ONE, "delete", 200)
        assert (ended["state"], ended["reason"]) == ("cancelled", "It was cancelled.")
        assert (folder / scene).exists()
        conforms(client.delete(f"{SCENES}/{scene}"), ONE, "delete", 200)
        assert not (folder / scene).exists()
        conforms(client.delete(f"{SCENES}/{scene}"), ONE, "delete", 404)

    def test_one_that_runs_is_cancelled_at_once(
        self, client: FlaskClient, records: SceneRecords
    ) -> None:
        scene = sent(client)["id"]
        row = records.claim("worker")
        assert row is not None
        assert records.note(row, done=2, seconds_left=4.5)
        assert get(client, scene)["seconds_left"] == 4.5
        ended = conforms(client.delete(f"{SCENES}/{scene}"), ONE, "delete", 200)
        assert ended["state"] == "cancelled"
        assert not records.note(row, done=3)

    def test_two_maps_are_compared(
        self, client: FlaskClient, records: SceneRecords, folder: Path
    ) -> None:
        one = sent(client)["id"]
        two = post(client, one, "again").get_json()["id"]
        path = f"{SCENES}/{one}/differences/{two}"
        conforms(client.get(path), DIFFERENCES, "get", 409)
        mapped(records, folder, bytes([0, 0, 1, 1, 255, 0]))
        mapped(records, folder, bytes([0, 1, 1, 1, 255, 255]), labels=["River", "Sea"])
        body = conforms(client.get(path), DIFFERENCES, "get", 200)
        assert (body["cells"], body["agree"]) == (4, 0.25)
        found = {(pair["first"], pair["second"]): pair for pair in body["pairs"]}
        assert {names: pair["cells"] for names, pair in found.items()} == {
            ("River", "River"): 1,
            ("River", "Sea"): 1,
            ("SeaLake", "Sea"): 2,
            (None, None): 1,
            ("River", None): 1,
        }
        assert found["River", "River"]["hectares"] == pytest.approx(64 * 64 / 100)
        # a cell of 2 x 64 px at the right edge, and one of 64 x 6 at the lower one
        assert found["SeaLake", "Sea"]["hectares"] == pytest.approx((2 * 64 + 64 * 6) / 100)

    def test_maps_of_other_scenes_are_not_compared(
        self, client: FlaskClient, records: SceneRecords, folder: Path
    ) -> None:
        one = sent(client)["id"]
        two = conforms(send(client, SCENE + b"x"), SCENES, "post", 202)["id"]
        mapped(records, folder)
        mapped(records, folder)
        conforms(client.get(f"{SCENES}/{one}/differences/{two}"), DIFFERENCES, "get", 422)
        conforms(client.get(f"{SCENES}/{one}/differences/{NUMBER}"), DIFFERENCES, "get", 404)


class TestPrivacy:
    """Whose scenes these are."""

    def test_another_browser_sees_nothing(
        self, client: FlaskClient, other: FlaskClient, records: SceneRecords, folder: Path
    ) -> None:
        scene = sent(client)["id"]
        mapped(records, folder)
        sent(other)
        assert scene not in {row["id"] for row in other.get(SCENES).get_json()["scenes"]}
        for path, name, method in (
            (f"{SCENES}/{scene}", ONE, "get"),
            (f"{SCENES}/{scene}", ONE, "delete"),
            (f"{SCENES}/{scene}/start", START, "post"),
            (f"{SCENES}/{scene}/again", AGAIN, "post"),
            (f"{SCENES}/{scene}/class.tif", FILE, "get"),
            (f"{SCENES}/{scene}/as-it-is.png", FILE, "get"),
            (f"{SCENES}/{scene}/differences/{scene}", DIFFERENCES, "get"),
        ):
            conforms(other.open(path, method=method), name, method, 404)
        assert get(client, scene)["state"] == "done"

    def test_the_number_of_a_browser_is_kept_from_pages_and_database(
        self, client: FlaskClient, records: SceneRecords
    ) -> None:
        answer = send(client)
        (cookie,) = [
            line for line in answer.headers.getlist("Set-Cookie") if BROWSER_COOKIE in line
        ]
        for word in ("HttpOnly", "SameSite=Strict", "Max-Age=604800"):
            assert word in cookie
        found = client.get_cookie(BROWSER_COOKIE)
        assert found is not None
        (row,) = records.of(None)
        assert found.value not in row.owner_key
        second = send(client)  # the same number from then on
        assert BROWSER_COOKIE not in str(second.headers.getlist("Set-Cookie"))
        assert len(client.get(SCENES).get_json()["scenes"]) == 2

    def test_a_made_up_number_is_replaced(self, client: FlaskClient) -> None:
        client.set_cookie(BROWSER_COOKIE, "me")
        sent(client)
        found = client.get_cookie(BROWSER_COOKIE)
        assert found is not None
        assert re.fullmatch("[0-9a-f]{32}", found.value)

    def test_a_restart_of_the_portal_takes_no_scene_away(
        self, client: FlaskClient, settings: Settings, torchserve: FakeTorchServe
    ) -> None:
        scene = sent(client)["id"]
        found = client.get_cookie(BROWSER_COOKIE)
        assert found is not None
        again = create_app(settings, torchserve).test_client()  # with another key for its sessions
        again.set_cookie(BROWSER_COOKIE, found.value)
        assert get(again, scene)["state"] == "queued"

    @pytest.mark.parametrize(
        "headers",
        [ELSEWHERE, {"Sec-Fetch-Site": "same-site"}, {"Origin": "http://evil.example"}],
    )
    def test_the_page_of_another_site_changes_nothing(
        self, client: FlaskClient, headers: dict[str, str], folder: Path
    ) -> None:
        scene = sent(client, start="false")["id"]
        for method, path, name in (
            ("post", SCENES, SCENES),
            ("post", f"{SCENES}/{scene}/start", START),
            ("post", f"{SCENES}/{scene}/again", AGAIN),
            ("delete", f"{SCENES}/{scene}", ONE),
        ):
            data = {"file": (io.BytesIO(SCENE), "a.tif")} if name == SCENES else {}
            answer = client.open(path, method=method, headers=headers, data=data)
            conforms(answer, name, method, 403)
            assert answer.get_json()["error"]["code"] == "forged_form"
        assert get(client, scene)["state"] == "checked"
        assert len(list(folder.iterdir())) == 1

    @pytest.mark.parametrize(
        "headers", [{"Sec-Fetch-Site": "same-origin"}, {"Origin": "http://localhost"}, {}]
    )
    def test_our_own_pages_and_programs_do(
        self, client: FlaskClient, headers: dict[str, str]
    ) -> None:
        scene = sent(client)["id"]
        answer = client.delete(f"{SCENES}/{scene}", headers=headers)
        conforms(answer, ONE, "delete", 200)

    class TestPublic:
        @pytest.fixture
        def settings(self, settings: Settings) -> Settings:
            return settings.model_copy(update={"scenes_public": True})

        def test_everybody_sees_and_only_the_sender_changes(
            self, client: FlaskClient, other: FlaskClient
        ) -> None:
            scene = sent(client)["id"]
            assert [row["id"] for row in other.get(SCENES).get_json()["scenes"]] == [scene]
            assert get(other, scene)["state"] == "queued"
            answer = conforms(other.delete(f"{SCENES}/{scene}"), ONE, "delete", 403)
            assert answer["error"]["code"] == "not_your_scene"
            assert post(other, scene, "start").status_code == 403
            assert post(other, scene, "again").status_code == 202

    class TestOperators:
        @pytest.fixture
        def settings(self, with_operators: Settings) -> Settings:
            return with_operators

        def test_a_form_without_origin_needs_its_token(self, client: FlaskClient) -> None:
            """As a browser sends it over HTTP, under another name than localhost."""
            nowhere = {"Origin": "null"}

            def sends(**fields: str) -> TestResponse:
                data = {"file": (io.BytesIO(SCENE), "a.tif"), **fields}
                return client.post(SCENES, data=data, headers=nowhere)

            conforms(sends(), SCENES, "post", 403)
            conforms(sends(csrf_token="x"), SCENES, "post", 403)
            token = form_token(client)
            scene = conforms(sends(csrf_token=token), SCENES, "post", 202)["id"]
            path = f"{SCENES}/{scene}/again"
            assert client.post(path, headers=nowhere).status_code == 403
            assert client.post(path, headers={**nowhere, "X-CSRFToken": token}).status_code == 202

        def test_the_scenes_of_a_script_are_the_tokens(self, client: FlaskClient) -> None:
            data = {"file": (io.BytesIO(SCENE), "a.tif")}
            answer = client.post(SCENES, data=data, headers=BEARER)
            scene = conforms(answer, SCENES, "post", 202)["id"]
            assert "Set-Cookie" not in answer.headers
            assert client.get(f"{SCENES}/{scene}").status_code == 404
            assert client.get(f"{SCENES}/{scene}", headers=BEARER).status_code == 200


class TestOverTheNetwork:
    """With the server of the product, which decides what a broken connection is."""

    @pytest.fixture
    def url(self, settings: Settings) -> Iterator[str]:
        (port,) = free_ports(1)
        environ = {
            "PATH": "/usr/bin:/bin",
            "PORTAL_SCENES_DIR": str(settings.scenes_dir),
            "PORTAL_DATABASE_URL": settings.database_url.get_secret_value(),
            "PORTAL_TORCHSERVE_INFERENCE": "http://127.0.0.1:9",
            "PORTAL_TORCHSERVE_MANAGEMENT": "http://127.0.0.1:9",
        }
        words = [
            *(sys.executable, "-m", "gunicorn", "portal.web.app:create_app()"),
            *("--bind", f"127.0.0.1:{port}", "--worker-class", "gthread", "--threads", "4"),
            *("--config", "python:deploy.gunicorn_conf", "--no-control-socket"),
        ]
        server = subprocess.Popen(words, cwd=ROOT, env=environ)
        try:
            found = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 60
            while True:
                try:
                    requests.get(f"{found}/api/health/live", timeout=5)
                    break
                except requests.RequestException:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            yield found
        finally:
            server.terminate()
            server.wait(30)

    def test_a_connection_that_breaks_leaves_nothing(self, url: str, folder: Path) -> None:
        with closing(connect(url)) as client:
            client.sendall(head(50_000_000) + bytes(3_000_000))
            until(lambda: any(path.stat().st_size > 10**6 for path in folder.rglob("scene")))
        until(lambda: list(folder.iterdir()) == [])
        assert requests.get(f"{url}{SCENES}", timeout=5).json() == {"scenes": []}

    def test_a_client_that_stalls_leaves_nothing(self, url: str, folder: Path) -> None:
        with closing(connect(url)) as client:
            client.sendall(head(50_000_000) + bytes(3_000_000))
            until(lambda: any(folder.rglob("scene")))
            answer = client.recv(4096)
        assert b" 400 " in answer.split(b"\r\n")[0]
        until(lambda: list(folder.iterdir()) == [])

    def test_two_gigabytes_are_refused_without_being_read(self, url: str, folder: Path) -> None:
        started = time.monotonic()
        with closing(connect(url)) as client:
            client.sendall(head(2 * 1024**3))
            answer = client.recv(4096)
        assert b" 413 " in answer.split(b"\r\n")[0]
        assert time.monotonic() - started < 10
        assert not folder.exists() or list(folder.iterdir()) == []


def connect(url: str) -> socket.socket:
    address = urlsplit(url)
    assert address.port
    return socket.create_connection((address.hostname, address.port), timeout=20)


def head(length: int) -> bytes:
    fields = (
        f"POST {SCENES} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    )
    return fields.encode() + PART


def until(true: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_lazy_versions_are_needed_while_scenes_wait(
    client: FlaskClient, own: Services, records: SceneRecords, folder: Path
) -> None:
    assert own.scenes.needed() == set()
    sent(client, start="false")
    assert own.scenes.needed() == set()
    sent(client)
    assert {str(name) for name in own.scenes.needed()} == {"baseline 1.0"}
    mapped(records, folder)
    assert own.scenes.needed() == set()


def test_a_copy_needs_its_file(client: FlaskClient, own: Services, settings: Settings) -> None:
    scene = sent(client)["id"]
    Store(settings.scenes_dir, SceneRecords(own.database), 10**9, 7).remove(scene)
    conforms(post(client, scene, "again"), AGAIN, "post", 404)

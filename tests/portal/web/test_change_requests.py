import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, request

from portal.errors import BadArchive, BadRequest, NotPossible, UnknownModel
from portal.jobs import Job
from portal.services import Services
from portal.settings import Settings
from portal.web.change_requests import (
    MOST_LINES,
    AuditFields,
    DeployFields,
    ScaleFields,
    allow_archives,
    begin_deploy,
    begin_promote,
    begin_retire,
    begin_roll_back,
    begin_scale,
    read_archive,
    read_fields,
)
from portal.web.context import MULTIPART_FRAMING
from tests.support.archive_files import write_archive
from tests.support.fake_torchserve import FakeTorchServe
from tests.support.managed_models import archive, end, own, quickly, two, versions
from tests.support.operators import BEARER, password_hash
from tests.support.operators import settings as with_operators

__all__ = ["archive", "own", "password_hash", "quickly", "two", "with_operators"]  # fixtures

UNSAID = "Say how many workers."


@pytest.fixture
def settings(with_operators: Settings) -> Settings:
    return with_operators.model_copy(update={"max_archive_bytes": 1_000_000})


def asking(app: Flask, **how: Any) -> Any:
    """The context of an operator's request."""
    return app.test_request_context("/", method="POST", headers=BEARER, **how)


# --- fields


def ways(name: str, value: str) -> list[dict[str, Any]]:
    """How a request can carry a text."""
    return [
        {"json": {name: value}},
        {"data": {name: value}},
        {"data": {name: value}, "content_type": "multipart/form-data"},
        {"query_string": {name: value}},
    ]


@pytest.mark.parametrize(
    ("word", "meaning"),
    [
        ("true", True), ("TRUE", True), ("1", True), ("on", True),
        ("false", False), ("False", False), ("0", False), ("", False),
    ],
)  # fmt: skip
def test_words_for_yes_and_no(app: Flask, word: str, *, meaning: bool) -> None:
    for how in ways("default", word):
        with asking(app, **how):
            assert read_fields(DeployFields).default is meaning


@pytest.mark.parametrize("word", ["maybe", "2", "-1", "null"])
def test_other_words_are_refused(app: Flask, word: str) -> None:
    for how in ways("default", word):
        with (
            asking(app, **how),
            pytest.raises(BadRequest, match=rf"^default must be a valid bool.*, found '{word}'\.$"),
        ):
            read_fields(DeployFields)


@pytest.mark.parametrize(("word", "number"), [("0", 0), ("3", 3), ("016", 16), ("", None)])
def test_words_for_numbers(app: Flask, word: str, number: int | None) -> None:
    for how in ways("workers", word):
        with asking(app, **how):
            assert read_fields(DeployFields).workers == number


@pytest.mark.parametrize("word", ["many", "1.5", "1e3", "0x10", "\N{SUPERSCRIPT TWO}", "true"])
def test_other_words_for_numbers_are_refused(app: Flask, word: str) -> None:
    for how in ways("workers", word):
        with asking(app, **how), pytest.raises(BadRequest, match=r"^workers must be a valid int"):
            read_fields(DeployFields)


def test_json_has_its_own_yes_no_and_numbers(app: Flask) -> None:
    with asking(app, json={"default": True, "unreported": False, "workers": 3}):
        found = read_fields(DeployFields)
    assert (found.default, found.unreported, found.workers) == (True, False, 3)
    with asking(app, json={"default": None, "workers": None, "another": 3}):
        assert read_fields(DeployFields) == DeployFields()


@pytest.mark.parametrize("value", [2, 0.5, [], [True], {}])
def test_json_of_another_type_is_no_yes_or_no(app: Flask, value: object) -> None:
    with asking(app, json={"default": value}), pytest.raises(BadRequest, match="default must be"):
        read_fields(DeployFields)


@pytest.mark.parametrize("value", [True, 1.5, [], [1], {}])
def test_json_of_another_type_is_no_number(app: Flask, value: object) -> None:
    for kind in (DeployFields, ScaleFields):
        with (
            asking(app, json={"workers": value}),
            pytest.raises(BadRequest, match="workers must be"),
        ):
            read_fields(kind, UNSAID)


def test_what_was_found_is_told_in_few_plain_characters(app: Flask) -> None:
    with (
        asking(app, json={"workers": "\N{SNOWMAN}\n" + "x" * 9000}),
        pytest.raises(BadRequest) as raised,
    ):
        read_fields(DeployFields)
    assert str(raised.value).isascii()
    assert "found '\\u2603\\nxxx" in str(raised.value)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize("body", [[], [1], 3, "text", None])
def test_a_body_that_is_no_object_is_refused(app: Flask, body: object) -> None:
    how = {"data": json.dumps(body), "content_type": "application/json"}
    with asking(app, **how), pytest.raises(BadRequest, match="must be a JSON object"):
        read_fields(DeployFields)


def test_what_is_not_said(app: Flask) -> None:
    with asking(app):
        found = read_fields(DeployFields)
        assert (found.default, found.workers, found.unreported) == (False, None, False)
        assert read_fields(AuditFields).limit == 100
        with pytest.raises(BadRequest, match=f"^{UNSAID}$"):
            read_fields(ScaleFields, UNSAID)


def test_two_values_that_differ_are_refused(app: Flask) -> None:
    for how in ({"query_string": "workers=1&workers=2"}, {"data": {"workers": ["1", "2"]}}):
        with asking(app, **how), pytest.raises(BadRequest, match="more than one workers"):
            read_fields(ScaleFields)
    with asking(app, query_string="workers=2&workers=2"):
        assert read_fields(ScaleFields).workers == 2


def test_a_form_wins_over_the_query_string(app: Flask) -> None:
    with asking(app, data={"workers": "1"}, query_string="workers=2&default=on"):
        found = read_fields(DeployFields)
    assert (found.workers, found.default) == (1, True)


def test_so_many_lines_of_the_audit_and_no_more(app: Flask) -> None:
    for limit in (1, MOST_LINES):
        with asking(app, query_string={"limit": limit}):
            assert read_fields(AuditFields).limit == limit
    for limit in (0, MOST_LINES + 1):
        with (
            asking(app, query_string={"limit": limit}),
            pytest.raises(BadRequest, match=rf"^limit must be .*, found '{limit}'\.$"),
        ):
            read_fields(AuditFields)


# --- changes


def done(own: Services, begin: Callable[[], Job]) -> Job:
    found = end(own, begin())
    assert found.state == "done", found
    return found


def test_a_deploy_as_it_was_asked_for(
    app: Flask, own: Services, torchserve: FakeTorchServe, archive: Path
) -> None:
    with asking(app, json={"default": True, "workers": 3}):
        job = done(own, lambda: begin_deploy("baseline", "1.1"))
    assert (job.action, job.model, job.version, job.operator) == (
        "deploy", "baseline", "1.1", "token",
    )  # fmt: skip
    assert torchserve.changes[0] == ("register", "baseline-1.1.mar", "3")
    assert versions(torchserve) == {"1.0": False, "1.1": True}


def test_a_deploy_without_a_word_more(
    app: Flask, own: Services, torchserve: FakeTorchServe, archive: Path
) -> None:
    with asking(app):
        done(own, lambda: begin_deploy("baseline", "1.1"))
    assert torchserve.changes == [("register", "baseline-1.1.mar", "2")]  # as its archive says


def test_a_deploy_of_what_nobody_measured(app: Flask, own: Services) -> None:
    write_archive(own.settings.model_store)
    with asking(app), pytest.raises(NotPossible, match="has no report"):
        begin_deploy("baseline", "1.1")
    with asking(app, data={"unreported": "on"}):
        done(own, lambda: begin_deploy("baseline", "1.1"))


def test_changes_as_they_were_asked_for(
    app: Flask, two: Services, torchserve: FakeTorchServe
) -> None:
    torchserve.changes.clear()
    with asking(app, query_string={"workers": "3"}):
        assert done(two, lambda: begin_scale("baseline", "1.0")).action == "scale"
        assert done(two, lambda: begin_promote("baseline", "1.1")).action == "promote"
        back = done(two, lambda: begin_roll_back("baseline"))
        assert (back.action, back.version) == ("roll back", "1.0")
        assert done(two, lambda: begin_retire("baseline", "1.1")).action == "retire"
    assert torchserve.changes == [
        ("scale", "baseline", "1.0", "3"),
        ("set_default", "baseline", "1.1"),
        ("set_default", "baseline", "1.0"),
        ("unregister", "baseline", "1.1"),
    ]
    lines = two.records.audit(4)
    assert [(line.actor, line.outcome) for line in lines] == [("token", "done")] * 4


def test_a_number_of_workers_must_be_said(app: Flask, own: Services) -> None:
    with asking(app), pytest.raises(BadRequest, match=r"^Say how many workers the version is to"):
        begin_scale("baseline", "1.0")
    with asking(app, json={"workers": 0}), pytest.raises(BadRequest, match="1 to 16 workers"):
        begin_scale("baseline", "1.0")


@pytest.mark.parametrize("begin", [begin_deploy, begin_promote, begin_retire, begin_scale])
@pytest.mark.parametrize(("model", "version"), [("Baseline", "1.0"), ("baseline", "all")])
def test_names_that_cannot_be(
    app: Flask, own: Services, begin: Callable[[str, str], Job], model: str, version: str
) -> None:
    before = own.records.audit(10)
    with asking(app), pytest.raises(UnknownModel):
        begin(model, version)
    assert own.records.audit(10) == before  # it is not even audited


def test_a_model_that_cannot_be_is_not_rolled_back(app: Flask, own: Services) -> None:
    before = own.records.audit(10)
    with asking(app), pytest.raises(UnknownModel):
        begin_roll_back("../x")
    assert own.records.audit(10) == before


# --- archives


def upload(app: Flask, content: bytes, name: str, field: str = "file") -> Any:
    return asking(app, data={field: (io.BytesIO(content), name)})


def test_an_archive_is_taken(app: Flask, own: Services, tmp_path: Path) -> None:
    content = write_archive(tmp_path / "elsewhere").read_bytes()
    with upload(app, content, "baseline-1.1.mar"):
        found = read_archive()
    assert (found.file, found.size_bytes) == ("baseline-1.1.mar", len(content))
    assert (own.settings.model_store / "baseline-1.1.mar").read_bytes() == content
    line = own.records.audit(1)[0]
    assert (line.actor, line.action, line.outcome) == ("token", "upload", "done")


def test_what_is_no_archive_is_refused(app: Flask, own: Services) -> None:
    for content, name in ((b"text", "baseline-1.1.mar"), (b"text", "text.txt")):
        with upload(app, content, name), pytest.raises(BadArchive):
            read_archive()
    assert own.archives.all() == []


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"data": b"PK\x03\x04", "content_type": "application/octet-stream"},
        {"data": {"file": "text"}},
        {"data": {"file": "text"}, "content_type": "multipart/form-data"},
        {"data": {"archive": (io.BytesIO(b"PK"), "baseline-1.1.mar")}},
        {"data": {"file": (io.BytesIO(b""), "")}},
    ],
    ids=["nothing", "raw", "form", "text field", "another field", "no file chosen"],
)
def test_a_request_without_an_archive(app: Flask, own: Services, how: dict[str, Any]) -> None:
    with asking(app, **how), pytest.raises(BadRequest, match="no archive in the form field `file`"):
        read_archive()


@pytest.mark.parametrize("path", ["/api/archives", "/models/archives"])
def test_an_archive_may_be_larger_than_an_image(app: Flask, settings: Settings, path: str) -> None:
    with app.test_request_context(path, method="POST"):
        assert request.max_content_length == settings.max_upload_bytes + MULTIPART_FRAMING
        allow_archives()
        assert request.max_content_length == 1_000_000 + MULTIPART_FRAMING
    with app.test_request_context("/api/predict", method="POST"):
        allow_archives()
        assert request.max_content_length == settings.max_upload_bytes + MULTIPART_FRAMING

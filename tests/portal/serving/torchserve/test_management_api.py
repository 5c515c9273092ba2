import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from portal.errors import BadAnswer, ChangeFailed, ModelServerDown
from portal.serving.torchserve.keys import KeyFile
from portal.serving.torchserve.management_api import Management, path_of
from portal.settings import Settings
from tests.support.torchserve_dialect import RESET, UNKNOWN_VERSION, Dialect, write_keys


def managing(address: str, key_file: Path) -> Management:
    settings = Settings(torchserve_management=address, torchserve_metrics=address)
    return Management(settings, KeyFile(key_file))


@pytest.fixture
def management(address: str, key_file: Path) -> Iterator[Management]:
    found = managing(address, key_file)
    yield found
    found.close()


def soon() -> float:
    return time.monotonic() + 5


# --- its list and its descriptions


def test_every_page_of_the_list_is_read(management: Management, dialect: Dialect) -> None:
    dialect.models = {f"model{n}": ["1.0"] for n in range(5)}
    dialect.page_size = 2
    assert management.models(soon()) == list(dialect.models)
    assert [path for _, path, _, _ in dialect.seen] == [
        f"/models?limit=100&next_page_token={token}" for token in (0, 2, 4)
    ]


@pytest.mark.parametrize("token", ["0", "-1", None])
def test_a_list_that_leads_nowhere_ends(
    management: Management, dialect: Dialect, token: str | None
) -> None:
    page = {"models": [{"modelName": "baseline"}], "nextPageToken": token}
    dialect.describe_answer = (200, page)
    assert management.models(soon()) == ["baseline"]
    assert len(dialect.seen) == 1


@pytest.mark.parametrize(
    ("version", "found"), [(None, ["1.0"]), ("2.0", ["2.0"]), ("all", ["1.0", "2.0"])]
)
def test_versions_are_described(
    management: Management, version: str | None, found: list[str]
) -> None:
    described = management.describe("baseline", version, soon())
    assert described is not None
    assert [one.name.version for one in described] == found
    assert not any(one.default for one in described)


def test_what_is_not_there_is_none(management: Management) -> None:
    assert management.describe("baseline", "9.9", soon()) is None
    assert management.describe("nope", "all", soon()) is None


@pytest.mark.parametrize(
    "answer",
    [
        (500, b""),
        (200, b""),
        (200, []),
        (200, {"models": 3}),
        (200, {"models": [{}]}),
        (200, [{"modelName": "baseline"}]),
        (200, {"models": [], "nextPageToken": "soon"}),
    ],
)
def test_nonsense_of_the_management_api_is_a_bad_answer(
    management: Management, dialect: Dialect, answer: tuple[int, Any]
) -> None:
    dialect.describe_answer = answer
    with pytest.raises(BadAnswer):
        management.models(soon())
    with pytest.raises(BadAnswer):
        management.describe("baseline", None, soon())


def test_a_redirection_is_not_followed(management: Management, dialect: Dialect) -> None:
    dialect.describe_answer = (302, b"elsewhere")
    with pytest.raises(BadAnswer, match="status 302 instead of 200"):
        management.describe("baseline", None, soon())
    assert len(dialect.seen) == 1


def test_names_are_parts_of_the_path() -> None:
    assert path_of("baseline", None) == "/models/baseline"
    assert path_of("baseline", "1.0") == "/models/baseline/1.0"
    assert path_of("a/b?c", "../all") == "/models/a%2Fb%3Fc/..%2Fall"


# --- changes


def test_a_change_is_one_call(management: Management, dialect: Dialect) -> None:
    management.change("PUT", "/models/baseline/2.0/set-default", 5)
    ((method, path, headers, body),) = dialect.seen
    assert (method, path, body) == ("PUT", "/models/baseline/2.0/set-default", b"")
    assert headers["Authorization"] == "Bearer manage00"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((409, {"message": "Is\tthere."}), "Is there"),
        ((500, b""), "status 500"),
        ((302, b""), "status 302"),
        (UNKNOWN_VERSION, "no"),
    ],
)
def test_a_refused_change_says_why(
    management: Management, dialect: Dialect, answer: tuple[int, Any], words: str
) -> None:
    dialect.change_answer = answer
    with pytest.raises(ChangeFailed, match=rf"^TorchServe refused: {words}\.$"):
        management.change("DELETE", "/models/baseline/1.0", 5)
    management.change("DELETE", "/models/baseline/1.0", 5, fine=(answer[0],))


# --- a server that does not answer


def test_a_call_is_made_again_when_its_connection_breaks(
    management: Management, dialect: Dialect
) -> None:
    dialect.lost = 1
    assert management.models(soon()) == ["baseline"]
    dialect.lost = 2
    with pytest.raises(ModelServerDown):
        management.models(soon())
    assert len(dialect.seen) == 4


def test_a_deadline_that_has_passed(management: Management, dialect: Dialect) -> None:
    with pytest.raises(ModelServerDown):
        management.models(time.monotonic())
    with pytest.raises(ModelServerDown):
        management.change("PUT", "/models/baseline/2.0/set-default", 0)
    assert dialect.seen == []


def test_a_server_that_is_too_slow(
    management: Management, dialect: Dialect, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(*_call: object) -> tuple[int, Any]:
        time.sleep(1)
        return 200, {"models": []}

    monkeypatch.setattr(dialect, "answer", hang)
    started = time.monotonic()
    with pytest.raises(ModelServerDown):
        management.models(started + 0.2)
    with pytest.raises(ModelServerDown):
        management.metrics(0.2)
    assert 0.4 <= time.monotonic() - started < 0.9
    assert len(dialect.seen) == 2


def test_nobody_listens(free_port: int, key_file: Path) -> None:
    nobody = managing(f"http://127.0.0.1:{free_port}", key_file)
    with pytest.raises(ModelServerDown):
        nobody.models(soon())
    with pytest.raises(ModelServerDown):
        nobody.metrics(5)
    nobody.close()


# --- keys


def test_new_keys_are_found_without_losing_a_call(
    management: Management, dialect: Dialect, key_file: Path
) -> None:
    management.models(soon())
    dialect.keys["GET"] = "manage11"
    write_keys(key_file, "infer000", "manage11")
    assert management.models(soon()) == ["baseline"]


def test_a_refused_key_is_read_again_once(
    management: Management, dialect: Dialect, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = iter(["stale000", "manage00"])
    monkeypatch.setattr(management._keys, "get", lambda _api: next(keys))
    assert management.models(soon()) == ["baseline"]
    sent = [headers["Authorization"] for _, _, headers, _ in dialect.seen]
    assert sent == ["Bearer stale000", "Bearer manage00"]


def test_keys_of_another_server_are_a_bad_answer(management: Management, dialect: Dialect) -> None:
    dialect.keys["GET"] = "other000"
    with pytest.raises(BadAnswer, match="PORTAL_TORCHSERVE_KEY_FILE") as refused:
        management.models(soon())
    assert "manage00" not in str(refused.value)
    assert len(dialect.seen) == 2


def test_proxies_and_netrc_are_not_asked(
    management: Management, dialect: Dialect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login a password b\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert management.models(soon()) == ["baseline"]
    management.metrics(5)
    assert "Authorization" not in dialect.seen[-1][2]


# --- its own metrics


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (b"ts_queue 3.0", "ts_queue 3.0\n"),
        (b"ts_queue 3.0\n\n", "ts_queue 3.0\n"),
        (b"\xff", "\N{REPLACEMENT CHARACTER}\n"),
        (b"", ""),
    ],
)
def test_its_metrics_end_with_their_line(
    management: Management, dialect: Dialect, told: bytes, text: str
) -> None:
    dialect.metrics_answer = (200, told)
    assert management.metrics(5) == text
    ((method, path, headers, _),) = dialect.seen
    assert (method, path) == ("GET", "/metrics")
    assert "Authorization" not in headers


@pytest.mark.parametrize("answer", [(500, b"no"), (302, b"elsewhere")])
def test_metrics_that_are_none_are_a_bad_answer(
    management: Management, dialect: Dialect, answer: tuple[int, bytes]
) -> None:
    dialect.metrics_answer = answer
    with pytest.raises(BadAnswer, match="instead of metrics"):
        management.metrics(5)


def test_metrics_of_a_server_that_is_gone(management: Management, dialect: Dialect) -> None:
    dialect.metrics_answer = RESET
    with pytest.raises(ModelServerDown):
        management.metrics(5)

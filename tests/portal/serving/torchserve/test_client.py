import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from handlers.contract.names import ModelVersion
from handlers.contract.tile_bundle import pack
from portal.errors import (
    BadAnswer,
    Busy,
    ChangeFailed,
    ModelNotReady,
    ModelServerDown,
    NoExplanations,
    NothingToSee,
    PortalError,
    TooLarge,
    TooSlow,
    UnknownModel,
    UnknownScale,
    UnsupportedImage,
    UnusableImage,
)
from portal.serving.model_server import Prediction, ServedVersion, Worker
from portal.serving.torchserve.client import TorchServe
from tests.support.torchserve_dialect import (
    EXPLAINED,
    GOOD,
    OLD,
    RESET,
    UNKNOWN_VERSION,
    WORKER_DIED,
    ClientFor,
    Dialect,
    refusal,
    stacked,
    write_keys,
)


def test_predict(torchserve: TorchServe, dialect: Dialect) -> None:
    prediction = torchserve.predict(b"tile", ModelVersion("baseline", "2.0"))
    assert prediction.class_name == "River"
    assert prediction.confidence == 0.7
    assert list(prediction.probabilities.items()) == [("River", 0.7), ("Forest", 0.3)]
    assert prediction.uncertain is False
    assert (prediction.model, prediction.version) == ("baseline", "2.0")
    assert 0 < prediction.inference_time < 5
    ((method, path, headers, body),) = dialect.seen
    assert (method, path, body) == ("POST", "/predictions/baseline/2.0", b"tile")
    assert headers["Authorization"] == "Bearer infer000"
    assert headers["Content-Type"] == "application/octet-stream"


def test_without_a_version_the_default_one_is_called_by_its_number(
    torchserve: TorchServe, dialect: Dialect
) -> None:
    assert torchserve.predict(b"tile", torchserve.default_version("baseline")).version == "1.0"
    assert dialect.predictions() == ["/predictions/baseline/1.0"]
    assert dialect.seen[0][2]["Authorization"] == "Bearer manage00"


def test_a_changed_default_is_seen_within_a_second_or_so(
    torchserve: TorchServe, dialect: Dialect
) -> None:
    assert torchserve.predict(b"tile", torchserve.default_version("baseline")).version == "1.0"
    dialect.models["baseline"].reverse()
    time.sleep(1.1)
    assert torchserve.predict(b"tile", torchserve.default_version("baseline")).version == "2.0"


# --- explanations


def test_explain(torchserve: TorchServe, dialect: Dialect) -> None:
    dialect.answers = [(200, EXPLAINED)]
    explanation = torchserve.explain(b"tile", torchserve.default_version("baseline"))
    assert (explanation.class_name, explanation.confidence) == ("River", 0.7)
    assert explanation.heat == ((0.5, -0.25, 0.0, 1.0),) * 4
    assert (explanation.model, explanation.version) == ("baseline", "1.0")
    assert 0 < explanation.inference_time < 5
    assert dialect.predictions() == ["/explanations/baseline/1.0"]


def test_an_explanation_that_was_given_up_is_worth_another_try(
    torchserve: TorchServe, dialect: Dialect
) -> None:
    dialect.answers = [(503, {"error": {"code": "explanation_too_slow", "message": "late"}})]
    with pytest.raises(Busy, match="gave the explanation up"):
        torchserve.explain(b"tile", ModelVersion("baseline", "1.0"))


def test_an_explanation_is_asked_for_again_when_its_worker_died(
    torchserve: TorchServe, dialect: Dialect
) -> None:
    dialect.answers = [(500, WORKER_DIED), (200, EXPLAINED)]
    assert torchserve.explain(b"tile", ModelVersion("baseline", "1.0")).class_name == "River"


def test_a_refused_image_is_refused_to_explain(torchserve: TorchServe, dialect: Dialect) -> None:
    dialect.answers = [(422, {"error": {"code": "unusable_image", "message": "cut off"}})]
    with pytest.raises(UnusableImage, match="cut off"):
        torchserve.explain(b"tile", ModelVersion("baseline", "1.0"))


@pytest.mark.parametrize("error", [NothingToSee, UnknownScale])
def test_a_refusal_keeps_its_code(
    torchserve: TorchServe, dialect: Dialect, error: type[PortalError]
) -> None:
    dialect.answers = [(422, refusal(422, error.code))] * 2
    for ask in (torchserve.predict, torchserve.explain):
        with pytest.raises(error, match="cut off"):
            ask(b"tile", ModelVersion("baseline", "1.0"))


# --- bundles


def test_a_bundle_is_one_request(torchserve: TorchServe, dialect: Dialect) -> None:
    forest = {"Forest": 0.9, "River": 0.1}
    other = {**OLD, "class_name": "Forest", "confidence": 0.9, "probabilities": forest}
    dialect.answers = [(200, stacked(GOOD, refusal(422), other, refusal(415)))]
    found = torchserve.predict_bundle(
        [b"a", b"b", b"c", b"d"], torchserve.default_version("baseline")
    )
    assert [type(item) for item in found] == [
        Prediction, UnusableImage, Prediction, UnsupportedImage,
    ]  # fmt: skip
    first, bad, third, _ = found
    assert isinstance(first, Prediction)
    assert isinstance(third, Prediction)
    assert (first.class_name, third.class_name) == ("River", "Forest")
    assert (first.model, first.version) == ("baseline", "1.0")
    assert str(bad) == "cut off"
    assert dialect.predictions() == ["/predictions/baseline/1.0"]
    assert dialect.seen[-1][3] == pack([b"a", b"b", b"c", b"d"])


def test_an_image_that_is_too_large_for_a_bundle_comes_alone(
    torchserve: TorchServe, dialect: Dialect
) -> None:
    dialect.answers = [(200, stacked(GOOD, refusal(422, "too_many_pixels"))), (200, GOOD)]
    found = torchserve.predict_bundle([b"a", b"b"], ModelVersion("baseline", "1.0"))
    assert [type(item) for item in found] == [Prediction, Prediction]
    assert [body for *_, body in dialect.seen] == [pack([b"a", b"b"]), b"b"]


def test_a_handler_that_knows_no_bundles_is_asked_tile_by_tile(
    torchserve: TorchServe, dialect: Dialect
) -> None:
    dialect.answers = [
        (415, {"error": {"code": "unsupported_image", "message": "No image."}}),
        (200, GOOD),
        (422, {"error": {"code": "unusable_image", "message": "cut off"}}),
    ]
    found = torchserve.predict_bundle([b"a", b"b"], ModelVersion("baseline", "1.0"))
    assert [type(item) for item in found] == [Prediction, UnusableImage]
    torchserve.predict_bundle([b"c", b"d"], ModelVersion("baseline", "1.0"))
    assert [body for *_, body in dialect.seen[1:]] == [b"a", b"b", b"c", b"d"]
    torchserve.register(ModelVersion("baseline", "1.0"), 1, 5)
    dialect.answers = [(200, stacked(GOOD, GOOD))]
    assert len(torchserve.predict_bundle([b"e", b"f"], ModelVersion("baseline", "1.0"))) == 2
    assert dialect.seen[-1][3] == pack([b"e", b"f"])


def test_a_handler_that_takes_fewer_tiles_gets_halves(
    torchserve: TorchServe, dialect: Dialect
) -> None:
    too_many = (400, {"error": {"code": "bad_tile_bundle", "message": "found a bundle of 4 tiles"}})
    dialect.answers = [too_many, (200, stacked(GOOD, refusal(422))), (200, stacked(GOOD, GOOD))]
    found = torchserve.predict_bundle([b"a", b"b", b"c", b"d"], ModelVersion("baseline", "1.0"))
    assert [type(item) for item in found] == [Prediction, UnusableImage, Prediction, Prediction]
    bodies = [body for *_, body in dialect.seen]
    assert bodies == [pack([b"a", b"b", b"c", b"d"]), pack([b"a", b"b"]), pack([b"c", b"d"])]


def test_a_handler_that_refuses_even_a_tile_alone_has_no_answer(
    torchserve: TorchServe, dialect: Dialect
) -> None:
    dialect.answers = [(400, {"error": {"code": "bad_tile_bundle", "message": "cut off"}})] * 3
    with pytest.raises(BadAnswer):
        torchserve.predict_bundle([b"a", b"b", b"c", b"d"], ModelVersion("baseline", "1.0"))
    bodies = [body for *_, body in dialect.seen]
    assert bodies == [pack([b"a", b"b", b"c", b"d"]), pack([b"a", b"b"]), b"a"]


def test_a_tile_that_kills_its_worker_takes_no_other_with_it(
    torchserve: TorchServe, dialect: Dialect
) -> None:
    dead = (507, WORKER_DIED)
    dialect.answers = [dead, (200, GOOD), dead, dead, (200, GOOD)]
    found = torchserve.predict_bundle([b"a", b"b", b"c"], ModelVersion("baseline", "1.0"))
    assert [type(item) for item in found] == [Prediction, ModelNotReady, Prediction]


def test_many_clients_share_requests_and_each_gets_its_answer(
    client_for: ClientFor, address: str, dialect: Dialect
) -> None:
    torchserve = client_for(address)
    dialect.delay, dialect.reads_stacks = 0.05, True

    def ask(number: int) -> str:
        try:
            return torchserve.predict(
                b"bad" if number % 5 == 0 else b"x", ModelVersion("baseline", "1.0")
            ).model
        except UnusableImage:
            return "unusable"

    with ThreadPoolExecutor(32) as clients:
        found = list(clients.map(ask, range(64)))
    assert found == ["unusable" if number % 5 == 0 else "baseline" for number in range(64)]
    assert len(dialect.predictions()) < 48
    assert torchserve.gate.in_flight(ModelVersion("baseline", "1.0")) == 0


# --- keys


def test_new_keys_are_found_without_losing_a_request(
    torchserve: TorchServe, dialect: Dialect, key_file: Path
) -> None:
    torchserve.predict(b"tile", ModelVersion("baseline", "1.0"))
    dialect.keys = {"GET": "manage11", "POST": "infer111"}
    write_keys(key_file, "infer111", "manage11")
    assert torchserve.predict(b"tile", torchserve.default_version("baseline")).version == "1.0"


def test_keys_of_another_server_are_a_bad_answer(torchserve: TorchServe, dialect: Dialect) -> None:
    dialect.keys = {"GET": "other000", "POST": "other111"}
    with pytest.raises(BadAnswer, match="PORTAL_TORCHSERVE_KEY_FILE") as refused:
        torchserve.predict(b"tile", ModelVersion("baseline", "1.0"))
    assert "infer000" not in str(refused.value)
    assert len(dialect.seen) == 2
    with pytest.raises(BadAnswer):
        torchserve.served(10)


def test_without_a_key_file_the_server_is_down(torchserve: TorchServe, key_file: Path) -> None:
    key_file.unlink()
    with pytest.raises(ModelServerDown, match="key file"):
        torchserve.predict(b"tile", ModelVersion("baseline", "1.0"))


# --- what cannot be found


def test_an_unknown_version(torchserve: TorchServe) -> None:
    with pytest.raises(UnknownModel, match=r"baseline 9\.9 is not served"):
        torchserve.predict(b"tile", ModelVersion("baseline", "9.9"))


@pytest.mark.parametrize("version", [None, "1.0"])
def test_an_unknown_model(torchserve: TorchServe, version: str | None) -> None:
    with pytest.raises(UnknownModel, match="nope is not served"):
        torchserve.predict(
            b"tile",
            ModelVersion("nope", version) if version else torchserve.default_version("nope"),
        )


@pytest.mark.parametrize("version", [None, "1.0"])
@pytest.mark.parametrize("model", ["baseline", "nope"])
def test_a_server_that_is_still_empty_is_not_ready(
    torchserve: TorchServe, dialect: Dialect, model: str, version: str | None
) -> None:
    dialect.models = {}
    with pytest.raises(ModelNotReady):
        torchserve.predict(
            b"tile",
            ModelVersion(model, version) if version else torchserve.default_version(model),
        )


def test_the_default_model_is_never_unknown(torchserve: TorchServe, dialect: Dialect) -> None:
    dialect.models = {"resnet18": ["1.0"]}
    with pytest.raises(ModelNotReady, match="does not serve baseline yet"):
        torchserve.predict(b"tile", torchserve.default_version("baseline"))


# --- refusals and failures


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((415, {"error": {"code": "unsupported_image", "message": "No image."}}), UnsupportedImage),
        ((422, {"error": {"code": "unusable_image", "message": "Truncated."}}), UnusableImage),
        ((422, {"detail": "something else"}), BadAnswer),
        ((422, {"error": {"message": 3}}), BadAnswer),
        ((413, b""), TooLarge),
        ((503, {"type": "ServiceUnavailableException", "message": "no worker"}), ModelNotReady),
        ((503, {"type": "InternalServerException", "message": "Prediction failed"}), BadAnswer),
        ((500, {"type": "ErrorDataDecoderException", "message": "Bad string"}), BadAnswer),
        ((500, b"<html>"), BadAnswer),
        ((404, b"not here"), BadAnswer),
        ((400, {"type": "BadRequestException"}), BadAnswer),
        ((302, b""), BadAnswer),
    ],
)
def test_a_refusal_is_translated_and_not_tried_again(
    torchserve: TorchServe, dialect: Dialect, answer: tuple[int, Any], error: type[PortalError]
) -> None:
    dialect.answers = [answer]
    with pytest.raises(error) as raised:
        torchserve.predict(b"tile", ModelVersion("baseline", "1.0"))
    assert type(raised.value) is error
    assert len(dialect.predictions()) == 1


def test_the_handlers_sentence_reaches_the_client(torchserve: TorchServe, dialect: Dialect) -> None:
    dialect.answers = [(422, {"error": {"code": "unusable_image", "message": "x" * 9000}})]
    with pytest.raises(UnusableImage) as raised:
        torchserve.predict(b"tile", ModelVersion("baseline", "1.0"))
    assert str(raised.value) == "x" * 500


@pytest.mark.parametrize("death", [(500, WORKER_DIED), (507, WORKER_DIED), RESET])
def test_a_death_is_tried_once_more(
    torchserve: TorchServe, dialect: Dialect, death: tuple[int, Any]
) -> None:
    dialect.answers = [death]
    assert torchserve.predict(b"tile", ModelVersion("baseline", "1.0")).class_name == "River"
    assert len(dialect.predictions()) == 2


@pytest.mark.parametrize(
    ("death", "error"), [((507, WORKER_DIED), ModelNotReady), (RESET, ModelServerDown)]
)
def test_two_deaths_are_enough(
    torchserve: TorchServe, dialect: Dialect, death: tuple[int, Any], error: type[PortalError]
) -> None:
    dialect.answers = [death, death]
    with pytest.raises(error):
        torchserve.predict(b"tile", ModelVersion("baseline", "1.0"))
    assert len(dialect.predictions()) == 2


def test_nobody_listens(client_for: ClientFor, free_port: int) -> None:
    torchserve = client_for(f"http://127.0.0.1:{free_port}")
    started = time.monotonic()
    with pytest.raises(ModelServerDown):
        torchserve.predict(b"tile", ModelVersion("baseline", "1.0"))
    with pytest.raises(ModelServerDown):
        torchserve.predict(b"tile", torchserve.default_version("baseline"))
    with pytest.raises(ModelServerDown):
        torchserve.served(10)
    assert time.monotonic() - started < 1


@pytest.mark.parametrize(("ready", "error"), [(True, TooSlow), (False, ModelNotReady)])
def test_the_deadline_tells_slow_from_workerless(
    client_for: ClientFor, address: str, dialect: Dialect, *, ready: bool, error: type[PortalError]
) -> None:
    dialect.delay, dialect.ready = 2, ready
    started = time.monotonic()
    with pytest.raises(error):
        client_for(address, 0.3).predict(b"tile", ModelVersion("baseline", "1.0"))
    assert 0.3 <= time.monotonic() - started < 1


def test_a_caller_may_have_less_time(client_for: ClientFor, address: str, dialect: Dialect) -> None:
    dialect.delay = 2
    started = time.monotonic()
    with pytest.raises(TooSlow, match=r"within 0\.3 s"):
        client_for(address, 5).predict(b"tile", ModelVersion("baseline", "1.0"), timeout=0.3)
    assert 0.3 <= time.monotonic() - started < 1


def test_the_deadline_includes_the_second_attempt(
    client_for: ClientFor, address: str, dialect: Dialect
) -> None:
    dialect.delay, dialect.answers = 0.4, [(507, WORKER_DIED), (200, GOOD)]
    started = time.monotonic()
    with pytest.raises(TooSlow):
        client_for(address, 0.6).predict(b"tile", ModelVersion("baseline", "1.0"))
    assert 0.6 <= time.monotonic() - started < 1


# --- answers that are none


NO_ANSWER = (200, b"not json")  # and much else, in test_answers.py


def test_nonsense_is_a_bad_answer(torchserve: TorchServe, dialect: Dialect) -> None:
    dialect.answers = [NO_ANSWER]
    with pytest.raises(BadAnswer):
        torchserve.predict(b"tile", ModelVersion("baseline", "1.0"))


@pytest.mark.parametrize(
    ("answer", "error"), [((200, GOOD), NoExplanations), (NO_ANSWER, BadAnswer)]
)
def test_an_explanation_that_is_none(
    torchserve: TorchServe, dialect: Dialect, answer: tuple[int, Any], error: type[PortalError]
) -> None:
    dialect.answers = [answer]
    with pytest.raises(error):
        torchserve.explain(b"tile", ModelVersion("baseline", "1.0"))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((503, {"type": "ServiceUnavailableException", "message": "no worker"}), ModelNotReady),
        ((200, GOOD), BadAnswer),
    ],
)
def test_what_is_wrong_with_a_whole_bundle(
    torchserve: TorchServe, dialect: Dialect, answer: tuple[int, Any], error: type[PortalError]
) -> None:
    dialect.answers = [answer]
    with pytest.raises(error):
        torchserve.predict_bundle([b"a", b"b"], ModelVersion("baseline", "1.0"))


def test_nonsense_about_a_tile_is_its_own(torchserve: TorchServe, dialect: Dialect) -> None:
    dialect.answers = [(200, stacked(GOOD, {"error": None}))]
    first, second = torchserve.predict_bundle([b"a", b"b"], ModelVersion("baseline", "1.0"))
    assert isinstance(first, Prediction)
    assert type(second) is BadAnswer


def test_nonsense_of_the_management_api_is_a_bad_answer(
    torchserve: TorchServe, dialect: Dialect
) -> None:
    dialect.describe_answer = NO_ANSWER
    with pytest.raises(BadAnswer):
        torchserve.served(10)
    with pytest.raises(BadAnswer):
        torchserve.predict(b"tile", torchserve.default_version("baseline"))


# --- what is served


def test_served(torchserve: TorchServe, dialect: Dialect) -> None:
    dialect.models = {"baseline": ["2.0", "1.0"], "resnet18": ["1.0"]}
    worker = (Worker(ready=True, pid=4711),)
    assert torchserve.served(10) == [
        ServedVersion(ModelVersion("baseline", "2.0"), True, 1, worker, 90),
        ServedVersion(ModelVersion("baseline", "1.0"), False, 1, worker, 90),
        ServedVersion(ModelVersion("resnet18", "1.0"), True, 1, worker, 90),
    ]


def test_an_empty_server_serves_nothing(torchserve: TorchServe, dialect: Dialect) -> None:
    dialect.models = {}
    assert torchserve.served(10) == []


def test_unready_workers_are_told(torchserve: TorchServe, dialect: Dialect) -> None:
    dialect.ready = False
    assert {found.workers_ready for found in torchserve.served(10)} == {0}


def test_its_own_metrics(torchserve: TorchServe) -> None:
    assert torchserve.metrics(5) == "ts_queue 3.0\n"


def test_one_version_is_described(torchserve: TorchServe, dialect: Dialect) -> None:
    first = torchserve.describe(ModelVersion("baseline", "1.0"), 5)
    second = torchserve.describe(ModelVersion("baseline", "2.0"), 5)
    assert first is not None
    assert second is not None
    assert (first.name.version, first.default, first.workers_ready) == ("1.0", True, 1)
    assert (second.name.version, second.default) == ("2.0", False)
    assert torchserve.default("baseline", 5) == first
    assert torchserve.describe(ModelVersion("baseline", "3.0"), 5) is None
    assert torchserve.default("none", 5) is None


def test_changes_as_torchserve_takes_them(torchserve: TorchServe, dialect: Dialect) -> None:
    torchserve.register(ModelVersion("baseline", "3.0"), 2, 5)
    torchserve.set_default(ModelVersion("baseline", "2.0"), 5)
    torchserve.scale(ModelVersion("baseline", "2.0"), 3, 5)
    torchserve.unregister(ModelVersion("baseline", "1.0"), 5)
    # TorchServe's own defaults would wait, and block other models meanwhile
    assert [(method, path) for method, path, _, _ in dialect.seen] == [
        (
            "POST",
            "/models?url=baseline-3.0.mar&model_name=baseline&initial_workers=2&synchronous=false",
        ),
        ("PUT", "/models/baseline/2.0/set-default"),
        ("PUT", "/models/baseline/2.0?min_worker=3&max_worker=3&synchronous=false"),
        ("DELETE", "/models/baseline/1.0"),
    ]


def test_a_new_default_counts_at_once(torchserve: TorchServe) -> None:
    assert torchserve.predict(b"x", torchserve.default_version("baseline")).version == "1.0"
    torchserve.set_default(ModelVersion("baseline", "2.0"), 5)
    assert torchserve.predict(b"x", torchserve.default_version("baseline")).version == "2.0"


def test_a_refused_change_says_why(torchserve: TorchServe, dialect: Dialect) -> None:
    dialect.change_answer = (409, {"code": 409, "type": "ConflictStatus", "message": "Is\tthere."})
    with pytest.raises(ChangeFailed, match=r"^TorchServe refused: Is there\.$"):
        torchserve.register(ModelVersion("baseline", "1.0"), 1, 5)
    dialect.change_answer = (500, b"")
    with pytest.raises(ChangeFailed, match=r"^TorchServe refused: status 500\.$"):
        torchserve.scale(ModelVersion("baseline", "1.0"), 1, 5)
    dialect.change_answer = (404, UNKNOWN_VERSION[1])
    torchserve.unregister(ModelVersion("baseline", "1.0"), 5)


def test_a_handler_that_answers_nonsense_is_told(torchserve: TorchServe, dialect: Dialect) -> None:
    problem = {"error": {"code": "bad_model_output", "message": "numbers that are not finite"}}
    dialect.answers = [(500, problem)]
    with pytest.raises(BadAnswer, match=r"baseline 1\.0 has no usable answer .* not finite"):
        torchserve.predict(b"x", ModelVersion("baseline", "1.0"))


def test_predictions_pass_through_the_traffic(torchserve: TorchServe, dialect: Dialect) -> None:
    torchserve.gate.close(ModelVersion("baseline", "1.0"))
    with pytest.raises(UnknownModel, match="being retired"):
        torchserve.predict(b"x", torchserve.default_version("baseline"))
    assert dialect.predictions() == []

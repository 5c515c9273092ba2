import json
from typing import Any

import pytest

from handlers.contract.names import ModelVersion
from portal.errors import (
    BadAnswer,
    NoExplanations,
    NothingToSee,
    PortalError,
    UnknownScale,
    UnsupportedImage,
    UnusableImage,
)
from portal.serving.model_server import Prediction, PredictionWarning, ServedVersion, Worker
from portal.serving.torchserve.answers import (
    HEAT_SIDES,
    NOT_JUDGED,
    Answer,
    described,
    explanation,
    kind_of,
    message_of,
    predictions,
    refused,
    said,
    strict_json,
    worker_died,
)
from portal.serving.torchserve.answers import prediction as checked
from tests.support.torchserve_dialect import (
    EXPLAINED,
    GOOD,
    HEAT,
    OLD,
    WORKER_DIED,
    refusal,
    stacked,
)
from tests.support.torchserve_dialect import described as description

BY = ("baseline", "1.0")
SERVED = ModelVersion(*BY)


def sent(content: Any) -> bytes:
    """What is not bytes yet, as JSON."""
    return content if isinstance(content, bytes) else json.dumps(content).encode()


def reply(content: Any, status: int = 500) -> Answer:
    return Answer(status, sent(content))


def prediction(content: bytes, served: ModelVersion, elapsed: float) -> Prediction:
    return checked(strict_json(content), served, elapsed)


# --- predictions


def test_a_prediction_is_ranked_and_signed() -> None:
    found = prediction(sent(GOOD), SERVED, 0.25)
    assert found == Prediction(
        "River", 0.7, {"River": 0.7, "Forest": 0.3}, False, ("River",), (), {}, *BY, 0.25
    )
    assert list(found.probabilities) == ["River", "Forest"]


def test_what_makes_it_doubtful_is_told() -> None:
    warning = {"code": "squeezed", "message": "x" * 900, "more": 1}
    content = {
        **GOOD,
        "uncertain": True,
        "prediction_set": ["River", "Forest"],
        "warnings": [warning, vars(NOT_JUDGED)],
        "assumed": {"scale": "10000"},
    }
    found = prediction(sent(content), SERVED, 0.0)
    assert found.prediction_set == ("River", "Forest")
    assert found.warnings == (PredictionWarning("squeezed", "x" * 500), NOT_JUDGED)
    assert found.assumed == {"scale": "10000"}
    content["prediction_set"] = None
    assert prediction(sent(content), SERVED, 0.0).prediction_set is None


def test_an_older_archive_has_not_judged() -> None:
    found = prediction(sent(OLD), SERVED, 0.0)
    assert (found.prediction_set, found.warnings, found.assumed) == (None, (NOT_JUDGED,), {})
    assert NOT_JUDGED.code == "not_judged"
    assert found.uncertain is False


@pytest.mark.parametrize(
    "change",
    [
        {"prediction_set": []},
        {"prediction_set": "River"},
        {"prediction_set": ["Forest"]},
        {"prediction_set": ["Forest", "River"]},
        {"prediction_set": ["River", "River"]},
        {"prediction_set": ["River", "Forest", "Lake"]},
        {"prediction_set": [["River"]]},
        {"warnings": None},
        {"warnings": {}},
        {"warnings": ["squeezed"]},
        {"warnings": [{"code": "squeezed"}]},
        {"warnings": [{"code": "<b>", "message": "x"}]},
        {"warnings": [{"code": "", "message": "x"}]},
        {"warnings": [{"code": 3, "message": "x"}]},
        {"warnings": [{"code": "squeezed", "message": None}]},
        {"warnings": [vars(NOT_JUDGED)] * 17},
        {"assumed": None},
        {"assumed": ["10000"]},
        {"assumed": {"scale": 10000}},
        {"assumed": dict.fromkeys(map(str, range(17)), "x")},
    ],
    ids=str,
)
def test_nonsense_about_doubt_is_a_bad_answer(change: dict[str, Any]) -> None:
    with pytest.raises(BadAnswer):
        prediction(sent({**GOOD, **change}), SERVED, 0.0)


@pytest.mark.parametrize("gone", ["prediction_set", "warnings", "assumed"])
def test_an_archive_says_all_or_nothing_about_doubt(gone: str) -> None:
    content = {key: value for key, value in GOOD.items() if key != gone}
    with pytest.raises(BadAnswer):
        prediction(sent(content), SERVED, 0.0)


def test_certainties_are_shares_too() -> None:
    content = {**GOOD, "confidence": 1, "probabilities": {"River": 1, "Forest": 0}}
    assert prediction(sent(content), SERVED, 0.0).probabilities == {"River": 1.0, "Forest": 0.0}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"[]",
        b"null",
        b'"River"',
        b"[" * 100_000,
        json.dumps({**GOOD, "confidence": float("nan")}).encode(),
        json.dumps({**GOOD, "probabilities": {"River": float("inf")}}).encode(),
        {**GOOD, "probabilities": {}},
        {**GOOD, "probabilities": [0.7, 0.3]},
        {**GOOD, "probabilities": {"River": "much"}},
        {**GOOD, "probabilities": {"River": "0.7", "Forest": 0.3}},
        {**GOOD, "confidence": True, "probabilities": {"River": True}},
        {**GOOD, "probabilities": {"River": 1.4, "Forest": -0.4}},
        {**GOOD, "probabilities": {"River": 0.7, "Forest": 0.2}},
        {**GOOD, "class_name": "Forest"},
        {**GOOD, "class_name": "Lake"},
        {**GOOD, "class_name": ["River"]},
        {**GOOD, "confidence": 0.6},
        {**GOOD, "confidence": None},
        {**GOOD, "uncertain": "no"},
        {key: value for key, value in GOOD.items() if key != "uncertain"},
    ],
    ids=str,
)
def test_nonsense_is_a_bad_answer(content: Any) -> None:
    with pytest.raises(BadAnswer):
        prediction(sent(content), SERVED, 0.0)


@pytest.mark.parametrize("off", [0.0009, -0.0009])
def test_rounded_probabilities_sum_to_1(off: float) -> None:
    content = {**GOOD, "probabilities": {"River": 0.7, "Forest": 0.3 + off}}
    assert prediction(sent(content), SERVED, 0.0).class_name == "River"
    content = {**GOOD, "probabilities": {"River": 0.7, "Forest": 0.3 + 2 * off}}
    with pytest.raises(BadAnswer, match="sum to 1"):
        prediction(sent(content), SERVED, 0.0)


# --- bundles


def test_each_tile_has_its_own_answer() -> None:
    tiles = [
        GOOD, refusal(415), refusal(422), refusal(500), refusal(422, "too_many_pixels"),
        refusal(422, "nothing_to_see"),
    ]  # fmt: skip
    first, second, third, fourth, fifth, sixth = predictions(sent(stacked(*tiles)), 6, SERVED, 0.5)
    assert isinstance(first, Prediction)
    assert (first.class_name, first.inference_time) == ("River", 0.5)
    assert isinstance(second, UnsupportedImage)
    assert isinstance(third, UnusableImage)
    assert str(third) == "cut off"
    assert isinstance(fourth, BadAnswer)
    assert "baseline 1.0 has no usable answer to this image: cut off." in str(fourth)
    assert fifth is None
    assert isinstance(sixth, NothingToSee)


@pytest.mark.parametrize("content", [GOOD, stacked(GOOD), {"tiles": 2}, [], stacked(*[GOOD] * 3)])
def test_what_is_wrong_with_a_whole_bundle(content: Any) -> None:
    with pytest.raises(BadAnswer, match="one answer for each"):
        predictions(sent(content), 2, SERVED, 0.0)


@pytest.mark.parametrize(
    "tile",
    [None, 3, {}, {"error": None}, {"error": {}}, refusal(404), {**GOOD, "confidence": 2}],
    ids=str,
)
def test_nonsense_about_a_tile_is_its_own(tile: Any) -> None:
    first, second = predictions(sent(stacked(GOOD, tile)), 2, SERVED, 0.0)
    assert isinstance(first, Prediction)
    assert type(second) is BadAnswer


def test_a_long_sentence_about_a_tile_is_cut() -> None:
    tile = {"error": {"status": 422, "code": "unusable_image", "message": "x" * 9000}}
    (found,) = predictions(sent(stacked(tile)), 1, SERVED, 0.0)
    assert str(found) == "x" * 500


# --- explanations


def test_an_explanation_is_a_map_of_numbers() -> None:
    found = explanation(sent(EXPLAINED), SERVED, 0.25)
    assert (found.class_name, found.confidence) == ("River", 0.7)
    assert found.heat == ((0.5, -0.25, 0.0, 1.0),) * 4
    assert (found.model, found.version, found.inference_time) == ("baseline", "1.0", 0.25)


def test_an_archive_that_only_predicts_cannot_explain() -> None:
    with pytest.raises(NoExplanations, match="cannot explain its answers: its archive is older"):
        explanation(sent(GOOD), SERVED, 0.0)


@pytest.mark.parametrize(
    "content",
    [
        b'{"class_name": "River", "confidence": 0.7, "heat": [[NaN]]}',
        [EXPLAINED],
        {},
        {**EXPLAINED, "confidence": 1.5},
        {**EXPLAINED, "heat": None},
        {**EXPLAINED, "heat": []},
        {**EXPLAINED, "heat": [1, 2, 3, 4]},
        {**EXPLAINED, "heat": HEAT[:3]},
        {**EXPLAINED, "heat": [*HEAT[:3], [0, 0, 0]]},
        {**EXPLAINED, "heat": [*HEAT[:3], [0, 0, 0, "1"]]},
        {**EXPLAINED, "heat": [*HEAT[:3], [0, 0, 0, True]]},
        {**EXPLAINED, "heat": [[0] * 65 for _ in range(65)]},
        json.dumps({**EXPLAINED, "heat": HEAT[:3]}).replace("-0.25", "1e999").encode(),
        json.dumps({**EXPLAINED}).replace("-0.25", "1e999").encode(),
    ],
)
def test_an_explanation_that_breaks_the_contract(content: Any) -> None:
    with pytest.raises(BadAnswer):
        explanation(sent(content), SERVED, 0.0)


def test_a_map_has_a_side_of_the_agreed_size() -> None:
    for side in (3, 4, 64, 65):
        content = sent({**EXPLAINED, "heat": [[0] * side] * side})
        if side in HEAT_SIDES:
            assert len(explanation(content, SERVED, 0.0).heat) == side
        else:
            with pytest.raises(BadAnswer, match="no square of the agreed size"):
                explanation(content, SERVED, 0.0)


# --- descriptions


def test_a_description_of_versions() -> None:
    loading = {**description("baseline", "2.0", ready=False), "jobQueueStatus": {}}
    queue = {"remainingCapacity": 97, "pendingRequests": 3}
    busy = {**description("baseline", "1.0"), "minWorkers": "2", "jobQueueStatus": queue}
    del busy["startupTimeout"]
    assert described([loading, busy]) == [
        ServedVersion(
            ModelVersion("baseline", "2.0"), False, 1, (Worker(ready=False, pid=4711),), 90
        ),
        ServedVersion(
            ModelVersion("baseline", "1.0"), False, 2, (Worker(ready=True, pid=4711),), 120, 3
        ),
    ]


@pytest.mark.parametrize("gone", ["modelName", "modelVersion", "minWorkers", "workers"])
def test_a_description_without_a_field(gone: str) -> None:
    content = description("baseline", "1.0")
    del content[gone]
    with pytest.raises(BadAnswer, match="its description of a model"):
        described([description("baseline", "2.0"), content])


@pytest.mark.parametrize(
    "change",
    [
        {"minWorkers": "few"},
        {"startupTimeout": "soon"},
        {"workers": 3},
        {"workers": [{"status": "READY"}]},
        {"workers": [{"status": "READY", "pid": "none"}]},
        {"jobQueueStatus": 3},
        {"jobQueueStatus": {"pendingRequests": None}},
    ],
    ids=str,
)
def test_a_description_with_a_field_of_another_type(change: dict[str, Any]) -> None:
    with pytest.raises(BadAnswer, match="its description of a model"):
        described([{**description("baseline", "1.0"), **change}])


@pytest.mark.parametrize("content", [[], {}, None, 3, [3], {"models": []}])
def test_no_description(content: Any) -> None:
    with pytest.raises(BadAnswer, match="its description of a model"):
        described(content)


# --- refusals


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (415, "unsupported_image", UnsupportedImage),
        (422, "unusable_image", UnusableImage),
        (422, "too_many_pixels", UnusableImage),
        (422, "nothing_to_see", NothingToSee),
        (422, "unknown_scale", UnknownScale),
        (422, ["unknown_scale"], UnusableImage),
        (415, "nothing_to_see", UnsupportedImage),
        (500, "bad_model_output", BadAnswer),
        (404, "", None),
        (503, "explanation_too_slow", None),
    ],
)
def test_a_refusal_of_the_handler(status: int, code: Any, error: type[PortalError] | None) -> None:
    found = refused(status, code, "cut off", SERVED)
    assert (type(found) if found is not None else None) is error
    assert found is None or "cut off" in str(found)
    if status == 422 and error is not UnusableImage:
        assert found is not None
        assert (found.status, found.code) == (422, code)


NONE_OF_OURS = [b"", b"<html>", [], {}, {"error": None}, {"error": {}}, {"error": {"message": 3}}]


@pytest.mark.parametrize("content", NONE_OF_OURS, ids=str)
def test_what_is_no_word_of_the_handler(content: Any) -> None:
    assert said(reply(content), "error", "message") == ""
    assert said(reply(content), "error", "code") == ""


def test_the_words_of_the_handler() -> None:
    found = reply({"error": {"code": "unusable_image", "message": "cut off"}})
    assert said(found, "error", "code") == "unusable_image"
    assert said(found, "error", "message") == "cut off"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"message": "Is\tthere\r\nalready."}, "Is there already"),
        ({"message": "Größe 3"}, "Gr e 3"),
        ({"message": "x" * 301}, "x" * 300),
        ({"message": 3}, ""),
        ([], ""),
        (b"<html>", ""),
    ],
    ids=str,
)
def test_torchserves_words_fit_into_a_sentence(content: Any, words: str) -> None:
    assert message_of(reply(content)) == words


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ({"type": "InvalidKeyException"}, "InvalidKeyException"),
        ({"type": "x" * 80}, "x" * 80),
        ({"type": "x" * 81}, ""),
        ({"type": "<script>"}, ""),
        ({"type": "Größe"}, ""),
        ({"type": "a b"}, ""),
        ({"type": 3}, ""),
        ({}, ""),
        (b"not here", ""),
    ],
    ids=str,
)
def test_the_name_of_an_exception_fits_into_a_sentence(content: Any, kind: str) -> None:
    assert kind_of(reply(content)) == kind


@pytest.mark.parametrize(
    ("status", "content", "died"),
    [
        (500, WORKER_DIED, True),
        (507, WORKER_DIED, True),
        (503, WORKER_DIED, False),
        (500, {"message": "Prediction failed"}, False),
        (500, b"Worker died.", False),
    ],
)
def test_the_death_of_a_worker(status: int, content: Any, *, died: bool) -> None:
    assert worker_died(reply(content, status)) is died


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_json_is_as_the_standard_has_it(word: str) -> None:
    assert strict_json(b"[1.5, null]") == [1.5, None]
    with pytest.raises(BadAnswer, match="not JSON"):
        strict_json(f"[{word}]".encode())

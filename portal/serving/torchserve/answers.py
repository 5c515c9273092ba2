"""What TorchServe 0.12 answers, turned into the portal's own terms; no HTTP is spoken here."""

import json
import math
import re
import sys
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

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
from portal.serving.model_server import (
    Explanation,
    Prediction,
    PredictionWarning,
    ServedVersion,
    Worker,
)

LARGEST = sys.float_info.max  # a larger number in JSON is read as infinity
HEAT_SIDES = range(4, 65)  # places along a side of a heat map; our handler gives 16
LONGEST_MESSAGE = 500  # characters of a sentence of the handler's
MOST_WORDS = 16  # warnings, or assumptions, about one image
NOT_JUDGED = PredictionWarning(
    "not_judged",
    "This version cannot tell whether an image is like those that it learned from: its archive is "
    "older than that. Look at the image yourself.",
)
_JUDGED = {"prediction_set", "warnings", "assumed"}  # of a prediction; older archives have none
_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
_UNUSABLE = {kind.code: kind for kind in (NothingToSee, UnknownScale)}


@dataclass(frozen=True)
class Answer:
    """An answer of TorchServe, whatever it is."""

    status_code: int
    content: bytes


def described(content: Any) -> list[ServedVersion]:
    """The versions in the answer to a describe call, none of them marked default.

    Raises:
        BadAnswer: there is none, or a field is missing or of another type.
    """
    try:
        found = [
            ServedVersion(
                name=ModelVersion(str(entry["modelName"]), str(entry["modelVersion"])),
                default=False,
                workers_wanted=int(entry["minWorkers"]),
                workers=tuple(
                    Worker(ready=worker["status"] == "READY", pid=int(worker["pid"]))
                    for worker in entry["workers"]
                ),
                startup_timeout=float(entry.get("startupTimeout", 120)),
                waiting=int(entry.get("jobQueueStatus", {}).get("pendingRequests", 0)),
            )
            for entry in content
        ]
        if not found:
            raise ValueError(content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise nonsense("its description of a model") from error
    return found


def predictions(
    content: bytes, count: int, served: ModelVersion, elapsed: float
) -> list[Prediction | PortalError | None]:
    """What the handler says of each of the ``count`` images of a bundle; None: send it alone.

    Raises:
        BadAnswer: it is no list of as many answers.
    """
    answer = strict_json(content)
    tiles = answer.get("tiles") if isinstance(answer, dict) else None
    if not isinstance(tiles, list) or len(tiles) != count:
        raise nonsense("a bundle of tiles with something else than one answer for each")
    return [None if _too_large(tile) else outcome(tile, served, elapsed) for tile in tiles]


def _too_large(tile: Any) -> bool:
    """Whether an image is refused for pixels of which it may have more where it comes alone."""
    error = tile.get("error") if isinstance(tile, dict) else None
    return isinstance(error, dict) and error.get("code") == "too_many_pixels"


def outcome(answer: Any, served: ModelVersion, elapsed: float) -> Prediction | PortalError:
    """What the handler says of one image, with its errors as they stand in its answer."""
    try:
        if not isinstance(answer, dict) or "error" not in answer:
            return prediction(answer, served, elapsed)
        error = answer["error"]
        status, code = error["status"], error["code"]
        message = str(error["message"])[:LONGEST_MESSAGE]
    except BadAnswer as problem:
        return problem
    except (KeyError, TypeError):
        return nonsense("an error of a tile that is none")
    return refused(status, code, message, served) or nonsense(f"status {status!r} to a tile")


def refused(status: int, code: str, message: str, served: ModelVersion) -> PortalError | None:
    """The error for an image that the handler refuses; None for a status that it never gives."""
    if status == 415:
        return UnsupportedImage(message)
    if status == 422:
        return _UNUSABLE.get(str(code), UnusableImage)(message)
    if status == 500:
        return BadAnswer(f"{served} has no usable answer to this image: {message}.")
    return None


def prediction(answer: Any, served: ModelVersion, elapsed: float) -> Prediction:
    """Check the handler's answer against its contract.

    Raises:
        BadAnswer: a field is missing or of another type, a number is out of its range.
    """
    try:
        probabilities = {str(label): _share(p) for label, p in answer["probabilities"].items()}
        class_name, confidence = str(answer["class_name"]), _share(answer["confidence"])
        uncertain = answer["uncertain"]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise nonsense("a prediction without the agreed fields") from error
    if not isinstance(uncertain, bool):
        raise nonsense("a prediction that does not say whether it is uncertain")
    if not math.isclose(sum(probabilities.values()), 1, abs_tol=1e-3):
        raise nonsense("probabilities that do not sum to 1")
    ranked = dict(sorted(probabilities.items(), key=lambda item: item[1], reverse=True))
    best = max(ranked.values())
    if ranked.get(class_name) != best or not math.isclose(confidence, best, abs_tol=1e-6):
        raise nonsense("a class that is not the most probable one")
    judged: tuple[tuple[str, ...] | None, tuple[PredictionWarning, ...], dict[str, str]]
    judged = None, (NOT_JUDGED,), {}
    if not _JUDGED.isdisjoint(answer):
        labels = _prediction_set(answer.get("prediction_set", ()), ranked)
        judged = labels, _warnings(answer.get("warnings")), _assumed(answer.get("assumed"))
    by = served.model, served.version, elapsed
    return Prediction(class_name, confidence, ranked, uncertain, *judged, *by)


def _prediction_set(found: Any, ranked: dict[str, float]) -> tuple[str, ...] | None:
    """Some of the labels, of which ``ranked`` has all in their order, with the first of them."""
    if found is None:
        return None
    if not isinstance(found, list) or found != list(ranked)[: len(found)] or not found:
        raise nonsense("a prediction set that is not of the most probable classes")
    return tuple(found)


def _warnings(found: Any) -> tuple[PredictionWarning, ...]:
    if not isinstance(found, list) or len(found) > MOST_WORDS:
        raise nonsense("a prediction without its warnings")
    return tuple(map(_warning, found))


def _warning(found: Any) -> PredictionWarning:
    code = found.get("code") if isinstance(found, dict) else None
    message = found.get("message") if isinstance(found, dict) else None
    if not isinstance(code, str) or not _CODE.fullmatch(code) or not isinstance(message, str):
        raise nonsense("a warning without code and message")
    return PredictionWarning(code, message[:LONGEST_MESSAGE])


def _assumed(found: Any) -> dict[str, str]:
    if (
        not isinstance(found, dict)
        or len(found) > MOST_WORDS
        or not all(isinstance(words, str) for words in found.values())
    ):
        raise nonsense("a prediction that does not say what it assumes")
    return {topic[:LONGEST_MESSAGE]: words[:LONGEST_MESSAGE] for topic, words in found.items()}


def explanation(content: bytes, served: ModelVersion, elapsed: float) -> Explanation:
    """Check the handler's explanation against its contract.

    Raises:
        NoExplanations: the handler is one that only predicts, and did that.
        BadAnswer: a field is missing or of another type, a number is out of its range.
    """
    answer = strict_json(content)
    if isinstance(answer, dict) and "probabilities" in answer and "heat" not in answer:
        raise NoExplanations(
            f"{served} cannot explain its answers: its archive is older than "
            "explanations. Build it anew with `make archive`, or choose another version."
        )
    try:
        class_name, confidence = str(answer["class_name"]), _share(answer["confidence"])
        heat = tuple(tuple(_number(value) for value in row) for row in answer["heat"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise nonsense("an explanation without the agreed fields") from error
    if len(heat) not in HEAT_SIDES or {len(row) for row in heat} != {len(heat)}:
        raise nonsense("an explanation whose map is no square of the agreed size")
    return Explanation(class_name, confidence, heat, served.model, served.version, elapsed)


def _number(
    value: object, low: float = -sys.float_info.max, high: float = sys.float_info.max
) -> float:
    """A number in a range; a bool, NaN, Infinity or a number written as text is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(value)
    return float(value)


_share = partial(_number, low=0, high=1)


def strict_json(content: bytes) -> Any:
    """JSON as the standard has it: TorchServe passes on NaN and Infinity, which are none."""

    def refuse(word: str) -> NoReturn:
        raise ValueError(word)

    try:
        return json.loads(content, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise nonsense("something that is not JSON") from error


def said(answer: Answer, *way: str) -> str:
    """A text in an error of TorchServe or of our handler; empty where they give none."""
    try:
        found = strict_json(answer.content)
    except BadAnswer:
        return ""
    for step in way:
        found = found.get(step) if isinstance(found, dict) else None
    return found if isinstance(found, str) else ""


def message_of(answer: Answer) -> str:
    """TorchServe's own words about a refusal, made safe for a sentence; empty without any."""
    text = re.sub(r"[^\x20-\x7e]+", " ", said(answer, "message"))
    return text.strip()[:300].rstrip(".")


def kind_of(answer: Answer) -> str:
    """Name of TorchServe's exception, made safe for a message; empty when there is none."""
    kind = said(answer, "type")
    return kind if re.fullmatch(r"\w{1,80}", kind, re.ASCII) else ""


def worker_died(answer: Answer) -> bool:
    """Whether the worker ended over this request; the next one may get an answer."""
    return answer.status_code in (500, 507) and said(answer, "message") == "Worker died."


def nonsense(found: str) -> BadAnswer:
    """The error for an answer that the contract does not know."""
    return BadAnswer(f"The model server answered {found}. Try again; if it stays so, see its log.")

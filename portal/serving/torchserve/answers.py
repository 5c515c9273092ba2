"""What TorchServe 0.12 answers, turned into the portal's own terms; no HTTP is spoken here."""

import json
import math
import re
from typing import Any, NoReturn, Protocol

from handlers.contract.names import ModelVersion
from portal.errors import BadAnswer, NoExplanations, PortalError, UnsupportedImage, UnusableImage
from portal.serving.model_server import Explanation, Prediction, ServedVersion, Worker

HEAT_SIDES = range(4, 65)  # places along a side of a heat map; our handler gives 16


class Reply(Protocol):
    """The part of an HTTP answer that counts."""

    @property
    def status_code(self) -> int:
        """Its status."""
        ...

    @property
    def content(self) -> bytes:
        """The whole body."""
        ...


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
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise nonsense("its description of a model") from error
    if not found:
        raise nonsense("its description of a model")
    return found


def message_of(reply: Reply) -> str:
    """TorchServe's own words about a refusal, made safe for a sentence; empty without any."""
    message = loose_json(reply).get("message")
    text = message if isinstance(message, str) else ""
    return re.sub(r"[^\x20-\x7e]+", " ", text).strip()[:300].rstrip(".")


def prediction(content: bytes, served: ModelVersion, elapsed: float) -> Prediction:
    """Check the handler's answer against its contract.

    Raises:
        BadAnswer: a field is missing or of another type, a number is out of its range.
    """
    return _prediction(strict_json(content), served, elapsed)


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
    return [_of_tile(tile, served, elapsed) for tile in tiles]


def _of_tile(tile: Any, served: ModelVersion, elapsed: float) -> Prediction | PortalError | None:
    try:
        if not isinstance(tile, dict) or "error" not in tile:
            return _prediction(tile, served, elapsed)
        error = tile["error"]
        status, code, message = error["status"], error["code"], str(error["message"])[:500]
    except BadAnswer as problem:
        return problem
    except (KeyError, TypeError):
        return nonsense("an error of a tile that is none")
    if code == "too_many_pixels":
        return None
    return refused(status, message, served) or nonsense(f"status {status!r} to a tile")


def refused(status: int, message: str, served: ModelVersion) -> PortalError | None:
    """The error for an image that the handler refuses; None for a status that it never gives."""
    if status == 415:
        return UnsupportedImage(message)
    if status == 422:
        return UnusableImage(message)
    if status == 500:
        return BadAnswer(f"{served} has no usable answer to this image: {message}.")
    return None


def _prediction(answer: Any, served: ModelVersion, elapsed: float) -> Prediction:
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
    return Prediction(
        class_name, confidence, ranked, uncertain, served.model, served.version, elapsed
    )


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
        heat = tuple(tuple(_finite(value) for value in row) for row in answer["heat"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise nonsense("an explanation without the agreed fields") from error
    if len(heat) not in HEAT_SIDES or {len(row) for row in heat} != {len(heat)}:
        raise nonsense("an explanation whose map is no square of the agreed size")
    return Explanation(class_name, confidence, heat, served.model, served.version, elapsed)


def _finite(value: object) -> float:
    """A number as JSON has it, but not one beyond a double's range, which is read as infinity."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(value)
    return float(value)


def _share(value: object) -> float:
    """A number from 0 to 1; a bool or a number written as text is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(value)
    return float(value)


def strict_json(content: bytes) -> Any:
    """JSON as the standard has it: TorchServe passes on NaN and Infinity, which are none."""

    def refuse(word: str) -> NoReturn:
        raise ValueError(word)

    try:
        return json.loads(content, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise nonsense("something that is not JSON") from error


def loose_json(response: Reply) -> dict[str, Any]:
    """The body of an error answer; empty when it is none of TorchServe's or of our handler's."""
    try:
        content = strict_json(response.content)
    except BadAnswer:
        return {}
    return content if isinstance(content, dict) else {}


def kind_of(response: Reply) -> str:
    """Name of TorchServe's exception, made safe for a message; empty when there is none."""
    kind = loose_json(response).get("type")
    return kind if isinstance(kind, str) and re.fullmatch(r"\w{1,80}", kind, re.ASCII) else ""


def worker_died(response: Reply) -> bool:
    """Whether the worker ended over this request; the next one may get an answer."""
    message = loose_json(response).get("message")
    return response.status_code in (500, 507) and message == "Worker died."


def handler_problem(response: Reply) -> str | None:
    """The handler's sentence about an image that it refuses."""
    error = loose_json(response).get("error")
    message = error.get("message") if isinstance(error, dict) else None
    return message[:500] if isinstance(message, str) and message else None


def handler_code(response: Reply) -> str | None:
    """The word by which our handler names an error; None when the answer is not its."""
    error = loose_json(response).get("error")
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, str) else None


def nonsense(found: str) -> BadAnswer:
    """The error for an answer that the contract does not know."""
    return BadAnswer(f"The model server answered {found}. Try again; if it stays so, see its log.")

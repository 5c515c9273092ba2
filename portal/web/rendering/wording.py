"""Answers in words, for people."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from portal.serving.model_server import Prediction

MOST_NAMED = 3  # classes of a prediction set; of more, the first and the number of the others

# What makes an answer doubtful, in two or three words; by code.
WARNINGS = {
    "squeezed": "More than one tile",
    "too_bright": "Too bright",
    "colours_unlike_training": "Unusual colours",
    "content_unlike_training": "Unknown content",
    "not_judged": "Not judged",
}
SCALES = {
    "auto": "automatic",
    "10000": "reflectance x 10000",
    "10000-offset": "reflectance x 10000 + 1000 (since 2022)",
    "1000": "reflectance x 1000",
    "65535": "reflectance x 65535",
    "1": "reflectance, 0 to 1",
    "255": "a picture, 0 to 255",
    "high-byte": "a picture, 0 to 65535",
    "unit": "a picture, 0 to 1",
}
LOOKS = {
    "auto": "automatic",
    "l1c": "L1C, top of atmosphere",
    "l2a": "L2A, surface",
    "tci": "true-colour image (TCI)",
    "gain25": "true-colour image, gain 2.5",
    "eurosat": "EuroSAT's own colours",
}
STATES = {  # of a scene
    "checked": "Looked at",
    "queued": "Waiting",
    "running": "Being mapped",
    "done": "Mapped",
    "failed": "Failed",
    "cancelled": "Cancelled",
}


def human(label: str) -> str:
    """A class name in words: AnnualCrop -> Annual crop."""
    words = re.sub(r"[_\s]+|(?<=[a-z0-9])(?=[A-Z])", " ", label).strip().lower()
    return words[:1].upper() + words[1:]


def percent(probability: float) -> str:
    """A probability (0..1) to one decimal, never rounded to a certainty that it is not."""
    if 0 < probability < 0.0005:
        return "<0.1 %"
    if 0.9995 <= probability < 1:
        return ">99.9 %"
    return f"{probability:.1%}".replace("%", " %")


def either(prediction: Prediction) -> str:
    """The classes that it may be: River; River or highway; River or one of 4 others."""
    first, *others = prediction.prediction_set or (prediction.class_name,)
    if not others:
        return human(first)
    if len(others) >= MOST_NAMED:
        return f"{human(first)} or one of {len(others)} others"
    names = [human(first), *(human(label).lower() for label in others)]
    return f"{', '.join(names[:-1])} or {names[-1]}"


def reading(assumed: Mapping[str, str]) -> str:
    """What was read into a file: Read as reflectance x 10000, L1C, top of atmosphere (uint16)."""
    left = dict(assumed)
    sentences = []
    if scale := left.pop("scale", ""):
        look, kind = left.pop("look", ""), left.pop("type", "")
        words = [SCALES.get(scale, scale), *([LOOKS.get(look, look)] if look else [])]
        sentences.append(f"Read as {', '.join(words)}{f' ({kind})' if kind else ''}.")
    sentences += [f"{human(topic)}: {words}." for topic, words in left.items()]
    return " ".join(sentences)


def facts(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was found in a scene, topic by topic: (Size, 943 x 960 px), (Pixel, 10 m) and so on."""
    left = dict(found)
    told = []
    if "width" in left and "height" in left:
        told.append(("Size", f"{left.pop('width'):,} x {left.pop('height'):,} px"))
    if "crs" in left:
        told.append(("Where it lies", left.pop("crs") or "the file does not say"))
    if "pixel" in left:
        pixel = left.pop("pixel")
        told.append(("Pixel", f"{pixel:.4g} m" if pixel else "the file does not say"))
    if "bands" in left:
        bands = left.pop("bands")
        told.append(("Bands", str(bands) if isinstance(bands, int | str) else ", ".join(bands)))
    kind, low, high = (left.pop(name, None) for name in ("dtype", "minimum", "maximum"))
    if kind is not None:
        told.append(("Values", f"{kind}, {low:,.6g} to {high:,.6g}" if high is not None else kind))
    if "valid" in left:
        told.append(("With data", percent(left.pop("valid"))))
    if "bytes" in left:
        told.append(("File", size(left.pop("bytes"))))
    return told + [(human(topic), str(words)) for topic, words in left.items()]


def assumption(topic: str, words: str) -> str:
    """What was assumed of a scene: its scale and its look in the words of the form."""
    return {"scale": SCALES, "look": LOOKS}.get(topic, {}).get(words, words)


def size(amount: int) -> str:
    """Bytes in whole steps of 1024: 572 kB, 1.5 GB."""
    for unit, name in ((1024**3, "GB"), (1024**2, "MB")):
        if amount >= unit:
            return f"{amount / unit:.3g} {name}"
    return f"{amount / 1024:.3g} kB"


def duration(seconds: float) -> str:
    """A time in whole units: 5 s, 12 min, 3 h."""
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= 1.5 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{max(seconds, 1):.0f} s"


def moment(when: datetime) -> str:
    """A time in UTC: 27 May 2021, 13:05 UTC."""
    return f"{when.day} {when:%B %Y, %H:%M} UTC"

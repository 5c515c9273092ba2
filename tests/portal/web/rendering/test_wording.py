from datetime import UTC, datetime

import pytest

from handlers.contract.image_body import LOOKS, SCALES
from portal.web.rendering import wording
from portal.web.rendering.wording import either, human, percent, reading
from tests.support.fake_torchserve import answered


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("AnnualCrop", "Annual crop"),
        ("HerbaceousVegetation", "Herbaceous vegetation"),
        ("River", "River"),
        ("sea_lake", "Sea lake"),
        ("Band8Water", "Band8 water"),
        ("", ""),
    ],
)
def test_class_names_in_words(label: str, words: str) -> None:
    assert human(label) == words


@pytest.mark.parametrize(
    ("probability", "text"),
    [
        (0, "0.0 %"),
        (0.0004, "<0.1 %"),
        (0.0005, "0.1 %"),
        (0.5, "50.0 %"),
        (0.9994, "99.9 %"),
        (0.9996, ">99.9 %"),
        (1, "100.0 %"),
    ],
)
def test_percent_never_claims_certainty(probability: float, text: str) -> None:
    assert percent(probability) == text


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (None, "River"),
        (("River",), "River"),
        (("River", "SeaLake"), "River or sea lake"),
        (("River", "SeaLake", "Forest"), "River, sea lake or forest"),
        (("River", "SeaLake", "Forest", "Pasture"), "River or one of 3 others"),
    ],
)
def test_the_classes_that_it_may_be(labels: tuple[str, ...] | None, words: str) -> None:
    assert either(answered(class_name="River", prediction_set=labels)) == words


@pytest.mark.parametrize(
    ("assumed", "words"),
    [
        ({}, ""),
        (
            {"type": "uint16", "scale": "10000", "look": "l1c"},
            "Read as reflectance x 10000, L1C, top of atmosphere (uint16).",
        ),
        ({"scale": "new", "look": "newer"}, "Read as new, newer."),
        ({"scale": "255"}, "Read as a picture, 0 to 255."),
        (
            {"bands": "4, 3, 2 by their names", "fourth band": "a mask: 0 is no data"},
            "Bands: 4, 3, 2 by their names. Fourth band: a mask: 0 is no data.",
        ),
    ],
)
def test_what_was_read_into_a_file(assumed: dict[str, str], words: str) -> None:
    assert reading(assumed) == words


def test_there_are_words_for_whatever_can_be_chosen() -> None:
    assert set(wording.SCALES) == set(SCALES)
    assert set(wording.LOOKS) == set(LOOKS)
    assert next(iter(wording.SCALES)) == next(iter(wording.LOOKS)) == "auto"


def test_what_was_found_in_a_scene_in_words() -> None:
    found = {
        "format": "GTiff",
        "width": 10980,
        "height": 960,
        "bands": 3,
        "dtype": "uint16",
        "crs": "EPSG:32630",
        "pixel": 10.0,
        "minimum": 0,
        "maximum": 10832,
        "valid": 0.9725,
        "bytes": 3_379_129,
    }
    assert wording.facts(found) == [
        ("Size", "10,980 x 960 px"),
        ("Where it lies", "EPSG:32630"),
        ("Pixel", "10 m"),
        ("Bands", "3"),
        ("Values", "uint16, 0 to 10,832"),
        ("With data", "97.2 %"),
        ("File", "3.22 MB"),
        ("Format", "GTiff"),
    ]


def test_what_a_scene_does_not_say_is_said() -> None:
    found = {"crs": None, "pixel": None, "bands": ["red", "green", "blue"], "level_of_it": "L2A"}
    assert wording.facts(found) == [
        ("Where it lies", "the file does not say"),
        ("Pixel", "the file does not say"),
        ("Bands", "red, green, blue"),
        ("Level of it", "L2A"),
    ]


def test_assumptions_have_the_words_of_the_form() -> None:
    assert wording.assumption("scale", "10000") == "reflectance x 10000"
    assert wording.assumption("look", "tci") == "true-colour image (TCI)"
    assert wording.assumption("look", "a new one") == "a new one"
    assert wording.assumption("bands", "4, 3, 2") == "4, 3, 2"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (59.6, "60 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (9000, "2 h")],
)
def test_durations(seconds: float, words: str) -> None:
    assert wording.duration(seconds) == words


@pytest.mark.parametrize(
    ("amount", "words"),
    [(512, "0.5 kB"), (585268, "572 kB"), (2**30, "1 GB"), (3 * 2**29, "1.5 GB")],
)
def test_sizes(amount: int, words: str) -> None:
    assert wording.size(amount) == words


def test_moments_are_in_utc() -> None:
    assert wording.moment(datetime(2021, 5, 7, 13, 5, tzinfo=UTC)) == "7 May 2021, 13:05 UTC"

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

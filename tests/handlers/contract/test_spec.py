from typing import Any

import pytest

from handlers.contract.spec import BadSpec, ModelSpec, views_of


def test_a_spec_survives_its_written_form(spec: ModelSpec) -> None:
    assert ModelSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["one"]}, "two or more"),
        ({"labels": ["one", "one"]}, "different"),
        ({"image_size": 4}, "image_size"),
        ({"image_size": "many"}, "many"),
        ({"mean": [0.1, 0.2]}, "mean: expected three"),
        ({"mean": [0.1, 0.2, float("nan")]}, "mean"),
        ({"std": [0.1, 0.0, 0.2]}, "std"),
        ({"temperature": 0}, "temperature"),
        ({"threshold": 1.5}, "threshold"),
        ({"surprise": 1}, "unknown key surprise; valid keys: labels"),
    ],
)
def test_a_bad_spec_says_what_is_wrong(
    spec: ModelSpec, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadSpec, match=message):
        ModelSpec.from_dict(spec.to_dict() | change)


def test_a_missing_key_is_named(spec: ModelSpec) -> None:
    data = spec.to_dict()
    del data["labels"]
    with pytest.raises(BadSpec, match="missing key labels"):
        ModelSpec.from_dict(data)


def test_a_configuration_says_in_how_many_views_pictures_are_seen() -> None:
    assert [views_of(config) for config in ({}, {"tta": 1}, {"tta": 8})] == [1, 1, 8]
    for found in (0, 4, -8, True, 8.0, "8", None):
        with pytest.raises(BadSpec, match=r"tta: expected 1 .* or 8 .*, found"):
            views_of({"tta": found})

import pytest

from portal.versions import MODEL_NAME, VERSION


@pytest.mark.parametrize("name", ["baseline", "resnet18", "a", "vit-tiny_16", "0" * 64])
def test_a_model_can_be_called(name: str) -> None:
    assert MODEL_NAME.fullmatch(name)


@pytest.mark.parametrize(
    "name", ["", "Baseline", "-a", "a/b", "a b", "a\n", "x" * 65, "\u0430", "..", "a.b"]
)
def test_a_model_cannot_be_called(name: str) -> None:
    assert not MODEL_NAME.fullmatch(name)


@pytest.mark.parametrize("version", ["1.0", "12.34", "1.2.3", "20261124.1"])
def test_a_version_can_be(version: str) -> None:
    assert VERSION.fullmatch(version)


@pytest.mark.parametrize(
    "version", ["", "1", "v1.0", "1.0.0.0", "all", "1.0\n", "\u0661.0", "1000000000.0"]
)
def test_a_version_cannot_be(version: str) -> None:
    assert not VERSION.fullmatch(version)

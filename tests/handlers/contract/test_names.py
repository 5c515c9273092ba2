import pytest

from handlers.contract.names import LABEL, MODEL_NAME, TILE, VERSION, BadName, ModelVersion


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


@pytest.mark.parametrize("text", ["baseline-1.2", "vit-tiny-16-1.2.3"])
def test_a_run_is_called_by_both(text: str) -> None:
    found = ModelVersion.parse(text)
    assert found.slug == text
    assert found.archive == f"{text}.mar"
    assert ModelVersion.of_archive(found.archive) == found
    assert str(found) == f"{found.model} {found.version}"


@pytest.mark.parametrize(
    "text",
    ["", "baseline", "baseline 1.0", "baseline-1", "b-1.0/..", "B-1.0", "-1.0", "b-1.0-spatial"],
)
def test_what_is_no_run(text: str) -> None:
    with pytest.raises(BadName, match=r"baseline-1\.0, found"):
        ModelVersion.parse(text)


@pytest.mark.parametrize(
    "file", ["baseline-1.0", "baseline-1.0.zip", "1.0.mar", "baseline-1.0.mar.mar"]
)
def test_what_is_no_archive(file: str) -> None:
    with pytest.raises(BadName):
        ModelVersion.of_archive(file)


def test_a_name_that_is_checked() -> None:
    assert ModelVersion.checked("baseline", "1.0") == ModelVersion("baseline", "1.0")
    assert ModelVersion.checked("baseline", "1.0").possible
    for model, version in (("../x", "1.0"), ("x", "1"), ("x", "1.0\n")):
        assert not ModelVersion(model, version).possible
        with pytest.raises(BadName, match="not one that a model can have"):
            ModelVersion.checked(model, version)


def test_versions_are_ordered_by_their_numbers() -> None:
    names = [("b", "1.10"), ("a", "2.0"), ("b", "1.9"), ("b", "latest"), ("b", "1.9.1")]
    found = sorted(ModelVersion(*name) for name in names)
    assert [(name.model, name.version) for name in found] == [
        ("a", "2.0"), ("b", "latest"), ("b", "1.9"), ("b", "1.9.1"), ("b", "1.10"),
    ]  # fmt: skip
    assert ModelVersion("b", "1.9") < ModelVersion("b", "1.10")


@pytest.mark.parametrize(
    "label", ["AnnualCrop", "a", "1", "Dünen & Strand", "港", "low-rise (old)", "x" * 64, "A_1"]
)
def test_a_class_can_be_called(label: str) -> None:
    assert LABEL.fullmatch(label)
    assert TILE.fullmatch(f"{label}/quay 3.png")


@pytest.mark.parametrize(
    "label",
    ["", " a", "a ", "..", ".a", "a/b", "a\\b", "a\nb", "=1+1", "-a", "<b>", "x" * 65, "a\0",
     "a\u202eb", "\ud800", "_a", "@a"],
)  # fmt: skip
def test_a_class_cannot_be_called(label: str) -> None:
    assert not LABEL.fullmatch(label)
    assert not TILE.fullmatch(f"{label}/1.png") or not label


@pytest.mark.parametrize("tile", ["River_17.jpg", "a/.b", "/etc/passwd", "a/b/c.jpg", "a/..", ".."])
def test_a_tile_lies_in_the_folder_of_its_class(tile: str) -> None:
    assert bool(TILE.fullmatch(tile)) is (tile == "River_17.jpg")

"""Real archives of the tiny run, checked through their own copy of the handler."""

import base64
import io
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from handlers.contract.names import BadName
from handlers.contract.spec import BadSpec
from training import archive
from training.archive import HANDLERS, build
from training.dataset.eurosat import Tiles
from training.runs import BadExport

PROBE_SCRIPT = Path(archive.__file__).with_name("answer_probe.py")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "model_store"


@pytest.fixture(scope="session")
def mar(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(finished_run, tmp_path_factory.mktemp("model_store"))


@pytest.fixture
def own_handlers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the handlers that the test may break; archives are built from it."""
    folder = Path(shutil.copytree(HANDLERS, tmp_path / "handlers"))
    monkeypatch.setattr(archive, "HANDLERS", folder)
    return folder


def answer(folder: Path, images: list[bytes]) -> list[dict[str, Any]]:
    """What the handler of an unpacked archive says."""
    result = subprocess.run(
        [sys.executable, PROBE_SCRIPT],
        cwd=folder,
        input=json.dumps([base64.b64encode(image).decode() for image in images]),
        capture_output=True,
        text=True,
        check=True,
    )
    answers: list[dict[str, Any]] = json.loads(result.stdout)
    return answers


def rewrite_report(run: Path, **changes: Any) -> None:
    path = run / "report.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_archive_holds_the_model_and_the_whole_handlers(mar: Path, finished_run: Path) -> None:
    assert mar.name == "baseline-1.0.mar"
    assert list(mar.parent.iterdir()) == [mar]  # nothing of the building is left
    with zipfile.ZipFile(mar) as content:
        names = set(content.namelist())
        manifest = json.loads(content.read("MAR-INF/MANIFEST.json"))
        served = {"model-int8.pt": "model-int8.pt", "model-config.yaml": "model-config-int8.yaml"}
        for name, source in served.items():
            assert content.read(name) == (finished_run / source).read_bytes()
        for path in HANDLERS.rglob("*.py"):
            name = path.relative_to(HANDLERS.parent).as_posix()
            assert content.read(name) == path.read_bytes()
    assert manifest["model"]["modelName"] == "baseline"
    assert manifest["model"]["modelVersion"] == "1.0"
    assert not [name for name in names if "__pycache__" in name]
    assert "model.pt" not in names


def test_fp32_is_packed_when_asked_for_or_alone(run: Path, store: Path) -> None:
    for precision in ("fp32", "int8"):
        with zipfile.ZipFile(build(run, store, precision)) as content:
            for name in ("model.pt", "model-config.yaml"):
                assert content.read(name) == (run / name).read_bytes()
            assert "model-int8.pt" not in content.namelist()
        # As it is with releases from before there was int8.
        (run / "model-int8.pt").unlink(missing_ok=True)


def test_int8_is_held_against_its_own_answers(run: Path, store: Path) -> None:
    int8 = json.loads((run / "report.json").read_text())["int8"]
    first, second, *_ = int8["probe"][3]["probabilities"]
    int8["probe"][3]["probabilities"][first] -= 0.03
    int8["probe"][3]["probabilities"][second] += 0.03
    rewrite_report(run, int8=int8)
    with pytest.raises(BadExport, match=rf"of {int8['probe'][3]['file']} differ from the report"):
        build(run, store)
    assert build(run, store, "fp32").is_file()
    rewrite_report(run, int8=int8 | {"model_sha256": "0" * 64})
    with pytest.raises(BadExport, match=r"belongs to another model-int8\.pt"):
        build(run, store)


def test_answers_over_eight_views_are_packed_when_asked_for(
    run: Path, store: Path, tiles: Tiles, tmp_path: Path
) -> None:
    with zipfile.ZipFile(build(run, store, tta=8)) as content:
        content.extractall(tmp_path / "unpacked")
    packed = yaml.safe_load((tmp_path / "unpacked" / "model-config.yaml").read_text())
    source = run / "model-config-int8.yaml"
    assert packed == yaml.safe_load(source.read_text()) | {"tta": 8}
    tile = Image.open(io.BytesIO(tiles.read("River_1.jpg"))).crop((0, 0, 32, 32))
    turned = []
    for picture in (tile, tile.rotate(90), tile.transpose(Image.Transpose.FLIP_TOP_BOTTOM)):
        picture.save(buffer := io.BytesIO(), "PNG")
        turned.append(buffer.getvalue())
    first, *others = answer(tmp_path / "unpacked", turned)
    for other in others:
        assert other["probabilities"] == pytest.approx(first["probabilities"], abs=1e-6)

    source.write_text(f"{source.read_text()}tta: 8\n")
    with zipfile.ZipFile(build(run, store)) as content:
        assert content.read("model-config.yaml") == source.read_bytes()
    with zipfile.ZipFile(build(run, store, tta=1)) as content:
        assert yaml.safe_load(content.read("model-config.yaml"))["tta"] == 1


def test_eight_views_are_held_against_their_own_answers(run: Path, store: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    probe = report["int8"]["test_time_augmentation"]["probe"]
    first, second, *_ = probe[2]["probabilities"]
    probe[2]["probabilities"][first] -= 0.03
    probe[2]["probabilities"][second] += 0.03
    rewrite_report(run, int8=report["int8"])
    with pytest.raises(BadExport, match=rf"of {probe[2]['file']} differ from the report"):
        build(run, store, tta=8)
    del report["int8"]["test_time_augmentation"]["probe"]  # as it was before they were served
    rewrite_report(run, int8=report["int8"])
    with pytest.raises(BadExport, match=r"does not say what model-int8\.pt answers with tta: 8;"):
        build(run, store, tta=8)
    assert build(run, store).is_file()


def test_other_views_are_refused(run: Path, store: Path) -> None:
    expected = r"tta: expected 1 \(.*\) or 8 \(.*\), found 4"
    with pytest.raises(BadSpec, match=expected):
        build(run, store, tta=4)
    source = run / "model-config-int8.yaml"
    source.write_text(f"{source.read_text()}tta: 4\n")
    with pytest.raises(BadExport, match=rf"model-config-int8\.yaml cannot be packed: {expected}"):
        build(run, store)
    assert not list(store.glob("*"))


def test_an_archive_answers_alone(mar: Path, tiles: Tiles, tmp_path: Path) -> None:
    with zipfile.ZipFile(mar) as content:
        content.extractall(tmp_path / "unpacked")
    good, bad = answer(tmp_path / "unpacked", [tiles.read("River_1.jpg"), b"no picture"])
    assert set(good["probabilities"]) == {"Forest", "Industrial", "River", "SeaLake"}
    assert sum(good["probabilities"].values()) == pytest.approx(1)
    assert bad["error"]["code"] == "unsupported_image"


def test_another_probability_than_the_report_is_refused(run: Path, store: Path) -> None:
    probe = json.loads((run / "report.json").read_text())["probe"]
    first, second, *_ = probe[5]["probabilities"]
    probe[5]["probabilities"][first] -= 0.01
    probe[5]["probabilities"][second] += 0.01
    rewrite_report(run, probe=probe)
    store.mkdir()
    (store / "baseline-1.0.mar").write_bytes(b"the earlier one")
    message = rf"probabilities of {probe[5]['file']} differ from the report by 0\.01, expected at m"
    with pytest.raises(BadExport, match=message):
        build(run, store, "fp32")
    assert [path.read_bytes() for path in store.iterdir()] == [b"the earlier one"]


def test_another_preprocessing_than_that_of_the_report_is_refused(
    run: Path, store: Path, own_handlers: Path
) -> None:
    vision = own_handlers / "vision.py"
    code = vision.read_text()
    assert code.count("pixels.flatten(2) * scale") == 1
    vision.write_text(
        code.replace("pixels.flatten(2) * scale", "pixels.flip(3).flatten(2) * scale")
    )
    with pytest.raises(BadExport, match="differ from the report by"):
        build(run, store)
    assert list(store.iterdir()) == []


def test_an_archive_that_leans_on_the_repository_is_refused(
    run: Path, store: Path, own_handlers: Path
) -> None:
    (own_handlers / "contract" / "spec.py").unlink()
    with pytest.raises(
        BadExport, match=r"does not load:\n(.*\n)*.*No module named 'handlers.contract.spec'"
    ):
        build(run, store)
    assert list(store.iterdir()) == []


def test_a_probe_that_the_handler_refuses_is_named(run: Path, store: Path) -> None:
    probe = json.loads((run / "report.json").read_text())["probe"][:1]
    probe[0]["jpeg"] = base64.b64encode(b"no picture").decode()
    (run / "model-int8.pt").unlink()
    rewrite_report(run, probe=probe)
    with pytest.raises(BadExport, match=rf"refuses {probe[0]['file']}: .*unsupported_image"):
        build(run, store)


def test_the_report_of_another_model_is_refused(run: Path, store: Path) -> None:
    rewrite_report(run, model_sha256="0" * 64)
    with pytest.raises(BadExport, match=r"report\.json belongs to another model\.pt; run `make ev"):
        build(run, store, "fp32")
    assert list(store.iterdir()) == []


def test_a_run_without_report_can_be_archived(run: Path, store: Path) -> None:
    (run / "report.json").unlink()
    assert build(run, store) == store / "baseline-1.0.mar"


def test_what_cannot_be_archived_says_why(run: Path, store: Path) -> None:
    with pytest.raises(BadName, match="expected <model>-<version>, such as baseline-1"):
        build(run.parent, store)
    (run / "model-int8.pt").unlink()
    (run / "model.pt").unlink()
    with pytest.raises(BadExport, match=r"model\.pt does not exist: export first"):
        build(run, store)


def test_the_command_archives_every_release(
    run: Path,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(archive, "RELEASES_DIR", tmp_path / "none")
    monkeypatch.setattr(sys, "argv", ["archive", "--store", str(store)])
    with pytest.raises(BadExport, match=r"no releases in .*: train, evaluate and `make release`"):
        archive.main()
    monkeypatch.setattr(archive, "RELEASES_DIR", run.parent)
    archive.main()
    assert capsys.readouterr().out == f"{store / 'baseline-1.0.mar'}\n"


def test_another_archive_of_the_model_may_be_under_way(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    others = tmp_path / "baseline" / "handlers"
    others.mkdir(parents=True)
    build(finished_run, tmp_path / "store")
    assert others.is_dir()
    assert tempfile.gettempdir() == str(tmp_path)


def test_a_report_that_is_none_is_refused(finished_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / finished_run.name
    shutil.copytree(finished_run, folder)
    for content in ("{", "[]", "{}"):
        (folder / "report.json").write_text(content)
        with pytest.raises(BadExport, match="is not a report"):
            build(folder, tmp_path / "store")

"""Many tiles on the command line, through a real archive; without a model server."""

import csv
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from portal.cli import predict
from portal.serving import archive_model
from tests.support.archive_files import write_archive
from tests.support.paths import ROOT, SAMPLES
from tests.support.rasters import mosaic, reflectance, write
from tests.support.real_archives import HANDLER, Entries, archive, exits_in_init, replaced

SAMPLE_FILES = sorted(SAMPLES.glob("*.jpg"))
DEADLY = b"GIF89a, and it kills the process"

Run = Callable[..., int]


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    folder = tmp_path / "tiles"
    folder.mkdir()
    for path in SAMPLE_FILES:
        shutil.copy(path, folder)
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "answers.csv"


@pytest.fixture
def run(mar: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command in this process; later words win."""

    def run(*words: object) -> int:
        line = ["predict", "--model", mar, "--out", out, "--workers", 1, *words]
        monkeypatch.setattr(sys, "argv", list(map(str, line)))
        return predict.main()

    return run


def rows(out: Path) -> list[dict[str, str]]:
    with out.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def multiply(tiles: Path, copies: int) -> int:
    """Put so many more of each sample into a folder of samples; how many tiles it has then."""
    for path in SAMPLE_FILES:
        for number in range(copies):
            shutil.copy(path, tiles / f"{path.stem}_{number}.jpg")
    return len(SAMPLE_FILES) * (copies + 1)


def test_each_tile_gets_its_row(run: Run, tiles: Path, out: Path, mar: Path) -> None:
    assert run(tiles) == 0
    found = rows(out)
    assert [row["file"] for row in found] == [path.name for path in SAMPLE_FILES]
    assert [row["class_name"] for row in found] == [path.stem for path in SAMPLE_FILES]
    for row in found:
        shares = {key: float(cell) for key, cell in row.items() if key.startswith("p_")}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-6)
        assert shares[f"p_{row['class_name']}"] == float(row["confidence"])
        assert row["model"] == mar.stem
        assert row["uncertain"] in ("true", "false")


def test_bad_files_are_rows_and_the_status_tells(run: Run, tiles: Path, out: Path) -> None:
    (tiles / "a_broken.jpg").write_bytes(SAMPLE_FILES[0].read_bytes()[:700])
    (tiles / "b_empty.jpg").touch()
    (tiles / "c_none.jpg").write_text("no image")
    with (tiles / "d_large.jpg").open("wb") as file:
        file.write(SAMPLE_FILES[0].read_bytes())
        file.truncate(6 * 1024 * 1024)
    assert run(tiles, tiles / "gone.jpg") == 1
    found = {Path(row["file"]).name: row for row in rows(out)}
    assert {
        name: row["error"].partition(":")[0] for name, row in found.items() if row["error"]
    } == {
        "a_broken.jpg": "unusable_image",
        "b_empty.jpg": "no_image",
        "c_none.jpg": "unsupported_image",
        "d_large.jpg": "too_large",
        "gone.jpg": "unreadable_file",
    }
    for path in SAMPLE_FILES:
        assert found[path.name]["class_name"] == path.stem
    before = out.read_bytes()
    assert run(tiles, tiles / "gone.jpg") == 1  # those of before count
    assert out.read_bytes() == before


def test_what_is_known_of_the_values_counts(run: Run, tmp_path: Path, out: Path) -> None:
    values = (reflectance(mosaic(64, 64)) * 10_000).astype("uint16")
    path = write(tmp_path / "tile.tif", values)
    assert run(path) == 0
    assert run(path, "--look", "l2a", "--out", tmp_path / "told.csv") == 0
    assert "look=l1c" in rows(out)[0]["assumed"]
    assert "look=l2a" in rows(tmp_path / "told.csv")[0]["assumed"]


def test_killed_at_any_time_it_goes_on_to_the_same_table(
    mar: Path, tiles: Path, out: Path, run: Run
) -> None:
    total = multiply(tiles, 128)
    words = [str(tiles), "--model", str(mar), "--out", str(out), "--workers", "1"]
    words = [sys.executable, "-m", "portal.cli.predict", *words]
    with subprocess.Popen(words, cwd=ROOT) as killed:
        deadline = time.monotonic() + 120
        while not out.exists() or out.read_bytes().count(b"\n") < 2:
            assert time.monotonic() < deadline
            assert killed.poll() is None
            time.sleep(0.002)
        killed.send_signal(signal.SIGKILL)
    before = out.read_bytes()
    assert 0 < len(rows(out)) < total
    out.write_bytes(before[:-9])  # a machine that lost power
    assert run(tiles) == 0
    assert out.read_bytes().startswith(before[:-9])
    found = rows(out)
    assert [row["file"] for row in found] == sorted(path.name for path in tiles.iterdir())
    assert len(found) == total
    for row in found:
        assert row["class_name"] == row["file"].partition("_")[0].removesuffix(".jpg")


def test_an_image_that_kills_the_process_costs_its_own_row(
    run: Run, mar: Path, tiles: Path, out: Path, tmp_path: Path
) -> None:
    def dies(entries: Entries) -> None:
        old = "        size = self.spec.image_size\n        try:"
        new = f"        if image == {DEADLY!r}:\n            import os; os._exit(3)\n{old}"
        replaced(entries, HANDLER, old, new)

    (tiles / "G.gif").write_bytes(DEADLY)
    assert run(tiles, "--model", archive(tmp_path, mar, "9.0", dies)) == 1
    found = {row["file"]: row for row in rows(out)}
    assert len(found) == 1 + len(SAMPLE_FILES)
    bad = found.pop("G.gif")
    assert bad["error"].startswith("model_not_ready: The process of baseline-9.0.mar ended")
    assert [row["error"] for row in found.values()] == [""] * len(found)


def test_an_archive_that_answers_nothing_ends_the_run(
    run: Run, mar: Path, tiles: Path, out: Path, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def dies(entries: Entries) -> None:
        replaced(entries, HANDLER, "        seen: Seen = []", "        import os; os._exit(3)")

    for path in SAMPLE_FILES[2:]:
        (tiles / path.name).unlink()
    for change, said in ((dies, "ended with status 3"), (exits_in_init, "does not load")):
        path = archive(tmp_path, mar, "9.0", change)
        assert run(tiles, "--model", path) == 2
        assert rows(out) == []
        assert said in caplog.text


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("baseline-1.10", "baseline-1.10.mar"),
        ("baseline", "baseline-1.10.mar"),
        ("store/vit-3.0.mar", "vit-3.0.mar"),
        (
            "baseline-7.7",
            "no archive of baseline 7.7; it has: baseline 1.9, baseline 1.10, vit 3.0",
        ),
        ("store/vit-4.0.mar", "vit-4.0.mar does not exist"),
        ("runs/vit-5.0", "python -m training.archive"),
    ],
)
def test_the_archive_is_the_one_that_is_named_or_the_newest(
    run: Run, tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, model: str, said: str,
) -> None:  # fmt: skip
    for version in ("1.9", "1.10"):
        write_archive(tmp_path / "store", version)
    write_archive(tmp_path / "store", "3.0", "vit")
    (tmp_path / "runs/vit-5.0").mkdir(parents=True)
    asked = []

    def opened(path: Path, *_timeout: float) -> archive_model.ArchiveModel:
        asked.append(path.name)
        raise OSError(2, "No such file or directory", str(path))

    monkeypatch.setattr(predict, "ArchiveModel", opened)
    monkeypatch.chdir(tmp_path)
    assert run(tiles, "--model", model, "--model-store", tmp_path / "store") == 2
    assert said in caplog.text
    assert asked == ([said] if said.endswith(".mar") else [])


def test_what_cannot_begin_is_a_sentence(
    run: Run, tiles: Path, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert run(tiles / "gone") == 2
    assert "no such file or folder" in caplog.text
    assert run(tiles, "--out", out.parent / "gone" / "a.csv") == 2
    assert "No such file or directory" in caplog.text
    out.write_text("mine\n")
    assert run(tiles) == 2
    assert "cannot be gone on with" in caplog.text
    assert out.read_text() == "mine\n"


def test_ctrl_c_ends_it_at_once_and_well(
    run: Run, tiles: Path, out: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    total = multiply(tiles, 6 * predict.PART // len(SAMPLE_FILES))
    monkeypatch.setattr(predict, "Bar", lambda _things: interrupt)
    assert run(tiles) == 130
    assert "goes on behind the last row" in caplog.text
    assert len(rows(out)) == predict.PART < total
    left = psutil.Process().children(recursive=True)
    assert [child for child in left if "archive_process.py" in " ".join(child.cmdline())] == []

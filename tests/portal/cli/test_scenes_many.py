"""The command line over many scenes; the cluster is a stand-in, but for its absence."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from portal.cli import scenes_many
from portal.errors import BadArchive
from portal.scenes import cluster
from portal.scenes.collection import Outcome
from tests.support.archive_files import write_archive
from tests.support.paths import ROOT


class Clusters:
    """Keeps what it is told to do."""

    def __init__(self) -> None:
        self.scenes: dict[str, Path] = {}
        self.told: dict[str, Any] = {}
        self.outcome = Outcome("a.tif", reason="It is damaged.")
        self.error: Exception | None = None

    def map_scenes(
        self, scenes: dict[str, Path], results: Path, options: Any, **told: Any
    ) -> list[Outcome]:
        self.scenes, self.told = scenes, {"results": results, "options": options, **told}
        if self.error is not None:
            raise self.error
        results.mkdir(exist_ok=True)
        return [self.outcome]


@pytest.fixture
def clusters(monkeypatch: pytest.MonkeyPatch) -> Clusters:
    found = Clusters()
    monkeypatch.setattr(cluster, "map_scenes", found.map_scenes)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tif").touch()
    for version in ("1.9", "1.10"):
        write_archive(tmp_path / "store", version)
    write_archive(tmp_path / "store", "3.0", "vit")
    return tmp_path


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> int | str:
    line = [str(folder / "in"), str(folder / "out"), "--model-store", str(folder / "store")]
    monkeypatch.setattr(sys, "argv", ["scenes_many", *line, *words])
    return scenes_many.main()


def test_the_newest_archive_answers_unless_another_is_named(
    folder: Path, clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words, archive in (
        ((), "baseline-1.10.mar"),
        (("--version", "1.9"), "baseline-1.9.mar"),
        (("--model", "vit"), "vit-3.0.mar"),
        (("--archive", str(folder / "store" / "vit-3.0.mar")), "vit-3.0.mar"),
    ):
        assert run(folder, monkeypatch, *words) == 1
        assert clusters.told["archive"] == folder / "store" / archive
        options = clusters.told["options"]
        assert f"{options.model}-{options.version}.mar" == archive
    assert clusters.scenes == {"a.tif": folder / "in" / "a.tif"}
    assert "It is damaged." in (folder / "out" / "failed.csv").read_text()


def test_what_is_asked_is_passed_on(
    folder: Path, clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "--stride 16 --bands 3,2,1 --scale 10000 --look l2a --force --workers 3"
    servers = "--server http://a:1,https://b:2 --version 4.0 --scheduler tls://c:3"
    run(folder, monkeypatch, *words.split(), *servers.split())
    told = clusters.told
    options = told["options"]
    assert (options.model, options.version, options.stride) == ("baseline", "4.0", 16)
    assert (options.bands, options.scale, options.look) == ((3, 2, 1), "10000", "l2a")
    assert options.force
    assert (told["workers"], told["scheduler"], told["archive"]) == (3, "tls://c:3", None)
    assert told["servers"] == ("http://a:1", "https://b:2")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--version 7.7", "no archive of baseline 7.7; it has: baseline 1.9, baseline 1.10, vit"),
        ("--server http://a:1", "say which version"),
    ],
)
def test_a_model_that_cannot_be_found_is_told(
    folder: Path, clusters: Clusters, monkeypatch: pytest.MonkeyPatch, words: str, said: str
) -> None:
    answer = run(folder, monkeypatch, *words.split())
    assert isinstance(answer, str)
    assert said in answer
    assert clusters.told == {}


@pytest.mark.parametrize(
    "words",
    ["--bands 4,3", "--bands 0,1,2", "--workers 0", "--server ftp://a", "--stride 5", "--look x"],
)
def test_an_option_that_means_nothing_is_refused(
    folder: Path, clusters: Clusters, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    with pytest.raises(SystemExit):
        run(folder, monkeypatch, *words.split())
    assert clusters.told == {}


def test_failures_are_sentences(
    folder: Path, clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, said in (
        (BadArchive("It does not load."), "It does not load."),
        (cluster.NoCluster("There is none."), "There is none."),
        (OSError(28, "No space left on device", "/maps"), "/maps: No space left on device."),
        (KeyboardInterrupt(), "goes on from there"),
    ):
        clusters.error = error  # type: ignore[assignment]
        assert said in str(run(folder, monkeypatch))
    (folder / "in" / "a.tif").unlink()
    assert "has no scenes" in str(run(folder, monkeypatch))


def test_without_dask_it_says_what_to_install_and_the_portal_runs(folder: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['dask'] = sys.modules['distributed'] = None\n"
        "import portal.web.app\n"
        "from portal.cli import scenes_many\n"
        "sys.exit(scenes_many.main())\n"
    )
    words = [sys.executable, "-c", code, str(folder / "in"), str(folder / "out")]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "pip install '.[cluster]'" in ended.stderr

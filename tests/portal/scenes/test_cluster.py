"""Many scenes on real Dask clusters with a real model; what maps one scene is a stand-in."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from distributed import LocalCluster

from portal.errors import BadArchive
from portal.scenes import cluster
from portal.scenes.cluster import NoCluster, map_scenes
from portal.scenes.scene import Options
from tests.support.processes import running_children
from tests.support.real_archives import archive as changed_archive
from tests.support.real_archives import exits_in_init
from tests.support.scene_stand_ins import STEPS, count_windows

OPTIONS = Options("baseline", "2.0")


@pytest.fixture
def scheduler() -> Iterator[str]:
    """The address of a cluster that is there before: threads of this process."""
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, host="127.0.0.1", protocol="tcp://",
        dashboard_address="127.0.0.1:0", scheduler_kwargs={"dashboard": False},
    ) as found:  # fmt: skip
        yield found.scheduler_address


def write(folder: Path, **texts: str) -> dict[str, Path]:
    folder.mkdir()
    for name, text in texts.items():
        (folder / name).write_text(text)
    return {name: folder / name for name in texts}


def pids(results: Path) -> list[list[int]]:
    """Who took the steps of each map."""
    logs = sorted(results.glob("*.steps"))
    return [[int(line) for line in log.read_text().splitlines()] for log in logs]


def listening() -> set[tuple[str, int]]:
    """The addresses and ports on which this process and its children can be reached."""
    found = set()
    for process in [psutil.Process(), *running_children()]:
        for connection in process.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                found.add((connection.laddr.ip, connection.laddr.port))
    return found


def test_a_killed_worker_loses_nothing(mar: Path, tmp_path: Path) -> None:
    results = tmp_path / "maps"
    scenes = write(
        tmp_path / "scenes", one="slow 1", two="slow 2", three="3",
        damaged="damaged", busy="busy once", breaks="breaks",
    )  # fmt: skip
    killed: list[int] = []
    others = listening()  # servers of the tests before this one
    reached: set[tuple[str, int]] = set()

    def kill_a_worker() -> None:
        while not (busy := [took for took in pids(results) if 3 <= len(took) < STEPS]):
            time.sleep(0.05)
        reached.update(listening())
        os.kill(busy[0][0], signal.SIGKILL)
        killed.append(busy[0][0])

    threading.Thread(target=kill_a_worker, daemon=True).start()
    outcomes = map_scenes(scenes, results, OPTIONS, archive=mar, workers=2, mapper=count_windows)
    assert [outcome.scene for outcome in outcomes] == list(scenes)
    reasons = {outcome.scene: outcome.reason for outcome in outcomes if not outcome.folder}
    assert reasons.keys() == {"damaged", "breaks"}
    assert reasons["damaged"] == "It ends at row 7, column 8."
    assert "ZeroDivisionError: by nothing" in reasons["breaks"]
    assert not any(outcome.kept for outcome in outcomes)
    folders = {outcome.folder for outcome in outcomes if outcome.folder}
    assert {path.name for path in results.iterdir() if path.is_dir()} == folders
    assert len(folders) == 4
    labels = [(results / folder / "labels").read_text() for folder in folders]
    assert all(text.startswith("AnnualCrop,Forest,") for text in labels)
    # its scene was gone on with by another worker, and no step was taken twice
    assert all(len(took) == STEPS for took in pids(results))
    (shared,) = [took for took in pids(results) if killed[0] in took and len(set(took)) > 1]
    assert shared.count(killed[0]) >= 3
    assert {address for address, _ in reached - others} == {"127.0.0.1"}


def test_a_cluster_that_is_there_goes_on_where_another_run_ended(
    mar: Path, tmp_path: Path, scheduler: str
) -> None:
    scenes = write(tmp_path / "scenes", one="1", two="2")
    results = tmp_path / "maps"
    first, *_ = map_scenes(
        {"one": scenes["one"]}, results, OPTIONS, archive=mar, scheduler=scheduler,
        mapper=count_windows,
    )  # fmt: skip
    missing = {"gone": tmp_path / "gone"}
    again, second, gone = map_scenes(
        scenes | missing, results, OPTIONS, archive=mar, scheduler=scheduler, mapper=count_windows
    )
    assert not first.kept
    assert again.kept
    assert again.folder == first.folder
    assert not second.kept
    assert f"{missing['gone']}: No such file" in gone.reason
    assert [len(took) for took in pids(results)] == [STEPS, STEPS]
    other = Options("baseline", "2.0", stride=16)
    (otherwise,) = map_scenes(
        {"one": scenes["one"]}, results, other, archive=mar, scheduler=scheduler,
        mapper=count_windows,
    )  # fmt: skip
    assert not otherwise.kept
    left = [child for child in running_children() if _of_archive(child)]
    assert left == []


def _of_archive(process: psutil.Process) -> bool:
    return any("archive_process.py" in word for word in process.cmdline())


def test_an_archive_that_does_not_load_ends_the_run(
    mar: Path, tmp_path: Path, scheduler: str
) -> None:
    broken = changed_archive(tmp_path, mar, "9.0", exits_in_init)
    scenes = write(tmp_path / "scenes", one="1", two="2")
    with pytest.raises(BadArchive, match="does not load"):
        map_scenes(
            scenes, tmp_path / "maps", Options("baseline", "9.0"), archive=broken,
            scheduler=scheduler, mapper=count_windows,
        )  # fmt: skip


def test_what_is_no_scheduler_is_told(
    mar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "PATIENCE", 1)
    for address in ("tcp://127.0.0.1:9", "nothing://here"):
        with pytest.raises(NoCluster, match=f"no Dask scheduler at {address}"):
            map_scenes({"one": tmp_path}, tmp_path, OPTIONS, archive=mar, scheduler=address)


def test_a_cluster_without_workers_is_told(
    mar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "PATIENCE", 1)
    with (
        LocalCluster(
            n_workers=0, processes=False, host="127.0.0.1", protocol="tcp://",
            dashboard_address="127.0.0.1:0", scheduler_kwargs={"dashboard": False},
        ) as empty,
        pytest.raises(NoCluster, match="has no workers"),
    ):  # fmt: skip
        map_scenes(
            {"one": tmp_path}, tmp_path, OPTIONS, archive=mar, scheduler=empty.scheduler_address
        )

from pathlib import Path

import pytest

from deploy.allocator import preload


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "libjemalloc.so.2"
    path.touch()
    return path


def test_the_first_that_is_installed_is_preloaded(library: Path, tmp_path: Path) -> None:
    places = (tmp_path / "nothing", library, tmp_path)
    assert preload({}, places) == {"LD_PRELOAD": str(library)}
    assert preload({"LD_PRELOAD": "other.so"}, places) == {"LD_PRELOAD": f"{library} other.so"}


def test_without_it_or_with_one_already_nothing_changes(library: Path, tmp_path: Path) -> None:
    assert preload({"LD_PRELOAD": "other.so"}, [tmp_path / "nothing"]) == {}
    assert preload({"LD_PRELOAD": "/opt/libjemalloc.so.2"}, [library]) == {}

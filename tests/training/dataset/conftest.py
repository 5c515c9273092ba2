from collections.abc import Iterator

import pytest

from tests.support.file_server import FileServer, serving
from training.dataset import eurosat


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the tiny dataset were the published one."""
    counts = dict.fromkeys(("Forest", "Industrial", "River", "SeaLake"), 20)
    monkeypatch.setattr(eurosat, "CLASS_COUNTS", counts)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as running:
        yield running

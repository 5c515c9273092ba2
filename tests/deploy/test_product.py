import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest

from deploy import CannotServe
from deploy.product import Product, database_url, models_to_load, note_archives
from deploy.settings import Settings
from portal.state import Deployment, State, Wanted
from tests.conftest import ROOT, free_ports


@pytest.fixture
def product(tmp_path: Path) -> Iterator[Product]:
    """A product whose portal can be started; its TorchServe never is."""
    (port,) = free_ports(1)
    config = tmp_path / "config.properties"
    names = ("inference_address", "management_address", "metrics_address")
    config.write_text("".join(f"{name}=http://127.0.0.1:9\n" for name in names))
    settings = Settings(ROOT, config, tmp_path / "run", "127.0.0.1", port)
    made = Product(settings, tmp_path / "no-java")
    yield made
    made.portal.stop(grace=5)


def first_answer(ask: Callable[[], tuple[int, str]]) -> tuple[int, str]:
    deadline = time.monotonic() + 60
    while (answer := ask())[0] == 0:
        assert time.monotonic() < deadline, answer
        time.sleep(0.2)
    return answer


def test_a_closed_portal_is_asked_for_its_readiness(
    product: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTAL_PUBLIC", "false")
    monkeypatch.setenv("PORTAL_ALLOWED_HOSTS", "landuse.example")
    monkeypatch.setenv("PORTAL_TOKEN_HASH", "0" * 64)
    product.start_portal()
    assert first_answer(product.predict_sample) == (503, '{"status":"not ready"}\n')


def test_an_open_portal_is_asked_for_a_prediction(product: Product) -> None:
    product.start_portal()
    status, body = first_answer(product.predict_sample)
    assert status == 503
    assert "model_server_down" in body


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Of a product with four archives."""
    monkeypatch.delenv("PORTAL_DATABASE_URL", raising=False)
    config = tmp_path / "config.properties"
    config.write_text((ROOT / "config.properties").read_text())
    found = Settings(ROOT, config, tmp_path / "run", "127.0.0.1", 8000)
    found.model_store.mkdir()
    for version in ("1.0", "1.1", "1.2", "1.3"):
        (found.model_store / f"baseline-{version}.mar").touch()
    return found


def serve(settings: Settings, version: str, wanted: Wanted = "served") -> None:
    row = Deployment(
        model="baseline",
        version=version,
        wanted=wanted,
        archive=f"baseline-{version}.mar",
        sha256="",
        size_bytes=0,
        workers=1,
        deployed_by="operator",
        deployed_at=datetime.now(UTC),
    )
    State(database_url(settings)).serve(row, default=wanted == "served")


def names(*versions: str) -> list[str]:
    return [f"baseline-{version}.mar" for version in versions]


def test_the_first_start_loads_everything_the_newest_first(settings: Settings) -> None:
    assert models_to_load(settings) == names("1.3", "1.2", "1.1", "1.0")


def test_later_the_database_decides(settings: Settings) -> None:
    for version in ("1.2", "1.0"):
        serve(settings, version)
    serve(settings, "1.3", "withdrawn")
    assert models_to_load(settings) == names("1.0", "1.2", "1.1")


def test_an_archive_that_was_built_anew_is_noted(settings: Settings) -> None:
    serve(settings, "1.1")
    serve(settings, "2.0")  # its archive is gone
    serve(settings, "1.2", "withdrawn")
    (settings.model_store / "baseline-1.1.mar").write_bytes(b"anew")
    note_archives(settings)
    state = State(database_url(settings))
    found = {row.version: (row.sha256, row.size_bytes) for row in state.deployments()}
    anew = sha256(b"anew").hexdigest()
    assert found == {"1.1": (anew, 4), "1.2": ("", 0), "2.0": ("", 0)}
    note_archives(settings)
    (line,) = state.audit(10)
    assert (line.version, line.reason) == (
        "1.1", f"Its archive was built anew: sha256 {anew[:12]}, before unknown.",
    )  # fmt: skip


def test_nothing_to_load_is_said(settings: Settings) -> None:
    for version in ("1.0", "1.1", "1.2", "1.3"):
        serve(settings, version, "withdrawn")
    assert models_to_load(settings) == ["none"]


def test_a_database_that_cannot_be_used(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTAL_DATABASE_URL", f"sqlite:///{settings.config}/portal.db")
    with pytest.raises(CannotServe, match="PORTAL_DATABASE_URL"):
        models_to_load(settings)

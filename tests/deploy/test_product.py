import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy import CannotServe
from deploy.product import Product
from deploy.settings import Settings
from tests.support.paths import ROOT
from tests.support.product import free_ports


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
    made.scenes.stop(grace=5)


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


def test_portal_and_worker_share_the_folder_of_scenes(
    product: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[dict[str, str]] = []
    for child in (product.portal, product.scenes):
        monkeypatch.setattr(child, "start", lambda *_, environ, cwd: started.append(environ))  # noqa: ARG005
    product.start_portal()
    product.start_scenes()
    folder = str(product.settings.run_dir / "scenes")
    assert [environ["PORTAL_SCENES_DIR"] for environ in started] == [folder] * 2
    monkeypatch.setenv("PORTAL_SCENES_DIR", "/elsewhere")
    product.start_portal()
    product.start_scenes()
    assert [environ["PORTAL_SCENES_DIR"] for environ in started[2:]] == ["/elsewhere"] * 2
    names = {name for name in started[0] if name.startswith("PORTAL_")}
    assert {name: started[1][name] for name in names} == {n: started[0][n] for n in names}


def test_the_worker_of_scenes_waits_for_torchserve(product: Product) -> None:
    product.start_scenes()
    deadline = time.monotonic() + 60
    while "ready for scenes" not in product.scenes.log.read_text():
        assert product.scenes.running, product.scenes.log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    began = time.monotonic()
    product.scenes.stop(grace=10)
    assert time.monotonic() - began < 5  # it ends in order when it is asked to


def test_a_database_that_cannot_be_used(product: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    config = product.settings.config
    monkeypatch.setenv("PORTAL_DATABASE_URL", f"sqlite:///{config}/portal.db")
    with pytest.raises(CannotServe, match="PORTAL_DATABASE_URL"):
        product.start_torchserve()
    assert not product.torchserve.running

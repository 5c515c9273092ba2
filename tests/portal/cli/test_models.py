"""The command line of the model management, against the real portal on a fake model server."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr

from portal.credentials import token_hash
from portal.settings import Settings
from portal.web.app import create_app
from tests.support.archive_files import write_archive
from tests.support.fake_torchserve import FakeTorchServe
from tests.support.managed_models import report
from tests.support.paths import ROOT
from tests.support.product import running_app
from tests.support.report_content import write_release

TOKEN = "t0ken"


@dataclass
class Running:
    url: str
    torchserve: FakeTorchServe


@pytest.fixture
def portal(tmp_path: Path) -> Iterator[Running]:
    """With the archive and the report of baseline 1.1 beside 1.0."""
    torchserve = FakeTorchServe()
    settings = Settings(
        reports_dir=tmp_path / "releases",
        model_store=tmp_path / "model_store",
        database_url=SecretStr(f"sqlite:///{tmp_path}/portal.db"),
        token_hash=SecretStr(token_hash(TOKEN)),
    )
    write_archive(settings.model_store)
    write_release(settings.reports_dir, report("1.1"))
    app = create_app(settings, torchserve)
    app.extensions["portal"].reconciler.look()
    with running_app(app) as url:
        yield Running(url, torchserve)


def run(*arguments: str, token: str = TOKEN) -> tuple[int, str]:
    ended = subprocess.run(
        [sys.executable, "-m", "portal.cli.models", *arguments],
        cwd=ROOT,
        env={**os.environ, "PORTAL_TOKEN": token},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert "Traceback" not in ended.stderr
    return ended.returncode, ended.stdout + ended.stderr


def test_deploy_and_roll_back(portal: Running) -> None:
    status, said = run("deploy", "baseline", "1.1", "--default", "--url", portal.url)
    assert status == 0, said
    assert "done     Ask for the golden tiles: 3 golden tiles" in said
    assert said.endswith("done: baseline 1.1 is served and is the default.\n")
    status, said = run("rollback", "baseline", "--url", portal.url)
    assert status == 0, said
    assert said.endswith("done: baseline 1.0 is the default; before it was 1.1.\n")


def test_a_deploy_that_fails(portal: Running) -> None:
    portal.torchserve.crashing = True
    status, said = run("deploy", "baseline", "1.1", "--url", portal.url)
    assert status == 1
    assert "failed   Load it: baseline 1.1 does not load" in said
    assert "done     Take it back: Nothing of it is registered any more." in said


def test_what_is_refused_is_one_sentence(portal: Running) -> None:
    refused = [
        (run("deploy", "baseline", "1.2", "--url", portal.url), r"There is no baseline-1.2.mar"),
        (run("rollback", "baseline", "--url", portal.url), "no previous default"),
        (run("rollback", "baseline", "--url", portal.url, token="x"), "not the portal's token"),
        (run("rollback", "baseline", "--url", portal.url, token=""), "PORTAL_TOKEN is not set"),
        (run("rollback", "baseline", "--url", "http://127.0.0.1:1"), "does not answer as one"),
        (run("rollback", "baseline", "--url", "x"), "is no address"),
    ]
    for (status, said), reason in refused:
        assert status == 1
        assert reason in said
        assert len(said.splitlines()) == 1
    assert run("deploy", "baseline")[0] == 2

"""The command line of the database: back to the release before."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from portal.deployments.records import Audit, Records
from portal.storage.database import Database
from portal.storage.migrations import REVISIONS
from tests.support.databases import database, execute, make_old, url
from tests.support.paths import ROOT
from tests.support.postgres import postgres

__all__ = ["database", "postgres", "url"]  # fixtures

OLD_TABLES = ("schema_version", "deployments", "defaults", "audit")


def downgrade(url: str) -> tuple[int, str]:
    ended = subprocess.run(
        [sys.executable, "-m", "portal.cli.database", "downgrade"],
        cwd=ROOT,
        env={**os.environ, "PORTAL_DATABASE_URL": url.replace("+psycopg", "")},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert "Traceback" not in ended.stderr
    return ended.returncode, ended.stdout + ended.stderr


def content(url: str) -> dict[str, list[tuple[object, ...]]]:
    return {table: execute(url, f"SELECT * FROM {table}") for table in OLD_TABLES}


def test_a_database_goes_up_and_down_and_up_again(database: Database, url: str) -> None:
    make_old(url)
    before = content(url)
    database.open()
    # what the releases before alembic look at, and refuse with a sentence of their own
    assert execute(url, "SELECT number FROM schema_version") == [(2,)]
    Records(database).record(Audit("operator", "scale", "baseline", "1.0", "done", ""))
    database.close()
    status, said = downgrade(url)
    assert status == 0, said
    assert f"those of revision {REVISIONS[-2]}. Start the release before this one now" in said
    after = content(url)
    assert after.pop("schema_version") == [(2,)]  # of that release; before, it was alembic's first
    del before["schema_version"]
    assert after.pop("audit")[:-1] == before.pop("audit")
    assert after == before
    database.open()
    assert [line.action for line in Records(database).audit(10)] == ["scale", "retire", "deploy"]
    assert execute(url, "SELECT number FROM schema_version") == [(2,)]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("sqlite:////nowhere/portal.db", "There is no database where PORTAL_DATABASE_URL"),
        ("mysql://u:geheim@host/x", "PORTAL_DATABASE_URL: expected sqlite:"),
        ("postgresql://u:geheim@127.0.0.1:1/x", "The portal's database cannot be used"),
        ("postgresql://u:geheim@host:port/x", "The portal's database cannot be used"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(url: str, reason: str) -> None:
    status, said = downgrade(url)
    assert status == 1
    assert reason in said
    assert "geheim" not in said
    assert len(said.splitlines()) == 1


def test_a_later_release_made_the_tables(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/portal.db"
    database = Database(url)
    database.open()
    database.close()
    execute(url, "UPDATE alembic_version SET version_num = '0999'")
    status, said = downgrade(url)
    assert status == 1
    assert "revision 0999" in said

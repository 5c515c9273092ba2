import subprocess
import sys
from datetime import UTC, datetime

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

import portal.web.app  # noqa: F401  (imports whatever has tables)
from handlers.contract.names import ModelVersion
from portal.deployments.records import Audit, Records
from portal.errors import StateUnavailable
from portal.storage import migrations
from portal.storage.database import Base, Database
from tests.support.databases import database, execute, make_old, url
from tests.support.paths import ROOT
from tests.support.postgres import postgres

__all__ = ["database", "postgres", "url"]  # fixtures


def differences(url: str) -> list[object]:
    engine = create_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        found: list[object] = compare_metadata(context, Base.metadata)
    engine.dispose()
    return found


def test_the_revisions_are_the_files() -> None:
    config = Config()
    config.set_main_option("script_location", "portal.storage:migrations")
    script = ScriptDirectory.from_config(config)
    assert [found.revision for found in reversed(list(script.walk_revisions()))] == list(
        migrations.REVISIONS
    )


def test_an_empty_database_gets_the_tables_of_the_models(database: Database, url: str) -> None:
    database.open()
    assert differences(url) == []


def test_a_database_of_the_first_releases_is_upgraded_with_all_it_has(
    database: Database, url: str
) -> None:
    make_old(url)
    records = Records(database)
    rows = [
        (row.version, row.wanted, row.workers, row.deployed_by) for row in records.deployments()
    ]
    assert rows == [("1.0", "served", 2, "operator"), ("1.1", "deploying", 1, "token")]
    first = records.deployment(ModelVersion("baseline", "1.0"))
    assert first is not None
    assert first.deployed_at == datetime(2026, 1, 2, 10, tzinfo=UTC)
    default = records.defaults()["baseline"]
    assert (default.version, default.previous) == ("1.0", None)
    assert [(line.action, line.outcome, line.reason) for line in records.audit(10)] == [
        ("retire", "refused", "no"),
        ("deploy", "done", "fine"),
    ]
    records.record(Audit("operator", "scale", "baseline", "1.0", "done", ""))  # ids go on
    assert len(records.audit(10)) == 3
    assert differences(url) == []


def test_a_release_killed_at_its_start_left_only_some_tables(database: Database, url: str) -> None:
    make_old(url)
    execute(url, "DROP TABLE audit", "DELETE FROM schema_version")
    database.open()
    assert differences(url) == []


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE schema_version SET number = 99", "99"),
        ("INSERT INTO schema_version VALUES (2)", "1, 2"),
    ],
)
def test_tables_of_no_release_are_refused(
    database: Database, url: str, statement: str, found: str
) -> None:
    make_old(url)
    execute(url, statement)
    with pytest.raises(StateUnavailable, match=f"tables of revision {found}, this release knows"):
        database.open()
    assert len(execute(url, "SELECT * FROM deployments")) == 2


def test_a_newer_database_is_refused_with_a_sentence(database: Database, url: str) -> None:
    database.open()
    database.close()
    execute(url, "UPDATE alembic_version SET version_num = '0999'")
    with pytest.raises(StateUnavailable) as refused:
        database.open()
    said = str(refused.value)
    assert (
        f"has tables of revision 0999, this release knows those up to {migrations.NEWEST}" in said
    )
    assert "python -m portal.cli.database downgrade" in said
    assert execute(url, "SELECT version_num FROM alembic_version") == [("0999",)]


@pytest.mark.parametrize("old", [False, True])
def test_processes_that_start_at_once_migrate_once(url: str, *, old: bool) -> None:
    if old:
        make_old(url)
    code = "import sys; from portal.storage.database import Database as D; D(sys.argv[1]).open()"
    started = [
        subprocess.Popen([sys.executable, "-c", code, url], cwd=ROOT, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    ended = [process.communicate(timeout=60)[1].decode() for process in started]
    assert [process.returncode for process in started] == [0] * 3, ended
    assert execute(url, "SELECT version_num FROM alembic_version") == [(migrations.NEWEST,)]
    assert differences(url) == []

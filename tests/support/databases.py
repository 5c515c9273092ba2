"""Databases to test with: SQLite and, where one is installed, Postgres; empty, old, broken."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from portal.storage.database import Database
from tests.support.postgres import Postgres


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database; on Postgres where one is installed."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/new/folder/portal.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    found = Database(url)
    yield found
    found.close()


def execute(url: str, *statements: str) -> list[tuple[object, ...]]:
    """What the last one returns, if it returns rows; without any code of the portal's."""
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            for statement in statements[:-1]:
                connection.execute(text(statement))
            found = connection.execute(text(statements[-1]))
            return [tuple(row) for row in found] if found.returns_rows else []
    finally:
        engine.dispose()


# As the releases before alembic made them, on either database.
OLD_TABLES = (
    "CREATE TABLE schema_version (number INTEGER NOT NULL, PRIMARY KEY (number))",
    """CREATE TABLE deployments (
        model VARCHAR(64) NOT NULL, version VARCHAR(64) NOT NULL, wanted VARCHAR(16) NOT NULL,
        archive VARCHAR(200) NOT NULL, sha256 VARCHAR(64) NOT NULL, size_bytes BIGINT NOT NULL,
        workers INTEGER NOT NULL, deployed_by VARCHAR(64) NOT NULL,
        deployed_at {time} NOT NULL, PRIMARY KEY (model, version))""",
    """CREATE TABLE defaults (
        model VARCHAR(64) NOT NULL, version VARCHAR(64) NOT NULL, previous VARCHAR(64),
        PRIMARY KEY (model))""",
    """CREATE TABLE audit (
        id {serial} NOT NULL, at {time} NOT NULL, actor VARCHAR(64) NOT NULL,
        action VARCHAR(32) NOT NULL, model VARCHAR(64), version VARCHAR(64),
        outcome VARCHAR(16) NOT NULL, reason VARCHAR(2000) NOT NULL, PRIMARY KEY (id))""",
)
OLD_ROWS = (
    "INSERT INTO schema_version VALUES (1)",
    """INSERT INTO deployments VALUES
        ('baseline', '1.0', 'served', 'baseline-1.0.mar', 'ab', 10, 2, 'operator',
         '2026-01-02 10:00:00.000000'),
        ('baseline', '1.1', 'deploying', 'baseline-1.1.mar', 'cd', 11, 1, 'token',
         '2026-01-03 10:00:00.000000')""",
    "INSERT INTO defaults VALUES ('baseline', '1.0', NULL)",
    """INSERT INTO audit (at, actor, action, model, version, outcome, reason) VALUES
        ('2026-01-02 10:00:01.000000', 'operator', 'deploy', 'baseline', '1.0', 'done', 'fine'),
        ('2026-01-02 11:00:00.000000', 'token', 'retire', 'baseline', '1.0', 'refused', 'no')""",
)


def make_old(url: str) -> None:
    """Fill an empty database as a release before alembic left it."""
    postgres = url.startswith("postgresql")
    types = {
        "time": "TIMESTAMP WITH TIME ZONE" if postgres else "DATETIME",
        "serial": "SERIAL" if postgres else "INTEGER",
    }
    if not postgres:
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    rows = [row.replace(".000000", ".000000+00") if postgres else row for row in OLD_ROWS]
    execute(url, *(statement.format(**types) for statement in OLD_TABLES), *rows)

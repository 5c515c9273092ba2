"""From the tables of one release to those of the next, and back: alembic, run by the portal.

A change of the tables is a file in ``versions/``, its number in its name, with ``upgrade`` and
``downgrade``. SQLite and Postgres both make it whole or not at all. Every function raises
StateUnavailable when the tables are not those it is for, SQLAlchemyError when the database cannot
be used.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import Connection, Engine, inspect, text

from portal.errors import StateUnavailable

log = logging.getLogger("portal.storage.migrations")

REVISIONS = (
    "0001",
    "0002",
    "0003",
)  # those of versions/; the last one has the tables of this release
NEWEST = REVISIONS[-1]
KEY = 0x45755341  # of Postgres' advisory lock around a migration


def upgrade(engine: Engine) -> None:
    """Bring the tables up to date; of two processes that start at once, one waits for the other."""
    # Between two statements of this look another process may migrate: only the next one refuses.
    with engine.connect() as connection, suppress(StateUnavailable):
        if _revision(connection) == NEWEST:
            return
    with _alone(engine) as connection:
        if _revision(connection) != NEWEST:
            _run(connection, "upgrade", NEWEST)


def downgrade(engine: Engine) -> str:
    """Make the tables those of the release before, and return their revision.

    What only this release keeps is lost; everything else stays.
    """
    with _alone(engine) as connection:
        check(connection)
        _run(connection, "downgrade", REVISIONS[-2])
    return REVISIONS[-2]


def check(connection: Connection) -> None:
    """Return if the tables are those of this release."""
    found = _revision(connection)
    if found != NEWEST:
        raise StateUnavailable(
            f"The portal's database has tables of revision {found or 'none'}, this release works "
            f"with {NEWEST}. They were changed while the portal ran; it looks at them again now."
        )


def _revision(connection: Connection) -> str | None:
    """Which tables these are; None: there are none yet, or those from before alembic."""
    tables = set(inspect(connection).get_table_names())
    found = []
    if "alembic_version" in tables:
        found = list(connection.scalars(text("SELECT version_num FROM alembic_version")))
    if len(found) == 1 and found[0] in REVISIONS:
        return str(found[0])
    if not found and "schema_version" in tables:
        found = list(connection.scalars(text("SELECT number FROM schema_version")))
    if found and found != [1]:
        raise StateUnavailable(
            f"The portal's database has tables of revision {', '.join(map(str, found))}, this "
            f"release knows those up to {NEWEST}: a later one made them. Run that release, or let "
            "its `python -m portal.cli.database downgrade` make them older, or let "
            "PORTAL_DATABASE_URL name another database: it is filled with what is served."
        )
    return None


@contextmanager
def _alone(engine: Engine) -> Iterator[Connection]:
    """A transaction during which no other process migrates."""
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # Python's driver begins only for rows
        else:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": KEY})
        yield connection
        connection.commit()


def _run(connection: Connection, command: str, revision: str) -> None:
    # Only where there is something to do: it takes half of the time that opening takes.
    from alembic import command as commands  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells how it sets itself up
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "portal.storage:migrations")
    getattr(commands, command)(config, revision)
    log.info("the database has the tables of revision %s now", revision)

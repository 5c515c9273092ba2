"""The database of the portal: its tables' base and types, how it is opened, and its transactions.

SQLite keeps it in one file, Postgres on a server. Whoever has tables derives them from ``Base``;
a new table, or another column, is a migration (``portal.storage.migrations``).
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, DateTime, Dialect, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Session, mapped_column
from sqlalchemy.types import TypeDecorator

from portal.errors import StateUnavailable
from portal.storage import migrations

PATIENCE = 5000  # ms that a transaction waits for a lock that another one, or a program, holds
CHECK_PATIENCE = 300  # ms that ``Database.check`` waits for it
# Of Postgres: no request may hang on a server that went away without a word.
POSTGRES_LIMITS = {
    "connect_timeout": "3",  # s
    "tcp_user_timeout": "5000",  # ms until what was sent must have been received
    "options": f"-c lock_timeout={PATIENCE}",
}


class UtcDateTime(TypeDecorator[datetime]):
    """Aware datetimes in UTC, also where the database keeps no time zone (SQLite)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        """To UTC."""
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        """Say that it is UTC."""
        return value and (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)


class Base(MappedAsDataclass, DeclarativeBase):
    """The tables."""


class SchemaVersion(Base):
    """One row. Releases before alembic know their tables by it, and refuse another number."""

    __tablename__ = "schema_version"

    number: Mapped[int] = mapped_column(primary_key=True)


class Database:
    """One database; opened, and its tables made or brought up to date, when it is first used.

    A file that is removed, or replaced by another one, is noticed before the next transaction:
    nothing is written into a file that has lost its name. One that was replaced is opened as if
    the portal had just started; one that is gone is not made anew until then.

    Safe to use from many threads. Every method raises StateUnavailable when the database cannot
    be used.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._file: Path | None = None
        self._log: Path | None = None  # SQLite's, of what is not yet in the file
        # Device and number of both, as they were last opened.
        self._inode: tuple[int, int] | None = None
        self._log_inode: tuple[int, int] | None = None

    def open(self) -> None:
        """Make the tables in an empty database, bring those of an earlier release up to date."""
        self._opened()

    def close(self) -> None:
        """Give up the connections; the next use makes new ones."""
        with self._lock:
            self._close()

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """One transaction: kept at the end of the block, taken back when that raises.

        What the session returned can be used after the block; changing it then changes nothing.
        """
        with self._used() as engine, Session(engine, expire_on_commit=False) as session:
            yield session
            session.commit()
        if self._inode != _inode(self._file):
            raise _moved("removed or replaced during this request")

    def connection(self) -> Connection:
        """A connection of its own, without transactions; whoever asked for it closes it."""
        with self._used() as engine:
            connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            connection.detach()
            return connection

    def check(self) -> None:
        """Return if something could be written now; waits at most 0.3 s for a lock."""
        with self._used() as engine, engine.connect() as connection:
            migrations.check(connection)
            if connection.dialect.name == "sqlite":
                _check_sqlite(connection)
            else:
                tables = ", ".join(Base.metadata.tables)
                connection.execute(text(f"SET LOCAL lock_timeout = {CHECK_PATIENCE}"))
                connection.execute(text(f"LOCK TABLE {tables} IN ROW EXCLUSIVE MODE"))

    def downgrade(self) -> str:
        """Make the tables those of the release before, and return their revision.

        Nobody else may use the database: it would bring them up to date again.
        """
        try:
            url = make_url(self._url)
            if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
                raise StateUnavailable(
                    "There is no database where PORTAL_DATABASE_URL names one: expected a file."
                )
            return migrations.downgrade(self._opened())
        except (SQLAlchemyError, ValueError) as error:
            raise unavailable(error) from error
        finally:
            self.close()

    @property
    def is_postgres(self) -> bool:
        """Whether it is kept by a Postgres, where several portals can reach it."""
        return self._opened().dialect.name == "postgresql"

    @contextmanager
    def _used(self) -> Iterator[Engine]:
        """The engine; what it raises is told in our words, and the database opened anew after it.

        A Postgres that is away, or restarts, is connected to again without that: requests that
        wait for it must not wait for each other.
        """
        engine = self._opened()
        try:
            yield engine
        except (SQLAlchemyError, StateUnavailable) as error:
            away = isinstance(error, OperationalError) and engine.dialect.name == "postgresql"
            if not away:
                with self._lock:
                    if self._engine is engine:
                        self._close()
            if isinstance(error, StateUnavailable):
                raise
            raise unavailable(error) from error

    def _opened(self) -> Engine:
        with self._lock:
            if self._engine is not None and self._inode != _inode(self._file):
                self._close()
            if self._engine is None:
                try:
                    self._engine = self._open()
                except (SQLAlchemyError, OSError, ValueError) as error:  # a port that is none
                    raise unavailable(error) from error
            return self._engine

    def _open(self) -> Engine:
        url = make_url(self._url)
        if url.get_backend_name() == "sqlite":
            url = self._find(url)
            engine = create_engine(url)
            event.listen(engine, "connect", _prepare_sqlite)
        else:
            limits = {name: said for name, said in POSTGRES_LIMITS.items() if name not in url.query}
            engine = create_engine(url, pool_pre_ping=True, connect_args=limits)
        try:
            migrations.upgrade(engine)
        except BaseException:
            engine.dispose()
            raise
        self._inode = _inode(self._file)
        self._log_inode = _inode(self._log)
        return engine

    def _find(self, url: URL) -> URL:
        """Where SQLite is to open the file, which it must not make by itself."""
        if not url.database or url.database == ":memory:":
            raise StateUnavailable(
                "PORTAL_DATABASE_URL names a database in memory, which would be forgotten at the "
                "end. Let it name a file: sqlite:////absolute/path/portal.db."
            )
        self._file = Path(url.database).absolute()
        log = self._log = self._file.with_name(f"{self._file.name}-wal")
        if self._inode is None:  # the first time
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.touch()
        elif (found := _inode(self._file)) is None:
            raise _moved("gone: its file was there when the portal started, and is not any more")
        elif (
            found != self._inode
            and self._log_inode is not None
            and _inode(log) == self._log_inode
            and log.stat().st_size > 0  # SQLite would mix it with the new file
        ):
            raise _moved("another one, beside which lies the write-ahead log of the former")
        path = quote(str(self._file))
        return url.set(database=f"file:{path}").update_query_dict({"mode": "rw", "uri": "true"})

    def _close(self) -> None:
        """Give up the connections, leaving no log that would be taken for another file's."""
        engine, self._engine = self._engine, None
        if engine is None:
            return
        if self._inode != _inode(self._file):
            # Where that fails, ``_find`` sees the log.
            with suppress(SQLAlchemyError), engine.connect() as connection:
                connection.exec_driver_sql(f"PRAGMA busy_timeout={CHECK_PATIENCE}")
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        engine.dispose()


def unavailable(error: Exception) -> StateUnavailable:
    """What is said of an error of the database, or of its file.

    Neither the address nor the driver's words: both may hold the password.
    """
    driver = error.orig if isinstance(error, DBAPIError) else None
    code = getattr(driver, "sqlite_errorname", None) or getattr(driver, "sqlstate", None)
    kind = f"{type(error).__name__}, {code}" if code else type(error).__name__
    if code in ("SQLITE_BUSY", "55P03"):
        return StateUnavailable(
            f"The portal's database is locked: another program holds it ({kind}). Nothing was "
            "changed by this request; let that program end and try again."
        )
    return StateUnavailable(
        "The portal's database cannot be used: PORTAL_DATABASE_URL names none that is reachable, "
        f"writable and whole ({kind}). Nothing was changed by this request; correct it and try "
        "again."
    )


def _moved(found: str) -> StateUnavailable:
    return StateUnavailable(
        f"The portal's database is {found}; expected the file that was opened. What was written "
        "last may be lost. Put the file back where PORTAL_DATABASE_URL names it, or end the "
        "portal, remove what is left beside it (-wal, -shm) and start again: a new one is filled "
        "with what is served."
    )


def _inode(path: Path | None) -> tuple[int, int] | None:
    try:
        found = path.stat() if path is not None else None
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if found is not None else None


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.execute(f"PRAGMA busy_timeout={PATIENCE}")
    connection.execute("PRAGMA journal_mode=WAL")  # readers do not wait for the writer
    connection.execute("PRAGMA synchronous=NORMAL")


def _check_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(f"PRAGMA busy_timeout={CHECK_PATIENCE}")
    try:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        connection.exec_driver_sql("ROLLBACK")
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout={PATIENCE}")

"""The database of the portal: its tables' base, its types, and how it is opened."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    DateTime,
    Dialect,
    Engine,
    create_engine,
    event,
    inspect,
    select,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Session, mapped_column
from sqlalchemy.types import TypeDecorator

from portal.errors import StateUnavailable

SCHEMA = 1  # of the tables below; another number in the database is refused


BUSY_TIMEOUT = 5000  # ms that SQLite waits for another writer


class UtcDateTime(TypeDecorator[datetime]):
    """Aware datetimes in UTC, also where the database keeps no time zone (SQLite)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        """To UTC."""
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        """Say that it is UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(MappedAsDataclass, DeclarativeBase):
    """The tables."""


class SchemaVersion(Base):
    """One row: which tables these are."""

    __tablename__ = "schema_version"

    number: Mapped[int] = mapped_column(primary_key=True)


@contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        # Neither the address nor the driver's words: both may hold the password.
        raise StateUnavailable(
            "The portal's database cannot be used: PORTAL_DATABASE_URL names none that is "
            f"reachable, writable and whole ({type(error).__name__}). Nothing was changed by "
            "this request; correct it and try again."
        ) from error


def _open(url: str) -> Engine:
    with _unavailable():
        engine = create_engine(url, pool_pre_ping=True)
        if engine.dialect.name == "sqlite":
            if (file := make_url(url).database) and file != ":memory:":
                Path(file).parent.mkdir(parents=True, exist_ok=True)
            event.listen(engine, "connect", _prepare_sqlite)
        known = inspect(engine).has_table(SchemaVersion.__tablename__)
        if not known:
            Base.metadata.create_all(engine)
        with Session(engine) as session:
            found = list(session.scalars(select(SchemaVersion.number)))
            if not known and not found:
                session.add(SchemaVersion(SCHEMA))
                session.commit()
                found = [SCHEMA]
    if found != [SCHEMA]:
        engine.dispose()
        raise StateUnavailable(
            f"The portal's database has tables of schema {found}, this release reads schema "
            f"{SCHEMA}. Run the release that made them, or let PORTAL_DATABASE_URL name another "
            "database: it is filled with what is served."
        )
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")  # readers do not wait for the writer
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT}")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()

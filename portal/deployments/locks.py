"""At most one change of a model at a time, in whatever portal on this database."""

import logging
import threading
import time
from contextlib import ExitStack
from datetime import UTC, datetime

from sqlalchemy import Connection, String, delete, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Mapped, mapped_column

from portal.errors import ModelBusy, StateUnavailable
from portal.storage.database import Base, Database, unavailable
from portal.storage.heartbeat import Heartbeat, Owned, cutoff

log = logging.getLogger("portal.deployments.locks")

# Seconds for which a change waits: the reconciler, and a change that was seen to end, still hold
# a lock for a moment.
LOCK_PATIENCE = 0.5
LOCK_POLL = 0.02  # seconds between two tries


class Lock(Owned, Base):
    """A locked model, and who holds it."""

    __tablename__ = "locks"

    model: Mapped[str] = mapped_column(String(64), primary_key=True)


class ModelLocks:
    """One lock for each model. Safe to use from many threads.

    A lock ends with its process. SQLite, which no other machine reaches, has nothing but the row:
    it may be taken from an owner whose heart has not beaten for ``DEAD_AFTER`` seconds. Postgres
    ends its own lock with the connection; there the row only says who has it.
    """

    def __init__(self, database: Database, heartbeat: Heartbeat) -> None:
        self._database = database
        self._heartbeat = heartbeat
        self._lock = threading.Lock()
        self._taken: dict[str, Connection | None] = {}  # by this process; None on SQLite

    def take(self, model: str, patience: float = LOCK_PATIENCE) -> None:
        """Lock a model, waiting ``patience`` seconds for that; any thread may free it again.

        Raises:
            ModelBusy: it is locked.
            StateUnavailable: the database cannot be used.
        """
        deadline = time.monotonic() + patience
        while not self._try(model):
            if time.monotonic() >= deadline:
                raise ModelBusy(
                    f"Another change of {model} is under way. Wait until it has ended; /models "
                    "shows it."
                )
            time.sleep(LOCK_POLL)

    def free(self, model: str) -> None:
        """Unlock a model that this process has locked."""
        mine = delete(Lock).where(Lock.model == model, Lock.owner == self._heartbeat.owner)
        try:
            with self._database.transaction() as session:
                session.execute(mine)
        except StateUnavailable as error:  # this process may take it again, others later
            log.warning("the lock of %s stays in the database: %s", model, error)
        self._forget(model)

    def _try(self, model: str) -> bool:
        with self._lock:
            if model in self._taken:
                return False
            self._taken[model] = None
        self._heartbeat.begin()
        with ExitStack() as undo:
            undo.callback(self._forget, model)
            if got := self._lock_server(model) and self._write(model):
                undo.pop_all()
            return got

    def _lock_server(self, model: str) -> bool:
        """The lock of Postgres itself; SQLite has none."""
        if not self._database.is_postgres:
            return True
        connection = self._database.connection()
        with self._lock:
            self._taken[model] = connection
        key = func.hashtextextended(f"portal.locks.{model}", 0)
        try:
            return bool(connection.scalar(select(func.pg_try_advisory_lock(key))))
        except SQLAlchemyError as error:
            raise unavailable(error) from error

    def _write(self, model: str) -> bool:
        """The row, in one statement which, on SQLite, changes nothing while another owner lives."""
        row = {"owner": self._heartbeat.owner, "heartbeat": datetime.now(UTC)}
        on_server = self._database.is_postgres
        insert = postgresql.insert if on_server else sqlite.insert
        mine_or_dead = or_(Lock.owner == self._heartbeat.owner, Lock.heartbeat < cutoff())
        taking = (
            insert(Lock)
            .values(model=model, **row)
            .on_conflict_do_update(
                index_elements=[Lock.model], set_=row, where=None if on_server else mine_or_dead
            )
        )
        with self._database.transaction() as session:
            return session.scalar(taking.returning(Lock.model)) is not None

    def _forget(self, model: str) -> None:
        with self._lock:
            connection = self._taken.pop(model)
        if connection is not None:
            connection.close()
        self._heartbeat.end()

"""The attempts to log in, in the database: a restart forgets none, and two portals share them."""

import time
from datetime import UTC, datetime, timedelta

from limits.storage import Storage
from sqlalchemy import Integer, String, delete
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Mapped, mapped_column

from portal.errors import StateUnavailable
from portal.storage.database import Base, Database, UtcDateTime


class LoginAttempts(Base):
    """How often something was tried in the window of time that ``expires`` ends, UTC.

    ``key`` is the limiter's: it holds the address that was tried from.
    """

    __tablename__ = "login_attempts"

    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    count: Mapped[int] = mapped_column(Integer)
    expires: Mapped[datetime] = mapped_column(UtcDateTime)


class AttemptStorage(Storage):
    """Where flask-limiter counts; what is over is deleted with the next attempt.

    Every method raises StateUnavailable when the database cannot be used: nobody may guess
    without being counted.
    """

    STORAGE_SCHEME = ["portal-database"]  # noqa: RUF012  (as the library declares it)
    base_exceptions = StateUnavailable

    def __init__(self, _uri: str, database: Database) -> None:
        super().__init__()
        self._database = database

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Count an attempt; the first one begins a window of ``expiry`` seconds."""
        now = datetime.now(UTC)
        insert = postgresql.insert if self._database.is_postgres else sqlite.insert
        counted = (
            insert(LoginAttempts)
            .values(key=key, count=amount, expires=now + timedelta(seconds=expiry))
            .on_conflict_do_update(
                index_elements=[LoginAttempts.key], set_={"count": LoginAttempts.count + amount}
            )
            .returning(LoginAttempts.count)
        )
        with self._database.transaction() as session:
            session.execute(delete(LoginAttempts).where(LoginAttempts.expires <= now))
            return session.scalars(counted).one()

    def get(self, key: str) -> int:
        """How many attempts there were in this window."""
        return found.count if (found := self._find(key)) else 0

    def get_expiry(self, key: str) -> float:
        """When the window ends, in seconds since the epoch."""
        return found.expires.timestamp() if (found := self._find(key)) else time.time()

    def clear(self, key: str) -> None:
        """Forget the attempts with one key."""
        with self._database.transaction() as session:
            session.execute(delete(LoginAttempts).where(LoginAttempts.key == key))

    def reset(self) -> int | None:
        """Forget all attempts."""
        with self._database.transaction() as session:
            session.execute(delete(LoginAttempts))
        return None

    def check(self) -> bool:
        """Whether the database can be used."""
        try:
            self._database.check()
        except StateUnavailable:
            return False
        return True

    def _find(self, key: str) -> LoginAttempts | None:
        with self._database.transaction() as session:
            found = session.get(LoginAttempts, key)
            return found if found is not None and found.expires > datetime.now(UTC) else None

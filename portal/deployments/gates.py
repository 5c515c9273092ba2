"""Which versions are closed or on trial, told to every portal on this database."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Literal

from sqlalchemy import String, delete, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from handlers.contract.names import ModelVersion
from portal.errors import StateUnavailable
from portal.serving.version_gate import VersionGate
from portal.storage.database import Base, Database
from portal.storage.heartbeat import Heartbeat, Owned, cutoff

log = logging.getLogger("portal.deployments.gates")


class Gate(Owned, Base):
    """A version that takes no tiles (it is being retired), or is on trial (being deployed)."""

    __tablename__ = "gates"

    model: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[str] = mapped_column(String(64), primary_key=True)
    state: Mapped[str] = mapped_column(String(16))


class Gates:
    """Changes the ``VersionGate`` of this portal, and tells the others. Safe for many threads.

    A gate belongs to a change, hence to whoever holds the lock of the model. Every method raises
    StateUnavailable when the database cannot be used.
    """

    def __init__(self, database: Database, heartbeat: Heartbeat, gate: VersionGate) -> None:
        self._database = database
        self._heartbeat = heartbeat
        self._gate = gate

    @contextmanager
    def closed(self, target: ModelVersion) -> Iterator[None]:
        """Surround the retirement of a version: it takes no new tile."""
        with self._told(target, "closed"):
            self._gate.close(target)
            try:
                yield
            finally:
                self._gate.open(target)

    @contextmanager
    def trial(self, target: ModelVersion) -> Iterator[None]:
        """Surround the deploy of a version: until it has passed, it is nobody's loss."""
        with self._told(target, "on trial"), self._gate.trial(target):
            yield

    def follow(self) -> None:
        """Make the gate of this portal what the others, as far as they live, have told."""
        theirs = select(Gate).where(Gate.owner != self._heartbeat.owner, Gate.heartbeat >= cutoff())
        told: dict[str, set[ModelVersion]] = {"closed": set(), "on trial": set()}
        with self._database.transaction() as session:
            for row in session.scalars(theirs):
                told[row.state].add(ModelVersion(row.model, row.version))
        self._gate.follow(closed=told["closed"], on_trial=told["on trial"])

    @contextmanager
    def _told(self, target: ModelVersion, state: Literal["closed", "on trial"]) -> Iterator[None]:
        owned = (self._heartbeat.owner, datetime.now(UTC))
        with self._database.transaction() as session:
            session.merge(Gate(*owned, target.model, target.version, state))
        try:
            yield
        finally:
            try:
                with self._database.transaction() as session:
                    forget(session, target)
            except StateUnavailable as error:  # with the heart of this process it loses its say
                log.warning("the gate of %s stays in the database: %s", target, error)


def forget(session: Session, target: ModelVersion) -> None:
    """Delete what was told of a version whose change has ended."""
    session.execute(delete(Gate).where(Gate.model == target.model, Gate.version == target.version))

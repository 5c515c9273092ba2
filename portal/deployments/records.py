"""What the operators decided, in a database: what is to be served, and who did what when."""

from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import BigInteger, String, Update, select, update
from sqlalchemy.orm import Mapped, mapped_column, validates

from handlers.contract.names import ModelVersion
from portal.storage.database import Base, Database, UtcDateTime

# "deploying": a deploy is under way. "served": to be served, whatever the model server forgets.
# "withdrawn": known, not to be served: uploaded only, refused by its deploy, or retired.
Wanted = Literal["deploying", "served", "withdrawn"]
AuditOutcome = Literal["done", "failed", "refused"]


class Deployment(Base):
    """One version of a model.

    Attributes:
        archive: its file name in the model store.
        sha256, size_bytes: of the archive; "" and 0 where the file was not at hand.
        workers: how many it is to have while it is awake.
        deployed_by: an operator, or "model server" for what was running already.
        deployed_at: UTC.
    """

    __tablename__ = "deployments"

    model: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[str] = mapped_column(String(64), primary_key=True)
    wanted: Mapped[str] = mapped_column(String(16))
    archive: Mapped[str] = mapped_column(String(200))
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    workers: Mapped[int]
    deployed_by: Mapped[str] = mapped_column(String(64))
    deployed_at: Mapped[datetime] = mapped_column(UtcDateTime)

    @property
    def name(self) -> ModelVersion:
        """Which version it is."""
        return ModelVersion(self.model, self.version)


class Default(Base):
    """The default version of a model, and the one before it: where a roll back goes."""

    __tablename__ = "defaults"

    model: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[str] = mapped_column(String(64))
    previous: Mapped[str | None] = mapped_column(String(64))

    @property
    def name(self) -> ModelVersion:
        """Which version it is."""
        return ModelVersion(self.model, self.version)


class Audit(Base):
    """One action: who did what when (UTC; now, for a new one), and how it ended."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True, init=False)
    at: Mapped[datetime] = mapped_column(
        UtcDateTime, insert_default=lambda: datetime.now(UTC), init=False
    )
    actor: Mapped[str] = mapped_column(String(64))
    action: Mapped[str] = mapped_column(String(32))
    model: Mapped[str | None] = mapped_column(String(64))
    version: Mapped[str | None] = mapped_column(String(64))
    outcome: Mapped[AuditOutcome] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(String(2000))

    @validates("reason")
    def _fit(self, _column: str, reason: str) -> str:
        return reason[:2000]


class Records:
    """What is in the database, in the words of deployments.

    Safe to use from many threads. Every method raises StateUnavailable when the database cannot
    be used. What is returned are copies: changing them changes nothing.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def deployments(self) -> list[Deployment]:
        """Every known version, by model and version."""
        with self._database.transaction() as session:
            order = select(Deployment).order_by(Deployment.model, Deployment.version)
            return list(session.scalars(order))

    def deployment(self, target: ModelVersion) -> Deployment | None:
        """One known version."""
        with self._database.transaction() as session:
            return session.get(Deployment, (target.model, target.version))

    def save(self, deployment: Deployment) -> None:
        """Add or replace a version."""
        with self._database.transaction() as session:
            session.merge(deployment)

    def change(self, target: ModelVersion, **columns: Any) -> None:
        """Change columns of a version, if it is known."""
        with self._database.transaction() as session:
            session.execute(_change(target).values(**columns))

    def defaults(self) -> dict[str, Default]:
        """The default of each model."""
        with self._database.transaction() as session:
            return {row.model: row for row in session.scalars(select(Default))}

    def serve(self, deployment: Deployment, *, default: bool, former: str | None = None) -> None:
        """Note a version as served and, with ``default``, as its model's default one.

        The former default becomes the previous one: where a roll back goes. ``former`` is the one
        that answered so far, in case none was noted.
        """
        with self._database.transaction() as session:
            session.merge(deployment)
            found = session.get(Default, deployment.model) if default else None
            if default and found is None:
                session.add(Default(deployment.model, deployment.version, former))
            elif found is not None and found.version != deployment.version:
                found.version, found.previous = deployment.version, found.version

    def withdraw(self, target: ModelVersion) -> None:
        """Note that a version is not to be served any more, nor to be rolled back to."""
        with self._database.transaction() as session:
            session.execute(_change(target).values(wanted="withdrawn"))
            default = session.get(Default, target.model)
            if default is not None and default.version == target.version:
                session.delete(default)
            elif default is not None and default.previous == target.version:
                default.previous = None

    def record(self, line: Audit) -> None:
        """Add a line to the audit."""
        with self._database.transaction() as session:
            session.add(line)

    def audit(self, limit: int) -> list[Audit]:
        """The last ``limit`` lines, the newest first."""
        with self._database.transaction() as session:
            return list(session.scalars(select(Audit).order_by(Audit.id.desc()).limit(limit)))


def _change(target: ModelVersion) -> Update:
    known = (Deployment.model == target.model, Deployment.version == target.version)
    return update(Deployment).where(*known)

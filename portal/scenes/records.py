"""The scenes as rows: who sent what, what became of it, and which worker has it.

States: a scene is ``checked`` (nothing is done yet), ``queued``, ``running``, and in the end
``done``, ``failed`` or ``cancelled``. One that runs while its worker's heart does not beat has lost
it: the next worker goes on with it.
"""

import re
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import (
    JSON,
    BigInteger,
    Float,
    Select,
    String,
    Text,
    Update,
    and_,
    case,
    delete,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Mapped, aliased, mapped_column

from portal.errors import Busy, SceneNotReady, UnknownScene
from portal.scenes.terms import Inspection, Options
from portal.storage.database import Base, Database, UtcDateTime
from portal.storage.heartbeat import Owned, cutoff

SceneState = Literal["checked", "queued", "running", "done", "failed", "cancelled"]
Ended = Literal["done", "failed", "cancelled"]

SCENE_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
UNDER_WAY = ("queued", "running")
ENDED = ("done", "failed", "cancelled")
MOST_LOST = 3  # workers that may end with one scene: it is taken for what ended them then
FULL_RETRY = 60  # seconds after which a client may ask again whether the queue has a place


class SceneRow(Owned, Base):
    """A scene as it is kept; the owner is the worker that has it, "" while none has.

    Attributes:
        owner_key: who sent it.
        name: of the file, as it is shown.
        bytes, scene_sha256: of the file.
        version: None until it is known which one is the default.
        options, inspection: of ``asked`` and ``seen``, as JSON.
        reason: one sentence about the end; of a scene that runs: why it waits, or empty.
        started: of the last worker.
        done, total: windows.
        seconds_left: until it is done, as the worker expects it.
        lost: how many workers ended while they had it.
        archive_sha256: of the archive that answered; "" if it is not known.
        areas: class_name, hectares (None: the scene has no place on Earth), share, color.
    """

    __tablename__ = "scenes"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    owner_key: Mapped[str] = mapped_column(String(80), index=True)
    name: Mapped[str] = mapped_column(String(200))
    bytes: Mapped[int] = mapped_column(BigInteger)
    scene_sha256: Mapped[str] = mapped_column(String(64))
    model: Mapped[str] = mapped_column(String(64))
    version: Mapped[str | None] = mapped_column(String(64))
    options: Mapped[dict[str, Any]] = mapped_column(JSON)
    inspection: Mapped[dict[str, Any]] = mapped_column(JSON)
    created: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    state: Mapped[SceneState] = mapped_column(String(16), index=True, default="checked")
    reason: Mapped[str] = mapped_column(Text, default="")
    started: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)
    finished: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)
    done: Mapped[int] = mapped_column(default=0)
    total: Mapped[int] = mapped_column(default=0)
    seconds_left: Mapped[float | None] = mapped_column(Float, default=None)
    lost: Mapped[int] = mapped_column(default=0)
    archive_sha256: Mapped[str] = mapped_column(String(64), default="")
    areas: Mapped[list[dict[str, Any]] | None] = mapped_column(
        JSON(none_as_null=True), default=None
    )

    @property
    def asked(self) -> Options:
        """What is asked of it."""
        return Options.from_dict(self.options)

    @property
    def seen(self) -> Inspection:
        """What was found in it."""
        return Inspection.from_dict(self.inspection)

    @property
    def last_use(self) -> datetime:
        """When somebody did something with it for the last time."""
        return self.finished or self.created


def new_scene(  # a row of many columns, of which few are told at first
    number: str,
    owner_key: str,
    name: str,
    size: int,
    sha256: str,
    options: Options,
    inspection: Inspection,
) -> SceneRow:
    """A scene that was looked at, and of which nothing is done yet."""
    now = datetime.now(UTC)
    return SceneRow(
        owner="",
        heartbeat=now,
        id=number,
        owner_key=owner_key,
        name=name,
        bytes=size,
        scene_sha256=sha256,
        model=options.model,
        version=options.version,
        options=options.to_dict(),
        inspection=inspection.to_dict(),
        created=now,
        total=inspection.windows,
    )


class SceneRecords:
    """What is in the database, in the words of scenes.

    Safe to use from many threads, and by many portals and workers. Every method raises
    StateUnavailable when the database cannot be used. Rows are copies: changing them changes
    nothing.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, scene: str) -> SceneRow:
        """One scene; UnknownScene if there is none."""
        with self._database.transaction() as session:
            found = session.get(SceneRow, scene) if SCENE_ID.fullmatch(scene) else None
        if found is None:
            raise unknown()
        return found

    def of(self, owner_keys: set[str] | None) -> list[SceneRow]:
        """The scenes of somebody, or all of them, the newest first."""
        order = select(SceneRow).order_by(SceneRow.created.desc(), SceneRow.id)
        if owner_keys is not None:
            order = order.where(SceneRow.owner_key.in_(owner_keys))
        with self._database.transaction() as session:
            return list(session.scalars(order))

    def add(self, row: SceneRow) -> None:
        """Keep a new scene."""
        with self._database.transaction() as session:
            session.add(row)

    def remove(self, scene: str) -> bool:
        """Forget a scene, unless it is under way; whether it is gone by that."""
        gone = delete(SceneRow).where(SceneRow.id == scene, SceneRow.state.not_in(UNDER_WAY))
        with self._database.transaction() as session:
            return session.scalar(gone.returning(SceneRow.id)) is not None

    def queued(self) -> int:
        """How many scenes wait."""
        with self._database.transaction() as session:
            return session.scalar(_waiting()) or 0

    def enqueue(self, scene: str, options: Options, inspection: Inspection, most: int) -> None:
        """Let a scene that is checked wait for a worker.

        Raises:
            SceneNotReady: it is not checked, or not any more.
            Busy: ``most`` scenes wait already.
        """
        room = _waiting().scalar_subquery() < most
        waiting = (
            update(SceneRow)
            .where(SceneRow.id == scene, SceneRow.state == "checked", room)
            .values(state="queued", **_asked(options, inspection))
        )
        with self._database.transaction() as session:
            if session.scalar(waiting.returning(SceneRow.id)) is not None:
                return
            found = session.get(SceneRow, scene)
        if found is None:
            raise unknown()
        if found.state == "checked":
            raise full(most)
        raise SceneNotReady(
            f"This scene is {found.state}; only one that is checked can be started. Map its file "
            f"once more with POST /api/scenes/{scene}/again."
        )

    def change(self, scene: str, options: Options, inspection: Inspection) -> None:
        """Let a scene that is checked be asked for, and seen, in another way."""
        checked = update(SceneRow).where(SceneRow.id == scene, SceneRow.state == "checked")
        with self._database.transaction() as session:
            session.execute(checked.values(**_asked(options, inspection)))

    def cancel(self, scene: str) -> bool:
        """End a scene that is queued or runs; its worker sees that. Whether there was need."""
        ending = update(SceneRow).where(SceneRow.id == scene, SceneRow.state.in_(UNDER_WAY))
        with self._database.transaction() as session:
            ended = ending.values(**_end("cancelled", "It was cancelled."))
            return session.scalar(ended.returning(SceneRow.id)) is not None

    def claim(self, owner: str) -> SceneRow | None:
        """Take the oldest scene that waits, or whose worker has died; None: there is none.

        Of two workers that claim at once one gets it. A scene that ended ``MOST_LOST`` workers has
        failed.
        """
        dead = and_(SceneRow.state == "running", SceneRow.heartbeat < cutoff())
        told = (
            f"It ended {MOST_LOST} workers, whose log says more. Map a smaller scene, or one with "
            "less in it."
        )
        failing = update(SceneRow).where(dead, SceneRow.lost >= MOST_LOST - 1)
        other = aliased(SceneRow)
        oldest = (
            select(other.id)
            .where(
                or_(
                    other.state == "queued",
                    and_(other.state == "running", other.heartbeat < cutoff()),
                )
            )
            .order_by(other.created, other.id)
            .limit(1)
            .with_for_update(skip_locked=True)  # of Postgres; SQLite has one writer at a time
            .scalar_subquery()
        )
        now = datetime.now(UTC)
        taking = (
            update(SceneRow)
            .where(SceneRow.id == oldest, or_(SceneRow.state == "queued", dead))
            .values(
                owner=owner,
                heartbeat=now,
                started=now,
                seconds_left=None,
                lost=case((SceneRow.state == "running", SceneRow.lost + 1), else_=SceneRow.lost),
                state="running",
            )
        )
        with self._database.transaction() as session:
            if session.scalar(_any_to_do()) is None:
                return None
        with self._database.transaction() as session:
            session.execute(failing.values(**_end("failed", told), lost=MOST_LOST))
            return session.scalar(taking.returning(SceneRow))

    def note(self, row: SceneRow, **columns: Any) -> bool:
        """Write down how far its worker is; whether it still has the scene."""
        kept = _held(row).values(heartbeat=datetime.now(UTC), **columns)
        with self._database.transaction() as session:
            return session.scalar(kept.returning(SceneRow.id)) is not None

    def settle(self, row: SceneRow, state: Ended, reason: str, **columns: Any) -> bool:
        """Say how a scene ended for its worker; whether it still had it."""
        ended = _held(row).values(**_end(state, reason) | columns)
        with self._database.transaction() as session:
            return session.scalar(ended.returning(SceneRow.id)) is not None

    def release(self, row: SceneRow) -> bool:
        """Give a scene back to the queue, where it is the next one; whether its worker had it."""
        freed = _held(row).values(state="queued", owner="", seconds_left=None, reason="")
        with self._database.transaction() as session:
            return session.scalar(freed.returning(SceneRow.id)) is not None

    def pace(self, model: str) -> float | None:
        """Seconds for a window, as of the last scene that this model mapped, if there is one."""
        last = (
            select(SceneRow)
            .where(SceneRow.model == model, SceneRow.state == "done")
            .where(SceneRow.total > 0, SceneRow.lost == 0)
            .order_by(SceneRow.finished.desc())
            .limit(1)
        )
        with self._database.transaction() as session:
            row = session.scalar(last)
        if row is None or row.started is None or row.finished is None:
            return None
        return (row.finished - row.started).total_seconds() / row.total


def unknown() -> UnknownScene:
    """The error for a scene that is not there, or not for whoever asks."""
    return UnknownScene(
        "There is no such scene for you: it was deleted, it made room for others, or it was sent "
        "by another browser. GET /api/scenes lists yours."
    )


def full(most: int) -> Busy:
    """The error for a queue without a place."""
    busy = Busy(f"{most} scenes wait, and no more are taken. Try again in {FULL_RETRY} seconds.")
    busy.retry_after = FULL_RETRY
    return busy


def _waiting() -> Select[int]:
    other = aliased(SceneRow)
    return select(func.count()).select_from(other).where(other.state == "queued")


def _any_to_do() -> Select[str]:
    """A look that writes nothing: SQLite's one writer is not to be asked four times a second."""
    dead = and_(SceneRow.state == "running", SceneRow.heartbeat < cutoff())
    return select(SceneRow.id).where(or_(SceneRow.state == "queued", dead)).limit(1)


def _held(row: SceneRow) -> Update:
    """The update of a scene as long as its worker has it."""
    return update(SceneRow).where(
        SceneRow.id == row.id, SceneRow.owner == row.owner, SceneRow.state == "running"
    )


def _asked(options: Options, inspection: Inspection) -> dict[str, Any]:
    return {
        "model": options.model,
        "version": options.version,
        "options": options.to_dict(),
        "inspection": inspection.to_dict(),
        "total": inspection.windows,
    }


def _end(state: Ended, reason: str) -> dict[str, Any]:
    return {
        "state": state,
        "reason": reason,
        "finished": datetime.now(UTC),
        "seconds_left": None,
        "owner": "",
    }

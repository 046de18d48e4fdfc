"""The journal: every memory write, in the transaction of the step that learned it, read back in commit order."""

from __future__ import annotations

import json
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from psycopg2.extensions import TRANSACTION_STATUS_IDLE
from psycopg2.extras import execute_values

from relight.adapters.postgres import translating
from relight.errors import IntegrityError, PermanentError, TransientError, UnavailableError
from relight.memory.vectors import is_text
from relight.tasks.sql import statements
from relight.vault.manifest import StatePosition

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from relight.adapters.postgres import Connection, Cursor
    from relight.clock import Clock

SQL = statements("relight.memory.sql", "journal.sql")
_LOCK_POLL_S = 0.05


class Op(StrEnum):
    """What an entry does to its point."""

    UPSERT = "upsert"
    DELETE = "delete"


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """The last entry that was applied: everything up to it is, in (xid, seq) order, and nothing after it.

    It is always the position of an entry, never a bare horizon. A transaction id that was handed out without writing
    anything is not in the log, so a crash or a promotion hands it out again, and a reader who had gone past it would
    miss the entry that it then writes.
    """

    xid: int = 0
    seq: int = 0

    def __str__(self) -> str:
        return f"{self.xid}:{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """The inverse of `str`; raises IntegrityError."""
        xid, colon, seq = text.partition(":")
        if not (colon and xid.isdecimal() and seq.isdecimal()):
            raise IntegrityError(f"{text!r} is not a journal position", hint="expected `xid:seq`")
        return cls(int(xid), int(seq))


START = Position()


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """A memory write that is about to be journalled. `vector` comes from `vectors.pack`; a delete has none."""

    collection: str
    op: Op
    id: str
    vector: bytes | None = None
    payload: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if (self.op is Op.UPSERT) != (self.vector is not None):
            raise PermanentError(f"{self.op} of {self.id!r} {'lacks' if self.vector is None else 'has'} a vector")
        if not is_text(self.id):
            raise PermanentError(f"{self.id!r} cannot be a point's id", hint="use text without NUL, and not empty")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A memory write as the journal holds it."""

    position: Position
    at: datetime
    epoch: int
    collection: str
    op: Op
    id: str
    vector: bytes | None
    payload: dict[str, Any] | None
    task_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """All entries after `since` up to `until`; `complete` when nothing more could be read at that moment."""

    since: Position
    until: Position
    entries: tuple[Entry, ...]
    complete: bool


def append(cursor: Cursor, writes: Sequence[Write], *, epoch: int, task_id: str | None = None) -> None:
    """Journal `writes` in the caller's transaction, in their order. They are acknowledged when that commit is.

    Raises StaleEpochError when a newer epoch exists.
    """
    rows = [
        (
            epoch,
            write.collection,
            write.op,
            write.id,
            write.vector,
            None if write.payload is None else json.dumps(write.payload),
            task_id,
        )
        for write in writes
    ]
    with translating():
        execute_values(cursor, SQL["append"], rows)


def read(connection: Connection, collection: str, since: Position, *, limit: int = 500) -> Batch:
    """The next entries of `collection` in (xid, seq) order, as far as no unfinished transaction can still come before.

    Works on a hot standby. `until` is `since` when there are none.
    """
    arguments = {"collection": collection, "xid": str(since.xid), "seq": since.seq, "limit": limit}
    rows = _fetch(connection, SQL["read"], arguments)
    entries = tuple(_entry(row) for row in rows)
    return Batch(
        since=since,
        until=entries[-1].position if entries else since,
        entries=entries,
        complete=len(entries) < limit,
    )


def pending(connection: Connection, collection: str, since: Position, *, limit: int) -> tuple[Entry, ...]:
    """Everything after `since` that `connection` can see, its own uncommitted writes too, in (xid, seq) order.

    Later calls may return more *before* what this one returned, so it is no basis to move a position.
    """
    arguments = {"collection": collection, "xid": str(since.xid), "seq": since.seq, "limit": limit}
    return tuple(_entry(row) for row in _fetch(connection, SQL["pending"], arguments))


def check_history(connection: Connection, collection: str, position: Position) -> None:
    """Raise unless the journal holds the entry that `position` names.

    A store whose position is unknown here was filled from another history. On a standby it may only be early: that is
    UnavailableError; elsewhere it is IntegrityError.
    """
    if position == START:
        return
    arguments = {"collection": collection, "xid": str(position.xid), "seq": position.seq}
    [(known, in_recovery)] = _fetch(connection, SQL["knows"], arguments)
    if known:
        return
    problem = f"the memory {collection!r} is at {position}, which this journal does not hold"
    if in_recovery:
        raise UnavailableError(problem, hint="the standby has not replayed that far; try again")
    raise IntegrityError(problem, hint="it was filled under another history: hydrate it again with force")


def lag_s(connection: Connection, collection: str, position: Position) -> float:
    """Seconds since the oldest entry after `position` was written; 0 when there is none."""
    arguments = {"collection": collection, "xid": str(position.xid), "seq": position.seq}
    [(seconds,)] = _fetch(connection, SQL["lag"], arguments)
    return float(seconds)


def alive(connection: Connection, collection: str, position: Position) -> int:
    """How many points a memory holds that has every entry of the whole journal up to `position`."""
    arguments = {"collection": collection, "xid": str(position.xid), "seq": position.seq}
    [(points,)] = _fetch(connection, SQL["alive"], arguments)
    return int(points)


class Job(StrEnum):
    """What is done to a collection by one at a time."""

    APPLY = "applier"
    HYDRATE = "hydration"


@contextmanager
def alone(connection: Connection, job: Job, collection: str, *, clock: Clock, within_s: float) -> Iterator[None]:
    """Be the only one at this job among those that read this server; UnavailableError after `within_s`.

    A lock of the session: it works on a hot standby, and ends with the connection of a holder that was killed.
    """
    arguments = {"subject": f"{job} {collection}"}
    until = clock.monotonic() + within_s
    while not _fetch(connection, SQL["try_lock"], arguments)[0][0]:
        if clock.monotonic() >= until:
            raise UnavailableError(
                f"another {job} has been at {collection!r} for {within_s:g} s", hint="wait for it, or end it"
            )
        clock.sleep(_LOCK_POLL_S)
    try:
        yield
    finally:
        # A connection that broke has let the lock go, and the error under way is the one to see.
        if not connection.closed:
            with suppress(TransientError):
                _fetch(connection, SQL["unlock"], arguments)


def state_position(connection: Connection) -> StatePosition:
    """Where the log is: every entry that anybody could read so far is before it."""
    [(lsn, timeline, schema_version)] = _fetch(connection, SQL["state_position"], {})
    return StatePosition(lsn=str(lsn), timeline=int(timeline or 0), schema_version=int(schema_version or 0))


def covers(connection: Connection, lsn: str, timeline: int) -> tuple[bool, bool]:
    """(reached, shared): whether this server's log has come to `lsn`, and whether that place is of its own history."""
    [(reached, shared)] = _fetch(connection, SQL["covers"], {"lsn": lsn, "timeline": timeline})
    return bool(reached), bool(shared)


def _fetch(connection: Connection, statement: str, arguments: dict[str, Any]) -> list[tuple[Any, ...]]:
    with reading(connection) as cursor:
        cursor.execute(statement, arguments)
        return cursor.fetchall()


@contextmanager
def reading(connection: Connection) -> Iterator[Cursor]:
    """A cursor that leaves the caller's transaction as it is, and no transaction behind where there was none."""
    idle = connection.info.transaction_status == TRANSACTION_STATUS_IDLE
    with translating():
        try:
            with connection.cursor() as cursor:
                yield cursor
        finally:
            if idle and not connection.autocommit and not connection.closed:
                connection.rollback()


def _entry(row: tuple[Any, ...]) -> Entry:
    xid, seq, at, epoch, collection, op, id_, vector, payload, task_id = row
    return Entry(
        position=Position(int(xid), seq),
        at=at,
        epoch=epoch,
        collection=collection,
        op=Op(op),
        id=id_,
        vector=None if vector is None else bytes(vector),
        payload=payload,
        task_id=task_id,
    )

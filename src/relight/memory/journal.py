"""The journal: every memory write, in the transaction of the step that learned it, read back in commit order."""

from __future__ import annotations

import json
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from psycopg2.extensions import TRANSACTION_STATUS_IDLE
from psycopg2.extras import execute_values

from relight.adapters.postgres import translating
from relight.errors import IntegrityError, NotFoundError, PermanentError, TransientError, UnavailableError
from relight.memory.vectors import is_text
from relight.tasks.sql import statements
from relight.vault.manifest import StatePosition

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from relight.adapters.postgres import Connection, Cursor
    from relight.clock import Clock

SQL = statements("relight.memory.sql", "journal.sql")
_LOCK_POLL_S = 0.05
# What a reader holds at most of vectors and payloads, as they are stored, but for the largest entry.
BATCH_BYTES = 8 * 1024 * 1024


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


class PrunedError(NotFoundError):
    """The entries that were asked for are not in this database any more, but in the vaults."""


def read(connection: Connection, collection: str, since: Position, *, limit: int = 500) -> Batch:
    """The next entries of `collection` in (xid, seq) order, as far as no unfinished transaction can still come before.

    Works on a hot standby. `until` is `since` when there are none. PrunedError when the journal begins after `since`
    here: nothing is ever passed over. Large entries come fewer at a time.
    """
    arguments = _after(collection, since) | {"limit": limit, "bytes": BATCH_BYTES}
    rows = _fetch(connection, SQL["read"], arguments)
    entries = _page(rows, collection, since)
    found = rows[0][2] or 0
    return Batch(
        since=since,
        until=entries[-1].position if entries else since,
        entries=entries,
        complete=found < limit and found == len(entries),
    )


def pending(connection: Connection, collection: str, since: Position, *, limit: int) -> tuple[Entry, ...]:
    """Everything after `since` that `connection` can see, its own uncommitted writes too, in (xid, seq) order.

    Later calls may return more *before* what this one returned, so it is no basis to move a position. PrunedError as
    from `read`.
    """
    rows = _fetch(connection, SQL["pending"], _after(collection, since) | {"limit": limit})
    return _page(rows, collection, since)


def edge(connection: Connection, collection: str) -> Position:
    """Where the journal begins in this database: it has every entry after that, and none up to it."""
    rows = _fetch(connection, SQL["edge"], {"collection": collection})
    return _position(*rows[0]) if rows else START


def check_history(connection: Connection, collection: str, position: Position) -> None:
    """Raise unless the journal holds the entry that `position` names.

    A store whose position is unknown here was filled from another history. On a standby it may only be early: that is
    UnavailableError; elsewhere it is IntegrityError. PrunedError where only the archive can tell; see `Reader.check`.
    """
    if position == START:
        return
    [(known, in_recovery, *begins)] = _fetch(connection, SQL["knows"], _after(collection, position))
    if known:
        return
    if position < _position(*begins):
        raise _pruned(collection, position, _position(*begins))
    problem = f"the memory {collection!r} is at {position}, which this journal does not hold"
    if in_recovery:
        raise UnavailableError(problem, hint="the standby has not replayed that far; try again")
    raise IntegrityError(problem, hint="it was filled under another history: hydrate it again with force")


def written(connection: Connection, collection: str, position: Position) -> datetime | None:
    """Until when the entry that `position` names was written; None where only the archive can tell."""
    [(at,)] = _fetch(connection, SQL["written"], _after(collection, position))
    return at if isinstance(at, datetime) else None


def lag_s(connection: Connection, collection: str, position: Position) -> float:
    """Seconds since the first entry after `position` was written; 0 when there is none.

    Of a position that the journal here begins after, it counts from the first entry of the segment that it is in.
    """
    [(seconds,)] = _fetch(connection, SQL["lag"], _after(collection, position))
    return max(0.0, float(seconds))


def behind(connection: Connection, collection: str, position: Position) -> int:
    """How many entries are after `position`; of a segment that it is in, all."""
    [(entries,)] = _fetch(connection, SQL["behind"], _after(collection, position))
    return int(entries)


def alive(connection: Connection, collection: str, position: Position) -> int:
    """How many points a memory holds that has every entry of the whole journal up to `position`.

    PrunedError when the journal begins after it here.
    """
    [(points, *begins)] = _fetch(connection, SQL["alive"], _after(collection, position))
    if position < _position(*begins):
        raise _pruned(collection, position, _position(*begins))
    return int(points)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A part of a collection's journal that is in the vaults as one object: all entries after `after` up to `until`.

    `pruned` says that it is nowhere else.
    """

    collection: str
    after: Position
    until: Position
    object: str
    sha256: str
    bytes: int
    entries: int
    first_at: datetime
    last_at: datetime
    archived_at: datetime
    pruned: bool


def segments(connection: Connection, collection: str, since: Position, *, limit: int | None = None) -> list[Segment]:
    """The archived segments that hold entries after `since`, in order."""
    rows = _fetch(connection, SQL["segments"], _after(collection, since) | {"limit": limit})
    return [
        Segment(
            collection=row[0],
            after=_position(row[1], row[2]),
            until=_position(row[3], row[4]),
            object=row[5],
            sha256=row[6],
            bytes=row[7],
            entries=row[8],
            first_at=row[9],
            last_at=row[10],
            archived_at=row[11],
            pruned=bool(row[12]),
        )
        for row in rows
    ]


def archived(connection: Connection, collection: str) -> Position:
    """The end of the last archived segment."""
    rows = _fetch(connection, SQL["archived"], {"collection": collection})
    return _position(*rows[0]) if rows else edge(connection, collection)


def first_of_tasks(
    connection: Connection, collection: str, tasks: Iterable[str]
) -> list[tuple[str, Position, datetime]]:
    """(task, position, time) of the first entry of each of `tasks` that has any in this database."""
    rows = _fetch(connection, SQL["first_of_tasks"], {"collection": collection, "tasks": sorted(tasks)})
    return [(task, _position(xid, seq), at) for task, xid, seq, at in rows]


def known_tasks(connection: Connection, tasks: Iterable[str]) -> set[str]:
    """Those of `tasks` that the ledger has."""
    return {row[0] for row in _fetch(connection, SQL["known_tasks"], {"tasks": sorted(tasks)})}


def as_of(
    connection: Connection, collection: str, ids: Sequence[str], position: Position
) -> tuple[list[Write], list[str]] | None:
    """What these points were at `position`, and those of them that were last written before the journal's edge here.

    The points that there were not are in neither. None when the journal begins after `position` here.
    """
    if not ids:
        return [], []
    rows = _fetch(connection, SQL["as_of"], _after(collection, position) | {"ids": list(ids)})
    if position < _position(*rows[0][:2]):
        return None
    found = [
        Write(collection=collection, op=Op.UPSERT, id=row[2], vector=bytes(row[5]), payload=row[6])
        for row in rows
        if row[4] == Op.UPSERT
    ]
    return found, [row[2] for row in rows if row[4] is None and row[3]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """What there is of a collection's journal: in this database, after `edge`; and archived, in `segments`.

    `alive` is how many points were alive at the edge; the oldest are the times of the first entries, None without any.
    """

    entries: int
    oldest: datetime | None
    edge: Position
    alive: int
    segments: int
    archived_bytes: int
    oldest_archived: datetime | None


def holdings(connection: Connection, collection: str) -> Holdings:
    """Count what there is; reads an index of the whole collection."""
    [row] = _fetch(connection, SQL["holdings"], {"collection": collection})
    entries, oldest, count, size, oldest_archived, points, *begins = row
    return Holdings(
        entries=entries,
        oldest=oldest,
        edge=_position(*begins),
        alive=points,
        segments=count,
        archived_bytes=int(size),
        oldest_archived=oldest_archived,
    )


def sizes(connection: Connection) -> tuple[int, int]:
    """(journal, alive): bytes in this database, of all collections, with their indexes."""
    [(journal, points)] = _fetch(connection, SQL["size"], {})
    return int(journal), int(points)


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


def _after(collection: str, position: Position) -> dict[str, Any]:
    return {"collection": collection, "xid": str(position.xid), "seq": position.seq}


def _position(xid: str | None, seq: int | None) -> Position:
    return START if xid is None or seq is None else Position(int(xid), seq)


def _page(rows: list[tuple[Any, ...]], collection: str, since: Position) -> tuple[Entry, ...]:
    """The entries of a `read` or `pending`, whose rows begin with the edge as of the same moment."""
    begins = _position(*rows[0][:2])
    if since < begins:
        raise _pruned(collection, since, begins)
    return tuple(_entry(row[3:]) for row in rows if row[3] is not None)


def _pruned(collection: str, position: Position, begins: Position) -> PrunedError:
    return PrunedError(
        f"the journal of {collection!r} begins after {begins} here, and {position} is before that",
        hint="the vaults have what is missing: bring the memory forward where they can be read, or hydrate it",
    )


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

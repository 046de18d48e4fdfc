"""pgvector as a vector store: one table for each collection, its position in the same transaction as its points."""

from __future__ import annotations

import json
import math
import re
import secrets
import select
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import sql

from relight.adapters import postgres
from relight.errors import ConflictError, IntegrityError, NotFoundError, RelightError
from relight.memory.journal import Op, Position
from relight.memory.parity import CANARIES, K, recall
from relight.memory.store import Collection, CollectionSpec, Distance, Found, Hit, Restored, Taken
from relight.memory.vectors import pack, unpack
from relight.tasks.sql import statements
from relight.vault.manifest import Canary

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from relight.memory.journal import Entry
    from relight.memory.store import Sink, Source
    from relight.vault.manifest import CollectionPart

SQL = statements("relight.memory.sql", "pgvector.sql")
OPERATORS = {Distance.COSINE: "<=>", Distance.EUCLIDEAN: "<->", Distance.DOT: "<#>"}

# How much libpq is given at a time while restoring.
COPY_BYTES = 1024 * 1024

# A table's name has at most 63 bytes, and `__20260419T020000Z_0a1b2c3d` takes 27 of them.
_NAME_BYTES = 36

# What a server says about bytes that are no snapshot, as opposed to being unable to take them.
_MALFORMED = ("08P01", "21", "22", "23", "54", "XX000")


class PgVectorStore:
    """Collections in a PostgreSQL of their own, which is not replicated. See `VectorStore` for what is promised.

    A snapshot's object is the output of `COPY t (id, embedding, payload) TO STDOUT (FORMAT binary)`, of the types text,
    vector and jsonb, so that `COPY` brings it back without Relight.

    A collection's table has a name of its own for each restore, and the row of the catalogue says which one is live.
    Switching is one update of that row: readers who are under way keep the table and the position that they began with.
    """

    kind = "pgvector"
    extension = "pgcopy"

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._idle: list[postgres.Connection] = []
        self._lock = threading.Lock()
        self._set_up = False

    def close(self) -> None:
        """Let the connections go."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def ensure(self, spec: CollectionSpec) -> None:
        """Make the collection unless it exists; IntegrityError when it exists with another spec."""
        self._ensure_catalogue()
        with self._transaction() as cursor:
            found = _describe(cursor, spec.name)
            if found is None:
                _lock(cursor, spec.name)
                found = _describe(cursor, spec.name)
            if found is None:
                table = _new_table(spec.name, "made")
                _create_table(cursor, table, spec.dimension)
                cursor.execute(_compose("add_key", table=table))
                cursor.execute(SQL["register"], _spec_arguments(spec) | {"table": table})
            elif found.spec != spec:
                raise IntegrityError(
                    f"the collection {spec.name!r} is {_say(found.spec)}, not {_say(spec)}",
                    hint="use the settings it was made with, or another collection",
                )

    def describe(self, name: str) -> Collection | None:
        """The collection, or None."""
        if not self._has_catalogue():
            return None
        with self._transaction(snapshot=True) as cursor:
            found = _describe(cursor, name)
            return None if found is None else found.collection(_count(cursor, found.table))

    def apply(self, name: str, entries: Sequence[Entry], *, since: Position, until: Position) -> Position:
        """Apply the entries after `since` up to `until`; see `VectorStore.apply`."""
        # The last entry of a point decides, so that nothing depends on the order of the two statements below.
        last = {entry.id: entry for entry in entries}
        upserts = [entry for entry in last.values() if entry.op is Op.UPSERT]
        deletes = [entry.id for entry in last.values() if entry.op is Op.DELETE]
        with self._collection(name, lock=True) as (cursor, found):
            if found.position >= until:
                return found.position
            if found.position < since:
                raise ConflictError(
                    f"the collection {name!r} is at {found.position}, and the entries begin after {since}",
                    hint="read the journal from where the collection is",
                )
            _check_dimension(upserts, found.spec)
            if upserts:
                cursor.execute(
                    _compose("upsert", table=found.table),
                    {
                        "ids": [entry.id for entry in upserts],
                        "vectors": [_literal(unpack(entry.vector or b"")) for entry in upserts],
                        "payloads": [None if entry.payload is None else json.dumps(entry.payload) for entry in upserts],
                    },
                )
            if deletes:
                cursor.execute(_compose("delete", table=found.table), {"ids": deletes})
            cursor.execute(SQL["move"], {"name": name, "xid": until.xid, "seq": until.seq})
        return until

    def search(self, name: str, vector: Sequence[float], k: int) -> Found:
        """The `k` nearest points, by exact comparison with each."""
        literal = _literal(unpack(pack(vector)))
        try:
            return self._search_once(name, literal, k)
        except NotFoundError:
            # A restore drops the empty table that it replaces, and may do so after we learned its name.
            return self._search_once(name, literal, k)

    def position(self, name: str) -> Position:
        """The last journal entry in the collection."""
        with self._collection(name) as (_, found):
            return found.position

    def snapshot(self, name: str, sink: Sink) -> Taken:
        """Stream the collection as of one moment; see `VectorStore.snapshot`."""
        with self._collection(name, snapshot=True) as (cursor, found):
            cursor.execute(SQL["version"])
            server, extension = _one(cursor)
            taken = Taken(
                spec=found.spec,
                server_version=f"PostgreSQL {server}, pgvector {extension}",
                points=_count(cursor, found.table),
                position=found.position,
                canaries=_take_canaries(cursor, found.table, found.spec.distance),
            )
            cursor.copy_expert(_compose("copy_out", table=found.table), sink)
        return taken

    def restore(
        self, spec: CollectionSpec, source: Source, part: CollectionPart, *, point: str, floor: float, replace: bool
    ) -> Restored:
        """Load, verify and switch in one transaction; see `VectorStore.restore`."""
        self._ensure_catalogue()
        table = _new_table(spec.name, point)
        with self._transaction() as cursor:
            # A second restore waits here for the first and then meets what it made.
            _lock(cursor, spec.name)
            _refuse_unless_empty(cursor, spec.name, replace=replace, lock=False)
            _create_table(cursor, table, spec.dimension)
            _copy_in(cursor, table, source)
            points = _count(cursor, table)
            if points != part.points:
                raise IntegrityError(
                    f"{part.object} brought {points} points, and the manifest says {part.points}",
                    hint="the point is damaged: use another",
                )
            score = _measure_recall(cursor, table, spec.distance, part.canaries)
            if score < floor:
                raise IntegrityError(
                    f"the recall of {part.object} is {score:.3f}, below the floor of {floor:g}",
                    hint="the point does not answer as it did when it was taken: use another",
                )
            cursor.execute(_compose("add_key", table=table))
            kept = _switch(cursor, spec, table, Position.parse(part.position), point=point, replace=replace)
        return Restored(points=points, recall=score, kept=kept)

    def kept(self, name: str) -> list[str]:
        """The names of the former tables of `name`, newest first."""
        if not self._has_catalogue():
            return []
        with self._transaction() as cursor:
            cursor.execute(SQL["list_kept"], {"name": name})
            return [row[0] for row in cursor.fetchall()]

    def drop_kept(self, name: str, kept: str) -> None:
        """Drop a former table; NotFoundError when there is none of that name."""
        self._ensure_catalogue()
        with self._transaction() as cursor:
            cursor.execute(SQL["forget_kept"], {"name": name, "table": kept})
            if cursor.rowcount != 1:
                raise NotFoundError(f"{name!r} has no former table {kept!r}", hint="see the list of those kept")
            cursor.execute(_compose("drop", table=kept))

    def _search_once(self, name: str, literal: str, k: int) -> Found:
        with self._collection(name, snapshot=True) as (cursor, found):
            hits = _search(cursor, found.table, found.spec.distance, literal, k)
            return Found(hits=hits, position=found.position)

    @contextmanager
    def _collection(
        self, name: str, *, lock: bool = False, snapshot: bool = False
    ) -> Iterator[tuple[postgres.Cursor, _Found]]:
        if self._has_catalogue():
            with self._transaction(snapshot=snapshot) as cursor:
                found = _describe(cursor, name, lock=lock)
                if found is not None:
                    yield cursor, found
                    return
        raise NotFoundError(f"there is no collection {name!r}", hint="hydrate it, or start the agent once")

    @contextmanager
    def _transaction(self, *, snapshot: bool = False) -> Iterator[postgres.Cursor]:
        """Commit on leaving. After an error the connection is closed, which is the rollback: a broken COPY leaves it
        unusable. With `snapshot` everything inside sees one moment, and nothing can be written."""
        with postgres.translating():
            connection = self._take()
            try:
                if snapshot:
                    connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
                else:
                    connection.set_session(isolation_level="READ COMMITTED", readonly=False)
                with connection.cursor() as cursor:
                    yield cursor
                connection.commit()
            except BaseException:
                self._set_up = False  # the server may have come back without its volume
                connection.close()
                raise
            with self._lock:
                self._idle.append(connection)

    def _take(self) -> postgres.Connection:
        with self._lock:
            while self._idle:
                connection = self._idle.pop()
                # A server has nothing to say to an idle connection, unless it ended it.
                if not select.select([connection], [], [], 0)[0]:
                    return connection
                connection.close()
        return postgres.connect(self._dsn, application_name="relight-memory")

    def _has_catalogue(self) -> bool:
        if not self._set_up:
            with self._transaction() as cursor:
                cursor.execute(SQL["is_set_up"])
                self._set_up = bool(_one(cursor)[0])
        return self._set_up

    def _ensure_catalogue(self) -> None:
        if not self._has_catalogue():
            with self._transaction() as cursor:
                # `if not exists` alone fails when two sessions create the same thing at once.
                _lock(cursor, "")
                cursor.execute(SQL["set_up"])


class _Found:
    """A row of the catalogue."""

    __slots__ = ("position", "restored_from", "spec", "table")

    def __init__(self, name: str, row: tuple[Any, ...]) -> None:
        table, dimension, distance, model, xid, seq, restored_from = row
        self.table: str = table
        self.spec = CollectionSpec(name=name, dimension=dimension, distance=Distance(distance), embedding_model=model)
        self.position = Position(xid, seq)
        self.restored_from: str | None = restored_from

    def collection(self, points: int) -> Collection:
        return Collection(spec=self.spec, points=points, position=self.position, restored_from=self.restored_from)


def _describe(cursor: postgres.Cursor, name: str, *, lock: bool = False) -> _Found | None:
    cursor.execute(SQL["describe_for_update" if lock else "describe"], {"name": name})
    row = cursor.fetchone()
    return None if row is None else _Found(name, row)


def _lock(cursor: postgres.Cursor, subject: str) -> None:
    cursor.execute(SQL["lock"], {"subject": subject})


def _create_table(cursor: postgres.Cursor, table: str, dimension: int) -> None:
    cursor.execute(_compose("create_table", table=table, dimension=dimension))


def _refuse_unless_empty(cursor: postgres.Cursor, name: str, *, replace: bool, lock: bool) -> _Found | None:
    found = _describe(cursor, name, lock=lock)
    if found is not None and not replace:
        points = _count(cursor, found.table)
        if not found.collection(points).is_empty:
            raise ConflictError(
                f"the collection {name!r} already holds {points} points, at {found.position}",
                hint="use force to restore over it; what it holds is kept",
            )
    return found


def _copy_in(cursor: postgres.Cursor, table: str, source: Source) -> None:
    """psycopg2 turns an error of `read` into a cancelled statement and drops it, so it is carried around."""
    carrier = _Carrier(source)
    try:
        cursor.copy_expert(_compose("copy_in", table=table), carrier, COPY_BYTES)  # type: ignore[arg-type]
    except psycopg2.Error as exc:
        if carrier.error is not None:
            raise carrier.error from exc
        if (exc.pgcode or "").startswith(_MALFORMED):
            raise IntegrityError(
                f"the snapshot is not what COPY expects: {exc.diag.message_primary}",
                hint="the point is damaged: use another",
            ) from exc
        raise


class _Carrier:
    def __init__(self, source: Source) -> None:
        self._source = source
        self.error: RelightError | None = None

    def read(self, size: int) -> bytes:
        try:
            return self._source.read(size)
        except RelightError as exc:
            self.error = exc
            raise


def _switch(
    cursor: postgres.Cursor, spec: CollectionSpec, table: str, position: Position, *, point: str, replace: bool
) -> str | None:
    # Only now are appliers held up, and what one of them did during the load counts.
    found = _refuse_unless_empty(cursor, spec.name, replace=replace, lock=True)
    kept = None
    if found is not None and _count(cursor, found.table):
        kept = found.table
        cursor.execute(SQL["keep"], {"table": kept, "name": spec.name})
    elif found is not None:
        cursor.execute(_compose("drop", table=found.table))
    arguments = {"table": table, "xid": position.xid, "seq": position.seq, "point": point}
    cursor.execute(SQL["switch"], _spec_arguments(spec) | arguments)
    return kept


def _take_canaries(cursor: postgres.Cursor, table: str, distance: Distance) -> tuple[Canary, ...]:
    cursor.execute(_compose("pick_canaries", table=table), {"canaries": CANARIES})
    return tuple(
        Canary(vector=pack(json.loads(text)), ids=_nearest_ids(cursor, table, distance, text))
        for (text,) in cursor.fetchall()
    )


def _measure_recall(cursor: postgres.Cursor, table: str, distance: Distance, canaries: Sequence[Canary]) -> float:
    return recall(
        (canary.ids, _nearest_ids(cursor, table, distance, _literal(unpack(canary.vector)))) for canary in canaries
    )


def _nearest_ids(cursor: postgres.Cursor, table: str, distance: Distance, literal: str) -> tuple[str, ...]:
    return tuple(hit.id for hit in _search(cursor, table, distance, literal, K))


def _search(cursor: postgres.Cursor, table: str, distance: Distance, literal: str, k: int) -> tuple[Hit, ...]:
    cursor.execute(_compose("search", table=table, operator=distance), {"vector": literal, "k": k})
    return tuple(Hit(id=row[0], distance=_number(row[1]), payload=row[2]) for row in cursor.fetchall())


def _number(distance: float) -> float:
    """A zero vector has no angle: it is farther than everything, as PostgreSQL sorts it."""
    return math.inf if math.isnan(distance) else float(distance)


def _count(cursor: postgres.Cursor, table: str) -> int:
    cursor.execute(_compose("count", table=table))
    return int(_one(cursor)[0])


def _one(cursor: postgres.Cursor) -> tuple[Any, ...]:
    row = cursor.fetchone()
    if row is None:
        raise IntegrityError("postgres gave no row where there is always one")
    return row


def _check_dimension(upserts: Sequence[Entry], spec: CollectionSpec) -> None:
    for entry in upserts:
        dimension = len(entry.vector or b"") // 4
        if dimension != spec.dimension:
            raise IntegrityError(
                f"the entry {entry.position} has dimension {dimension}, and {spec.name!r} has {spec.dimension}",
                hint="the journal and the collection are of different embedding models",
            )


def _compose(name: str, *, table: str, dimension: int = 0, operator: Distance | None = None) -> Any:
    return sql.SQL(SQL[name]).format(
        table=sql.Identifier(table),
        dimension=sql.Literal(dimension),
        operator=sql.SQL(OPERATORS[operator] if operator else ""),
    )


def _new_table(collection: str, origin: str) -> str:
    """A name not used before that says which collection it is of and which point it came from.

    Of the collection's name only the beginning is in it, and only its letters and digits; the catalogue has the whole.
    """
    start = re.sub(r"\W", "_", collection).encode()[:_NAME_BYTES].decode(errors="ignore")
    return f"{start}__{origin}_{secrets.token_hex(4)}"


def _spec_arguments(spec: CollectionSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "dimension": spec.dimension,
        "distance": spec.distance.value,
        "model": spec.embedding_model,
    }


def _say(spec: CollectionSpec) -> str:
    return f"{spec.dimension} x {spec.distance} of {spec.embedding_model!r}"


def _literal(vector: Sequence[float]) -> str:
    # Nine significant digits bring every 32-bit float back exactly.
    return "[" + ",".join([f"{value:.9g}" for value in vector]) + "]"

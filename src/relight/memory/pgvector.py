"""pgvector as a vector store: one table for each collection, its position in the same transaction as its points."""

from __future__ import annotations

import json
import math
import re
import secrets
import select
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import sql

from relight.adapters import postgres
from relight.errors import ConfigError, IntegrityError, NotFoundError, RelightError, UnavailableError
from relight.memory.checks import check_count, check_dimension, check_empty, check_recall, check_since
from relight.memory.journal import Op, Position
from relight.memory.parity import CANARIES, K, recall
from relight.memory.store import (
    Collection,
    CollectionSpec,
    Distance,
    Found,
    Hit,
    HnswIndex,
    IndexState,
    Restored,
    StoredPoint,
    Taken,
)
from relight.memory.vectors import pack, unpack
from relight.tasks.sql import statements
from relight.vault.manifest import Canary

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from relight.memory.journal import Entry
    from relight.memory.store import SnapshotSink, SnapshotSource, Source

SQL = statements("relight.memory.sql", "pgvector.sql")
OPERATORS = {Distance.COSINE: "<=>", Distance.EUCLIDEAN: "<->", Distance.DOT: "<#>"}
OPERATOR_CLASSES = {
    Distance.COSINE: "vector_cosine_ops",
    Distance.EUCLIDEAN: "vector_l2_ops",
    Distance.DOT: "vector_ip_ops",
}

# How much libpq is given at a time while restoring.
COPY_BYTES = 1024 * 1024

# Beyond this pgvector has no HNSW of the type `vector`.
HNSW_DIMENSIONS = 2000

# The first pgvector whose index scan goes on when what it found so far was deleted.
OLDEST = (0, 8)

# The limits of hnsw.ef_search, and below the first its answers are poor.
EF_SEARCH = (40, 1000)

# The row sizes above which PostgreSQL moves the largest values of a row out of line: as it comes, and at most.
_TOAST_TARGETS = (2032, 8160)

# A table's name has at most 63 bytes, and `__20260419T020000Z_0a1b2c3d` takes 27 of them.
_NAME_BYTES = 36

# What a server says about bytes that are no snapshot, as opposed to being unable to take them.
_MALFORMED = ("08P01", "21", "22", "23", "54")

_VERSION = re.compile(r"PostgreSQL (\d+)\S*, pgvector (\d+)\.(\d+)")


class PgVectorStore:
    """Collections in a PostgreSQL of their own, which is not replicated. See `VectorStore` for what is promised.

    A snapshot's object is the output of `COPY t (id, embedding, payload) TO STDOUT (FORMAT binary)`, of the types text,
    vector and jsonb, so that `COPY` brings it back without Relight. Such bytes are read by the same PostgreSQL and
    pgvector and by newer ones; patch levels do not count.

    A collection's table has a name of its own for each restore, and the row of the catalogue says which one is live.
    Switching is one update of that row: readers who are under way keep the table and the position that they began with.
    """

    kind = "pgvector"
    extension = "pgcopy"
    transactional = True

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

    def version(self) -> str:
        """The versions of PostgreSQL and of the extension; ConfigError when the server has no pgvector."""
        with self._transaction() as cursor:
            return _version(cursor)

    def ensure(self, spec: CollectionSpec) -> None:
        """Make the collection with its index, or take note of the index that it is to have from now on.

        IntegrityError when it exists with another spec, ConfigError for an index that cannot be.
        """
        _check_index(spec)
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
                if spec.index is not None:
                    cursor.execute(_create_index(table, spec.distance, spec.index))
                cursor.execute(SQL["register"], _spec_arguments(spec) | {"table": table})
            elif found.spec != spec:
                raise IntegrityError(
                    f"the collection {spec.name!r} is {found.spec}, not {spec}",
                    hint="use the settings it was made with, or another collection",
                )
            elif found.spec.index != spec.index:
                cursor.execute(SQL["ask_for_index"], _spec_arguments(spec))

    def describe(self, name: str) -> Collection | None:
        """The collection, or None."""
        if not self._has_catalogue():
            return None
        with self._transaction(snapshot=True) as cursor:
            found = _describe(cursor, name)
            return None if found is None else found.collection(_count(cursor, found.table), _index_state(cursor, found))

    def apply(self, name: str, entries: Sequence[Entry], *, since: Position, until: Position) -> Position:
        """Apply the entries after `since` up to `until`; see `VectorStore.apply`."""
        # The last entry of a point decides, so that nothing depends on the order of the two statements below.
        last = {entry.id: entry for entry in entries}
        upserts = [entry for entry in last.values() if entry.op is Op.UPSERT]
        deletes = [entry.id for entry in last.values() if entry.op is Op.DELETE]
        with self._collection(name, lock=True) as (cursor, found):
            if found.position >= until:
                return found.position
            check_since(name, found.position, since)
            check_dimension(upserts, found.spec)
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
        """The `k` nearest points, by the index where it is ready, else by exact comparison with each."""
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

    def fetch(self, name: str, ids: Sequence[str]) -> list[StoredPoint]:
        """Those of the points that there are; see `VectorStore.fetch`."""
        with self._collection(name, snapshot=True) as (cursor, found):
            cursor.execute(_compose("fetch", table=found.table), {"ids": list(ids)})
            return [
                StoredPoint(id=id_, vector=pack(json.loads(text)), payload=payload)
                for id_, text, payload in cursor.fetchall()
            ]

    def snapshot(self, name: str, sink: SnapshotSink) -> Taken:
        """Stream the collection as of one moment; see `VectorStore.snapshot`.

        A second session of the same moment counts and answers the canaries meanwhile, so that the stream need not wait.
        """
        with self._collection(name, snapshot=True) as (cursor, found), ThreadPoolExecutor(1) as executor:
            cursor.execute(SQL["unhurried"])
            cursor.execute(SQL["export"])
            exported = _one(cursor)[0]
            beside = _Beside(self, found, exported)
            future = executor.submit(beside.run)
            try:
                with sink.piece() as stream:
                    cursor.copy_expert(_compose("copy_out", table=found.table), stream)
                points, canaries = future.result() or _answers(cursor, found)
            except BaseException:
                beside.cancel(future)
                raise
            return Taken(
                spec=found.spec,
                server_version=_version(cursor),
                points=points,
                drift=0,
                position=found.position,
                canaries=canaries,
                configuration=_configuration(cursor, found),
            )

    def restore(
        self, spec: CollectionSpec, source: SnapshotSource, *, point: str, floor: float, replace: bool
    ) -> Restored:
        """Load, verify and switch in one transaction; see `VectorStore.restore`.

        The new table is made and noted in one before it, so that whatever happens somebody can drop it.
        """
        part = source.part
        _check_index(spec)
        _check_version(self.version(), part.server_version)
        if len(part.pieces) != 1:
            raise IntegrityError(
                f"the snapshot of {part.name!r} has {len(part.pieces)} pieces, and PostgreSQL makes one",
                hint="the point is damaged: use another",
            )
        self._ensure_catalogue()
        table = _new_table(spec.name, point)
        try:
            with self._transaction() as cursor, _room():
                _begin_loading(cursor, spec, table, replace=replace)
                with source.open(part.pieces[0]) as stream:
                    _load(cursor, table, stream)
                points = _count(cursor, table)
                check_count(part.name, points, points=part.points, drift=part.drift)
                score = _measure_recall(cursor, table, spec.distance, part.canaries)
                check_recall(part.name, score, floor)
                cursor.execute(SQL["end_loading"], {"table": table})
                kept = _switch(cursor, spec, table, Position.parse(part.position), point=point, replace=replace)
        except BaseException:
            with suppress(RelightError):  # a server that is away forgets nothing: the next restore drops it
                self._drop_unless_live(table)
            raise
        return Restored(points=points, recall=score, kept=kept)

    def _drop_unless_live(self, table: str) -> None:
        """A commit that failed may have been done; then it is no longer noted as loading."""
        with self._transaction() as cursor:
            cursor.execute(SQL["end_loading"], {"table": table})
            if cursor.rowcount == 1:
                cursor.execute(_compose("drop", table=table))

    def build_index(self, name: str) -> IndexState:
        """Build the index that the spec asks for, and drop any other; see `VectorStore.build_index`.

        CREATE INDEX CONCURRENTLY runs on the server to its end, even when the one who asked for it is killed meanwhile.
        """
        with self._collection(name) as (cursor, found):
            state = _index_state(cursor, found)
            if state is IndexState.BUILDING or not _has_work(cursor, found):
                return state
            points = _count(cursor, found.table)
        with postgres.translating():
            connection = postgres.connect(self._dsn, autocommit=True, application_name="relight-index")
            try:
                with connection.cursor() as cursor, _room():
                    cursor.execute(SQL["begin_building"], {"table": found.table})
                    if _one(cursor)[0]:
                        _build(cursor, found, points)
            finally:
                connection.close()
        with self._collection(name) as (cursor, found):
            return _index_state(cursor, found)

    def score(self, name: str, canaries: Sequence[Canary]) -> float:
        """The recall of `canaries` now, by exact search."""
        with self._collection(name, snapshot=True) as (cursor, found):
            return _measure_recall(cursor, found.table, found.spec.distance, canaries)

    def kept(self, name: str) -> list[str]:
        """The names of the former tables of `name`, newest first."""
        if not self._has_catalogue():
            return []
        with self._transaction() as cursor:
            return _list_kept(cursor, name)

    def drop_kept(self, name: str, kept: str) -> None:
        """Drop a former table; NotFoundError when there is none of that name."""
        self._ensure_catalogue()
        with self._transaction() as cursor:
            cursor.execute(SQL["forget_kept"], {"name": name, "table": kept})
            if cursor.rowcount != 1:
                raise NotFoundError(f"{name!r} has no former table {kept!r}", hint="see the list of those kept")
            cursor.execute(_compose("drop", table=kept))

    def drop(self, name: str) -> None:
        """Drop the collection and its former tables, if there are any."""
        if not self._has_catalogue():
            return
        with self._transaction() as cursor:
            _lock(cursor, name)
            _drop_loading(cursor, name)
            found = _describe(cursor, name, lock=True)
            for table in [*_list_kept(cursor, name), *([found.table] if found else [])]:
                cursor.execute(SQL["forget_kept"], {"name": name, "table": table})
                cursor.execute(_compose("drop", table=table))
            cursor.execute(SQL["forget"], {"name": name})

    def adopt(self, spec: CollectionSpec, *, dry_run: bool) -> list[str]:  # noqa: ARG002 - there is nothing to do
        """Nothing can have a collection's name that Relight did not make: the names are in its own catalogue.

        ConfigError when there is no such collection but a table of that name: which of its columns are meant is not
        known.
        """
        with self._transaction() as cursor:
            cursor.execute(SQL["foreign_table"], {"name": spec.name})
            row = cursor.fetchone()
        if row is not None and self.describe(spec.name) is None:
            raise ConfigError(
                f"the table {row[0]} is not one of Relight's, which hold (id text, embedding vector, payload jsonb)",
                hint="write its rows through the memory's journal, which also takes them to the other region",
            )
        return []

    def _search_once(self, name: str, literal: str, k: int) -> Found:
        with self._collection(name, snapshot=True) as (cursor, found):
            hits: tuple[Hit, ...] = ()
            if found.has_index and k <= EF_SEARCH[1]:
                hits = _search_index(cursor, found, literal, k)
            if len(hits) < k:
                # There are no more, or the index could not find them: a scan has limits, and zero vectors no angle.
                hits = _search_exactly(cursor, found.table, found.spec.distance, literal, k)
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
                version = _version(cursor)
                if _parse(version)[1] < OLDEST:
                    raise ConfigError(
                        f"the store is {version}, and Relight needs pgvector {OLDEST[0]}.{OLDEST[1]} or newer",
                        hint="update it: `alter extension vector update`",
                    )
                # `if not exists` alone fails when two sessions create the same thing at once.
                _lock(cursor, "")
                cursor.execute(SQL["set_up"])


class _Beside:
    """What a snapshot says of its moment, worked out in a session of its own while the other streams."""

    def __init__(self, store: PgVectorStore, found: _Found, exported: str) -> None:
        self._store = store
        self._found = found
        self._exported = exported
        self._connection: postgres.Connection | None = None
        self._lock = threading.Lock()
        self._cancelled = False

    def run(self) -> tuple[int, tuple[Canary, ...]] | None:
        """The count and the canaries; None when somebody waits to have the table alone.

        He waits for the stream and this session would wait for him, so the streaming session has to answer in the end.
        """
        with self._store._transaction(snapshot=True) as cursor:
            cursor.execute(SQL["import"], {"snapshot": self._exported})
            cursor.execute(SQL["unhurried"])
            cursor.execute(SQL["impatient"])
            self._connection = cursor.connection
            try:
                return None if self._cancelled else _answers(cursor, self._found)
            except psycopg2.errors.LockNotAvailable:
                cursor.connection.rollback()
                return None
            finally:
                with self._lock:  # the next to use this connection is not to be cancelled
                    self._connection = None

    def cancel(self, running: Future[Any]) -> None:
        """End `run` soon, because nobody waits for its answer."""
        self._cancelled = True
        # Between two of its statements there is nothing to cancel, so once is not enough.
        while not wait([running], timeout=0.05).done:
            with self._lock, suppress(psycopg2.Error):
                if self._connection is not None:
                    self._connection.cancel()


class _Found:
    """A row of the catalogue."""

    __slots__ = ("has_index", "position", "restored_from", "spec", "table")

    def __init__(self, name: str, row: tuple[Any, ...]) -> None:
        table, dimension, distance, model, prefix, hnsw, xid, seq, restored_from, has_index = row
        self.table: str = table
        self.spec = CollectionSpec(
            name=name,
            dimension=dimension,
            distance=Distance(distance),
            embedding_model=model,
            prefix=prefix,
            index=None if hnsw is None else HnswIndex(**hnsw),
        )
        self.position = Position(xid, seq)
        self.restored_from: str | None = restored_from
        self.has_index: bool = has_index

    def collection(self, points: int, index: IndexState) -> Collection:
        return Collection(
            spec=self.spec, points=points, position=self.position, restored_from=self.restored_from, index=index
        )


def _describe(cursor: postgres.Cursor, name: str, *, lock: bool = False) -> _Found | None:
    cursor.execute(SQL["describe"] + (" for update" if lock else ""), {"name": name})
    row = cursor.fetchone()
    return None if row is None else _Found(name, row)


def _lock(cursor: postgres.Cursor, subject: str) -> None:
    cursor.execute(SQL["lock"], {"subject": subject})


def _create_table(cursor: postgres.Cursor, table: str, dimension: int) -> None:
    cursor.execute(
        sql.SQL(SQL["create_table"]).format(
            table=sql.Identifier(table),
            dimension=sql.Literal(dimension),
            toast_target=sql.Literal(toast_target(dimension)),
        )
    )


def _begin_loading(cursor: postgres.Cursor, spec: CollectionSpec, table: str, *, replace: bool) -> None:
    """Make the table and commit it, then begin the transaction that fills it.

    A second restore waits at the lock, which is held from here to the end, and then meets what the first one made.
    """
    cursor.execute(SQL["lock_session"], {"subject": spec.name})
    _refuse_unless_empty(cursor, spec.name, replace=replace, lock=False)
    _drop_loading(cursor, spec.name)
    _create_table(cursor, table, spec.dimension)
    cursor.execute(SQL["begin_loading"], {"table": table, "name": spec.name})
    cursor.connection.commit()
    cursor.execute(SQL["unhurried"])
    _lock(cursor, spec.name)
    cursor.execute(SQL["unlock_session"], {"subject": spec.name})


def _drop_loading(cursor: postgres.Cursor, name: str) -> None:
    """Whoever holds the collection's lock finds only what was left by one who died."""
    cursor.execute(SQL["end_all_loading"], {"name": name})
    for (table,) in cursor.fetchall():
        cursor.execute(_compose("drop", table=table))


def toast_target(dimension: int) -> int:
    """How large a row may be before its vector is kept elsewhere; pure.

    With 768 dimensions vectors in line load 1.4 times and are searched exactly 2.4 times as fast (measured), and only
    so does the planner see what a scan costs. It is not worth it where they would leave a third of each page empty.
    """
    usual, largest = _TOAST_TARGETS
    row = 4 * dimension + 100  # header, id and a small payload
    return largest if largest // row * row > largest * 2 / 3 else usual


def _list_kept(cursor: postgres.Cursor, name: str) -> list[str]:
    cursor.execute(SQL["list_kept"], {"name": name})
    return [row[0] for row in cursor.fetchall()]


def _refuse_unless_empty(cursor: postgres.Cursor, name: str, *, replace: bool, lock: bool) -> _Found | None:
    found = _describe(cursor, name, lock=lock)
    if found is not None and not replace:
        check_empty(name, _count(cursor, found.table), found.position)
    return found


def _load(cursor: postgres.Cursor, table: str, source: Source) -> None:
    """psycopg2 turns an error of `read` into a cancelled statement and drops it, so it is carried around."""
    carrier = _Carrier(source)
    try:
        cursor.copy_expert(_compose("copy_in", table=table), carrier, COPY_BYTES)  # type: ignore[arg-type]
        cursor.execute(_compose("add_key", table=table))
    except psycopg2.Error as exc:
        if carrier.error is not None:
            raise carrier.error from exc
        # An internal error is one of the data only where jsonb's version is read.
        if (exc.pgcode or "").startswith(_MALFORMED) or exc.diag.source_file == "jsonb.c":
            raise IntegrityError(
                f"the snapshot is not what COPY expects: {exc.diag.message_primary}",
                hint="the point is damaged: use another",
            ) from exc
        raise


class _Carrier:
    def __init__(self, source: Source) -> None:
        self._source = source
        self.error: BaseException | None = None

    def read(self, size: int) -> bytes:
        try:
            return self._source.read(size)
        except BaseException as exc:
            self.error = exc
            raise


@contextmanager
def _room() -> Iterator[None]:
    """Say what to do about a disk that is full, which ends PostgreSQL when it is that of its own log.

    md.c is where it makes a table's files longer.
    """
    try:
        yield
    except psycopg2.Error as exc:
        if isinstance(exc, psycopg2.errors.DiskFull) or exc.diag.source_file == "md.c":
            raise UnavailableError(
                f"the vector store has no room: {exc.diag.message_primary}",
                hint="give its disk more room, or drop former data that is kept, and run it again",
            ) from exc
        error = postgres.error_for(exc)
        if exc.pgcode is None and isinstance(error, UnavailableError):
            hint = "see the server's log: it restarted, or ended because its log had no room; then run it again"
            raise UnavailableError(error.problem, hint=hint) from exc
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


def _has_work(cursor: postgres.Cursor, found: _Found) -> bool:
    """Whether the wanted index lacks or another is there."""
    indexes = [wanted for _, _, wanted in _hnsw_indexes(cursor, found)]
    return indexes != ([] if found.spec.index is None else [True])


def _hnsw_indexes(cursor: postgres.Cursor, found: _Found) -> list[tuple[str, bool, bool]]:
    """Their names, whether each is whole, and whether it is the one that the spec asks for."""
    options = None if found.spec.index is None else {f"{k}={v}" for k, v in asdict(found.spec.index).items()}
    cursor.execute(SQL["hnsw_indexes"], {"table": found.table})
    return [(name, valid, valid and set(given or ()) == options) for name, valid, given in cursor.fetchall()]


def _index_state(cursor: postgres.Cursor, found: _Found) -> IndexState:
    if found.spec.index is None:
        return IndexState.NONE
    if found.has_index:
        return IndexState.READY
    cursor.execute(SQL["is_building"], {"table": found.table})
    return IndexState.BUILDING if _one(cursor)[0] else IndexState.LACKING


def _build(cursor: postgres.Cursor, found: _Found, points: int) -> None:
    """For the one session that holds the table's lock."""
    wanted = found.spec.index
    _drop_indexes(cursor, found, broken=True)  # what a killed build left is in the way of writers, so it goes first
    if wanted is not None and not any(there for _, _, there in _hnsw_indexes(cursor, found)):
        cursor.execute(SQL["sizes"])
        memory, workers = plan_build(points, found.spec.dimension, wanted, *_one(cursor))
        create = _create_index(found.table, found.spec.distance, wanted, concurrently=True)
        cursor.execute(SQL["size_build"], {"memory": f"{memory // 1024}kB", "workers": str(workers)})
        try:
            cursor.execute(create)
        except psycopg2.Error as exc:
            # Containers often have little shared memory, which only a build by several processes needs.
            if exc.diag.source_file != "dsm_impl.c":
                raise
            _drop_indexes(cursor, found, broken=True)
            cursor.execute(SQL["size_build"], {"memory": f"{memory // 1024}kB", "workers": "0"})
            cursor.execute(create)
    _drop_indexes(cursor, found, broken=False)


def _drop_indexes(cursor: postgres.Cursor, found: _Found, *, broken: bool) -> None:
    """Those that are broken, or all but the wanted one."""
    for name, valid, wanted in _hnsw_indexes(cursor, found):
        if not (valid if broken else wanted):
            cursor.execute(_compose("drop_index", index=name))


def plan_build(
    points: int,
    dimension: int,
    index: HnswIndex,
    configured: int,
    cache: int,
    cache_is_default: bool,
    workers: int,
    parallel: int,
) -> tuple[int, int]:
    """The bytes of maintenance_work_mem and the number of workers for a build; pure.

    The graph is built fast only while it fits into that memory: a point takes its vector, about 16 bytes for each of
    its 2 m links and 400 bytes more. A parallel build takes all of it at once, so it gets no more than that, and a
    worker for each 32 MiB, without which PostgreSQL starts none: a small graph is sooner built by one process. How much
    a server has cannot be asked; somebody who set effective_cache_size said how much may be cached, of which a quarter
    is taken, and else 512 MiB; never less than what is configured. Half of the parallel workers are left to queries.
    """
    needed = points * (4 * dimension + 16 * 2 * index.m + 400) + 16 * 2**20
    limit = 512 * 2**20 if cache_is_default else cache // 4
    useful = max(needed // (32 * 2**20) - 1, 0)
    return max(configured, min(needed, limit)), min(max(workers, parallel // 2), useful)


def _configuration(cursor: postgres.Cursor, found: _Found) -> dict[str, Any]:
    """What the table is, in PostgreSQL's own words."""
    cursor.execute(SQL["columns"], {"table": found.table})
    columns = [{"name": name, "type": kind, "not_null": not_null} for name, kind, not_null in cursor.fetchall()]
    cursor.execute(SQL["definitions"], {"table": found.table})
    index = found.spec.index
    return {
        "columns": columns,
        "indexes": [row[0] for row in cursor.fetchall()],
        "hnsw": None if index is None else asdict(index),
    }


def _answers(cursor: postgres.Cursor, found: _Found) -> tuple[int, tuple[Canary, ...]]:
    return _count(cursor, found.table), _take_canaries(cursor, found.table, found.spec.distance)


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
    return tuple(hit.id for hit in _search_exactly(cursor, table, distance, literal, K))


def _search_exactly(cursor: postgres.Cursor, table: str, distance: Distance, literal: str, k: int) -> tuple[Hit, ...]:
    cursor.execute(_compose("search", table=table, distance=distance), {"vector": literal, "k": k})
    return _hits(cursor)


def _search_index(cursor: postgres.Cursor, found: _Found, literal: str, k: int) -> tuple[Hit, ...]:
    cursor.execute(
        _compose("search_index", table=found.table, distance=found.spec.distance),
        {"vector": literal, "k": k, "ef_search": max(EF_SEARCH[0], k)},
    )
    return _hits(cursor)


def _hits(cursor: postgres.Cursor) -> tuple[Hit, ...]:
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


def _check_index(spec: CollectionSpec) -> None:
    if spec.index is not None and spec.dimension > HNSW_DIMENSIONS:
        raise ConfigError(
            f"the collection {spec.name!r} has {spec.dimension} dimensions, and pgvector builds HNSW up to "
            f"{HNSW_DIMENSIONS}",
            hint='set `index = "exact"` for it, or use a model of fewer dimensions',
        )


def _version(cursor: postgres.Cursor) -> str:
    cursor.execute(SQL["version"])
    server, extension = _one(cursor)
    if extension is None:
        raise ConfigError("the PostgreSQL of the vector store has no pgvector", hint="install the extension there")
    return f"PostgreSQL {server.split()[0]}, pgvector {extension}"


def _parse(version: str) -> tuple[tuple[int], tuple[int, int]]:
    """What of a version decides whether data can be read."""
    match = _VERSION.match(version)
    if match is None:
        raise IntegrityError(
            f"{version!r} is no version of this store", hint="use the store that the point was taken of"
        )
    postgres_major, major, minor = map(int, match.groups())
    return (postgres_major,), (major, minor)


def _check_version(here: str, taken: str) -> None:
    if any(ours < theirs for ours, theirs in zip(_parse(here), _parse(taken), strict=True)):
        raise IntegrityError(
            f"the store here is {here}, and the snapshot is of {taken}", hint="update the store, then restore"
        )


def _create_index(table: str, distance: Distance, index: HnswIndex, *, concurrently: bool = False) -> Any:
    return sql.SQL(SQL["create_index"]).format(
        concurrently=sql.SQL("concurrently" if concurrently else ""),
        table=sql.Identifier(table),
        operators=sql.SQL(OPERATOR_CLASSES[distance]),
        m=sql.Literal(index.m),
        ef_construction=sql.Literal(index.ef_construction),
    )


def _compose(
    name: str, *, table: str = "", dimension: int = 0, distance: Distance | None = None, index: str = ""
) -> Any:
    return sql.SQL(SQL[name]).format(
        table=sql.Identifier(table),
        dimension=sql.Literal(dimension),
        operator=sql.SQL(OPERATORS[distance] if distance else ""),
        index=sql.Identifier(index),
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
        "prefix": spec.prefix,
        "hnsw": None if spec.index is None else json.dumps(asdict(spec.index)),
    }


def _literal(vector: Sequence[float]) -> str:
    # Nine significant digits bring every 32-bit float back exactly.
    return "[" + ",".join([f"{value:.9g}" for value in vector]) + "]"

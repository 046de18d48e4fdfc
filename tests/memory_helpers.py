"""What several tests of memory need, beside the fixtures."""

from __future__ import annotations

import hashlib
import io
import random
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from botocore.exceptions import ConnectionClosedError

from relight.adapters import postgres
from relight.clock import SystemClock
from relight.errors import ConfigError, IntegrityError, UnavailableError
from relight.memory.api import Memory, Point
from relight.tasks.database import Database
from relight.tasks.migrate import migrate
from relight.vault.manifest import CollectionPart, Piece

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from typing import Any

    from servers import StatePair

    from relight.adapters.postgres import Connection
    from relight.memory.store import Place, Sink, Source, Taken, VectorStore

DIMENSION = 16
EPOCH = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StateDsns:
    """A migrated state database of its own, under epoch 1, as its two servers give it."""

    primary: str
    standby: str


def make_state(pair: StatePair, name: str) -> StateDsns:
    """Make the database, wait until the standby has it."""
    admin = postgres.connect(pair.primary.dsn("postgres"), autocommit=True)
    with admin.cursor() as cursor:
        cursor.execute(f"create database {name}")
    admin.close()
    dsns = StateDsns(primary=pair.primary.dsn(name), standby=pair.standby.dsn(name))
    database = Database(dsns.primary)
    migrate(database)
    with database.transaction() as cursor:
        cursor.execute("insert into relight.epochs (epoch, region, run_id) values (1, 'test', 'test')")
    database.close()
    wait_for_standby(pair)
    return dsns


def wait_for_standby(pair: StatePair) -> None:
    """Return when the standby has replayed everything that the primary has written so far."""
    primary = postgres.connect(pair.primary.dsn("postgres"), autocommit=True)
    standby = postgres.connect(pair.standby.dsn("postgres"), autocommit=True)
    with primary.cursor() as there, standby.cursor() as here:
        there.execute("select pg_current_wal_insert_lsn()::text")
        row = there.fetchone()
        assert row is not None
        until = time.monotonic() + 20
        while True:
            here.execute("select pg_last_wal_replay_lsn() >= %s::pg_lsn", [row[0]])
            answer = here.fetchone()
            if answer is not None and answer[0]:
                break
            assert time.monotonic() < until, "the standby does not follow"
            time.sleep(0.02)
    primary.close()
    standby.close()


def settle(state: Connection) -> None:
    """Return when no transaction that began until now is unfinished: then all that is written can be read.

    The server's own, which gathers statistics, is one at times.
    """
    with state, state.cursor() as cursor:
        cursor.execute("select pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
        [begun] = cursor.fetchone() or (0,)
    until = time.monotonic() + 20
    while True:
        with state, state.cursor() as cursor:
            cursor.execute("select pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
            [oldest] = cursor.fetchone() or (0,)
        if oldest >= begun:
            return
        assert time.monotonic() < until, "a transaction does not end"
        time.sleep(0.01)


def near_more_digits(state: Connection) -> None:
    """Spend transaction ids until three before the next power of ten."""
    with state.cursor() as cursor:
        cursor.execute("select pg_current_xact_id()::text::bigint")
        now = (cursor.fetchone() or (0,))[0]
    state.commit()
    state.autocommit = True
    with state.cursor() as cursor:
        spend = 10 ** len(str(now)) - now - 4
        cursor.execute(
            "do $$ begin for i in 1..%s loop perform pg_current_xact_id(); commit; end loop; end $$", [max(0, spend)]
        )
    state.autocommit = False


def some_points(count: int, *, seed: int = 1, prefix: str = "p") -> list[Point]:
    """Points that differ from one another, the same for the same seed."""
    rng = random.Random(seed)
    return [
        Point(id=f"{prefix}{i}", vector=[rng.uniform(-1, 1) for _ in range(DIMENSION)], payload={"n": i})
        for i in range(count)
    ]


def remember(state: Connection, memory: Memory, points: list[Point]) -> None:
    """Journal `points` in a transaction of their own."""
    with state, state.cursor() as cursor:
        memory.upsert(cursor, points, epoch=EPOCH)


class MemorySink:
    """Keeps a snapshot's pieces in memory; no server can write into it by itself.

    `on_write` is called before each write, for tests that do something meanwhile.
    """

    def __init__(self, on_write: Callable[[], object] = lambda: None) -> None:
        self._on_write = on_write
        self.pieces: dict[str, bytes] = {}

    @contextmanager
    def piece(self, node: str = "") -> Iterator[Sink]:
        """Kept when the block ends well."""
        stream = io.BytesIO()
        yield _Writer(stream, self._on_write)
        assert node not in self.pieces, f"two pieces of the node {node!r}"
        self.pieces[node] = stream.getvalue()

    def place(self, node: str = "") -> Place:
        """There is none."""
        raise ConfigError("no server can write here")

    def take_over(self, place: Place, node: str = "") -> None:
        """There is none."""
        raise ConfigError("no server can write here")

    def source(self, store: VectorStore, taken: Taken) -> MemorySource:
        """The snapshot as a point would give it back."""
        part = taken.part(store.kind, [_piece(node, data) for node, data in self.pieces.items()])
        return MemorySource(part, dict(self.pieces))


class MemorySource:
    """Gives a snapshot's pieces from memory, and says at their end when they are not those of the manifest.

    With `fail_after` the vault goes away after so many bytes of a piece; `on_read` is called before each read.
    `opened` counts how often anything was asked for.
    """

    def __init__(
        self,
        part: CollectionPart,
        pieces: dict[str, bytes],
        *,
        fail_after: int | None = None,
        on_read: Callable[[], object] = lambda: None,
    ) -> None:
        self.part = part
        self.pieces = pieces
        self.opened = 0
        self._fail_after = fail_after
        self._on_read = on_read

    @contextmanager
    def open(self, piece: Piece) -> Iterator[Source]:
        """The piece's bytes."""
        self.opened += 1
        yield _Reader(self.pieces[piece.node], piece, self._fail_after, self._on_read)

    def location(self, piece: Piece) -> str | None:
        """None: there is no server to fetch it from."""
        return None

    def place(self, node: str = "") -> Place:
        """There is none."""
        raise ConfigError("no server can read here")

    def saying(self, **changes: Any) -> MemorySource:
        """The same bytes with another manifest."""
        return MemorySource(replace(self.part, **changes), self.pieces)

    def holding(self, change: Callable[[bytes], bytes], *, sealed: bool) -> MemorySource:
        """Other bytes: with the same manifest or, `sealed`, with one that says that they are right."""
        pieces = {node: change(data) for node, data in self.pieces.items()}
        source = MemorySource(self.part, pieces)
        return source.saying(pieces=tuple(_piece(*item) for item in pieces.items())) if sealed else source

    def failing(self, after: int) -> MemorySource:
        """The same, until the vault goes away."""
        return MemorySource(self.part, self.pieces, fail_after=after)

    def watched(self, on_read: Callable[[], object]) -> MemorySource:
        """The same, with something done before each read."""
        return MemorySource(self.part, self.pieces, on_read=on_read)


class _Writer:
    def __init__(self, stream: io.BytesIO, on_write: Callable[[], object]) -> None:
        self._stream = stream
        self._on_write = on_write

    def write(self, data: bytes) -> int:
        self._on_write()
        return self._stream.write(data)


class _Reader:
    def __init__(self, data: bytes, piece: Piece, fail_after: int | None, on_read: Callable[[], object]) -> None:
        self._data = data
        self._piece = piece
        self._fail_after = fail_after
        self._on_read = on_read
        self._at = 0

    def read(self, size: int) -> bytes:
        self._on_read()
        if self._fail_after is not None:
            size = min(size, self._fail_after - self._at)
            if size <= 0:
                raise UnavailableError("the vault went away")
        data = self._data[self._at : self._at + size]
        self._at += len(data)
        if not data and _piece(self._piece.node, self._data) != self._piece:
            raise IntegrityError(f"{self._piece.object} is not what the manifest says")
        return data


def _piece(node: str, data: bytes) -> Piece:
    return Piece(
        object=f"points/x/{node or 'all'}", bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), node=node
    )


class Ticking(SystemClock):
    """Each look at the wall clock is two seconds later, so that points get ids of their own."""

    def __init__(self) -> None:
        self._offset = timedelta()

    def now(self) -> datetime:
        self._offset += timedelta(seconds=2)
        return super().now() + self._offset

    def shift(self, by: timedelta) -> None:
        """From now on it is that much later."""
        self._offset += by


def breaking(client: Any, at_call: int, *, arrives: bool) -> tuple[Callable[[], int], Callable[[], None]]:
    """Break the connection at that request and at every later one, the first before or after it did its work.

    Returns how many requests were begun so far, and what mends it.
    """
    session = client._endpoint.http_session
    send, calls, lock = session.send, 0, threading.Lock()

    def broken(request: Any) -> Any:
        nonlocal calls
        with lock:
            calls += 1
            call = calls
        if call < at_call:
            return send(request)
        if call == at_call and arrives:
            send(request)
        raise ConnectionClosedError(endpoint_url="test")

    session.send = broken
    return lambda: calls, lambda: setattr(session, "send", send)

"""The journal of memory writes: what a write costs, in time and in bytes, and how that changes as it grows.

One server of its own, with PostgreSQL's default shared buffers and a commit that waits for its disk. A write is a
transaction of one memory, or of a hundred, as an agent makes it: packed, checked, appended under its epoch. The peer
inserts the same values, packed beforehand, into a plain table with a bigint for its key, by turns with ours. The
quickest of the rounds counts. Reading is in pages of 500 below the horizon, beside the same pages of the plain table.

Bytes are those of the table with its index, for a row with a text of 150 characters, beside the vector's own bytes.
Archiving is from the server into a vault on the same machine (SeaweedFS), beside `COPY ... | gzip -1` into a file.

Growth: the journal is filled to each size, and then written to and read from as before, beside the smallest size.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from psycopg2.extras import execute_values

from benchmarks.figure import Figure
from benchmarks.seaweed import BUCKET, REGION, seaweed
from relight.adapters import postgres
from relight.clock import SystemClock
from relight.memory import journal
from relight.memory.api import Memory, Point
from relight.memory.archive import archive_journal
from relight.memory.journal import START
from relight.memory.pgvector import PgVectorStore
from relight.memory.reader import Reader
from relight.memory.segments import Archive
from relight.memory.store import CollectionSpec
from relight.memory.vectors import pack
from relight.tasks.database import Database
from relight.tasks.migrate import migrate
from relight.vault.store import Vault
from relight_drill.postgres import PostgresServer
from relight_drill.processes import ProcessGroup

if TYPE_CHECKING:
    from collections.abc import Callable

    from relight.adapters.postgres import Connection

DIMENSIONS = (256, 768)
ROUNDS = 5
ONE, HUNDRED = 300, 3_000
SIZES = (10_000, 100_000, 500_000, 2_000_000)
PAGES = 20
PAGE = 500
ARCHIVED = 20_000
ALIVE = 100_000
TEXT = "The quick brown fox jumps over the lazy dog, and does so again, because a memory is seldom shorter. "
SETTINGS = {"shared_buffers": "128MB", "max_wal_size": "4GB", "synchronous_commit": "on"}
PLAIN = """
create table plain (seq bigint generated always as identity primary key, at timestamptz not null default now(),
                    epoch bigint not null, collection text not null, op text not null, id text not null, vector bytea,
                    payload jsonb, task_id text)
"""


def run() -> list[Figure]:
    """Time, bytes, archiving and growth."""
    folder = Path(tempfile.mkdtemp(prefix="relight-bench-"))
    folder.chmod(0o711)
    with ProcessGroup() as group:
        group.remove_at_end(folder)
        server = PostgresServer(group, folder / "server", name="bench", database="relight", settings=SETTINGS)
        asyncio.run(server.create())
        with closing(Database(server.dsn())) as database:
            migrate(database)
            with database.transaction() as cursor:
                cursor.execute("insert into relight.epochs (epoch, region, run_id) values (1, 'bench', 'bench')")
                cursor.execute(PLAIN)
            with closing(postgres.connect(server.dsn())) as state:
                bench = _Bench(state, database, server)
                return [*bench.writes(), *bench.bytes(), *bench.archive(folder), *bench.growth()]


class _Bench:
    def __init__(self, state: Connection, database: Database, server: PostgresServer) -> None:
        self._state = state
        self._database = database
        self._server = server
        self._rng = np.random.default_rng(1)
        self._count = 0

    # -- what is written

    def _points(self, count: int, dimension: int) -> list[Point]:
        vectors = self._rng.standard_normal((count, dimension), dtype=np.float32)
        first, self._count = self._count, self._count + count
        return [
            Point(id=f"doc-{first + n:09}", vector=vector.tolist(), payload={"text": f"{first + n} {TEXT[:140]}"})
            for n, vector in enumerate(vectors)
        ]

    def _spec(self, dimension: int) -> CollectionSpec:
        return CollectionSpec(name=f"memory-{dimension}", dimension=dimension, embedding_model="synthetic")

    def _append(self, points: list[Point], memory: Memory, at_once: int) -> float:
        began = time.monotonic()
        for first in range(0, len(points), at_once):
            with self._state, self._state.cursor() as cursor:
                memory.upsert(cursor, points[first : first + at_once], epoch=1, task_id="task-000001")
        return (time.monotonic() - began) / len(points) * 1e6

    def _insert(self, points: list[Point], collection: str, at_once: int) -> float:
        rows = [
            (1, collection, "upsert", point.id, pack(point.vector), json.dumps(point.payload), "task-000001")
            for point in points
        ]
        statement = "insert into plain (epoch, collection, op, id, vector, payload, task_id) values %s"
        began = time.monotonic()
        for first in range(0, len(rows), at_once):
            with self._state, self._state.cursor() as cursor:
                execute_values(cursor, statement, rows[first : first + at_once])
        return (time.monotonic() - began) / len(rows) * 1e6

    def writes(self) -> list[Figure]:
        """Microseconds a memory, and pages a second."""
        figures = []
        for dimension in DIMENSIONS:
            spec = self._spec(dimension)
            memory = Memory(store=PgVectorStore(self._server.dsn()), spec=spec)
            for at_once, count in ((1, ONE), (100, HUNDRED)):
                ours, peer = [], []
                for _ in range(ROUNDS):
                    points = self._points(count, dimension)
                    ours.append(self._append(points, memory, at_once))
                    peer.append(self._insert(points, spec.name, at_once))
                figures.append(
                    Figure(
                        name=f"journal_write_{dimension}_by_{at_once}",
                        unit="us",
                        ours=min(ours),
                        peer=min(peer),
                        peer_name="a bare insert",
                        at_most=1.5 if at_once == 1 else None,
                    )
                )
        spec = self._spec(DIMENSIONS[0])
        rates = [(self._read(spec), self._select(spec)) for _ in range(ROUNDS)]
        figures.append(
            Figure(
                name=f"journal_read_{spec.dimension}",
                unit="entries/s",
                ours=max(rate for rate, _ in rates),
                peer=max(rate for _, rate in rates),
                peer_name="pages of the plain table",
            )
        )
        return figures

    def _read(self, spec: CollectionSpec) -> float:
        return _rate(lambda: sum(1 for _ in Reader(self._state, spec.name).entries(START)))

    def _select(self, spec: CollectionSpec) -> float:
        def pages() -> int:
            seen, last = 0, 0
            while True:
                with self._state, self._state.cursor() as cursor:
                    cursor.execute(
                        "select seq, at, epoch, collection, op, id, vector, payload, task_id from plain"
                        " where seq > %s and collection = %s order by seq limit %s",
                        [last, spec.name, PAGE],
                    )
                    rows = cursor.fetchall()
                if not rows:
                    return seen
                # Both give bytes.
                seen += sum(row[6] is None or bool(bytes(row[6])) for row in rows)
                last = rows[-1][0]

        return _rate(pages)

    # -- bytes

    def bytes(self) -> list[Figure]:
        """Bytes a row, table and index, and a living point at the journal's edge."""
        figures = []
        for dimension in DIMENSIONS:
            self._empty()
            spec = self._spec(dimension)
            memory = Memory(store=PgVectorStore(self._server.dsn()), spec=spec)
            self._append(self._points(HUNDRED, dimension), memory, 100)
            size = journal.sizes(self._state)[0]
            figures.append(
                Figure(
                    name=f"journal_bytes_{dimension}",
                    unit="B",
                    ours=size / HUNDRED,
                    peer=4.0 * dimension,
                    peer_name="the vector",
                )
            )
        self._empty()
        with self._database.transaction() as cursor:
            cursor.execute(
                "insert into relight.journal_alive select 'memory', 'doc-' || lpad(n::text, 9, '0')"
                " from generate_series(1, %s) n",
                [ALIVE],
            )
        figures.append(
            Figure(
                name="journal_alive_bytes",
                unit="B",
                ours=journal.sizes(self._state)[1] / ALIVE,
                peer=13.0,
                peer_name="the id",
            )
        )
        return figures

    def _empty(self) -> None:
        with self._database.transaction() as cursor:
            cursor.execute(
                "truncate relight.journal, relight.journal_segments, relight.journal_edges, relight.journal_alive"
            )

    # -- archiving

    def archive(self, folder: Path) -> list[Figure]:
        """MB/s of vectors and payloads into the vault, beside COPY and gzip; and back."""
        spec = self._spec(DIMENSIONS[0])
        memory = Memory(store=PgVectorStore(self._server.dsn()), spec=spec)
        ours, peer, back, packed = [], [], [], 0
        with seaweed() as server:
            vault = Vault(server.client(), BUCKET, region=REGION)
            for _ in range(3):
                self._empty()
                self._append(self._points(ARCHIVED, spec.dimension), memory, 500)
                megabytes = self._content(spec) / 1e6
                began = time.monotonic()
                with (
                    (folder / "copy.gz").open("wb") as file,
                    gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1) as sink,
                    self._state,
                    self._state.cursor() as cursor,
                ):
                    cursor.copy_expert("copy relight.journal to stdout (format binary)", sink)
                peer.append(megabytes / (time.monotonic() - began))
                began = time.monotonic()
                [done] = archive_journal(
                    database=self._database,
                    state=self._state,
                    own=vault,
                    peer=vault,
                    collections=[spec.name],
                    clock=SystemClock(),
                    forget_after=timedelta(days=14),
                    max_age_s=-1.0,
                )
                ours.append(megabytes / (time.monotonic() - began))
                packed = done.bytes
                archive = Archive(vault)
                began = time.monotonic()
                found = sum(len(archive.read(segment)) for segment in journal.segments(self._state, spec.name, START))
                back.append(found / (time.monotonic() - began))
                if found != ARCHIVED:
                    raise SystemExit(f"bench: {found} entries came back, and {ARCHIVED} were archived")
        live = self._read(spec)
        size = (folder / "copy.gz").stat().st_size
        name = f"journal_archive_{spec.dimension}"
        return [
            Figure(name=name, unit="MB/s", ours=max(ours), peer=max(peer), peer_name="COPY (binary) and gzip -1"),
            Figure(
                name=f"{name}_bytes",
                unit="B",
                ours=packed / ARCHIVED,
                peer=size / ARCHIVED,
                peer_name="COPY (binary) and gzip -1",
            ),
            Figure(name=f"{name}_read", unit="entries/s", ours=max(back), peer=live, peer_name="from the database"),
        ]

    def _content(self, spec: CollectionSpec) -> int:
        with self._state, self._state.cursor() as cursor:
            cursor.execute(
                "select sum(length(vector) + length(payload::text)) from relight.journal where collection = %s",
                [spec.name],
            )
            return int((cursor.fetchone() or (0,))[0])

    # -- growth

    def growth(self) -> list[Figure]:
        """A write of one memory, a page at the end and the lag there, at each size beside the smallest."""
        self._empty()
        spec = replace(self._spec(DIMENSIONS[0]), name="growing")
        memory = Memory(store=PgVectorStore(self._server.dsn()), spec=spec)
        found: dict[int, dict[str, float]] = {}
        filled = 0
        for size in SIZES:
            self._fill(spec, filled, size)
            filled = size
            position = self._behind_the_last(spec, PAGES * PAGE)
            costs = {"write_us": [], "page_ms": [], "lag_ms": []}  # type: dict[str, list[float]]
            for _ in range(ROUNDS):
                costs["write_us"].append(self._append(self._points(ONE, spec.dimension), memory, 1))
                costs["page_ms"].append(_milliseconds(partial(self._pages, spec, position)) / PAGES)
                costs["lag_ms"].append(_milliseconds(partial(journal.lag_s, self._state, spec.name, position)))
            found[size] = {name: min(values) for name, values in costs.items()}
        first = SIZES[0]
        return [
            Figure(
                name=f"journal_{name.rpartition('_')[0]}_at_{size // 1000}k",
                unit=name.rpartition("_")[2],
                ours=found[size][name],
                peer=found[first][name],
                peer_name=f"at {first // 1000}k",
                at_most=1.5 if size == SIZES[-1] and name != "lag_ms" else None,
            )
            for name in ("write_us", "page_ms", "lag_ms")
            for size in SIZES[1:]
        ]

    def _fill(self, spec: CollectionSpec, before: int, size: int) -> None:
        """On the server, in transactions of ten thousand."""
        for first in range(before, size, 10_000):
            with self._database.transaction(within_s=300) as cursor:
                cursor.execute(
                    "insert into relight.journal (epoch, collection, op, id, vector, payload, task_id)"
                    " select 1, %s, 'upsert', 'doc-' || n, decode(repeat(md5(n::text), %s), 'hex'),"
                    " jsonb_build_object('text', n || ' ' || %s), 'task-000001' from generate_series(%s, %s) n",
                    [spec.name, spec.dimension // 4, TEXT[:140], first, min(first + 10_000, size) - 1],
                )
        with closing(postgres.connect(self._server.dsn(), autocommit=True)) as admin, admin.cursor() as cursor:
            cursor.execute("vacuum analyze relight.journal")
            cursor.execute("checkpoint")

    def _behind_the_last(self, spec: CollectionSpec, entries: int) -> journal.Position:
        with self._state, self._state.cursor() as cursor:
            cursor.execute(
                "select xid::text, seq from relight.journal where collection = %s"
                " order by journal.xid desc, seq desc offset %s limit 1",
                [spec.name, min(entries, SIZES[0] - 1)],
            )
            xid, seq = cursor.fetchone() or ("0", 0)
        return journal.Position(int(xid), seq)

    def _pages(self, spec: CollectionSpec, position: journal.Position) -> None:
        for _ in range(PAGES):
            position = journal.read(self._state, spec.name, position, limit=PAGE).until


def _rate(call: Callable[[], int]) -> float:
    began = time.monotonic()
    done = call()
    return done / (time.monotonic() - began)


def _milliseconds(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return (time.monotonic() - began) * 1e3

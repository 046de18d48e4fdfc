"""pgvector under the contract of a vector store, and what is its own."""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
import re
import resource
import secrets
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from memory_helpers import DIMENSION, MemorySink
from vector_store_contract import Once, VectorStoreContract, apply, delete, direction, fill, take, upsert

from relight.adapters import postgres
from relight.errors import ConfigError, NotFoundError, TransientError, UnavailableError
from relight.memory import pgvector
from relight.memory.journal import START, Position
from relight.memory.pgvector import PgVectorStore
from relight.memory.store import HnswIndex, IndexState
from relight.memory.vectors import unpack
from relight_drill.postgres import PostgresServer
from relight_drill.processes import ProcessGroup, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from relight.memory.store import CollectionSpec, VectorStore

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def own_server(server_group: ProcessGroup, server_dir: Path) -> PostgresServer:
    """A server that these tests may restart and starve."""
    server = PostgresServer(server_group, server_dir / "starved", name="starved", database="memory")
    asyncio.run(server.create())
    return server


class TestPgVector(VectorStoreContract):
    """PostgreSQL with pgvector."""

    @pytest.fixture(autouse=True)
    def _server(self, vector_server: PostgresServer) -> None:
        self.dsn = vector_server.dsn()

    @pytest.fixture
    def again(self, store: VectorStore) -> Iterator[VectorStore]:
        again = PgVectorStore(self.dsn)
        yield again
        again.close()

    def newer(self, version: str) -> list[str]:
        """Patch levels do not count."""
        server = re.findall(r"PostgreSQL (\d+)", version)[0]
        major, minor = map(int, re.findall(r"pgvector (\d+)\.(\d+)", version)[0])
        return [
            version.replace(f"PostgreSQL {server}.", f"PostgreSQL {int(server) + 1}."),
            version.replace(f"pgvector {major}.{minor}.", f"pgvector {major}.{minor + 1}."),
        ]

    def leftovers(self, spec: CollectionSpec) -> list[str]:
        connection = postgres.connect(self.dsn, autocommit=True)
        with connection.cursor() as cursor:
            cursor.execute(
                "select tablename from pg_tables where schemaname = 'relight_memory' and tablename like %s"
                " except select table_name from relight.collections except select table_name from relight.kept",
                [f"{spec.name}%"],
            )
            rows = [row[0] for row in cursor.fetchall()]
        connection.close()
        return rows

    def test_the_position_is_cheap(
        self, store: PgVectorStore, spec: CollectionSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """fails when asking how far a collection is reads its points: it is answered while nobody may read them."""
        store.ensure(spec)
        apply(store, spec, upsert(1, "a"))
        connection = postgres.connect(self.dsn)
        with connection.cursor() as cursor:
            cursor.execute("select table_name from relight.collections where name = %s", [spec.name])
            ((table,),) = cursor.fetchall()
            cursor.execute(f'lock table relight_memory."{table}" in access exclusive mode')
            monkeypatch.setenv("PGOPTIONS", "-c lock_timeout=300ms")
            other = PgVectorStore(self.dsn)
            assert other.position(spec.name) == Position(10, 1)
            with pytest.raises(TransientError, match="lock timeout"):
                other.describe(spec.name)
            other.close()
        connection.close()

    def test_a_snapshot_is_restorable_without_relight(self, store: PgVectorStore, spec: CollectionSpec) -> None:
        """`COPY` alone brings the object back into a table of the documented types."""
        store.ensure(spec)
        apply(store, spec, *[upsert(n, f"p{n}") for n in range(1, 20)])
        (data,) = take(store, spec).pieces.values()
        connection = postgres.connect(self.dsn)
        with connection.cursor() as cursor:
            cursor.execute("create temporary table plain (id text, embedding vector, payload jsonb)")
            cursor.copy_expert("copy plain from stdin (format binary)", io.BytesIO(data))
            cursor.execute("select count(*), min(payload->>'seq') from plain")
            assert cursor.fetchone() == (19, "1")
        connection.close()

    def test_count_and_canaries_are_of_the_same_moment_as_the_bytes(
        self, store: PgVectorStore, again: VectorStore, spec: CollectionSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """fails when a write between the count and the stream shows in one of them."""
        store.ensure(spec)
        apply(store, spec, *[upsert(n, f"p{n}") for n in range(1, 30)])
        take_canaries = pgvector._take_canaries

        def interrupted(*arguments: Any) -> Any:
            apply(again, spec, upsert(50, "new"), since=Position(10, 29))
            return take_canaries(*arguments)

        monkeypatch.setattr(pgvector, "_take_canaries", interrupted)
        source = take(store, spec)
        other = replace(spec, name=f"{spec.name}-copy")
        assert (source.part.points, source.part.position) == (29, "10:29")
        self.restore(store, other, source, floor=1.0)
        assert "new" in {hit.id for hit in store.search(spec.name, direction(1), 100).hits}

    def test_a_restore_killed_half_way_runs_again(self, store: PgVectorStore, spec: CollectionSpec) -> None:
        """fails when a restore whose connection died leaves a table behind, or stands in the way of the next one."""
        store.ensure(spec)
        apply(store, spec, *[upsert(n, f"p{n}") for n in range(1, 500)])
        source = take(store, spec)
        admin = postgres.connect(self.dsn, autocommit=True)

        def end_it() -> None:
            with admin.cursor() as cursor:
                cursor.execute(
                    "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
                    " where application_name = 'relight-memory' and state = 'active'"
                )

        with pytest.raises(UnavailableError):
            self.restore(store, spec, source.watched(end_it), replace=True)
        assert self.leftovers(spec) == []
        assert self.restore(store, spec, source, replace=True) == store.kept(spec.name)[0]
        assert len(store.search(spec.name, direction(1), 1000).hits) == 499
        admin.close()

    def test_a_store_that_lost_its_volume_is_set_up_again(
        self, vector_server: PostgresServer, spec: CollectionSpec
    ) -> None:
        """fails when a client that knew the old database cannot use the new and empty one."""
        name = f"volume_{secrets.token_hex(4)}"
        admin = postgres.connect(self.dsn, autocommit=True)
        store = PgVectorStore(vector_server.dsn(name))
        for _ in range(2):
            with admin.cursor() as cursor:
                cursor.execute(f"drop database if exists {name} with (force)")
                cursor.execute(f"create database {name}")
            with contextlib.suppress(NotFoundError):
                assert store.describe(spec.name) is None
            store.ensure(spec)
            apply(store, spec, upsert(1, "a"))
        store.close()
        admin.close()

    def test_a_connection_that_the_server_ended_is_replaced(self, store: PgVectorStore, spec: CollectionSpec) -> None:
        """fails when a restart of the store costs its clients an error for each idle connection."""
        store.ensure(spec)
        admin = postgres.connect(self.dsn, autocommit=True)
        with admin.cursor() as cursor:
            cursor.execute(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = 'relight-memory'"
            )
        admin.close()
        assert store.position(spec.name) == START

    def test_patch_levels_do_not_count(self, store: PgVectorStore, spec: CollectionSpec) -> None:
        """A store that was patched a little later than the other takes its snapshots."""
        fill(store, spec, 3)
        source = take(store, spec)
        version = re.sub(r"(\d+)\.\d+, pgvector (\d+)\.(\d+)\.\d+", r"\1.99, pgvector \2.\3.99", store.version())
        assert version != store.version()
        self.restore(store, spec, source.saying(server_version=version), replace=True)

    def test_an_extension_that_is_too_old_is_refused(
        self, vector_server: PostgresServer, spec: CollectionSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """fails when a store is set up whose index cannot skip what was deleted."""
        monkeypatch.setattr(pgvector, "OLDEST", (99, 0))
        store = PgVectorStore(vector_server.dsn("postgres"))
        with pytest.raises(ConfigError, match=r"needs pgvector 99\.0"):
            store.ensure(spec)
        store.close()

    def test_a_table_of_that_name_is_not_adopted(self, store: PgVectorStore, spec: CollectionSpec) -> None:
        """Its columns are not known, so it is named and left alone."""
        with self.admin() as cursor:
            cursor.execute(f'create table public."{spec.name}" (n int)')
            with pytest.raises(ConfigError, match=f"public.{spec.name}"):
                store.adopt(spec, dry_run=False)
            store.ensure(spec)
            assert store.adopt(spec, dry_run=False) == []
            cursor.execute(f'drop table public."{spec.name}"')

    def test_a_server_that_is_away_is_unavailable(self, store: PgVectorStore, spec: CollectionSpec) -> None:
        """Whatever is asked of it."""
        fill(store, spec, 1)
        source = take(store, spec)
        away = PgVectorStore(f"host=127.0.0.1 port={free_port()} dbname=memory user=nobody")
        for call in (
            away.version,
            lambda: away.ensure(spec),
            lambda: away.describe(spec.name),
            lambda: away.position(spec.name),
            lambda: away.search(spec.name, direction(1), 1),
            lambda: apply(away, spec, upsert(1, "a")),
            lambda: away.snapshot(spec.name, MemorySink()),
            lambda: self.restore(away, spec, source),
            lambda: away.build_index(spec.name),
            lambda: away.score(spec.name, []),
            lambda: away.kept(spec.name),
            lambda: away.drop_kept(spec.name, "x"),
            lambda: away.drop(spec.name),
            lambda: away.adopt(spec, dry_run=True),
        ):
            with pytest.raises(UnavailableError):
                call()

    # The snapshot's two sessions

    def test_the_stream_does_not_wait_for_the_canaries(
        self, store: PgVectorStore, spec: CollectionSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """fails when the first byte comes only after the canaries are answered."""
        fill(store, spec, 30)
        streaming = threading.Event()
        take_canaries = pgvector._take_canaries

        def late(*arguments: Any) -> Any:
            assert streaming.wait(20)
            return take_canaries(*arguments)

        monkeypatch.setattr(pgvector, "_take_canaries", late)
        assert take(store, spec, streaming.set).part.points == 30

    def test_canaries_are_given_up_with_the_stream(
        self, store: PgVectorStore, spec: CollectionSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """fails when the vault's error waits until canaries that nobody needs are answered."""
        fill(store, spec, 30)
        asked = threading.Event()

        def endless(cursor: postgres.Cursor, *_: Any) -> None:
            asked.set()
            cursor.execute("select pg_sleep(600)")

        def broken() -> None:
            assert asked.wait(20)
            raise UnavailableError("the vault went away")

        monkeypatch.setattr(pgvector, "_take_canaries", endless)
        with pytest.raises(UnavailableError, match="the vault went away"):
            take(store, spec, broken)

    # The index

    def test_an_index_of_too_many_dimensions_is_refused(self, store: PgVectorStore, spec: CollectionSpec) -> None:
        """fails when it is found out after the data was moved; searched exactly, the collection is fine."""
        spec = replace(spec, dimension=2001)
        with pytest.raises(ConfigError, match='index = "exact"'):
            store.ensure(spec)
        exact = replace(spec, index=None)
        store.ensure(exact)
        apply(store, exact, upsert(1, "a", [0.5] * 2001))
        source = take(store, exact)
        with pytest.raises(ConfigError, match='index = "exact"'):
            self.restore(store, spec, source, replace=True)
        assert source.opened == 0
        self.restore(store, exact, source, replace=True)

    def test_what_the_index_gives_is_whole_and_in_order(
        self, spec: CollectionSpec, store: PgVectorStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """fails when deleted points, a large `k` or equal distances make an answer short or put it out of order."""
        points = scattered(2000)
        store.ensure(spec)
        apply(store, spec, *[upsert(n, f"p{n}", points[n % 1000]) for n in range(2000)])
        apply(store, spec, *[delete(n, f"p{n % 1000}") for n in range(2000, 2900)], since=Position(10, 1999))
        monkeypatch.setenv("PGOPTIONS", "-c enable_seqscan=off")
        by_index = PgVectorStore(self.dsn)
        for k in (1, 10, 300, 1000, 1100, 2000):
            hits = by_index.search(spec.name, points[5], k).hits
            assert len(hits) == min(k, 1100)
            assert [(hit.distance, hit.id) for hit in hits] == sorted((hit.distance, hit.id) for hit in hits)
        by_index.close()
        with self.admin() as cursor:
            cursor.execute(
                "select sum(idx_scan) from pg_stat_user_indexes where relname like %s and indexrelname not like %s",
                [f"{spec.name}%", "%pkey"],
            )
            assert cursor.fetchone()[0] > 0  # type: ignore[index]

    def test_canaries_are_exact_beside_an_index(
        self, spec: CollectionSpec, store: PgVectorStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """fails when what parity is measured with is approximate: an index as poor as this one misses answers."""
        monkeypatch.setenv("PGOPTIONS", "-c enable_seqscan=off")
        monkeypatch.setattr(pgvector, "EF_SEARCH", (10, 1000))
        spec = replace(spec, index=HnswIndex(m=2, ef_construction=4))
        points = scattered(1500)
        store.ensure(spec)
        by_index = PgVectorStore(self.dsn)
        apply(by_index, spec, *[upsert(n, f"p{n}", point) for n, point in enumerate(points)])
        canaries = take(by_index, spec).part.canaries
        exact = replace(spec, name=f"{spec.name}-exact", index=None)
        self.restore(by_index, exact, take(by_index, spec), floor=1.0)
        wanted = [by_index.search(exact.name, unpack(canary.vector), 10).hits for canary in canaries]
        assert [tuple(hit.id for hit in hits) for hits in wanted] == [canary.ids for canary in canaries]
        assert by_index.score(spec.name, canaries) == 1.0
        assert [by_index.search(spec.name, unpack(canary.vector), 10).hits for canary in canaries] != wanted
        by_index.close()

    def test_vectors_without_an_angle_are_found(self, store: PgVectorStore, spec: CollectionSpec) -> None:
        """fails when a point of zeros, which no index by cosine holds, is never an answer, or asking with zeros is."""
        store.ensure(spec)
        zeros = [0.0] * spec.dimension
        apply(store, spec, upsert(1, "zero", zeros), upsert(2, "a"), upsert(3, "b"))
        assert [hit.id for hit in store.search(spec.name, direction(3), 5).hits] == ["b", "a", "zero"]
        assert [hit.id for hit in store.search(spec.name, zeros, 2).hits] == ["a", "b"]

    def test_an_index_that_the_settings_change_is_built_anew(self, store: PgVectorStore, spec: CollectionSpec) -> None:
        """The collection says that it lacks it until it is built, and then the other one is gone."""
        fill(store, spec, 50)
        for index in (HnswIndex(m=5, ef_construction=20), None, HnswIndex()):
            changed = replace(spec, index=index)
            store.ensure(changed)
            wanted = IndexState.NONE if index is None else IndexState.READY
            assert state(store, spec) is (IndexState.NONE if index is None else IndexState.LACKING)
            assert store.build_index(spec.name) is wanted
            assert state(store, spec) is wanted
            assert len(self.indexes(spec)) == (index is not None)

    def test_one_builds_while_others_search_and_write(
        self, store: PgVectorStore, again: VectorStore, spec: CollectionSpec
    ) -> None:
        """A second builder is told that the first is at it; searches and writes go on meanwhile."""
        fill(store, spec, 50)
        self.restore(store, spec, take(store, spec), replace=True)
        with self.held_up(spec) as release:
            builder = threading.Thread(target=again.build_index, args=[spec.name])
            builder.start()
            self.wait_for_builder(store, spec)
            assert store.build_index(spec.name) is IndexState.BUILDING
            apply(store, spec, upsert(60, "p60"), since=Position(10, 50))
            assert store.search(spec.name, direction(60), 1).hits[0].id == "p60"
            release()
            builder.join()
        assert state(store, spec) is IndexState.READY
        assert len(self.indexes(spec)) == 1

    def test_a_build_that_was_killed_is_done_again(
        self, store: PgVectorStore, again: VectorStore, spec: CollectionSpec
    ) -> None:
        """fails when what a killed build leaves is taken for an index, stays, or is in the way."""
        fill(store, spec, 50)
        self.restore(store, spec, take(store, spec), replace=True)
        with self.held_up(spec), self.admin() as cursor:
            errors: list[Exception] = []

            def build() -> None:
                try:
                    again.build_index(spec.name)
                except UnavailableError as exc:
                    errors.append(exc)

            builder = threading.Thread(target=build)
            builder.start()
            self.wait_for_builder(store, spec)
            cursor.execute(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = 'relight-index'"
            )
            builder.join()
            assert len(errors) == 1
            assert state(store, spec) is IndexState.LACKING
            assert self.indexes(spec) == [False]
            assert len(store.search(spec.name, direction(1), 100).hits) == 50
        assert store.build_index(spec.name) is IndexState.READY
        assert self.indexes(spec) == [True]

    # A server that fails

    @pytest.mark.parametrize("immediate", [False, True])
    def test_a_server_that_restarts_meanwhile_leaves_nothing(
        self, own_server: PostgresServer, spec: CollectionSpec, immediate: bool
    ) -> None:
        """fails when a restart in the middle of a snapshot or a restore hides itself, or leaves a trace."""
        self.dsn = own_server.dsn()
        store = PgVectorStore(self.dsn)
        fill(store, spec, 300)
        source = take(store, spec)

        async def restart() -> None:
            await own_server.stop(immediate=immediate)
            await own_server.start()

        with pytest.raises(UnavailableError):
            self.restore(store, spec, source.watched(Once(lambda: asyncio.run(restart()))), replace=True)
        assert store.kept(spec.name) == self.leftovers(spec) == []
        # Of one row the server may have sent everything before it went.
        store.ensure(replace(spec, name=f"{spec.name}-large", dimension=2000, index=None))
        self.fill_large(spec, 3000)
        with pytest.raises(UnavailableError):
            take(store, replace(spec, name=f"{spec.name}-large"), Once(lambda: asyncio.run(restart())))
        self.restore(store, spec, source, replace=True)
        assert len(store.search(spec.name, direction(1), 1000).hits) == 300
        store.drop(f"{spec.name}-large")
        store.close()

    def test_a_crash_leaves_no_files(self, own_server: PostgresServer, spec: CollectionSpec) -> None:
        """fails when a server that was killed while it loaded keeps what nobody can drop any more."""
        self.dsn = own_server.dsn()
        store = PgVectorStore(self.dsn)
        fill(store, spec, 300)
        source = take(store, spec)
        before = self.orphans(own_server)
        with pytest.raises(UnavailableError):
            self.restore(store, spec, source.watched(Once(own_server.kill)), replace=True)
        asyncio.run(own_server.start())
        assert len(self.leftovers(spec)) == 1
        self.restore(store, spec, source, replace=True)
        assert self.leftovers(spec) == []
        assert self.orphans(own_server) == before
        store.drop(spec.name)
        store.close()

    def test_a_disk_that_is_full_is_said_to_be(self, own_server: PostgresServer, spec: CollectionSpec) -> None:
        """fails when a restore for which there is no room blames the point, leaves a trace, or cannot be run again.

        The room is bounded by a limit on the size of the server's files, which is checked where a full disk is.
        """
        self.dsn = own_server.dsn()
        store = PgVectorStore(self.dsn)
        large = replace(spec, name=f"{spec.name}-large", dimension=2000, index=None)
        store.ensure(large)
        self.fill_large(spec, 3000)
        source = take(store, large)
        store.drop(large.name)
        with limited(own_server, 16 * 2**20):
            with pytest.raises(UnavailableError, match=r"the vector store has no room.*drop former data"):
                self.restore(store, large, source)
            assert store.describe(large.name) is None
            assert self.leftovers(large) == []
        self.restore(store, large, source)
        store.drop(large.name)
        store.close()

    def test_an_index_is_built_without_shared_memory(
        self, own_server: PostgresServer, spec: CollectionSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """fails when a container's small shared memory keeps an index from being built by one process alone."""
        monkeypatch.setattr(pgvector, "plan_build", lambda *_: (128 * 2**20, 2))  # as for a graph of that size
        self.dsn = own_server.dsn()
        store = PgVectorStore(self.dsn)
        fill(store, spec, 300)
        self.restore(store, spec, take(store, spec), replace=True)
        with limited(own_server, 16 * 2**20):
            assert store.build_index(spec.name) is IndexState.READY
        store.close()
        assert "shared memory segment" in own_server.log_path.read_text()

    # Helpers

    @contextlib.contextmanager
    def admin(self) -> Iterator[postgres.Cursor]:
        """Another client, every statement of which is a transaction."""
        connection = postgres.connect(self.dsn, autocommit=True)
        with connection.cursor() as cursor:
            yield cursor
        connection.close()

    def indexes(self, spec: CollectionSpec) -> list[bool]:
        """Of the live table's HNSW indexes, whether each is whole."""
        with self.admin() as cursor:
            cursor.execute(
                "select indisvalid from pg_index join pg_class i on i.oid = indexrelid join pg_am on pg_am.oid = relam"
                "  join pg_class t on t.oid = indrelid join relight.collections on table_name = t.relname"
                " where name = %s and amname = 'hnsw'",
                [spec.name],
            )
            return [row[0] for row in cursor.fetchall()]

    @contextlib.contextmanager
    def held_up(self, spec: CollectionSpec) -> Iterator[Callable[[], None]]:
        """A build waits at its end for every transaction that began before it, and so for this one."""
        connection = postgres.connect(self.dsn)
        connection.set_session(isolation_level="REPEATABLE READ")
        with connection.cursor() as cursor:
            cursor.execute("select 1")
        yield connection.rollback
        connection.close()

    def wait_for_builder(self, store: VectorStore, spec: CollectionSpec) -> None:
        """Until it has made the index and waits for others."""
        until = time.monotonic() + 20
        while state(store, spec) is not IndexState.BUILDING or self.indexes(spec) != [False]:
            assert time.monotonic() < until, "nobody builds"
            time.sleep(0.01)

    def orphans(self, server: PostgresServer) -> set[str]:
        """Files of the database that belong to no table or index."""
        with self.admin() as cursor:
            cursor.execute("checkpoint")
            cursor.execute("select oid::text from pg_database where datname = current_database()")
            ((database,),) = cursor.fetchall()
            cursor.execute("select pg_relation_filenode(oid)::text from pg_class")
            known = {row[0] for row in cursor.fetchall()}
        files = (server.data_dir / "base" / database).glob("[0-9]*")
        return {path.name for path in files if re.split("[_.]", path.name)[0] not in known}

    def fill_large(self, spec: CollectionSpec, count: int) -> None:
        """Put rows of 8 kB into the collection `<name>-large` of 2000 dimensions, quicker than from outside."""
        with self.admin() as cursor:
            cursor.execute("select table_name from relight.collections where name = %s", [f"{spec.name}-large"])
            ((table,),) = cursor.fetchall()
            cursor.execute(
                f'insert into relight_memory."{table}"'
                " select 'p' || n, ('[' || n || repeat(',1', 1999) || ']')::vector, null from generate_series(1, %s) n",
                [count],
            )


@contextlib.contextmanager
def limited(server: PostgresServer, size: int) -> Iterator[None]:
    """Within the block the server cannot make a file larger than `size`; it is restarted for it."""
    asyncio.run(server.stop())
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, former[1]))
    try:
        group = ProcessGroup()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    with group:
        starved = PostgresServer(group, server.data_dir, name="starved", database=server.database, port=server.port)
        starved.password = server.password
        asyncio.run(starved.start())
        yield
        asyncio.run(starved.stop())
    asyncio.run(server.start())


def state(store: VectorStore, spec: CollectionSpec) -> IndexState:
    """Of the collection's index."""
    found = store.describe(spec.name)
    assert found is not None
    return found.index


def scattered(count: int) -> list[list[float]]:
    """Vectors without any order, the same each time."""
    rng = random.Random(7)
    return [[rng.gauss(0, 1) for _ in range(DIMENSION)] for _ in range(count)]

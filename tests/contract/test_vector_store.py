"""pgvector under the contract of a vector store, and what is its own."""

from __future__ import annotations

import contextlib
import io
import re
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from vector_store_contract import VectorStoreContract, apply, direction, take, upsert

from relight.adapters import postgres
from relight.errors import NotFoundError, TransientError, UnavailableError
from relight.memory import pgvector
from relight.memory.journal import START, Position
from relight.memory.pgvector import PgVectorStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relight.memory.store import CollectionSpec, VectorStore
    from relight_drill.postgres import PostgresServer

pytestmark = pytest.mark.servers


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

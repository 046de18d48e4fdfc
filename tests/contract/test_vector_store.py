"""The contract of a vector store, run on every one that Relight has."""

from __future__ import annotations

import contextlib
import io
import secrets
import threading
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from memory_helpers import DIMENSION

from relight.adapters import postgres
from relight.errors import ConflictError, IntegrityError, NotFoundError, TransientError, UnavailableError
from relight.memory import pgvector
from relight.memory.journal import START, Entry, Op, Position
from relight.memory.pgvector import PgVectorStore
from relight.memory.store import CollectionSpec, Distance
from relight.memory.vectors import pack
from relight.vault.manifest import CollectionPart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relight.memory.store import Source, Taken, VectorStore
    from relight_drill.postgres import PostgresServer

pytestmark = pytest.mark.servers

AT = datetime(2026, 4, 19, 2, tzinfo=UTC)
POINT = "20260419T020000Z"


def upsert(seq: int, id_: str, vector: Sequence[float] | None = None, *, xid: int = 10) -> Entry:
    """An entry of the journal as a reader gives it."""
    return Entry(
        position=Position(xid, seq),
        at=AT,
        epoch=1,
        collection="",
        op=Op.UPSERT,
        id=id_,
        vector=pack(vector or direction(seq)),
        payload={"seq": seq},
        task_id=None,
    )


def delete(seq: int, id_: str, *, xid: int = 10) -> Entry:
    """An entry of the journal as a reader gives it."""
    return replace(upsert(seq, id_, xid=xid), op=Op.DELETE, vector=None, payload=None)


def direction(n: int) -> list[float]:
    """Vectors of which each has its own angle."""
    return [1.0, n / 7.0, *([0.25] * (DIMENSION - 2))]


def apply(store: VectorStore, spec: CollectionSpec, *entries: Entry, since: Position = START) -> Position:
    """Apply entries up to the last of them."""
    return store.apply(spec.name, entries, since=since, until=entries[-1].position)


def take(store: VectorStore, spec: CollectionSpec) -> tuple[bytes, CollectionPart]:
    """A snapshot's bytes and what a manifest would say of it."""
    sink = io.BytesIO()
    taken: Taken = store.snapshot(spec.name, sink)
    data = sink.getvalue()
    part = CollectionPart(
        name=spec.name,
        store=store.kind,
        server_version=taken.server_version,
        object=f"points/{POINT}/x",
        bytes=len(data),
        sha256="",
        points=taken.points,
        dimension=spec.dimension,
        distance=spec.distance.value,
        embedding_model=spec.embedding_model,
        position=str(taken.position),
        canaries=taken.canaries,
    )
    return data, part


class Failing:
    """A source that breaks after some bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        data = self._data.read(min(size, 100))
        if not data:
            raise UnavailableError("the vault went away")
        return data


class VectorStoreContract:
    """Subclassed for each store; `store` and `again` are two clients of one server."""

    @pytest.fixture
    def again(self, store: VectorStore) -> VectorStore:
        raise NotImplementedError

    def restore(
        self,
        store: VectorStore,
        spec: CollectionSpec,
        part: CollectionPart,
        source: bytes | Source,
        *,
        replace: bool = False,
        floor: float = 0.9,
    ) -> str | None:
        """Restore, and return the name of what was kept."""
        stream = io.BytesIO(source) if isinstance(source, bytes) else source
        return store.restore(spec, stream, part, point=POINT, floor=floor, replace=replace).kept

    def test_a_collection_is_made_once(self, store: VectorStore, spec: CollectionSpec) -> None:
        """Making it again changes nothing; a new one is empty and at the start of the journal."""
        assert store.describe(spec.name) is None
        store.ensure(spec)
        apply(store, spec, upsert(1, "a"))
        store.ensure(spec)
        found = store.describe(spec.name)
        assert found is not None
        assert (found.spec, found.points, found.position, found.is_empty) == (spec, 1, Position(10, 1), False)

    @pytest.mark.parametrize(
        "change", [{"dimension": DIMENSION + 1}, {"embedding_model": "other"}, {"distance": Distance.DOT}]
    )
    def test_another_spec_is_refused(self, store: VectorStore, spec: CollectionSpec, change: dict[str, object]) -> None:
        """fails when a collection is used with another dimension, model or distance than it was made with."""
        store.ensure(spec)
        with pytest.raises(IntegrityError):
            store.ensure(replace(spec, **change))  # type: ignore[arg-type]

    def test_two_clients_make_it_at_once(self, store: VectorStore, again: VectorStore, spec: CollectionSpec) -> None:
        """Neither sees an error, and there is one collection."""
        errors = in_parallel(lambda: store.ensure(spec), lambda: again.ensure(spec))
        assert errors == []
        assert store.position(spec.name) == START

    def test_the_nearest_come_first(self, store: VectorStore, spec: CollectionSpec) -> None:
        """A search gives the nearest points in order, with payload and distance, and the position it is true for."""
        store.ensure(spec)
        apply(store, spec, *[upsert(n, f"p{n}") for n in range(1, 30)])
        found = store.search(spec.name, direction(7), 3)
        assert found.hits[0].id == "p7"
        assert found.hits[0].payload == {"seq": 7}
        assert found.hits[0].distance == pytest.approx(0, abs=1e-6)
        assert {hit.id for hit in found.hits[1:]} == {"p6", "p8"}
        assert found.position == Position(10, 29)

    @pytest.mark.parametrize("distance", list(Distance))
    def test_every_distance_ranks(self, store: VectorStore, spec: CollectionSpec, distance: Distance) -> None:
        """Smaller is nearer, whichever distance the collection has."""
        spec = replace(spec, distance=distance)
        store.ensure(spec)
        near, far = [1.0] * DIMENSION, [-1.0] * DIMENSION
        apply(store, spec, upsert(1, "far", far), upsert(2, "near", near))
        assert [hit.id for hit in store.search(spec.name, near, 5).hits] == ["near", "far"]

    def test_applying_is_idempotent(self, store: VectorStore, spec: CollectionSpec) -> None:
        """The same entries applied twice leave the collection as once, and never take it back."""
        store.ensure(spec)
        first = [upsert(1, "a"), upsert(2, "b"), delete(3, "a")]
        apply(store, spec, *first)
        later = apply(store, spec, delete(4, "b"), since=Position(10, 3))
        assert apply(store, spec, *first) == later == Position(10, 4)
        found = store.describe(spec.name)
        assert found is not None
        assert (found.points, found.position) == (0, Position(10, 4))

    def test_the_last_entry_of_a_point_decides(self, store: VectorStore, spec: CollectionSpec) -> None:
        """Within a batch an upsert after a delete brings the point back, and the newest vector is the one kept."""
        store.ensure(spec)
        apply(store, spec, upsert(1, "a"), delete(2, "a"), upsert(3, "a"), upsert(4, "b"), delete(5, "b"))
        assert [(hit.id, hit.payload) for hit in store.search(spec.name, direction(1), 5).hits] == [("a", {"seq": 3})]

    def test_a_gap_is_refused(self, store: VectorStore, spec: CollectionSpec) -> None:
        """fails when entries are applied to a collection that lacks those before them."""
        store.ensure(spec)
        with pytest.raises(ConflictError):
            apply(store, spec, upsert(5, "e"), since=Position(10, 4))
        assert store.position(spec.name) == START

    def test_an_entry_of_another_dimension_is_refused(self, store: VectorStore, spec: CollectionSpec) -> None:
        """fails when half of a batch is applied, or the position moves past what was not applied."""
        store.ensure(spec)
        with pytest.raises(IntegrityError):
            apply(store, spec, upsert(1, "a"), upsert(2, "b", [1.0]))
        found = store.describe(spec.name)
        assert found is not None
        assert found.is_empty

    def test_what_does_not_exist_is_not_found(self, store: VectorStore, spec: CollectionSpec) -> None:
        """Searching, applying and taking a snapshot name the missing collection."""
        for call in (
            lambda: store.search(spec.name, direction(1), 1),
            lambda: store.position(spec.name),
            lambda: store.snapshot(spec.name, io.BytesIO()),
            lambda: apply(store, spec, upsert(1, "a")),
        ):
            with pytest.raises(NotFoundError, match=spec.name):
                call()

    @pytest.mark.parametrize("count", [0, 1, 500])
    def test_a_snapshot_restores(self, store: VectorStore, spec: CollectionSpec, count: int) -> None:
        """All points, their vectors, payloads and position come back, in a collection of another name."""
        store.ensure(spec)
        if count:
            apply(store, spec, *[upsert(n, f"p{n}") for n in range(1, count + 1)])
        data, part = take(store, spec)
        other = replace(spec, name=f"{spec.name}-copy")
        assert part.points == count
        assert self.restore(store, other, part, data) is None
        found = store.describe(other.name)
        assert found is not None
        assert (found.points, str(found.position), found.restored_from) == (count, part.position, POINT)
        assert store.search(other.name, direction(3), 20).hits == store.search(spec.name, direction(3), 20).hits

    @pytest.mark.parametrize(
        "name", ["collections", "a b", "q\"uo'te", "../up", "..", "%s", "{x}", "日本語", "x" * 255, "sel;ect", "a\\b\n"]
    )
    def test_any_legal_name_works(self, store: VectorStore, spec: CollectionSpec, name: str) -> None:
        """Whatever a collection's name holds, it is made, filled, taken, restored, and its former data kept."""
        if name != "x" * 255:
            name = f"{name}{secrets.token_hex(4)}" if name != "collections" else name
        spec = replace(spec, name=name)
        store.ensure(spec)
        apply(store, spec, upsert(1, "a"))
        data, part = take(store, spec)
        kept = self.restore(store, spec, part, data, replace=True)
        assert kept is not None
        assert store.kept(name)[0] == kept
        assert [hit.id for hit in store.search(name, direction(1), 5).hits] == ["a"]

    def test_names_with_the_same_beginning_stay_apart(self, store: VectorStore, spec: CollectionSpec) -> None:
        """fails when two long names are cut to one."""
        one, two = (replace(spec, name="n" * 200 + spec.name + end) for end in "12")
        store.ensure(one)
        store.ensure(two)
        apply(store, one, upsert(1, "a"))
        assert store.search(two.name, direction(1), 1).hits == ()

    def test_former_data_is_kept_and_found(self, store: VectorStore, spec: CollectionSpec) -> None:
        """A restore over data keeps that data under a name of its own, until it is told to drop it."""
        store.ensure(spec)
        apply(store, spec, upsert(1, "a"))
        data, part = take(store, spec)
        apply(store, spec, upsert(2, "b"), since=Position(10, 1))
        kept = self.restore(store, spec, part, data, replace=True)
        assert kept is not None
        assert store.kept(spec.name) == [kept]
        assert store.position(spec.name) == Position(10, 1)
        store.drop_kept(spec.name, kept)
        assert store.kept(spec.name) == []
        with pytest.raises(NotFoundError):
            store.drop_kept(spec.name, kept)

    def test_the_live_collection_cannot_be_dropped_as_kept(self, store: VectorStore, spec: CollectionSpec) -> None:
        """fails when anything but former data is dropped."""
        store.ensure(spec)
        with pytest.raises(NotFoundError):
            store.drop_kept(spec.name, spec.name)

    def test_an_empty_collection_replaced_is_not_kept(self, store: VectorStore, spec: CollectionSpec) -> None:
        """Nothing is left behind where nothing was."""
        store.ensure(spec)
        apply(store, spec, upsert(1, "a"))
        data, part = take(store, spec)
        other = replace(spec, name=f"{spec.name}-new")
        store.ensure(other)
        assert self.restore(store, other, part, data) is None
        assert store.kept(other.name) == []

    def test_data_is_not_replaced_unasked(self, store: VectorStore, spec: CollectionSpec) -> None:
        """fails when a restore overwrites a collection that holds data, one whose points were all deleted included."""
        store.ensure(spec)
        apply(store, spec, upsert(1, "a"))
        data, part = take(store, spec)
        with pytest.raises(ConflictError):
            self.restore(store, spec, part, data)
        apply(store, spec, delete(2, "a"), since=Position(10, 1))
        with pytest.raises(ConflictError):
            self.restore(store, spec, part, data)
        assert store.position(spec.name) == Position(10, 2)

    def test_a_broken_source_changes_nothing(self, store: VectorStore, spec: CollectionSpec) -> None:
        """fails when a restore that was cut leaves a trace, or hides what cut it."""
        store.ensure(spec)
        apply(store, spec, *[upsert(n, f"p{n}") for n in range(1, 100)])
        data, part = take(store, spec)
        with pytest.raises(UnavailableError, match="the vault went away"):
            self.restore(store, spec, part, Failing(data[: len(data) // 2]), replace=True)
        assert store.kept(spec.name) == []
        assert len(store.search(spec.name, direction(1), 200).hits) == 99
        assert self.leftovers(spec) == []

    @pytest.mark.parametrize("damage", ["cut", "garbage", "count", "recall", "flipped"])
    def test_damaged_bytes_are_refused(self, store: VectorStore, spec: CollectionSpec, damage: str) -> None:
        """fails when bytes that are cut, foreign, too few, or that answer otherwise become the collection."""
        store.ensure(spec)
        apply(store, spec, *[upsert(n, f"p{n}") for n in range(1, 100)])
        data, part = take(store, spec)
        if damage == "cut":
            data = data[: len(data) // 2]
        elif damage == "garbage":
            data = b"not a snapshot" * 1000
        elif damage == "count":
            part = replace(part, points=100)
        elif damage == "recall":
            part = replace(part, canaries=tuple(replace(c, ids=("x",) * len(c.ids)) for c in part.canaries))
        else:
            data = b"X" + data[1:]
        with pytest.raises(IntegrityError):
            self.restore(store, spec, part, data, replace=True)
        assert store.kept(spec.name) == []
        assert len(store.search(spec.name, direction(1), 200).hits) == 99
        assert self.leftovers(spec) == []

    def test_a_snapshot_is_of_one_moment(self, store: VectorStore, again: VectorStore, spec: CollectionSpec) -> None:
        """fails when writes during the stream show in the points, the count or the position of the snapshot."""
        store.ensure(spec)
        apply(store, spec, *[upsert(n, f"p{n}") for n in range(1, 200)])

        class Interrupting(io.BytesIO):
            written = False

            def write(self, data: bytes) -> int:  # type: ignore[override]
                if not self.written:
                    self.written = True
                    apply(again, spec, upsert(500, "new"), delete(501, "p1"), since=Position(10, 199))
                return super().write(data)

        sink = Interrupting()
        taken = store.snapshot(spec.name, sink)
        assert (taken.points, taken.position) == (199, Position(10, 199))
        other = replace(spec, name=f"{spec.name}-copy")
        _, part = take(store, spec)
        part = replace(part, points=taken.points, position=str(taken.position), canaries=taken.canaries)
        self.restore(store, other, part, sink.getvalue())
        assert "p1" in {hit.id for hit in store.search(other.name, direction(1), 300).hits}

    def test_a_failing_sink_shows_its_own_error(self, store: VectorStore, spec: CollectionSpec) -> None:
        """fails when the vault's error is hidden, or when the store cannot be used after it."""
        store.ensure(spec)
        apply(store, spec, *[upsert(n, f"p{n}") for n in range(1, 50)])

        class Broken:
            def write(self, data: bytes) -> int:
                raise UnavailableError("the vault went away")

        with pytest.raises(UnavailableError, match="the vault went away"):
            store.snapshot(spec.name, Broken())
        assert take(store, spec)[1].points == 49

    def test_two_restores_at_once_make_one(self, store: VectorStore, again: VectorStore, spec: CollectionSpec) -> None:
        """One fills the empty collection, and the other is told that it is no longer empty."""
        store.ensure(spec)
        apply(store, spec, *[upsert(n, f"p{n}") for n in range(1, 200)])
        data, part = take(store, spec)
        other = replace(spec, name=f"{spec.name}-copy")
        errors = in_parallel(
            lambda: self.restore(store, other, part, data), lambda: self.restore(again, other, part, data)
        )
        assert [type(error) for error in errors] == [ConflictError]
        found = store.describe(other.name)
        assert found is not None
        assert found.points == 199

    def test_searching_goes_on_during_restores(
        self, store: VectorStore, again: VectorStore, spec: CollectionSpec
    ) -> None:
        """fails when a search meets a missing, an empty or a mixed collection while it is being replaced."""
        store.ensure(spec)
        apply(store, spec, *[upsert(n, f"p{n}") for n in range(1, 50)])
        data, part = take(store, spec)
        done = threading.Event()
        seen: list[int] = []

        def search() -> None:
            while not done.is_set():
                seen.append(len(again.search(spec.name, direction(1), 100).hits))

        def replace_often() -> None:
            try:
                for _ in range(10):
                    self.restore(store, spec, part, data, replace=True)
            finally:
                done.set()

        assert in_parallel(search, replace_often) == []
        assert set(seen) == {49}

    def leftovers(self, spec: CollectionSpec) -> list[str]:
        """What the server holds of `spec` beside the collection itself."""
        raise NotImplementedError


class TestPgVector(VectorStoreContract):
    """PostgreSQL with pgvector."""

    @pytest.fixture(autouse=True)
    def _server(self, vector_server: PostgresServer) -> None:
        self.dsn = vector_server.dsn()

    @pytest.fixture
    def again(self, store: VectorStore) -> VectorStore:
        return PgVectorStore(self.dsn)

    def leftovers(self, spec: CollectionSpec) -> list[str]:
        connection = postgres.connect(self.dsn, autocommit=True)
        with connection.cursor() as cursor:
            cursor.execute(
                "select tablename from pg_tables where schemaname = 'relight_memory' and tablename like %s"
                " except select table_name from relight.collections",
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
            monkeypatch.setenv("PGOPTIONS", "-c lock_timeout=2s")
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
        data, _ = take(store, spec)
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
        data, part = take(store, spec)
        other = replace(spec, name=f"{spec.name}-copy")
        assert (part.points, part.position) == (29, "10:29")
        self.restore(store, other, part, data, floor=1.0)
        assert "new" in {hit.id for hit in store.search(spec.name, direction(1), 100).hits}

    def test_a_restore_killed_half_way_runs_again(self, store: PgVectorStore, spec: CollectionSpec) -> None:
        """fails when a restore whose connection died leaves a table behind, or stands in the way of the next one."""
        store.ensure(spec)
        apply(store, spec, *[upsert(n, f"p{n}") for n in range(1, 500)])
        data, part = take(store, spec)
        admin = postgres.connect(self.dsn, autocommit=True)

        class Deadly(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                if self.tell():
                    with admin.cursor() as cursor:
                        cursor.execute(
                            "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
                            " where application_name = 'relight-memory' and state = 'active'"
                        )
                return super().read(1000)

        with pytest.raises(UnavailableError):
            self.restore(store, spec, part, Deadly(data), replace=True)
        assert self.leftovers(spec) == []
        assert self.restore(store, spec, part, data, replace=True) == store.kept(spec.name)[0]
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


def in_parallel(*calls: object) -> list[BaseException]:
    """Run all at once; the errors, in the order of the calls."""
    errors: dict[int, BaseException] = {}
    barrier = threading.Barrier(len(calls))

    def run(number: int, call: object) -> None:
        barrier.wait()
        try:
            call()  # type: ignore[operator]
        except BaseException as exc:  # noqa: BLE001 - given to the test
            errors[number] = exc

    threads = [threading.Thread(target=run, args=item) for item in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [errors[number] for number in sorted(errors)]

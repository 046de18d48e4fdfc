"""Weaviate under the contract of a vector store, on the stand-in and on a real server, and what is its own."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from fakes import FakeClock
from memory_helpers import MemorySink
from vector_store_contract import POINT, VectorStoreContract, apply, delete, direction, fill, ids, take, upsert
from weaviate_standin import WeaviateStandin

from relight.errors import (
    ConfigError,
    ConflictError,
    DeniedError,
    IntegrityError,
    UnavailableError,
)
from relight.memory.journal import START, Position
from relight.memory.store import Distance
from relight.memory.transfer import PointSink, PointSource
from relight.memory.weaviate import (
    _PAGE_BYTES,
    CATALOGUE,
    LOCK_BOUND_S,
    WeaviateStore,
    _digest,
    _new_row,
    _object,
    _stem,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relight.memory.store import CollectionSpec
    from relight.vault.manifest import CollectionPart
    from relight.vault.store import Vault

pytestmark = pytest.mark.servers

REAL = os.environ.get("RELIGHT_TEST_WEAVIATE_URL", "")
STALE_S = 0.5


@pytest.fixture(scope="session")
def standin() -> Iterator[WeaviateStandin]:
    """A stand-in without backups, shared by the session."""
    server = WeaviateStandin()
    server.start()
    yield server
    server.stop()


def rows(store: WeaviateStore) -> list[str]:
    """The names of the collections that the catalogue has anything of."""
    if not store._has_class(CATALOGUE):
        return []
    return [item["properties"]["name"] for item in store._objects(CATALOGUE)]


class WeaviateContract(VectorStoreContract):
    """On either server."""

    index_travels = True
    dsn: str

    @pytest.fixture
    def store(self, spec: CollectionSpec) -> Iterator[WeaviateStore]:
        """A store whose collections that a test makes under its own name go with it."""
        store = WeaviateStore(self.dsn, stale_s=STALE_S)
        yield store
        for name in {name for name in rows(store) if name.startswith(spec.name)}:
            store.drop(name)
        store.close()

    @pytest.fixture
    def again(self, store: WeaviateStore) -> Iterator[WeaviateStore]:
        again = WeaviateStore(self.dsn, stale_s=STALE_S)
        yield again
        again.close()

    def leftovers(self, spec: CollectionSpec) -> list[str]:
        store = WeaviateStore(self.dsn, stale_s=STALE_S)
        try:
            names = {spec.name, *(name for name in rows(store) if name.startswith(spec.name))}
            locks = [name for name in store._classes() if name.startswith("RelightLock_")]
            return [physical for name in names for physical in store._loose(name)] + locks
        finally:
            store.close()

    def comparable(self, configuration: dict[str, Any]) -> dict[str, Any]:
        settings = configuration["class"]
        return {name: settings[name] for name in ("vectorIndexType", "vectorIndexConfig", "vectorizer")}

    @pytest.fixture
    def foreign(self, store: WeaviateStore, spec: CollectionSpec) -> Iterator[str]:
        """A class of that name that Relight did not make, with three objects."""
        name = spec.name[0].upper() + spec.name[1:]
        store._try_create({"class": name, "vectorizer": "none", "vectorIndexConfig": {"distance": "cosine"}})
        store._put(
            {
                "class": name,
                "id": f"00000000-0000-4000-8000-00000000000{n}",
                "vector": direction(n),
                "properties": {"title": f"t{n}"},
            }
            for n in (1, 2, 3)
        )
        yield name
        store._delete("schema", name)

    def test_a_foreign_class_is_adopted_by_a_copy(
        self, store: WeaviateStore, spec: CollectionSpec, foreign: str
    ) -> None:
        """It is refused until then; a dry run does nothing; afterwards its points are there, and it is as it was."""
        with pytest.raises(ConflictError, match="adopt"):
            store.ensure(spec)
        steps = store.adopt(spec, dry_run=True)
        assert store.describe(spec.name) is None
        assert store.adopt(spec, dry_run=False) == steps
        assert store.adopt(spec, dry_run=False) == []
        store.ensure(spec)
        assert store.position(spec.name) == START
        assert store._count(foreign) == 3
        (hit,) = store.search(spec.name, direction(2), 1).hits
        assert (hit.id, hit.payload) == ("00000000-0000-4000-8000-000000000002", {"title": "t2"})
        apply(store, spec, delete(1, hit.id))
        assert (len(ids(store, spec)), store._count(foreign)) == (2, 3)

    @pytest.mark.parametrize("change", [{"dimension": 3}, {"distance": Distance.DOT}])
    def test_a_foreign_class_of_another_kind_is_not_adopted(
        self, store: WeaviateStore, spec: CollectionSpec, foreign: str, change: dict[str, Any]
    ) -> None:
        """fails when a class of another dimension or distance becomes the collection, or a try of it stays."""
        with pytest.raises(IntegrityError):
            store.adopt(replace(spec, **change), dry_run=False)
        assert (store.describe(spec.name), self.leftovers(spec), store._count(foreign)) == (None, [], 3)

    def test_what_a_killed_restore_left_goes_with_the_next(self, store: WeaviateStore, spec: CollectionSpec) -> None:
        """fails when a class that nobody fills any more stays, or one that is being filled is taken away."""
        fill(store, spec, 5)
        source = take(store, spec)
        other = replace(spec, name=f"{spec.name}-copy")
        row = replace(store._live(spec.name), physical=f"{_stem(other.name)}_dead", spec=other, filler="dead")
        store._put([row.to_object()])
        store._create_class(row)
        assert self.leftovers(other) == [row.physical]
        self.restore(store, other, source)
        assert self.leftovers(other) == []
        busy = replace(row, physical=f"{_stem(other.name)}_busy", filler="busy")
        with store._filling(busy):
            store._create_class(busy)
            self.restore(store, other, source, replace=True)
            assert self.leftovers(other) == [busy.physical]
        store._drop_class(busy.physical)

    def test_a_lock_whose_holder_died_is_passed_over(
        self, store: WeaviateStore, again: WeaviateStore, spec: CollectionSpec
    ) -> None:
        """fails when a process that was killed while it switched stops all others for ever."""
        held = again._locked(spec.name)
        held.__enter__()
        fill(store, spec, 3)
        assert ids(store, spec) == {"p1", "p2", "p3"}

    def test_a_lock_without_a_holders_name_is_passed_over(self, store: WeaviateStore, spec: CollectionSpec) -> None:
        """fails when a lock that somebody made by hand stops all others for ever."""
        store._try_create({"class": f"RelightLock_{_digest(spec.name)}", "vectorizer": "none"})
        fill(store, spec, 3)
        assert ids(store, spec) == {"p1", "p2", "p3"}

    def test_a_holder_that_stalled_writes_nothing(
        self, store: WeaviateStore, again: WeaviateStore, spec: CollectionSpec
    ) -> None:
        """fails when who lost the lock writes back what it read before another switched."""
        fill(store, spec, 3)
        kept = self.restore(store, spec, take(store, spec), replace=True)
        head = store._head(spec.name)
        assert kept is not None and head is not None
        with pytest.raises(ConflictError, match="took the lock"), store._locked(spec.name) as held:
            again.drop_kept(spec.name, kept)
            store._write_head(held, head)
        assert store.kept(spec.name) == []

    def test_no_class_is_dropped_under_the_lock(
        self, store: WeaviateStore, spec: CollectionSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """fails when a lock that others pass over is held while a large class is deleted."""
        fill(store, spec, 1)
        other = replace(spec, name=f"{spec.name}-copy")
        row = _new_row(other, START, None)
        store._put([row.to_object()])
        store._create_class(row)
        dropped, drop = [], store._drop_class

        def watch(physical: str) -> None:
            assert not [name for name in store._classes() if name.startswith("RelightLock_")]
            dropped.append(physical)
            drop(physical)

        monkeypatch.setattr(store, "_drop_class", watch)
        self.restore(store, other, take(store, spec))
        live = store._live(other.name).physical
        store.drop(other.name)
        assert dropped == [row.physical, live]

    def test_what_may_be_somebodys_data_is_never_swept(self, store: WeaviateStore, spec: CollectionSpec) -> None:
        """fails when a class is deleted that was whole once, or of which nothing says that Relight was filling it."""
        fill(store, spec, 3)
        source = take(store, spec)
        lost = _new_row(spec, START, None).whole
        unknown = replace(lost, physical=f"{lost.physical}_x")
        store._put([lost.to_object()])
        for row in (lost, unknown):
            store._create_class(row)
        self.restore(store, spec, source, replace=True)
        try:
            assert store._has_class(lost.physical) and store._has_class(unknown.physical)
        finally:
            store._drop_class(unknown.physical)

    def test_what_a_killed_drop_left_goes_with_the_next_restore(
        self, store: WeaviateStore, spec: CollectionSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """fails when a class stays that was to be dropped, and was not because the process was killed."""
        fill(store, spec, 3)
        source = take(store, spec)
        former = store._live(spec.name).physical
        monkeypatch.setattr(store, "_drop_class", lambda _: None)
        store.drop(spec.name)
        assert store.describe(spec.name) is None
        monkeypatch.undo()
        assert self.leftovers(spec) == [former]
        self.restore(store, spec, source)
        assert self.leftovers(spec) == []

    def test_a_filler_that_was_overtaken_stops(
        self, store: WeaviateStore, again: WeaviateStore, spec: CollectionSpec
    ) -> None:
        """fails when a row that another swept comes back, or its class with settings that nobody asked for."""
        store._ensure_catalogue()
        row = _new_row(spec, START, None)

        def objects() -> Iterator[dict[str, Any]]:
            again._condemn(spec.name, {row.physical})
            again._drop_class(row.physical)
            yield _object(row.physical, "late", direction(1), None)
            until = time.monotonic() + 20 * STALE_S
            while time.monotonic() < until and any(item.name == "weaviate-filling" for item in threading.enumerate()):
                time.sleep(0.01)
            yield _object(row.physical, "later", direction(1), None)
            raise AssertionError("it went on")

        with pytest.raises(ConflictError, match="left behind"), store._filling(row) as watched:
            store._create_class(row)
            store._put(watched(objects()))
        assert (store._row(row.physical), self.leftovers(spec)) == (None, [])

    def test_what_a_filler_finds_wrong_after_it_was_overtaken_is_a_conflict(
        self, store: WeaviateStore, again: WeaviateStore, spec: CollectionSpec
    ) -> None:
        """fails when a point is called damaged because another took its half of a restore away."""
        store._ensure_catalogue()
        row = _new_row(spec, START, None)
        with pytest.raises(ConflictError, match="left behind"), store._filling(row):
            again._condemn(spec.name, {row.physical})
            raise IntegrityError("0 points, and the manifest says 3")

    def test_nothing_switches_to_a_class_that_is_gone(self, store: WeaviateStore, spec: CollectionSpec) -> None:
        """fails when a collection's live class is one that another dropped."""
        fill(store, spec, 3)
        row = _new_row(spec, START, None)
        with store._filling(row):
            store._create_class(row)
        store._delete("schema", row.physical)
        with pytest.raises(ConflictError, match="left behind"):
            store._switch(row, replace=True)
        assert (len(ids(store, spec)), self.leftovers(spec)) == (3, [])

    def test_what_came_into_an_empty_collection_until_the_switch_is_kept(
        self, store: WeaviateStore, spec: CollectionSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """fails when the write of somebody who knows nothing of the restore goes with the empty class it was to."""
        fill(store, spec, 3)
        other = replace(spec, name=f"{spec.name}-copy")
        store.ensure(other)
        former, write = store._live(other.name).physical, store._write_head

        def late(*args: Any) -> None:
            monkeypatch.undo()
            store._put([_object(former, "direct", direction(1), None)])
            write(*args)

        source = take(store, spec)
        monkeypatch.setattr(store, "_write_head", late)
        assert self.restore(store, other, source) == former
        assert (store.kept(other.name), store._count(former), len(ids(store, other))) == ([former], 1, 3)


class TestStandin(WeaviateContract):
    """On the stand-in: fast, and its failures can be had for the asking."""

    @pytest.fixture(autouse=True)
    def _serve(self, standin: WeaviateStandin) -> None:
        self.dsn = standin.url

    def test_aliases_follow(self, store: WeaviateStore, spec: CollectionSpec, standin: WeaviateStandin) -> None:
        """Another reader finds the live class behind the alias, and none when the collection is dropped."""
        fill(store, spec, 2)
        before = [alias for alias, target in standin.aliases.items() if target == store._live(spec.name).physical]
        self.restore(store, spec, take(store, spec), replace=True)
        assert [standin.aliases[alias] for alias in before] == [store._live(spec.name).physical]
        store.drop(spec.name)
        assert not set(before) & set(standin.aliases)

    def test_a_full_disk_is_no_success(
        self, store: WeaviateStore, spec: CollectionSpec, standin: WeaviateStandin
    ) -> None:
        """fails when objects that the server refused one by one count as written."""
        fill(store, spec, 3)
        source = take(store, spec)
        standin.disk_full = True
        try:
            with pytest.raises(UnavailableError, match="read-only"):
                apply(store, spec, upsert(4, "p4"), since=Position(10, 3))
            with pytest.raises(UnavailableError, match="read-only"):
                self.restore(store, spec, source, replace=True)
        finally:
            standin.disk_full = False
        assert (store.position(spec.name), self.leftovers(spec)) == (Position(10, 3), [])

    def test_requests_are_bounded_in_any_script(
        self, store: WeaviateStore, spec: CollectionSpec, standin: WeaviateStandin
    ) -> None:
        """fails when a batch of what takes several bytes a character is several times as large as a request may be."""
        store.ensure(spec)
        standin.largest_batch = 0
        apply(store, spec, *[upsert(n, f"{n}" + "語" * 30_000) for n in range(1, 61)])
        assert 0 < standin.largest_batch < 1.1 * _PAGE_BYTES

    def test_an_applier_that_a_restore_overtook_is_told(
        self, store: WeaviateStore, spec: CollectionSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """fails when a late applier moves a position that is no longer the collection's."""
        fill(store, spec, 1)
        source = take(store, spec)
        other = replace(spec, name=f"{spec.name}-copy")
        store.ensure(other)
        put = store._put

        def late(objects: Any) -> None:
            monkeypatch.undo()
            self.restore(store, other, source)
            put(objects)

        monkeypatch.setattr(store, "_put", late)
        with pytest.raises(ConflictError, match="replaced meanwhile"):
            apply(store, other, upsert(5, "late"))
        assert (ids(store, other), store.position(other.name)) == ({"p1"}, Position(10, 1))

    def test_a_lock_that_is_not_to_be_had_is_given_up(self, spec: CollectionSpec, standin: WeaviateStandin) -> None:
        """fails when others who take the lock one after the other keep one waiting for ever."""

        class Others(FakeClock):
            """While time passes, another takes the lock."""

            def sleep(self, seconds: float) -> None:
                super().sleep(seconds)
                assert self.monotonic() < began + 2 * LOCK_BOUND_S, "it waits for ever"
                for name, definition in standin.classes.items():
                    if name.startswith("RelightLock_"):
                        definition["description"] = f"since {self.monotonic()}"

        clock = Others()
        began, store = clock.monotonic(), WeaviateStore(standin.url, clock=clock)
        lock = f"RelightLock_{_digest(spec.name)}"
        store._try_create({"class": lock, "description": "another", "vectorizer": "none"})
        try:
            with pytest.raises(UnavailableError, match="was not to be had"):
                store.ensure(spec)
        finally:
            store._delete("schema", lock)


@pytest.mark.skipif(not REAL, reason="RELIGHT_TEST_WEAVIATE_URL is not set")
class TestReal(WeaviateContract):
    """On a real server."""

    dsn = REAL


# Backups by the server


@pytest.fixture
def primary(s3: Any) -> Iterator[WeaviateStandin]:
    """A server that can write to the vault."""
    server = WeaviateStandin(s3=s3)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def second(s3: Any) -> Iterator[WeaviateStandin]:
    """Another one, whose node has another name."""
    server = WeaviateStandin(s3=s3, node="standby-0")
    server.start()
    yield server
    server.stop()


def open_store(server: WeaviateStandin) -> WeaviateStore:
    """With backups, and time that passes by sleeping only."""
    return WeaviateStore(f"{server.url}?backup=s3", clock=FakeClock())


def back_up(store: WeaviateStore, spec: CollectionSpec, vault: Vault) -> PointSource:
    """A snapshot, as a point would give it back."""
    sink = PointSink(vault, POINT, spec.name, store.extension)
    taken = store.snapshot(spec.name, sink)
    part: CollectionPart = MemorySink().source(store, taken).part
    return PointSource(vault, replace(part, pieces=tuple(sink.pieces)))


@pytest.mark.parametrize("count", [0, 30])
def test_a_backup_restores_on_another_server(
    primary: WeaviateStandin, second: WeaviateStandin, spec: CollectionSpec, vault: Vault, count: int
) -> None:
    """The server's own files are in the vault, with their checksums; nodes of another name are mapped."""
    here, there = open_store(primary), open_store(second)
    fill(here, spec, count)
    source = back_up(here, spec, vault)
    assert {piece.object for piece in source.part.pieces} == set(vault.list_keys("points/"))
    assert len(source.part.pieces) == 2
    restored = there.restore(spec, source, point=POINT, floor=1.0, replace=False)
    assert (restored.points, restored.kept) == (count, None)
    assert ids(there, spec) == ids(here, spec)
    assert str(there.position(spec.name)) == source.part.position


def test_a_class_that_exists_is_said_before_anything_is_done(
    primary: WeaviateStandin, spec: CollectionSpec, vault: Vault
) -> None:
    """A backup over its own class is refused with what would be done, and with `replace` keeps what was there."""
    store = open_store(primary)
    fill(store, spec, 10)
    source = back_up(store, spec, vault)
    apply(store, spec, upsert(50, "later"), since=Position(10, 10))
    before = sorted(primary.classes)
    with pytest.raises(ConflictError, match="already holds"):
        store.restore(spec, source, point=POINT, floor=1.0, replace=False)
    assert sorted(primary.classes) == before
    kept = store.restore(spec, source, point=POINT, floor=1.0, replace=True).kept
    assert kept is not None
    assert store.kept(spec.name) == [kept]
    assert (len(ids(store, spec)), store._count(kept)) == (10, 11)
    assert (store.position(spec.name), store._loose(spec.name)) == (Position(10, 10), [])


def test_there_is_no_scratch_place_beside_a_backups_own_class(
    primary: WeaviateStandin, spec: CollectionSpec, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fails when a rehearsal beside the memory reads a whole backup first, or does not say where it can be done."""
    store = open_store(primary)
    fill(store, spec, 10)
    source = back_up(store, spec, vault)
    monkeypatch.setattr(source, "open", None)
    before = sorted(primary.classes)
    with pytest.raises(ConfigError, match="--into"):
        store.restore(replace(spec, name="scratch"), source, point=POINT, floor=1.0, replace=False)
    assert sorted(primary.classes) == before


def test_a_backup_for_a_scratch_place_leaves_the_alias(
    primary: WeaviateStandin, second: WeaviateStandin, spec: CollectionSpec, vault: Vault
) -> None:
    """fails when the alias that a backup brings takes the place of the one that readers use."""
    here, there = open_store(primary), open_store(second)
    fill(here, spec, 3)
    fill(there, spec, 5)
    source, live = back_up(here, spec, vault), there._live(spec.name).physical
    scratch = replace(spec, name=f"{spec.name}-scratch")
    there.restore(scratch, source, point=POINT, floor=1.0, replace=False)
    assert (second.aliases[_stem(spec.name)], len(ids(there, scratch)), len(ids(there, spec))) == (live, 3, 5)
    there.drop(scratch.name)
    assert second.aliases == {_stem(spec.name): live}


def test_an_alias_that_a_killed_restore_moved_is_put_back(
    primary: WeaviateStandin, spec: CollectionSpec, vault: Vault
) -> None:
    """fails when other readers go on finding what was never verified."""
    store = open_store(primary)
    fill(store, spec, 3)
    live, half = store._live(spec.name).physical, _new_row(spec, START, None)
    store._put([half.to_object()])
    store._create_class(half)
    primary.aliases[_stem(spec.name)] = half.physical
    back_up(store, spec, vault)
    assert (primary.aliases, store._loose(spec.name)) == ({_stem(spec.name): live}, [])


def test_two_restores_of_a_backup_at_once_make_one(
    primary: WeaviateStandin,
    second: WeaviateStandin,
    spec: CollectionSpec,
    vault: Vault,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """fails when the second, which needs the same name for its class, drops that of the first."""
    here = open_store(primary)
    fill(here, spec, 3)
    source = back_up(here, spec, vault)
    there, again = (WeaviateStore(f"{second.url}?backup=s3", stale_s=STALE_S) for _ in range(2))
    bring = there._bring_back

    def meanwhile(*args: Any) -> None:
        with pytest.raises(ConflictError, match="another fills"):
            again.restore(spec, source, point=POINT, floor=1.0, replace=True)
        bring(*args)
        with pytest.raises(ConflictError, match="exists here"):
            again.restore(spec, source, point=POINT, floor=1.0, replace=True)

    monkeypatch.setattr(there, "_bring_back", meanwhile)
    assert there.restore(spec, source, point=POINT, floor=1.0, replace=False).points == 3
    assert (len(ids(again, spec)), again._loose(spec.name)) == (3, [])


@pytest.mark.parametrize(("status", "message"), [("STARTED", "is still STARTED after 3"), ("FAILED", "AccessDenied")])
def test_a_backup_that_does_not_end_is_named(
    primary: WeaviateStandin, spec: CollectionSpec, vault: Vault, status: str, message: str
) -> None:
    """fails when a backup that is stuck or failed waits for ever, hides which one it is, or goes on."""
    store = open_store(primary)
    fill(store, spec, 3)
    primary.backup_status = status
    with pytest.raises(UnavailableError, match=message) as caught:
        back_up(store, spec, vault)
    assert store._live(spec.name).physical in caught.value.problem
    assert len(primary.cancelled) == 1
    assert list(vault.list_keys("points/")) == []


@pytest.mark.parametrize("status", ["STARTED", "FAILED", "CANCELED"])
def test_a_restore_that_does_not_end_leaves_nothing(
    primary: WeaviateStandin, second: WeaviateStandin, spec: CollectionSpec, vault: Vault, status: str
) -> None:
    """fails when a restore that is stuck or failed changes anything for readers or leaves a class behind."""
    here, there = open_store(primary), open_store(second)
    fill(here, spec, 3)
    source = back_up(here, spec, vault)
    second.restore_status = status
    with pytest.raises(UnavailableError, match=status):
        there.restore(spec, source, point=POINT, floor=1.0, replace=False)
    assert (there.describe(spec.name), there._loose(spec.name)) == (None, [])
    second.restore_status = "SUCCESS"
    assert there.restore(spec, source, point=POINT, floor=1.0, replace=False).points == 3


def test_a_damaged_backup_is_refused_before_the_server_reads_it(
    primary: WeaviateStandin, second: WeaviateStandin, spec: CollectionSpec, vault: Vault
) -> None:
    """fails when the server is given bytes that are not those of the manifest."""
    here, there = open_store(primary), open_store(second)
    fill(here, spec, 3)
    source = back_up(here, spec, vault)
    victim = max(source.part.pieces, key=lambda piece: piece.bytes)
    vault.put_bytes(victim.object, b"{" + vault.get_bytes(victim.object)[1:-1] + b" ")
    with pytest.raises(IntegrityError):
        there.restore(spec, source, point=POINT, floor=1.0, replace=False)
    assert set(second.classes) <= {CATALOGUE}


def test_a_server_without_the_module_says_so(standin: WeaviateStandin, spec: CollectionSpec, vault: Vault) -> None:
    """fails when a missing module shows as anything but a wrong configuration."""
    store = open_store(standin)
    fill(store, spec, 1)
    with pytest.raises(ConfigError, match="ENABLE_MODULES"):
        back_up(store, spec, vault)
    store.drop(spec.name)


def test_an_older_server_has_no_aliases_and_works(spec: CollectionSpec) -> None:
    """Before 1.32 the catalogue alone decides."""
    server = WeaviateStandin(version="1.24.1")
    server.start()
    try:
        store = WeaviateStore(server.url)
        fill(store, spec, 3)
        store.restore(spec, take(store, spec), point=POINT, floor=1.0, replace=True)
        assert (server.aliases, len(store.kept(spec.name))) == ({}, 1)
    finally:
        server.stop()


def test_the_key_is_the_addresss_password_and_is_never_shown(spec: CollectionSpec) -> None:
    """fails when the API key is not sent, or is in an error or a representation."""
    server = WeaviateStandin(key="s3cret")
    server.start()
    try:
        WeaviateStore(server.url).ensure(spec)
        wrong = WeaviateStore(server.url.replace("s3cret", "wr0ng"))
        with pytest.raises(DeniedError) as caught:
            wrong.ensure(spec)
        assert "wr0ng" not in f"{caught.value!r} {wrong!r} {wrong._api!r}"
    finally:
        server.stop()
    with pytest.raises(UnavailableError) as gone:
        WeaviateStore(server.url).version()
    assert "s3cret" not in str(gone.value)


def test_a_key_may_have_any_character(spec: CollectionSpec) -> None:
    """fails when a key is sent as the address has to write it."""
    server = WeaviateStandin(key="ab/cd==")
    server.start()
    try:
        WeaviateStore(server.url.replace("ab/cd==", "ab%2Fcd%3D%3D")).ensure(spec)
    finally:
        server.stop()


def test_what_is_no_address_is_a_configuration_error() -> None:
    """fails when an address of another kind, or an unknown module, is found out only later, or a key is shown."""
    for dsn in (
        "postgresql://x",
        "http://",
        "http://h?backup=gcs",
        "http://:s3cret@h:port",
        "http://:s3cret/x@h",
        "http://:s3cret#x@h",
        "http://:s3cret@[h",
    ):
        with pytest.raises(ConfigError) as caught:
            WeaviateStore(dsn)
        assert "s3cret" not in f"{caught.value!r} {caught.value} {caught.value.__context__}"

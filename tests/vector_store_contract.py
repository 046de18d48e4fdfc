"""The contract of a vector store: subclassed for every one that Relight has."""

from __future__ import annotations

import json
import math
import re
import threading
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory_helpers import DIMENSION, MemorySink, MemorySource

from relight.errors import ConflictError, IntegrityError, NotFoundError, RelightError, UnavailableError
from relight.memory.journal import START, Entry, Op, Position
from relight.memory.store import CollectionSpec, Distance, HnswIndex, IndexState
from relight.memory.vectors import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from relight.memory.store import VectorStore

AT = datetime(2026, 4, 19, 2, tzinfo=UTC)
POINT = "20260419T020000Z"

# Each example takes names of its own, so that a fixture of the whole test does; and each store runs the suite's tests
# as its own, which hypothesis takes for one test under several.
UNCHECKED = [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]

# Every name that a collection may have.
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60)

NESTED: dict[str, Any] = {
    "a": [1, 2.5, -3, True, None, {"b": []}],
    "": "",
    "ключ": "値 🌍",
    'q"uo\\te': "\n\t",
    "deep": {"x": {"y": {}}},
}


def upsert(
    seq: int,
    id_: str,
    vector: Sequence[float] | None = None,
    *,
    xid: int = 10,
    payload: dict[str, Any] | type | None = dict,
) -> Entry:
    """An entry of the journal as a reader gives it; its payload has its number unless another is given."""
    return Entry(
        position=Position(xid, seq),
        at=AT,
        epoch=1,
        collection="",
        op=Op.UPSERT,
        id=id_,
        vector=pack(vector or direction(seq)),
        payload={"seq": seq} if isinstance(payload, type) else payload,
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


def fill(store: VectorStore, spec: CollectionSpec, count: int) -> None:
    """Make the collection, and put `p1` and so on into it."""
    store.ensure(spec)
    if count:
        apply(store, spec, *[upsert(n, f"p{n}") for n in range(1, count + 1)])


def take(store: VectorStore, spec: CollectionSpec, on_write: Callable[[], object] = lambda: None) -> MemorySource:
    """A snapshot, as a point would give it back."""
    sink = MemorySink(on_write)
    return sink.source(store, store.snapshot(spec.name, sink))


def ids(store: VectorStore, spec: CollectionSpec) -> set[str]:
    """Of all points; for small collections."""
    return {hit.id for hit in store.search(spec.name, direction(1), 1000).hits}


def flip(data: bytes) -> bytes:
    """One byte in the middle is another."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]


class Once:
    """Calls something the first time only."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self.done = False

    def __call__(self) -> None:
        if not self.done:
            self.done = True
            self._call()


class VectorStoreContract:
    """Subclassed for each store; the fixtures `store` and `again` are two clients of one server.

    A subclass brings both, and `leftovers`. What may differ from store to store is in the attributes.
    """

    index_travels: ClassVar[bool] = False
    """Whether a snapshot holds the built index, so that it is there after a restore."""

    @pytest.fixture
    def again(self, store: VectorStore) -> Iterator[VectorStore]:
        """A second client."""
        raise NotImplementedError

    def leftovers(self, spec: CollectionSpec) -> list[str]:
        """What the server holds of `spec` beside the collection itself and what is kept of it, snapshots included."""
        raise NotImplementedError

    def newer(self, version: str) -> list[str]:
        """Versions of which this store is too old to read: the next major one, and the next minor one."""
        match = re.search(r"(\d+)\.(\d+)", version)
        assert match is not None
        major, minor = map(int, match.groups())
        return [version.replace(match[0], text, 1) for text in (f"{major + 1}.0", f"{major}.{minor + 1}")]

    def comparable(self, configuration: dict[str, Any]) -> dict[str, Any]:
        """What of a collection's configuration a restore brings back."""
        return configuration

    def restore(
        self,
        store: VectorStore,
        spec: CollectionSpec,
        source: MemorySource,
        *,
        replace: bool = False,
        floor: float = 0.9,
    ) -> str | None:
        """Restore, and return the name of what was kept."""
        return store.restore(spec, source, point=POINT, floor=floor, replace=replace).kept

    # Making, describing

    def test_a_collection_is_made_once(self, store: VectorStore, spec: CollectionSpec) -> None:
        """Making it again changes nothing; a new one is empty and at the start of the journal."""
        assert store.describe(spec.name) is None
        store.ensure(spec)
        new = store.describe(spec.name)
        assert new is not None
        assert (new.points, new.position, new.is_empty, new.restored_from) == (0, START, True, None)
        apply(store, spec, upsert(1, "a"))
        store.ensure(spec)
        found = store.describe(spec.name)
        assert found is not None
        assert (found.spec, found.points, found.position, found.is_empty) == (spec, 1, Position(10, 1), False)

    @pytest.mark.parametrize(
        "change",
        [
            {"dimension": DIMENSION + 1},
            {"embedding_model": "other"},
            {"distance": Distance.DOT},
            {"prefix": "passage: "},
        ],
    )
    def test_another_spec_is_refused(self, store: VectorStore, spec: CollectionSpec, change: dict[str, Any]) -> None:
        """fails when a collection is used with another dimension, model, distance or prefix than it was made with."""
        store.ensure(spec)
        with pytest.raises(IntegrityError):
            store.ensure(replace(spec, **change))

    def test_all_of_a_spec_is_described(self, store: VectorStore, spec: CollectionSpec) -> None:
        """Prefix, model and index come back as they were given."""
        spec = replace(
            spec, prefix="query: ü", embedding_model='m/"ö"', index=HnswIndex(m=8, ef_construction=32), dimension=3
        )
        store.ensure(spec)
        found = store.describe(spec.name)
        assert found is not None
        assert (found.spec, found.spec.index) == (spec, spec.index)

    def test_two_clients_make_it_at_once(self, store: VectorStore, again: VectorStore, spec: CollectionSpec) -> None:
        """Neither sees an error, and there is one collection."""
        errors = in_parallel(lambda: store.ensure(spec), lambda: again.ensure(spec))
        assert errors == []
        assert store.position(spec.name) == START

    def test_what_does_not_exist_is_not_found(self, store: VectorStore, spec: CollectionSpec) -> None:
        """Whatever is asked of a collection that is missing names it."""
        for call in (
            lambda: store.search(spec.name, direction(1), 1),
            lambda: store.position(spec.name),
            lambda: store.snapshot(spec.name, MemorySink()),
            lambda: apply(store, spec, upsert(1, "a")),
            lambda: store.build_index(spec.name),
            lambda: store.score(spec.name, []),
        ):
            with pytest.raises(NotFoundError, match=spec.name):
                call()
        assert store.kept(spec.name) == []

    # Searching

    def test_the_nearest_come_first(self, store: VectorStore, spec: CollectionSpec) -> None:
        """A search gives the nearest points in order, with payload and distance, and the position it is true for."""
        fill(store, spec, 29)
        found = store.search(spec.name, direction(7), 3)
        assert found.hits[0].id == "p7"
        assert found.hits[0].payload == {"seq": 7}
        assert found.hits[0].distance == pytest.approx(0, abs=1e-6)
        assert {hit.id for hit in found.hits[1:]} == {"p6", "p8"}
        assert found.position == Position(10, 29)

    @pytest.mark.parametrize("distance", list(Distance))
    def test_every_distance_ranks(self, store: VectorStore, spec: CollectionSpec, distance: Distance) -> None:
        """Smaller is nearer, whichever distance the collection has, and its value is the one that the name says."""
        spec = replace(spec, distance=distance)
        store.ensure(spec)
        near, far = [1.0] * DIMENSION, [-1.0] * DIMENSION
        apply(store, spec, upsert(1, "far", far), upsert(2, "near", near))
        hits = store.search(spec.name, near, 5).hits
        assert [hit.id for hit in hits] == ["near", "far"]
        wanted = {
            Distance.COSINE: (0, 2),
            Distance.EUCLIDEAN: (0, 2 * DIMENSION**0.5),
            Distance.DOT: (-DIMENSION, DIMENSION),
        }
        assert [hit.distance for hit in hits] == pytest.approx(wanted[distance], abs=1e-5)

    def test_equal_distances_are_ordered_by_id(self, store: VectorStore, spec: CollectionSpec) -> None:
        """The same question has the same answer, however often it is asked."""
        store.ensure(spec)
        apply(store, spec, *[upsert(n, name, direction(1)) for n, name in enumerate("dbeac", 1)])
        assert [hit.id for hit in store.search(spec.name, direction(1), 5).hits] == list("abcde")

    # Applying

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

    def test_an_upsert_replaces_all_of_a_point(self, store: VectorStore, spec: CollectionSpec) -> None:
        """fails when anything of the former payload or vector is still there."""
        store.ensure(spec)
        apply(store, spec, upsert(1, "a", payload={"old": 1, "both": {"x": 1}}))
        apply(store, spec, upsert(2, "a", direction(9), payload={"both": {"y": 2}}), since=Position(10, 1))
        (hit,) = store.search(spec.name, direction(9), 5).hits
        assert hit.payload == {"both": {"y": 2}}
        assert hit.distance == pytest.approx(0, abs=1e-6)

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

    @pytest.mark.parametrize(
        "payload", [None, {}, {"a": None}, NESTED, {"text": "ü" * 100_000}, {"n": 2**53, "list": list(range(2000))}]
    )
    def test_any_payload_comes_back(
        self, store: VectorStore, spec: CollectionSpec, payload: dict[str, Any] | None
    ) -> None:
        """As it was written, from the collection and from its snapshot; none is not the same as an empty one."""
        store.ensure(spec)
        apply(store, spec, upsert(1, "a", payload=payload))
        other = replace(spec, name=f"{spec.name}-copy")
        self.restore(store, other, take(store, spec))
        for name in (spec.name, other.name):
            assert [hit.payload for hit in store.search(name, direction(1), 1).hits] == [payload]

    def test_any_text_is_an_id(self, store: VectorStore, spec: CollectionSpec) -> None:
        """UUIDs in every spelling, numbers, blanks and long texts stay apart, come back as they were, are deleted."""
        uuid = "0192d3a4-5b6c-7d8e-9f00-112233445566"
        names = [uuid, uuid.upper(), uuid.replace("-", ""), f"{{{uuid}}}", "1", "01", " ", "é", "e\u0301", "x" * 500]
        store.ensure(spec)
        apply(store, spec, *[upsert(n, name) for n, name in enumerate(names, 1)])
        other = replace(spec, name=f"{spec.name}-copy")
        self.restore(store, other, take(store, spec))
        for copy in (spec, other):
            assert ids(store, copy) == set(names)
        apply(store, other, *[delete(n, name) for n, name in enumerate(names[::2], 50)], since=Position(10, len(names)))
        assert ids(store, other) == set(names[1::2])

    @settings(max_examples=10, deadline=None, suppress_health_check=UNCHECKED)
    @given(names=st.lists(NAMES, unique=True, min_size=1, max_size=20))
    def test_ids_that_differ_are_points_that_differ(
        self, store: VectorStore, spec: CollectionSpec, names: list[str]
    ) -> None:
        """Any texts are put in, found as they were written, and taken out one by one."""
        store.drop(spec.name)
        store.ensure(spec)
        apply(store, spec, *[upsert(n, name) for n, name in enumerate(names, 1)])
        assert ids(store, spec) == set(names)
        apply(store, spec, delete(50, names[0]), since=Position(10, len(names)))
        assert ids(store, spec) == set(names[1:])

    def test_points_are_fetched_by_their_ids(self, store: VectorStore, spec: CollectionSpec) -> None:
        """Vector and payload as they were written; what there is not is left out, and no other point comes for it."""
        store.ensure(spec)
        length = math.hypot(*direction(3))
        unit = [value / length for value in direction(3)]
        apply(
            store,
            spec,
            upsert(1, "a", unit, payload=NESTED),
            upsert(2, "7", unit, payload=None),
            upsert(3, "gone"),
            upsert(4, "b"),
            delete(5, "gone"),
        )
        found = {point.id: point for point in store.fetch(spec.name, ["a", "never", "7", "gone", "07"])}
        assert {id_: point.payload for id_, point in found.items()} == {"a": NESTED, "7": None}
        for point in found.values():
            assert list(unpack(point.vector)) == pytest.approx(unit, abs=1e-6)
        assert store.fetch(spec.name, []) == []

    # Snapshots and restores

    @pytest.mark.parametrize("count", [0, 1, 500])
    def test_a_snapshot_restores(self, store: VectorStore, spec: CollectionSpec, count: int) -> None:
        """All points, their vectors, payloads and position come back, in a collection of another name."""
        fill(store, spec, count)
        source = take(store, spec)
        other = replace(spec, name=f"{spec.name}-copy")
        assert (source.part.points, source.part.drift) == (count, 0)
        restored = store.restore(other, source, point=POINT, floor=1.0, replace=False)
        assert (restored.points, restored.recall, restored.kept) == (count, 1.0, None)
        found = store.describe(other.name)
        assert found is not None
        assert (found.spec, found.points, str(found.position)) == (other, count, source.part.position)
        assert found.restored_from == POINT
        assert store.search(other.name, direction(3), 20).hits == store.search(spec.name, direction(3), 20).hits
        assert self.leftovers(spec) == self.leftovers(other) == []

    def test_a_snapshot_says_what_it_is_of(self, store: VectorStore, spec: CollectionSpec) -> None:
        """Server, spec, canaries with their ten answers, and a configuration that JSON can hold."""
        fill(store, spec, 30)
        sink = MemorySink()
        taken = store.snapshot(spec.name, sink)
        assert (taken.spec, taken.server_version) == (spec, store.version())
        assert [len(canary.ids) for canary in taken.canaries] == [10] * len(taken.canaries)
        assert len(taken.canaries) >= 5
        assert taken.configuration
        assert json.loads(json.dumps(taken.configuration)) == taken.configuration
        assert list(sink.pieces.values()) != []

    def test_the_configuration_comes_back(self, store: VectorStore, spec: CollectionSpec) -> None:
        """A restored collection, its index built, is configured as the one that the snapshot was taken of."""
        spec = replace(spec, index=HnswIndex(m=8, ef_construction=40), distance=Distance.EUCLIDEAN)
        fill(store, spec, 20)
        source = take(store, spec)
        other = replace(spec, name=f"{spec.name}-copy")
        self.restore(store, other, source)
        store.build_index(other.name)
        copy = take(store, other)
        assert self.comparable(copy.part.configuration) == self.comparable(source.part.configuration)

    def test_a_restored_collection_is_written_to(self, store: VectorStore, spec: CollectionSpec) -> None:
        """The journal goes on where the snapshot ended."""
        fill(store, spec, 5)
        source = take(store, spec)
        other = replace(spec, name=f"{spec.name}-copy")
        self.restore(store, other, source)
        since = Position.parse(source.part.position)
        assert apply(store, other, upsert(6, "p6"), delete(7, "p1"), since=since) == Position(10, 7)
        assert ids(store, other) == {f"p{n}" for n in range(2, 7)}

    @pytest.mark.parametrize(
        "name",
        [
            *("collections", "a b", "q\"uo'te", "../up", "..", "%s", "{x}", "日本語", "x" * 255, "sel;ect", "a\\b\n"),
            "".join(map(chr, range(1, 128))),
        ],
    )
    def test_any_legal_name_works(self, store: VectorStore, spec: CollectionSpec, name: str) -> None:
        """Whatever a collection's name holds, it is made, filled, taken, restored, and its former data kept."""
        spec = replace(spec, name=name)
        store.drop(name)
        store.ensure(spec)
        apply(store, spec, upsert(1, "a"))
        kept = self.restore(store, spec, take(store, spec), replace=True)
        assert kept is not None
        assert store.kept(name) == [kept]
        assert [hit.id for hit in store.search(name, direction(1), 5).hits] == ["a"]
        store.drop(name)
        assert store.kept(name) == []

    @settings(max_examples=15, deadline=None, suppress_health_check=UNCHECKED)
    @given(name=NAMES)
    def test_every_name_is_one_collection(self, store: VectorStore, spec: CollectionSpec, name: str) -> None:
        """Any text of 1 to 255 bytes is the name of one collection, and of no other."""
        spec = replace(spec, name=name)
        store.drop(name)
        store.ensure(spec)
        found = store.describe(name)
        assert found is not None
        assert found.spec.name == name
        store.drop(name)
        assert store.describe(name) is None

    @pytest.mark.parametrize(
        ("one", "two"),
        [pair.split("|") for pair in ("Name|name", "a/b|a_b", "a b|a_b", "a.b|a-b", "a |a", "a\n|a", "%41|A", "ß|ss")]
        + [["\u0131", "i"], ["n" * 200 + "1", "n" * 200 + "2"], ["\u00e4", "a\u0308"], ["\u200b", "\u200c"]],
    )
    def test_names_that_are_alike_stay_apart(
        self, store: VectorStore, spec: CollectionSpec, one: str, two: str
    ) -> None:
        """fails when two names that differ in a character are folded, cut or cleaned to one."""
        first, second = replace(spec, name=spec.name + one), replace(spec, name=spec.name + two)
        store.ensure(first)
        store.ensure(second)
        apply(store, first, upsert(1, "a"))
        assert ids(store, second) == set()
        source = take(store, first)
        self.restore(store, second, source)
        store.drop(second.name)
        assert ids(store, first) == {"a"}
        store.drop(first.name)

    def test_former_data_is_kept_and_found(self, store: VectorStore, spec: CollectionSpec) -> None:
        """A restore over data keeps that data under a name of its own, newest first, until it is told to drop it."""
        fill(store, spec, 1)
        source = take(store, spec)
        apply(store, spec, upsert(2, "b"), since=Position(10, 1))
        first = self.restore(store, spec, source, replace=True)
        assert store.position(spec.name) == Position(10, 1)
        second = self.restore(store, spec, source, replace=True)
        assert first is not None
        assert second is not None
        assert store.kept(spec.name) == [second, first]
        store.drop_kept(spec.name, first)
        assert store.kept(spec.name) == [second]
        with pytest.raises(NotFoundError):
            store.drop_kept(spec.name, first)
        assert ids(store, spec) == {"p1"}

    def test_the_live_collection_cannot_be_dropped_as_kept(self, store: VectorStore, spec: CollectionSpec) -> None:
        """fails when anything but former data is dropped."""
        store.ensure(spec)
        other = replace(spec, name=f"{spec.name}-other")
        fill(store, other, 1)
        kept = self.restore(store, other, take(store, other), replace=True)
        assert kept is not None
        for name in (spec.name, other.name, kept):
            with pytest.raises(NotFoundError):
                store.drop_kept(spec.name, name)
        assert store.kept(other.name) == [kept]

    def test_an_empty_collection_replaced_is_not_kept(self, store: VectorStore, spec: CollectionSpec) -> None:
        """Nothing is left behind where nothing was."""
        fill(store, spec, 1)
        source = take(store, spec)
        other = replace(spec, name=f"{spec.name}-new")
        store.ensure(other)
        assert self.restore(store, other, source) is None
        assert store.kept(other.name) == self.leftovers(other) == []

    def test_data_is_not_replaced_unasked(self, store: VectorStore, spec: CollectionSpec) -> None:
        """fails when a restore overwrites a collection that holds data, one whose points were all deleted included."""
        fill(store, spec, 1)
        source = take(store, spec)
        with pytest.raises(ConflictError):
            self.restore(store, spec, source)
        apply(store, spec, delete(2, "p1"), since=Position(10, 1))
        with pytest.raises(ConflictError):
            self.restore(store, spec, source)
        assert store.position(spec.name) == Position(10, 2)
        assert self.leftovers(spec) == []

    def test_a_broken_source_changes_nothing(self, store: VectorStore, spec: CollectionSpec) -> None:
        """fails when a restore that was cut leaves a trace, hides what cut it, or keeps the next one from working."""
        fill(store, spec, 99)
        source = take(store, spec)
        for after in (0, sum(piece.bytes for piece in source.part.pieces) // 2):
            with pytest.raises(UnavailableError, match="the vault went away"):
                self.restore(store, spec, source.failing(after), replace=True)
            assert store.kept(spec.name) == self.leftovers(spec) == []
            assert len(ids(store, spec)) == 99
        kept = self.restore(store, spec, source, replace=True)
        assert store.kept(spec.name) == [kept]

    @pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "flipped", "longer", "count", "recall", "sealed"])
    def test_damaged_bytes_are_refused(self, store: VectorStore, spec: CollectionSpec, damage: str) -> None:
        """fails when bytes that are cut, foreign, altered, too few, or that answer otherwise become the collection."""
        fill(store, spec, 99)
        source = take(store, spec)
        canaries = tuple(replace(canary, ids=("x",) * len(canary.ids)) for canary in source.part.canaries)
        damaged = {
            "cut": source.holding(lambda data: data[: len(data) // 2], sealed=False),
            "garbage": source.holding(lambda data: b"not a snapshot" * 1000, sealed=True),
            "empty": source.holding(lambda data: b"", sealed=True),
            "flipped": source.holding(flip, sealed=False),
            "longer": source.holding(lambda data: data + b"\0", sealed=False),
            "count": source.saying(points=100),
            "recall": source.saying(canaries=canaries),
            "sealed": source.holding(lambda data: data[: len(data) // 2], sealed=True),
        }[damage]
        with pytest.raises(IntegrityError):
            self.restore(store, spec, damaged, replace=True)
        assert store.kept(spec.name) == self.leftovers(spec) == []
        assert len(ids(store, spec)) == 99

    def test_a_drift_is_allowed_for(self, store: VectorStore, spec: CollectionSpec) -> None:
        """A count may differ by as much as the manifest says, and by no more."""
        fill(store, spec, 20)
        source = take(store, spec)
        other = replace(spec, name=f"{spec.name}-copy")
        for points in (17, 23):
            with pytest.raises(IntegrityError):
                self.restore(store, other, source.saying(points=points, drift=2))
        restored = store.restore(other, source.saying(points=18, drift=2), point=POINT, floor=0.9, replace=False)
        assert restored.points == 20

    def test_the_floor_decides(self, store: VectorStore, spec: CollectionSpec) -> None:
        """A recall at the floor is enough, and one below it is refused."""
        fill(store, spec, 40)
        source = take(store, spec)
        half = tuple(replace(canary, ids=(*canary.ids[:5], *"vwxyz")) for canary in source.part.canaries)
        other = replace(spec, name=f"{spec.name}-copy")
        with pytest.raises(IntegrityError, match="recall"):
            self.restore(store, other, source.saying(canaries=half), floor=0.51)
        assert store.describe(other.name) is None
        restored = store.restore(other, source.saying(canaries=half), point=POINT, floor=0.5, replace=False)
        assert restored.recall == 0.5

    def test_an_older_server_is_refused(self, store: VectorStore, spec: CollectionSpec) -> None:
        """fails when bytes move to a server that is older than the one they are of."""
        fill(store, spec, 3)
        source = take(store, spec)
        for version in (*self.newer(source.part.server_version), "nonsense"):
            newer = source.saying(server_version=version)
            with pytest.raises(IntegrityError):
                self.restore(store, spec, newer, replace=True)
            assert newer.opened == 0
        assert store.kept(spec.name) == self.leftovers(spec) == []

    # Several at once

    def test_a_snapshot_under_writes_is_brought_forward(
        self, store: VectorStore, again: VectorStore, spec: CollectionSpec
    ) -> None:
        """fails when a snapshot that was written to lacks an entry up to its position, or drifts by more than it says.

        A store with transactions shows one moment.
        """
        fill(store, spec, 200)
        later = [upsert(500, "new"), delete(501, "p1"), upsert(502, "p2", direction(60)), upsert(503, "newer")]

        def write() -> None:
            for number, entry in enumerate(later):
                since = Position(10, 200) if number == 0 else later[number - 1].position
                apply(again, spec, entry, since=since)

        interruption = Once(write)
        source = take(store, spec, interruption)
        assert interruption.done
        part = source.part
        position = Position.parse(part.position)
        if store.transactional:
            assert (part.points, part.drift, position) == (200, 0, Position(10, 200))
        assert abs(part.points - 200) <= max(part.drift, 2)
        other = replace(spec, name=f"{spec.name}-copy")
        restored = store.restore(other, source, point=POINT, floor=0.8, replace=False)
        assert abs(restored.points - part.points) <= part.drift
        lacking = [entry for entry in later if entry.position > position]
        apply(store, other, *lacking, since=position)
        assert ids(store, other) == ids(store, spec)
        assert store.search(other.name, direction(60), 3).hits == store.search(spec.name, direction(60), 3).hits

    def test_a_failing_sink_shows_its_own_error(self, store: VectorStore, spec: CollectionSpec) -> None:
        """fails when the vault's error is hidden, leaves something behind, or makes the store useless."""
        fill(store, spec, 49)

        def broken() -> None:
            raise UnavailableError("the vault went away")

        with pytest.raises(UnavailableError, match="the vault went away"):
            take(store, spec, broken)
        assert self.leftovers(spec) == []
        assert take(store, spec).part.points == 49

    def test_two_snapshots_at_once_are_both_whole(
        self, store: VectorStore, again: VectorStore, spec: CollectionSpec
    ) -> None:
        """Neither takes anything from the other, and nothing of either stays on the server."""
        fill(store, spec, 100)
        sources: list[MemorySource] = []
        errors = in_parallel(
            lambda: sources.append(take(store, spec)),
            lambda: sources.append(take(again, spec)),
        )
        assert errors == []
        for number, source in enumerate(sources):
            copy = replace(spec, name=f"{spec.name}-{number}")
            self.restore(store, copy, source, floor=1.0)
            assert len(ids(store, copy)) == 100
        assert self.leftovers(spec) == []

    def test_a_collection_deleted_meanwhile_makes_no_half_snapshot(
        self, store: VectorStore, again: VectorStore, spec: CollectionSpec
    ) -> None:
        """Its snapshot is whole, or it fails; the collection is gone and nothing of it is left."""
        fill(store, spec, 300)
        threads: list[threading.Thread] = []

        def drop() -> None:
            threads.append(threading.Thread(target=again.drop, args=[spec.name]))
            threads[0].start()

        try:
            source = take(store, spec, Once(drop))
        except RelightError:
            pass
        else:
            other = replace(spec, name=f"{spec.name}-copy")
            self.restore(store, other, source)
            assert len(ids(store, other)) == 300
        threads[0].join()
        assert store.describe(spec.name) is None
        assert self.leftovers(spec) == []

    def test_two_restores_at_once_make_one(self, store: VectorStore, again: VectorStore, spec: CollectionSpec) -> None:
        """One fills the empty collection, and the other is told that it is no longer empty."""
        fill(store, spec, 200)
        source = take(store, spec)
        other = replace(spec, name=f"{spec.name}-copy")
        errors = in_parallel(lambda: self.restore(store, other, source), lambda: self.restore(again, other, source))
        assert [type(error) for error in errors] == [ConflictError]
        assert len(ids(store, other)) == 200
        assert self.leftovers(other) == []

    def test_searching_goes_on_during_restores(
        self, store: VectorStore, again: VectorStore, spec: CollectionSpec
    ) -> None:
        """fails when a search meets a missing, an empty or a mixed collection while it is being replaced."""
        fill(store, spec, 49)
        source = take(store, spec)
        done = threading.Event()
        seen: list[int] = []

        def search() -> None:
            while not done.is_set():
                seen.append(len(again.search(spec.name, direction(1), 100).hits))

        def replace_often() -> None:
            try:
                for _ in range(5):
                    self.restore(store, spec, source, replace=True)
            finally:
                done.set()

        assert in_parallel(search, replace_often) == []
        assert set(seen) == {49}

    def test_writing_goes_on_during_a_restore(
        self, store: VectorStore, again: VectorStore, spec: CollectionSpec
    ) -> None:
        """fails when a write during a restore is lost from the journal's point of view, or moves what was restored.

        The applier is told how far the restored collection is, and applies from there.
        """
        fill(store, spec, 100)
        source = take(store, spec)
        entries = [upsert(n, f"w{n}") for n in range(101, 161)]
        done = threading.Event()

        def catch_up() -> None:
            position = again.position(spec.name)
            while lacking := [entry for entry in entries if entry.position > position][:3]:
                try:
                    position = apply(again, spec, *lacking, since=position)
                except ConflictError:
                    position = again.position(spec.name)

        def write() -> None:
            while not done.is_set():
                catch_up()

        def restore() -> None:
            try:
                self.restore(store, spec, source, replace=True)
            finally:
                done.set()

        assert in_parallel(write, restore) == []
        catch_up()
        assert ids(store, spec) == {f"p{n}" for n in range(1, 101)} | {entry.id for entry in entries}
        assert store.position(spec.name) == entries[-1].position

    # Indexes

    def test_a_collection_without_an_index_has_none(self, store: VectorStore, spec: CollectionSpec) -> None:
        """It is searched exactly, after a restore too, and there is nothing to build."""
        spec = replace(spec, index=None)
        fill(store, spec, 30)
        self.restore(store, spec, take(store, spec), replace=True)
        found = store.describe(spec.name)
        assert found is not None
        assert (found.index, found.spec.index) == (IndexState.NONE, None)
        assert store.build_index(spec.name) is IndexState.NONE

    def test_an_index_is_built_after_a_restore(self, store: VectorStore, spec: CollectionSpec) -> None:
        """A new collection has its index; a restored one serves at once, says what it lacks, and is given it."""
        fill(store, spec, 200)
        new = store.describe(spec.name)
        assert new is not None
        assert new.index is IndexState.READY
        other = replace(spec, name=f"{spec.name}-copy")
        self.restore(store, other, take(store, spec))
        found = store.describe(other.name)
        assert found is not None
        assert found.index is (IndexState.READY if self.index_travels else IndexState.LACKING)
        assert store.search(other.name, direction(70), 1).hits[0].id == "p70"
        assert store.build_index(other.name) is IndexState.READY
        assert store.build_index(other.name) is IndexState.READY
        built = store.describe(other.name)
        assert built is not None
        assert (built.index, built.points) == (IndexState.READY, 200)
        assert store.search(other.name, direction(70), 1).hits[0].id == "p70"

    # Scores, dropping, adopting

    def test_a_score_is_the_recall_now(self, store: VectorStore, spec: CollectionSpec) -> None:
        """One while nothing changed, none when every answer is gone, a share between them."""
        fill(store, spec, 60)
        canaries = take(store, spec).part.canaries
        assert store.score(spec.name, canaries) == 1.0
        assert store.score(spec.name, []) == 1.0
        gone = canaries[0].ids[:5]
        apply(store, spec, *[delete(100 + n, name) for n, name in enumerate(gone)], since=Position(10, 60))
        assert store.score(spec.name, canaries[:1]) == 0.5
        apply(store, spec, *[delete(200 + n, f"p{n}") for n in range(1, 61)], since=Position(10, 104))
        assert store.score(spec.name, canaries) == 0.0

    def test_dropping_leaves_nothing(self, store: VectorStore, spec: CollectionSpec) -> None:
        """The collection and what is kept of it go, another stays, and it can be made anew; nothing to drop is fine."""
        other = replace(spec, name=f"{spec.name}-other")
        fill(store, spec, 10)
        fill(store, other, 10)
        self.restore(store, spec, take(store, spec), replace=True)
        store.drop(spec.name)
        store.drop(spec.name)
        assert store.describe(spec.name) is None
        assert store.kept(spec.name) == self.leftovers(spec) == []
        assert len(ids(store, other)) == 10
        store.ensure(spec)
        assert (ids(store, spec), store.position(spec.name)) == (set(), START)

    @pytest.mark.parametrize("dry_run", [True, False])
    def test_nothing_to_adopt_is_nothing_to_do(self, store: VectorStore, spec: CollectionSpec, dry_run: bool) -> None:
        """A collection that is missing, or that Relight made, is left as it is."""
        assert store.adopt(spec, dry_run=dry_run) == []
        assert store.describe(spec.name) is None
        fill(store, spec, 3)
        assert store.adopt(spec, dry_run=dry_run) == []
        assert ids(store, spec) == {"p1", "p2", "p3"}
        assert store.position(spec.name) == Position(10, 3)


def in_parallel(*calls: Callable[[], object]) -> list[BaseException]:
    """Run all at once; the errors, in the order of the calls."""
    errors: dict[int, BaseException] = {}
    barrier = threading.Barrier(len(calls))

    def run(number: int, call: Callable[[], object]) -> None:
        barrier.wait()
        try:
            call()
        except BaseException as exc:  # noqa: BLE001 - given to the test
            errors[number] = exc

    threads = [threading.Thread(target=run, args=item) for item in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [errors[number] for number in sorted(errors)]

"""Weaviate as a vector store: physical classes, and a catalogue class that says which of them is live."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
import secrets
import threading
import uuid
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from relight.adapters.weaviate import Weaviate
from relight.clock import SystemClock
from relight.errors import (
    ConfigError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    PermanentError,
    RelightError,
    UnavailableError,
)
from relight.memory.checks import check_count, check_dimension, check_recall, check_since
from relight.memory.journal import START, Op, Position
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
from relight.vault.manifest import Canary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from relight.clock import Clock
    from relight.memory.journal import Entry
    from relight.memory.store import Place, SnapshotSink, SnapshotSource, Source

CATALOGUE = "RelightCatalogue"
FORMAT = {"format": "relight-weaviate-objects", "version": 1}
METRICS = {Distance.COSINE: "cosine", Distance.EUCLIDEAN: "l2-squared", Distance.DOT: "dot"}

# Servers before this one could not put a backup where the request says.
BACKUP_SINCE = (1, 27)
BACKUP_BOUND_S = 3600.0
_POLL_S = 1.0
_UNDER_WAY = ("STARTED", "TRANSFERRING", "TRANSFERRED", "FINALIZING", "CANCELLING")

# What is being filled shows that it is alive some times within this span; what did not for that long was left behind.
STALE_S = 10.0

# A lock is held for moments: many holders that died one after the other still fit into this.
LOCK_BOUND_S = 60.0

# What a request or an answer holds of objects at most, but for a single one; a component takes up to 20 bytes of JSON.
_PAGE = 200
_PAGE_BYTES = 4 * 1024 * 1024
_FLOAT_BYTES = 20
_DELETES_AT_ONCE = 1000
_READ_BYTES = 1024 * 1024

_IDS = uuid.UUID("6b1d7f3e-2f0d-5d0c-8a39-5b7d0c4c9e11")
_NIL = str(uuid.UUID(int=0))
_VERSION = re.compile(r"(\d+)\.(\d+)")
_OURS = re.compile(r"Relight_|RelightLock_|RelightCatalogue$")
_CLASS_NAME = re.compile(r"[A-Za-z][_0-9A-Za-z]{0,254}")


def _text(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "dataType": ["text"],
        "tokenization": "field",
        "indexFilterable": False,
        "indexSearchable": False,
    }


# `present` is true for every object: a search that filters by it is exact, because no filter matches as many objects as
# `flatSearchCutoff`, below which Weaviate compares with each of them instead of walking the index.
_PROPERTIES = [
    _text("point"),
    _text("payload"),
    {"name": "present", "dataType": ["boolean"], "indexFilterable": True},
]
_ALL_EXACTLY = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """What the catalogue says of a physical class."""

    physical: str
    spec: CollectionSpec
    position: Position
    restored_from: str | None
    filler: str | None = None
    """Who is filling it; None when it is whole, and may hold what nobody has anywhere else."""
    beat: int = 0

    @property
    def id(self) -> str:
        return _row_id(self.physical)

    @property
    def whole(self) -> _Row:
        return replace(self, filler=None)

    def to_object(self) -> dict[str, Any]:
        spec = asdict(self.spec) | {"distance": self.spec.distance.value}
        state = asdict(self) | {"spec": spec, "position": str(self.position)}
        return _catalogued(self.id, "row", self.spec.name, state)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """What the catalogue says of a collection. It is one object, so that writing it is the switch."""

    name: str
    live: str
    kept: tuple[str, ...] = ()
    """Newest first."""

    @property
    def classes(self) -> tuple[str, ...]:
        return self.live, *self.kept

    def to_object(self) -> dict[str, Any]:
        return _catalogued(_head_id(self.name), "head", self.name, asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gone:
    """What the catalogue says of a class that is to be dropped, so that it is even when we are killed."""

    physical: str
    name: str

    def to_object(self) -> dict[str, Any]:
        return _catalogued(_gone_id(self.physical), "gone", self.name, asdict(self))


class WeaviateStore:
    """Collections in a Weaviate of their own, by REST and GraphQL. See `VectorStore` for what is promised.

    A snapshot is either an export, which every server can make: JSON lines, the first of them `FORMAT`, then one for
    each object: `id`, `vector` (base64 of little-endian 32-bit floats) and `properties`; or, where the address ends in
    `?backup=s3` and the server has that module and reaches the vault, a backup of the server's own. A backup is
    restored under the name of the class that it is of. That name is unique, so it is free on any other server; where it
    is not, the class is copied aside first, and only when told to replace.

    Objects hold the point's id as `point`, its payload as JSON text as `payload`, and `present`. A collection's class
    has a name of its own for each restore. Where the server has aliases, one follows for other readers.
    """

    kind = "weaviate"
    extension = "jsonl"
    transactional = False

    def __init__(self, dsn: str, *, clock: Clock | None = None, stale_s: float = STALE_S) -> None:
        self._api = Weaviate(dsn)
        self._clock = clock or SystemClock()
        self._stale_s = stale_s
        self._backend = self._api.options.get("backup", "")
        if self._backend not in ("", "s3"):
            raise ConfigError(f"backup={self._backend!r} of Weaviate is not supported", hint="use s3, or leave it out")

    def close(self) -> None:
        """Let the connections go."""
        self._api.close()

    def version(self) -> str:
        """The server's version."""
        return f"Weaviate {self._api.call('GET', 'meta')['version']}"

    def ensure(self, spec: CollectionSpec) -> None:
        """Make the collection unless it exists; see `VectorStore.ensure`. The index of one that exists stays."""
        if self._agrees(spec):
            return
        if (foreign := self._foreign(spec.name)) is not None:
            raise ConflictError(
                f"the class {foreign} has the name of the collection {spec.name!r}, and Relight did not make it",
                hint="run `relight adopt`, or use another name",
            )
        self._ensure_catalogue()
        with self._locked(spec.name) as held:
            if self._agrees(spec):
                return
            head = self._head(spec.name)
            row = _new_row(spec, START, None)
            self._put([row.to_object()])
            self._create_class(row)
            self._write_head(held, _Head(name=spec.name, live=row.physical, kept=head.kept if head else ()), row.whole)

    def describe(self, name: str) -> Collection | None:
        """The collection, or None."""
        row = self._find(name)
        if row is None or not self._has_class(row.physical):
            return None
        return Collection(
            spec=row.spec,
            points=self._count(row.physical),
            position=row.position,
            restored_from=row.restored_from,
            index=IndexState.NONE if row.spec.index is None else IndexState.READY,
        )

    def apply(self, name: str, entries: Sequence[Entry], *, since: Position, until: Position) -> Position:
        """Apply the entries after `since` up to `until`; see `VectorStore.apply`.

        ConflictError also when a restore replaced the collection meanwhile.
        """
        row = self._live(name)
        if row.position >= until:
            return row.position
        check_since(name, row.position, since)
        last = {entry.id: entry for entry in entries}
        upserts = [entry for entry in last.values() if entry.op is Op.UPSERT]
        check_dimension(upserts, row.spec)
        self._put(
            _object(row.physical, entry.id, list(unpack(entry.vector or b"")), entry.payload) for entry in upserts
        )
        self._delete_points(row.physical, [_uuid(entry.id) for entry in last.values() if entry.op is Op.DELETE])
        if not self._rewrite(replace(row, position=until)):
            raise ConflictError(
                f"the collection {name!r} was replaced meanwhile", hint="read the journal from where it is now"
            )
        return until

    def position(self, name: str) -> Position:
        """The last journal entry in the collection."""
        return self._live(name).position

    def search(self, name: str, vector: Sequence[float], k: int) -> Found:
        """The `k` nearest points, by the index where there is one."""
        vector = unpack(pack(vector))
        row = self._live(name)
        try:
            hits = self._nearest(row, vector, k)
        except NotFoundError:
            # A restore drops the empty class that it replaces, and may do so after we learned its name.
            row = self._live(name)
            hits = self._nearest(row, vector, k)
        return Found(hits=hits, position=row.position)

    def fetch(self, name: str, ids: Sequence[str]) -> list[StoredPoint]:
        """Those of the points that there are, asked for one by one; see `VectorStore.fetch`."""
        row = self._live(name)
        points = []
        for id_ in ids:
            try:
                found = self._api.call("GET", "objects", row.physical, _uuid(id_), query={"include": "vector"})
            except NotFoundError:
                continue
            said = found["properties"]
            points.append(
                StoredPoint(id=said["point"], vector=pack(found["vector"]), payload=json.loads(said["payload"]))
            )
        return points

    def snapshot(self, name: str, sink: SnapshotSink) -> Taken:
        """Write an export or have the server write a backup; see `VectorStore.snapshot`."""
        row = self._live(name)
        self._sweep(name)
        configuration: dict[str, Any] = {
            "class": self._api.call("GET", "schema", row.physical),
            "alias": _stem(name) if self._aliased() else None,
        }
        before = self._count(row.physical)
        canaries = self._canaries(row)
        if self._backend:
            configuration["backup"] = self._back_up(row, sink)
            # Nothing tells what was written while the server copied: no more than the journal numbered meanwhile.
            moved = self._live(name).position.seq - row.position.seq
            points, drift = before, max(abs(moved), abs(self._count(row.physical) - before))
        else:
            with sink.piece() as stream:
                points, drift = self._export(row, stream), 0
                if not self._has_class(row.physical):
                    raise NotFoundError(f"the collection {name!r} was dropped while it was copied", hint="take another")
        return Taken(
            spec=row.spec,
            server_version=self.version(),
            points=points,
            drift=drift,
            position=row.position,
            canaries=canaries,
            configuration=configuration,
        )

    def restore(
        self, spec: CollectionSpec, source: SnapshotSource, *, point: str, floor: float, replace: bool
    ) -> Restored:
        """Fill a class of its own, verify it, switch to it; see `VectorStore.restore`.

        Of a backup whose class exists here ConflictError says what would be moved, unless `replace`, and ConfigError
        that it is another collection's, so that there is no place for it on this server. IntegrityError says that its
        nodes cannot be matched with those here.
        """
        part = source.part
        _check_version(self.version(), part.server_version)
        backup = part.configuration.get("backup")
        if backup is None and len(part.pieces) != 1:
            raise IntegrityError(f"the snapshot of {part.name!r} has {len(part.pieces)} pieces, and an export is one")
        self._ensure_catalogue()
        # A backup's class, and its alias, have the name of the collection that it is of.
        for name in dict.fromkeys((spec.name, part.name)):
            self._sweep(name)
        self._refuse_unless_empty(spec.name, replace=replace)
        row = _new_row(spec, Position.parse(part.position), point, None if backup is None else str(backup["class"]))
        if backup is not None:
            self._refuse_beside(row, part.name)
            self._check_backup(source)
            self._make_way(row.physical, spec.name, replace=replace)
        with self._filling(row) as watched:
            if backup is None:
                self._create_class(row, part.configuration.get("class"))
                with source.open(part.pieces[0]) as stream:
                    self._put(watched(_imported(row, line) for line in _lines(stream)))
            else:
                self._bring_back(row, backup, source.place(), part.name)
            points = self._count(row.physical)
            check_count(part.name, points, points=part.points, drift=part.drift)
            score = self._recall(row, part.canaries)
            check_recall(part.name, score, floor)
        return Restored(points=points, recall=score, kept=self._switch(row, replace=replace))

    def build_index(self, name: str) -> IndexState:
        """Nothing to do: Weaviate builds its index with every write."""
        return IndexState.NONE if self._live(name).spec.index is None else IndexState.READY

    def score(self, name: str, canaries: Sequence[Canary]) -> float:
        """The recall of `canaries` now, by exact search."""
        return self._recall(self._live(name), canaries)

    def kept(self, name: str) -> list[str]:
        """The classes with the former data of `name`, newest first."""
        head = self._head(name)
        return [] if head is None else list(head.kept)

    def drop_kept(self, name: str, kept: str) -> None:
        """Drop a former class; NotFoundError when there is none of that name."""
        self._ensure_catalogue()
        with self._locked(name) as held:
            head = self._head(name)
            if head is None or kept not in head.kept:
                raise NotFoundError(f"{name!r} has no former class {kept!r}", hint="see the list of those kept")
            left = replace(head, kept=tuple(item for item in head.kept if item != kept))
            self._write_head(held, left, _Gone(physical=kept, name=name))
        self._drop_class(kept)

    def drop(self, name: str) -> None:
        """Drop the collection, what is kept of it and what was left behind, if there are any."""
        if not self._has_class(CATALOGUE):
            return
        with self._locked(name) as held:
            head = self._head(name)
            gone = {physical for of, physical in self._entries() if of == name} | {*(head.classes if head else ())}
            held()
            self._condemn(name, gone)
            self._delete("objects", CATALOGUE, _head_id(name))
            self._point_alias(name)
        for physical in gone:
            self._drop_class(physical)

    def adopt(self, spec: CollectionSpec, *, dry_run: bool) -> list[str]:
        """Copy a class that has the collection's name into one of Relight's; see `VectorStore.adopt`.

        The class itself stays as it is: who reads it directly goes on, and may delete it later. ConfigError for a class
        with tenants or several vectors, IntegrityError for another dimension or distance.
        """
        foreign = None if self._find(spec.name) is not None else self._foreign(spec.name)
        if foreign is None:
            return []
        _check_foreign(self._api.call("GET", "schema", foreign), spec)
        count = self._count(foreign)
        steps = [
            f"copy the {count} objects of the class {foreign} into a class of Relight's",
            f"let the collection {spec.name!r} be that copy",
        ]
        if dry_run:
            return steps
        self._ensure_catalogue()
        self._sweep(spec.name)
        row = _new_row(spec, START, None)
        with self._filling(row) as watched:
            self._create_class(row)
            self._put(watched(_adopted(row, item) for item in self._objects(foreign)))
            if (copied := self._count(row.physical)) != self._count(foreign):
                raise IntegrityError(
                    f"the copy of the class {foreign} has {copied} objects, and it has {self._count(foreign)}",
                    hint="stop who writes to it, and adopt it again",
                )
        self._switch(row, replace=False)
        return steps

    # The catalogue

    def _find(self, name: str) -> _Row | None:
        head = self._head(name)
        return None if head is None else self._row(head.live)

    def _live(self, name: str) -> _Row:
        row = self._find(name)
        if row is None:
            raise NotFoundError(f"there is no collection {name!r}", hint="hydrate it, or start the agent once")
        return row

    def _agrees(self, spec: CollectionSpec) -> bool:
        """Whether the collection is there; IntegrityError when it is with another spec."""
        row = self._find(spec.name)
        if row is None or not self._has_class(row.physical):
            return False
        if row.spec != spec:
            raise IntegrityError(
                f"the collection {spec.name!r} is {row.spec}, not {spec}",
                hint="use the settings it was made with, or another collection",
            )
        return True

    def _head(self, name: str) -> _Head | None:
        state = self._read(_head_id(name))
        return None if state is None else _Head(name=name, live=state["live"], kept=tuple(state["kept"]))

    def _row(self, physical: str) -> _Row | None:
        state = self._read(_row_id(physical))
        return None if state is None else _to_row(state)

    def _is_ours(self, row: _Row) -> bool:
        """Whether it is still we who fill the class."""
        current = self._row(row.physical)
        return current is not None and current.filler == row.filler

    def _read(self, id_: str) -> dict[str, Any] | None:
        try:
            found = self._api.call("GET", "objects", CATALOGUE, id_)
        except NotFoundError:
            return None
        except RelightError:
            # Servers do not agree on how to say that the class of an object is missing.
            if self._has_class(CATALOGUE):
                raise
            return None
        state: dict[str, Any] = json.loads(found["properties"]["state"])
        return state

    def _rewrite(self, row: _Row) -> bool:
        """Write a row that is there; False when it is not, or not any more."""
        try:
            self._api.call("PUT", "objects", CATALOGUE, row.id, body=row.to_object())
        except PermanentError:
            if self._row(row.physical) is not None:
                raise
            return False
        return True

    def _write_head(self, held: Callable[[], None], head: _Head, *others: _Row | _Gone) -> None:
        """Write it under the lock, and in the same request what goes with it."""
        held()
        self._put(item.to_object() for item in (*others, head))
        self._point_alias(head.name)

    def _condemn(self, name: str, classes: set[str]) -> None:
        """Have classes dropped even if we are killed, and let nobody switch to them any more."""
        self._put(_Gone(physical=physical, name=name).to_object() for physical in classes)
        for physical in classes:
            self._delete("objects", CATALOGUE, _row_id(physical))

    def _mend_alias(self, name: str) -> None:
        """Restoring a backup moves the alias that its class had, and who is killed meanwhile leaves it so."""
        head = self._head(name)
        if self._aliased() and self._alias(name) != (head.live if head else None):
            with self._locked(name):
                self._point_alias(name)

    def _alias(self, name: str) -> str | None:
        try:
            return str(self._api.call("GET", "aliases", _stem(name))["class"])
        except NotFoundError:
            return None

    def _point_alias(self, name: str) -> None:
        """Let the alias follow the catalogue, where the server has aliases."""
        if not self._aliased():
            return
        alias, head = _stem(name), self._head(name)
        if head is None:
            self._delete("aliases", alias)
            return
        try:
            self._api.call("PUT", "aliases", alias, body={"class": head.live})
        except PermanentError:
            self._api.call("POST", "aliases", body={"alias": alias, "class": head.live})

    def _ensure_catalogue(self) -> None:
        # Without vectors: the index that Weaviate would make for them is left out.
        definition = {
            "class": CATALOGUE,
            "description": "Which class is live, and how far it is. Belongs to Relight.",
            "vectorizer": "none",
            "vectorIndexConfig": {"skip": True},
            "properties": [_text("kind"), _text("name"), _text("state")],
        }
        if not self._has_class(CATALOGUE):
            self._try_create(definition)

    def _switch(self, row: _Row, *, replace: bool) -> str | None:
        """Let the collection be that class; returns what is kept, and drops its class when a step fails."""
        name = row.spec.name

        def put_first(head: _Head | None) -> _Head:
            self._refuse_unless_empty(name, replace=replace)
            return _Head(name=name, live=row.physical, kept=head.classes if head else ())

        head = self._install(row, put_first)
        if head is None:
            return None
        # It is looked at once nobody writes to it any more by the collection's name: what came until then is kept.
        former = self._row(head.live)
        if not self._has_class(head.live) or (former is not None and self._is_empty(former)):
            with suppress(RelightError):
                self.drop_kept(name, head.live)
                return None
        return head.live

    def _install(self, row: _Row, arrange: Callable[[_Head | None], _Head]) -> _Head | None:
        """Write a head that has the class that we filled, and return the former one; drop the class when that fails."""
        try:
            with self._locked(row.spec.name) as held:
                if not self._is_ours(row) or not self._has_class(row.physical):
                    raise _overtaken(row)
                head = self._head(row.spec.name)
                self._write_head(held, arrange(head), row.whole)
        except BaseException:
            self._discard(row)
            raise
        return head

    def _refuse_unless_empty(self, name: str, *, replace: bool) -> None:
        row = None if replace else self._find(name)
        if row is not None and not self._is_empty(row):
            raise ConflictError(
                f"the collection {name!r} already holds {self._count(row.physical)} points, at {row.position}",
                hint="use force to restore over it; what it holds is kept",
            )

    def _is_empty(self, row: _Row) -> bool:
        return not self._has_class(row.physical) or (row.position.xid == 0 and self._count(row.physical) == 0)

    @contextmanager
    def _filling(self, row: _Row) -> Iterator[Callable[[Iterable[dict[str, Any]]], Iterator[dict[str, Any]]]]:
        """Show others that the class is being filled, and drop it when that fails.

        What is put into it has to go through what this yields, which stops when another took the class for one left
        behind: Weaviate makes a class that is missing, with settings that nobody asked for. ConflictError is then all
        that is raised.
        """
        done, lost = threading.Event(), threading.Event()

        def beat() -> None:
            number = 0
            while not done.wait(self._stale_s / 5):
                number += 1
                with suppress(RelightError):
                    if not self._is_ours(row) or not self._rewrite(replace(row, beat=number)):
                        lost.set()
                        return

        def watched(objects: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
            for item in objects:
                if lost.is_set():
                    raise _overtaken(row)
                yield item

        with self._locked(row.physical) as held:
            there = self._row(row.physical)
            if there is not None and (there.filler is not None or self._has_class(row.physical)):
                raise ConflictError(f"another fills the class {row.physical}, or did", hint="wait until it is done")
            held()
            self._put([row.to_object()])
        self._delete("objects", CATALOGUE, _gone_id(row.physical))
        thread = threading.Thread(target=beat, name="weaviate-filling", daemon=True)
        thread.start()
        try:
            try:
                yield watched
            finally:
                done.set()
                thread.join()
        except BaseException as exc:
            lost_it = isinstance(exc, RelightError) and not self._is_ours(row)
            self._discard(row)
            if lost_it:
                raise _overtaken(row) from exc
            raise

    def _loose(self, name: str) -> list[str]:
        """The classes of the collection's name that are neither live nor kept: being filled, or left behind."""
        head, stem = self._head(name), _stem(name) + "_"
        known = {physical for of, physical in self._entries() if of == name or physical.startswith(stem)}
        known |= {item for item in self._classes() if item.startswith(stem)}
        return sorted(known - set(head.classes if head else ()))

    def _entries(self) -> list[tuple[str, str]]:
        """Every class that the catalogue knows, with the name of its collection before it."""
        found = (item["properties"] for item in self._objects(CATALOGUE))
        return [(item["name"], json.loads(item["state"])["physical"]) for item in found if item["kind"] != "head"]

    def _sweep(self, name: str) -> None:
        """Drop what somebody who was killed left behind, and nothing else.

        That is what was to be dropped, and what was never whole and shows no sign of life while one waits for it.
        """
        if not self._has_class(CATALOGUE):
            return
        self._mend_alias(name)
        before = {physical: self._row(physical) for physical in self._loose(name)}
        left = [physical for physical, row in before.items() if self._is_left(physical, row)]
        if not left:
            return
        self._clock.sleep(self._stale_s)
        for physical in left:
            row = before[physical]
            of = row.spec.name if row else name
            with self._locked(of) as held:
                if physical not in self._loose(of) or self._row(physical) != row:
                    continue
                held()
                self._condemn(of, {physical})
            self._drop_class(physical)

    def _is_left(self, physical: str, row: _Row | None) -> bool:
        if row is not None and (row.filler is not None or not self._has_class(physical)):
            return True
        return self._read(_gone_id(physical)) is not None

    @contextmanager
    def _locked(self, name: str) -> Iterator[Callable[[], None]]:
        """Let one at a time switch a collection, for moments; nothing that may take long belongs in it.

        Making a class is the one thing that Weaviate lets only one of several do. A holder who died is passed over, and
        so is one who stalled: it asks with what this yields whether it still holds the lock before it writes, and
        ConflictError says that it does not. UnavailableError when the lock is not to be had.
        """
        lock, token = f"RelightLock_{_digest(name)}", secrets.token_hex(8)
        definition = {"class": lock, "description": token, "vectorizer": "none", "vectorIndexConfig": {"skip": True}}
        began = since = self._clock.monotonic()
        holder: str | None = None
        while not self._try_create(definition):
            found, now = self._description(lock), self._clock.monotonic()
            if now - began > LOCK_BOUND_S:
                raise UnavailableError(
                    f"the lock {lock} of {name!r} was not to be had in {now - began:.0f} s", hint="see who holds it"
                )
            if found != holder:
                holder, since = found, now
            elif found is not None and now - since > self._stale_s:
                self._delete("schema", lock)
            self._clock.sleep(0.05)

        def held() -> None:
            if self._description(lock) != token:
                raise ConflictError(f"another took the lock of {name!r} meanwhile", hint="run it again")

        try:
            yield held
        finally:
            with suppress(RelightError):
                if self._description(lock) == token:
                    self._delete("schema", lock)

    # Classes and objects

    def _classes(self) -> list[str]:
        return [item["class"] for item in self._api.call("GET", "schema").get("classes") or []]

    def _has_class(self, name: str) -> bool:
        try:
            self._api.call("GET", "schema", name)
        except NotFoundError:
            return False
        return True

    def _description(self, name: str) -> str | None:
        try:
            return str(self._api.call("GET", "schema", name).get("description", ""))
        except NotFoundError:
            return None

    def _foreign(self, name: str) -> str | None:
        """The class that Relight did not make and that goes by that name: Weaviate makes its first letter large."""
        if _CLASS_NAME.fullmatch(name) is None or _OURS.match(name):
            return None
        wanted = name[0].upper() + name[1:]
        return wanted if wanted in self._classes() else None

    def _try_create(self, definition: dict[str, Any]) -> bool:
        try:
            self._api.call("POST", "schema", body=definition)
        except PermanentError as exc:
            if "already exists" in exc.problem or self._has_class(definition["class"]):
                return False
            raise
        return True

    def _create_class(self, row: _Row, former: dict[str, Any] | None = None) -> None:
        """With the settings of the vector index that a snapshot's class had, as far as they are not the spec's."""
        index, former = row.spec.index, former or {}
        kind = "flat" if index is None else "hnsw"
        settings: dict[str, Any] = {}
        if former.get("vectorIndexType") == kind:
            settings |= former.get("vectorIndexConfig") or {}
        settings["distance"] = METRICS[row.spec.distance]
        if index is not None:
            settings |= {"maxConnections": index.m, "efConstruction": index.ef_construction}
            settings |= {"flatSearchCutoff": _ALL_EXACTLY}
        definition = {
            "class": row.physical,
            "description": f"The collection {row.spec.name!r}. Belongs to Relight.",
            "vectorizer": "none",
            "vectorIndexType": kind,
            "vectorIndexConfig": settings,
            "properties": _PROPERTIES,
        }
        if not self._try_create(definition):
            raise ConflictError(f"the class {row.physical} exists", hint="run it again")

    def _drop_class(self, physical: str) -> None:
        self._delete("schema", physical)
        self._delete("objects", CATALOGUE, _row_id(physical))
        self._delete("objects", CATALOGUE, _gone_id(physical))

    def _discard(self, row: _Row) -> None:
        """Drop a class that we fill, unless another fills one of that name meanwhile."""
        head, current = self._head(row.spec.name), self._row(row.physical)
        if row.physical not in (head.classes if head else ()) and (current is None or current.filler == row.filler):
            self._drop_class(row.physical)

    def _delete(self, *path: str) -> None:
        with suppress(NotFoundError):
            self._api.call("DELETE", *path)

    def _put(self, objects: Iterable[dict[str, Any]]) -> None:
        """Insert or replace objects, as many at once as a request may hold."""
        batch: list[dict[str, Any]] = []
        size = 0
        for item in objects:
            batch.append(item)
            size += _size(item)
            if len(batch) == _PAGE or size >= _PAGE_BYTES:
                self._put_batch(batch)
                batch, size = [], 0
        if batch:
            self._put_batch(batch)

    def _put_batch(self, batch: list[dict[str, Any]]) -> None:
        for answer in self._api.call("POST", "batch", "objects", body={"objects": batch}):
            if errors := ((answer.get("result") or {}).get("errors") or {}).get("error"):
                raise UnavailableError(
                    f"weaviate did not store the object {answer.get('id')}: {errors[0].get('message')}",
                    hint="see its log: its disk may be full, or the class gone",
                )

    def _delete_points(self, physical: str, ids: Sequence[str]) -> None:
        for first in range(0, len(ids), _DELETES_AT_ONCE):
            batch = ids[first : first + _DELETES_AT_ONCE]
            where = {"path": ["id"], "operator": "ContainsAny", "valueTextArray": list(batch)}
            body = {"match": {"class": physical, "where": where}, "output": "minimal"}
            answer = self._api.call("DELETE", "batch", "objects", body=body)
            if answer["results"]["failed"]:
                raise UnavailableError(f"weaviate did not delete {answer['results']['failed']} of {len(batch)} objects")

    def _objects(self, class_: str) -> Iterator[dict[str, Any]]:
        """Every object with its vector, in the order of their ids. The null id, which no object here has, is the start:
        an empty cursor would be taken for none."""
        query = {"class": class_, "limit": 8, "include": "vector", "after": _NIL}
        while page := self._api.call("GET", "objects", query=query).get("objects") or []:
            yield from page
            limit = _PAGE_BYTES // max(map(_size, page))
            query |= {"after": page[-1]["id"], "limit": max(1, min(_PAGE, limit))}

    def _graphql(self, class_: str, query: str) -> Any:
        answer = self._api.call("POST", "graphql", body={"query": query})
        if errors := answer.get("errors"):
            if not self._has_class(class_):
                raise NotFoundError(f"there is no class {class_}", hint="hydrate the collection")
            raise UnavailableError(f"weaviate did not answer a query: {errors[0].get('message')}")
        return answer["data"]

    def _count(self, class_: str) -> int:
        data = self._graphql(class_, f"{{Aggregate{{{class_}{{meta{{count}}}}}}}}")
        return int(data["Aggregate"][class_][0]["meta"]["count"])

    def _nearest(self, row: _Row, vector: Sequence[float], k: int, *, exact: bool = False) -> tuple[Hit, ...]:
        where = 'where:{path:["present"],operator:Equal,valueBoolean:true}' if exact else ""
        literal = ",".join([f"{value:.9g}" for value in vector])
        data = self._graphql(
            row.physical,
            f"{{Get{{{row.physical}(limit:{k} nearVector:{{vector:[{literal}]}} {where})"
            "{point payload _additional{distance}}}}",
        )
        hits = [_hit(item, row.spec.distance) for item in data["Get"][row.physical] or []]
        return tuple(sorted(hits, key=lambda hit: (hit.distance, hit.id)))

    def _canaries(self, row: _Row) -> tuple[Canary, ...]:
        """Of objects from all over the range of ids, and of the first ones where there are none."""
        starts = [str(uuid.UUID(int=number * 2**128 // CANARIES)) for number in range(CANARIES)]
        picked: dict[str, bytes] = {}
        for start, limit in (*((start, 1) for start in starts), (_NIL, 2 * CANARIES)):
            query = {"class": row.physical, "limit": limit, "include": "vector", "after": start}
            for item in self._api.call("GET", "objects", query=query).get("objects") or []:
                if len(picked) < CANARIES:
                    picked[item["id"]] = pack(item["vector"])
        return tuple(
            Canary(vector=vector, ids=tuple(hit.id for hit in self._nearest(row, unpack(vector), K, exact=True)))
            for vector in picked.values()
        )

    def _recall(self, row: _Row, canaries: Sequence[Canary]) -> float:
        return recall(
            (canary.ids, [hit.id for hit in self._nearest(row, unpack(canary.vector), K, exact=True)])
            for canary in canaries
        )

    def _export(self, row: _Row, stream: Any) -> int:
        stream.write(json.dumps(FORMAT | {"class": row.physical}).encode() + b"\n")
        count = 0
        for item in self._objects(row.physical):
            count += 1
            vector = base64.b64encode(pack(item["vector"])).decode()
            line = {"id": item["id"], "vector": vector, "properties": item["properties"]}
            stream.write(json.dumps(line).encode() + b"\n")
        return count

    # Backups by the server

    def _aliased(self) -> bool:
        return _parse(self.version()) >= (1, 32)

    def _nodes(self) -> list[str]:
        return sorted(node["name"] for node in self._api.call("GET", "nodes").get("nodes") or [])

    def _check_module(self) -> None:
        meta = self._api.call("GET", "meta")
        if f"backup-{self._backend or 's3'}" not in (meta.get("modules") or {}):
            raise ConfigError(
                f"this Weaviate has no module backup-{self._backend or 's3'}",
                hint="add it to the server's ENABLE_MODULES, or leave `backup` out of the memory's address",
            )
        if _parse(meta["version"]) < BACKUP_SINCE:
            raise ConfigError(
                f"Weaviate {meta['version']} cannot write a backup to a place of our choice",
                hint="update it to 1.27.2 or newer, or leave `backup` out of the memory's address",
            )

    def _back_up(self, row: _Row, sink: SnapshotSink) -> dict[str, Any]:
        self._check_module()
        place = sink.place()
        backup: dict[str, Any] = {
            "id": f"relight-{secrets.token_hex(8)}",
            "class": row.physical,
            "module": self._backend,
            "nodes": self._nodes(),
        }
        body = {"id": backup["id"], "include": [row.physical], "config": _where(place)}
        deadline = self._clock.monotonic() + BACKUP_BOUND_S
        while True:
            try:
                self._api.call("POST", "backups", self._backend, body=body)
                break
            except PermanentError as exc:
                # One at a time is all that a server makes, and another's may be under way.
                if "already in progress" not in exc.problem or self._clock.monotonic() > deadline:
                    raise
                self._clock.sleep(_POLL_S)
        try:
            self._wait("backup", row, place, self._backend, backup["id"])
        except BaseException:
            with suppress(RelightError):
                self._api.call("DELETE", "backups", self._backend, backup["id"], query=_query(place))
            raise
        sink.take_over(place)
        return backup

    def _wait(self, what: str, row: _Row, place: Place, *path: str) -> None:
        began = self._clock.monotonic()
        while True:
            answer = self._api.call("GET", "backups", *path, query=_query(place))
            status, waited = answer.get("status"), self._clock.monotonic() - began
            if status == "SUCCESS":
                return
            subject = f"the {what} {path[1]} of the class {row.physical} (collection {row.spec.name!r})"
            if status not in _UNDER_WAY:
                raise UnavailableError(
                    f"{subject} is {status}: {answer.get('error') or 'no reason given'}",
                    hint="see the server's log for that id, and whether it may write to the vault",
                )
            if waited >= BACKUP_BOUND_S:
                raise UnavailableError(
                    f"{subject} is still {status} after {waited:.0f} s",
                    hint="a node that restarted meanwhile leaves it so for ever: see the nodes' logs for that id",
                )
            self._clock.sleep(max(_POLL_S, waited / 20))

    def _check_backup(self, source: SnapshotSource) -> None:
        """Before anything is touched: the server verifies no checksum."""
        self._check_module()
        here, there = self._nodes(), source.part.configuration["backup"]["nodes"]
        if len(here) != len(there):
            raise IntegrityError(
                f"the backup of {source.part.name!r} is of {len(there)} nodes, and this server has {len(here)}",
                hint="restore it to a cluster of as many nodes",
            )
        for piece in source.part.pieces:
            with source.open(piece) as stream:
                while stream.read(_READ_BYTES):
                    pass

    def _refuse_beside(self, row: _Row, name: str) -> None:
        """A backup's class keeps its name: there is no place for it beside the collection that it is of."""
        there = self._row(row.physical)
        if there is None or there.filler is not None or there.spec.name == row.spec.name:
            return
        if self._has_class(row.physical):
            raise ConfigError(
                f"the class {row.physical}, which the backup is of, is here, of the collection {there.spec.name!r}: a "
                f"backup of {name!r} cannot be restored beside it",
                hint="name another server of as many nodes with --into-env, or drop the collection whose class it is",
            )

    def _make_way(self, physical: str, name: str, *, replace: bool) -> None:
        """Weaviate restores a class under its own name only: see that it is free."""
        if not self._has_class(physical):
            return
        head = self._head(name)
        if head is None or physical not in head.classes:
            raise ConflictError(
                f"the class {physical}, which the backup is of, exists here and is not of the collection {name!r}",
                hint="restore the point on another server, or drop the collection whose class it is",
            )
        row = self._row(physical)
        if not replace or row is None:
            raise ConflictError(
                f"the class {physical}, which the backup is of, exists here, and a backup keeps its class's name",
                hint="use force: the class is then copied to another name, the copy verified and the class dropped",
            )
        aside = _new_row(row.spec, row.position, row.restored_from)
        with self._filling(aside) as watched:
            self._create_class(aside, self._api.call("GET", "schema", physical))
            self._put(
                watched(
                    {name: item[name] for name in ("id", "vector", "properties")} | {"class": aside.physical}
                    for item in self._objects(physical)
                )
            )
            self._check_copy(physical, aside)

        def put_before(now: _Head | None) -> _Head:
            current = self._row(physical)
            if now != head or current is None or current.position != row.position:
                raise _written_to(physical)
            both = [new for old in head.classes for new in ((aside.physical, old) if old == physical else (old,))]
            return _Head(name=name, live=both[0], kept=tuple(both[1:]))

        self._install(aside, put_before)
        # Nobody writes to it any more by the collection's name. What came until then is kept, and copied the next time.
        self._check_copy(physical, aside)
        self.drop_kept(name, physical)

    def _check_copy(self, physical: str, aside: _Row) -> None:
        if self._count(aside.physical) != self._count(physical):
            raise _written_to(physical)

    def _bring_back(self, row: _Row, backup: dict[str, Any], place: Place, name: str) -> None:
        body: dict[str, Any] = {"include": [row.physical], "config": _where(place)}
        mapping = {old: new for old, new in zip(sorted(backup["nodes"]), self._nodes(), strict=True) if old != new}
        if mapping:
            body["node_mapping"] = mapping
        if self._aliased():
            body["overwriteAlias"] = True
        path = (str(backup["module"]), str(backup["id"]), "restore")
        try:
            self._api.call("POST", "backups", *path, body=body)
            self._wait("restore of the backup", row, place, *path)
        finally:
            # A restore fails where the backup's alias exists and is not overwritten, and it cannot be left out. It is
            # of no concern until the class is verified.
            self._mend_alias(name)


def _head_id(name: str) -> str:
    return str(uuid.uuid5(_IDS, f"head:{name}"))


def _row_id(physical: str) -> str:
    return str(uuid.uuid5(_IDS, f"row:{physical}"))


def _gone_id(physical: str) -> str:
    return str(uuid.uuid5(_IDS, f"gone:{physical}"))


def _catalogued(id_: str, kind: str, name: str, state: dict[str, Any]) -> dict[str, Any]:
    return {
        "class": CATALOGUE,
        "id": id_,
        "properties": {"kind": kind, "name": name, "state": json.dumps(state, sort_keys=True)},
    }


def _to_row(state: dict[str, Any]) -> _Row:
    spec = state["spec"]
    index = None if spec["index"] is None else HnswIndex(**spec["index"])
    return _Row(
        physical=state["physical"],
        spec=CollectionSpec(**{**spec, "distance": Distance(spec["distance"]), "index": index}),
        position=Position.parse(state["position"]),
        restored_from=state["restored_from"],
        filler=state["filler"],
        beat=state["beat"],
    )


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def _stem(name: str) -> str:
    """A class's legal name for any name of a collection, and for no other: Weaviate folds case, so a hash decides."""
    readable = re.sub(r"[^0-9a-z]", "", name.lower())[:32]
    return f"Relight_{readable}_{_digest(name)}"


def _physical(name: str) -> str:
    return f"{_stem(name)}_{secrets.token_hex(4)}"


def _uuid(point: str) -> str:
    """The point's own id where it is a UUID as Weaviate writes it. The null one is where a cursor starts."""
    with suppress(ValueError):
        if str(uuid.UUID(point)) == point != _NIL:
            return point
    return str(uuid.uuid5(_IDS, f"point:{point}"))


def _object(class_: str, point: str, vector: list[float], payload: dict[str, Any] | None) -> dict[str, Any]:
    properties = {"point": point, "payload": json.dumps(payload), "present": True}
    return {"class": class_, "id": _uuid(point), "vector": vector, "properties": properties}


def _hit(item: dict[str, Any], distance: Distance) -> Hit:
    value = float(item["_additional"]["distance"])
    if distance is Distance.EUCLIDEAN:
        value = math.sqrt(max(value, 0.0))
    return Hit(id=item["point"], distance=value, payload=json.loads(item["payload"]))


def _size(item: dict[str, Any]) -> int:
    """About how many bytes an object takes in JSON."""
    return 100 + _FLOAT_BYTES * len(item.get("vector") or ()) + len(json.dumps(item.get("properties")))


def _check_dimension(id_: str, got: int, spec: CollectionSpec) -> None:
    if got != spec.dimension:
        raise IntegrityError(
            f"the vector of {id_!r} has {got} dimensions, and the collection {spec.name!r} {spec.dimension}",
            hint="use the model the collection was made with",
        )


def _parse(version: str) -> tuple[int, int]:
    match = _VERSION.search(version)
    if match is None:
        raise IntegrityError(f"{version!r} is not a version of Weaviate", hint="the point is damaged: use another")
    return int(match[1]), int(match[2])


def _check_version(here: str, there: str) -> None:
    if _parse(here) < _parse(there):
        raise IntegrityError(
            f"the snapshot is of {there}, and the server is {here}", hint="update the server first: it cannot read it"
        )


def _lines(source: Source) -> Iterator[bytes]:
    """The export's lines after the first, which is checked."""
    rest, first = b"", True
    while data := source.read(_READ_BYTES):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if not first:
                yield line
            elif (_parsed(line) | FORMAT) != _parsed(line):
                raise _damaged("its first line does not say what it is")
            first = False
    if rest or first:
        raise _damaged("it ends in the middle of a line")


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as exc:
        raise _damaged("a line of it is not JSON") from exc
    if not isinstance(value, dict):
        raise _damaged("a line of it is not an object")
    return value


def _imported(row: _Row, line: bytes) -> dict[str, Any]:
    value = _parsed(line)
    try:
        vector = list(unpack(base64.b64decode(value["vector"], validate=True)))
        properties = value["properties"]
        id_ = str(uuid.UUID(value["id"]))
        right = {"point": str, "payload": str, "present": bool}
        if {name: type(item) for name, item in properties.items()} != right or not all(map(math.isfinite, vector)):
            raise ValueError(f"the object {id_} is not one of Relight's")
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as exc:
        raise _damaged(str(exc)) from exc
    _check_dimension(id_, len(vector), row.spec)
    return {"class": row.physical, "id": id_, "vector": vector, "properties": properties}


def _new_row(spec: CollectionSpec, position: Position, restored_from: str | None, physical: str | None = None) -> _Row:
    """Of a class that we are about to fill."""
    return _Row(
        physical=physical or _physical(spec.name),
        spec=spec,
        position=position,
        restored_from=restored_from,
        filler=secrets.token_hex(8),
    )


def _overtaken(row: _Row) -> ConflictError:
    return ConflictError(f"the class {row.physical} was taken for one left behind", hint="run it again")


def _written_to(physical: str) -> ConflictError:
    return ConflictError(f"the class {physical} was written to while it was copied", hint="run it again")


def _damaged(why: str) -> IntegrityError:
    return IntegrityError(f"the snapshot is not an export of Weaviate: {why}", hint="the point is damaged: use another")


def _check_foreign(definition: dict[str, Any], spec: CollectionSpec) -> None:
    named = definition.get("vectorConfig") or {}
    if (definition.get("multiTenancyConfig") or {}).get("enabled") or len(named) > 1:
        raise ConfigError(
            f"the class {definition['class']} has tenants or several vectors, and a collection has one of either",
            hint="write its objects through the memory's journal",
        )
    config = next(iter(named.values()))["vectorIndexConfig"] if named else definition.get("vectorIndexConfig") or {}
    metric = config.get("distance", "cosine")
    if metric != METRICS[spec.distance]:
        raise IntegrityError(
            f"the class {definition['class']} is of distance {metric!r}, and the settings say {spec.distance}",
            hint="use the settings that it was made with",
        )


def _adopted(row: _Row, item: dict[str, Any]) -> dict[str, Any]:
    vector = item.get("vector") or next(iter((item.get("vectors") or {}).values()), None) or []
    _check_dimension(item["id"], len(vector), row.spec)
    return _object(row.physical, item["id"], vector, item.get("properties") or None)


def _where(place: Place) -> dict[str, str]:
    return {"Bucket": place.bucket, "Path": place.prefix.rstrip("/")}


def _query(place: Place) -> dict[str, str]:
    return {"bucket": place.bucket, "path": place.prefix.rstrip("/")}

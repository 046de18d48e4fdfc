"""What Relight asks of a vector store."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from relight.errors import ConfigError
from relight.memory.vectors import is_text
from relight.vault.manifest import CollectionPart, Embedding

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractContextManager

    from relight.memory.journal import Entry, Position
    from relight.vault.manifest import Canary, Piece


class Distance(StrEnum):
    """How near two vectors are; smaller is nearer for each (`DOT` is the negative inner product)."""

    COSINE = "cosine"
    EUCLIDEAN = "euclidean"
    DOT = "dot"


@dataclass(frozen=True, slots=True, kw_only=True)
class HnswIndex:
    """An approximate index: how many links a node has, and how many candidates are looked at while it is built."""

    m: int = 16
    ef_construction: int = 64

    def __post_init__(self) -> None:
        if not 2 <= self.m <= 100 or not 2 * self.m <= self.ef_construction <= 1000:
            raise ConfigError(
                f"HNSW with m = {self.m} and ef_construction = {self.ef_construction} cannot be built",
                hint="use m from 2 to 100, and ef_construction from twice m to 1000",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionSpec:
    """What a collection is. Two collections whose specs differ cannot stand in for one another.

    `embedding_model` and `prefix`, which is put before a text when it is embedded, say where the vectors come from.
    `index` says how it is searched, None for exactly. `journalled` says that all that is in it came through the
    journal: not so where an agent writes to the store itself, or did before the collection was adopted; its snapshots
    are then all there is. Both can differ and be changed.
    """

    name: str
    dimension: int
    embedding_model: str
    distance: Distance = Distance.COSINE
    prefix: str = ""
    index: HnswIndex | None = field(default=HnswIndex(), compare=False)
    journalled: bool = field(default=True, compare=False)

    def __post_init__(self) -> None:
        if not is_text(self.name) or len(self.name.encode()) > 255:
            raise ConfigError(f"{self.name!r} cannot name a collection", hint="use 1 to 255 bytes without NUL")
        if not 1 <= self.dimension <= 16_000:
            raise ConfigError(f"dimension {self.dimension} of {self.name!r} is not within 1 and 16000")

    @property
    def embedding(self) -> Embedding:
        """Where the vectors come from, as manifests have it."""
        return Embedding(
            model=self.embedding_model, dimension=self.dimension, distance=self.distance.value, prefix=self.prefix
        )

    def __str__(self) -> str:
        prefix = f" with prefix {self.prefix!r}" if self.prefix else ""
        return f"{self.dimension} x {self.distance} of {self.embedding_model!r}{prefix}"


class IndexState(StrEnum):
    """How a collection can be searched now."""

    NONE = "none"
    """Exactly, as its spec says."""
    LACKING = "lacking"
    """Exactly, and slower than its spec says: degraded until the index is built."""
    BUILDING = "building"
    """As LACKING, and somebody is at it."""
    READY = "ready"


DEGRADED = frozenset({IndexState.LACKING, IndexState.BUILDING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """A collection as the store holds it. `position` is the last journal entry in it."""

    spec: CollectionSpec
    points: int
    position: Position
    restored_from: str | None
    index: IndexState

    @property
    def is_empty(self) -> bool:
        """Nothing was ever put into it; one whose points were all deleted is not empty in this sense."""
        return self.points == 0 and self.position.xid == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One answer of a search."""

    id: str
    distance: float
    payload: dict[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPoint:
    """One point as the collection holds it. `vector` is as `vectors.pack` makes it."""

    id: str
    vector: bytes
    payload: dict[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A search's answers, nearest first, then by id; and the position of the data that they were found in."""

    hits: tuple[Hit, ...]
    position: Position


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a snapshot holds.

    `position` is the last journal entry that is surely in it; later ones may be, because applying is idempotent.
    `drift` is by how much the count of points may be wrong, because a store without transactions was written to
    meanwhile. `configuration` is the store's own description of the collection, as plain JSON values.
    """

    spec: CollectionSpec
    server_version: str
    points: int
    drift: int
    position: Position
    canaries: tuple[Canary, ...]
    configuration: dict[str, Any]

    def part(self, store: str, pieces: Iterable[Piece]) -> CollectionPart:
        """What a manifest says of the snapshot that `store` put into `pieces`."""
        return CollectionPart(
            name=self.spec.name,
            store=store,
            server_version=self.server_version,
            pieces=tuple(pieces),
            points=self.points,
            drift=self.drift,
            embedding=self.spec.embedding,
            configuration=self.configuration,
            position=str(self.position),
            canaries=self.canaries,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What a restore did. `kept` names where the former data is, None when there was none."""

    points: int
    recall: float
    kept: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a server can write by itself: everything under `prefix` of a bucket."""

    bucket: str
    prefix: str
    region: str


class Sink(Protocol):
    """Takes bytes in order."""

    def write(self, data: bytes, /) -> int:
        """Take all of `data`."""
        ...


class Source(Protocol):
    """Gives bytes in order."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes, none at the end."""
        ...


class SnapshotSink(Protocol):
    """Takes the pieces of one collection's snapshot: one, or one of each node of a cluster, named by `node`.

    Errors of the vault come through the store unchanged.
    """

    def piece(self, node: str = "") -> AbstractContextManager[Sink]:
        """A place for one piece; it appears whole when the block ends, and not at all when the block fails."""
        ...

    def place(self, node: str = "") -> Place:
        """Where a server that stores snapshots by itself may put them; then call `take_over`."""
        ...

    def take_over(self, place: Place, node: str = "") -> None:
        """Record what a server put into `place`, reading it once for its checksums."""
        ...


class SnapshotSource(Protocol):
    """Gives the pieces of one collection's snapshot. Errors of the vault come through the store unchanged."""

    @property
    def part(self) -> CollectionPart:
        """What the manifest says of the collection, its pieces in order."""
        ...

    def open(self, piece: Piece) -> AbstractContextManager[Source]:
        """A piece's bytes; reading to their end raises IntegrityError when they are not those of the manifest."""
        ...

    def location(self, piece: Piece) -> str | None:
        """A URL from which a server may fetch the piece for an hour, None where the vault gives none."""
        ...

    def place(self, node: str = "") -> Place:
        """Where the pieces are that a server put there by itself."""
        ...


class VectorStore(Protocol):
    """Collections of vectors, rebuildable from a snapshot and the journal. Safe to share between threads.

    Every method raises UnavailableError when the server does not answer, and NotFoundError for a collection that does
    not exist, unless it says otherwise.
    """

    kind: str
    """How manifests name the store."""

    extension: str
    """How the name of a snapshot's object ends."""

    transactional: bool
    """Whether any number of appliers may work at once. If not, the caller lets one at a time do so."""

    def version(self) -> str:
        """The server's version, as manifests have it."""
        ...

    def ensure(self, spec: CollectionSpec) -> None:
        """Make the collection with its index unless it exists; IntegrityError when it exists with another spec.

        ConflictError when something that Relight did not make has its name: it has to be adopted first.
        """
        ...

    def describe(self, name: str) -> Collection | None:
        """The collection, or None."""
        ...

    def apply(self, name: str, entries: Sequence[Entry], *, since: Position, until: Position) -> Position:
        """Apply all journal entries after `since` up to `until`, and then move the position to `until`.

        Idempotent: what is already there stays as it is, and after a failure half-way the same entries are applied
        again. Returns the position afterwards, which is beyond `until` when another applier was faster. ConflictError
        when the collection is not as far as `since`: entries would be missing.
        """
        ...

    def position(self, name: str) -> Position:
        """The last journal entry in the collection. Cheap however large it is: the gate asks all the time."""
        ...

    def search(self, name: str, vector: Sequence[float], k: int) -> Found:
        """The `k` nearest points, approximately where the collection has an index."""
        ...

    def fetch(self, name: str, ids: Sequence[str]) -> list[StoredPoint]:
        """Those of the points that there are, in any order; for a few hundred ids at a time.

        Where vectors are compared by their angle, a store may give them with length one.
        """
        ...

    def snapshot(self, name: str, sink: SnapshotSink) -> Taken:
        """Write a snapshot of the collection in the store's own format, in bounded memory.

        Writers are not held up. An error of `sink` comes through unchanged. Nothing stays behind on the server, and
        what an earlier, killed snapshot left there is removed.
        """
        ...

    def restore(
        self, spec: CollectionSpec, source: SnapshotSource, *, point: str, floor: float, replace: bool
    ) -> Restored:
        """Fill a new place from `source`, verify count and recall there, and then switch to it atomically.

        Until the switch nothing changes for readers; a failure leaves no trace, a kill none after the next restore.
        Former data is kept under a name of its own, unless there was none. IntegrityError when the server is older
        than the one the snapshot is of, or when the bytes, the count or the recall are not what the manifest and
        `floor` ask for; an error of `source` comes through unchanged; ConflictError when the collection is not empty
        and `replace` is False. The index may be lacking afterwards: see `build_index`.
        """
        ...

    def build_index(self, name: str) -> IndexState:
        """Build the index that the spec asks for where it lacks, while the collection is searched and written to.

        Returns the state afterwards: BUILDING when somebody else is at it. Safe to call again after a kill.
        """
        ...

    def score(self, name: str, canaries: Sequence[Canary]) -> float:
        """The share of the canaries' answers that the collection gives now: recall@10, by exact search."""
        ...

    def kept(self, name: str) -> list[str]:
        """The names of the former data of `name`, newest first."""
        ...

    def drop_kept(self, name: str, kept: str) -> None:
        """Drop one of them."""
        ...

    def drop(self, name: str) -> None:
        """Drop the collection and what is kept of it; no error when there is none. For scratch collections."""
        ...

    def adopt(self, spec: CollectionSpec, *, dry_run: bool) -> list[str]:
        """Take over a collection of that name which Relight did not make, and return the steps, done or to do.

        Its points stay, and its position is the journal's start. Nothing is deleted before its copy is verified.
        Nothing to do is an empty list. Safe to run again after a kill.
        """
        ...

    def close(self) -> None:
        """Let the connections go."""
        ...

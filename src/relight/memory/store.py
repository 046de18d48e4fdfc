"""What Relight asks of a vector store."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from relight.errors import ConfigError
from relight.memory.vectors import is_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relight.memory.journal import Entry, Position
    from relight.vault.manifest import Canary, CollectionPart


class Distance(StrEnum):
    """How near two vectors are; smaller is nearer for each (`DOT` is the negative inner product)."""

    COSINE = "cosine"
    EUCLIDEAN = "euclidean"
    DOT = "dot"


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionSpec:
    """What a collection is. Two collections whose specs differ cannot stand in for one another."""

    name: str
    dimension: int
    embedding_model: str
    distance: Distance = Distance.COSINE

    def __post_init__(self) -> None:
        if not is_text(self.name) or len(self.name.encode()) > 255:
            raise ConfigError(f"{self.name!r} cannot name a collection", hint="use 1 to 255 bytes without NUL")
        if not 1 <= self.dimension <= 16_000:
            raise ConfigError(f"dimension {self.dimension} of {self.name!r} is not within 1 and 16000")


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """A collection as the store holds it. `position` is the last journal entry in it."""

    spec: CollectionSpec
    points: int
    position: Position
    restored_from: str | None

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
class Found:
    """A search's answers, nearest first, then by id; and the position of the data that they were found in."""

    hits: tuple[Hit, ...]
    position: Position


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a snapshot holds: points, position, canaries and bytes are of the same moment."""

    spec: CollectionSpec
    server_version: str
    points: int
    position: Position
    canaries: tuple[Canary, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What a restore did. `kept` names where the former data is, None when there was none."""

    points: int
    recall: float
    kept: str | None


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


class VectorStore(Protocol):
    """Collections of vectors, rebuildable from a snapshot and the journal. Safe to share between threads.

    Every method raises UnavailableError when the server does not answer, and NotFoundError for a collection that does
    not exist, unless it says otherwise.
    """

    kind: str
    """How manifests name the store."""

    extension: str
    """How the name of a snapshot's object ends."""

    def ensure(self, spec: CollectionSpec) -> None:
        """Make the collection unless it exists; IntegrityError when it exists with another spec."""
        ...

    def describe(self, name: str) -> Collection | None:
        """The collection, or None."""
        ...

    def apply(self, name: str, entries: Sequence[Entry], *, since: Position, until: Position) -> Position:
        """Apply all journal entries after `since` up to `until`, and move the position to `until`, atomically.

        Idempotent, and safe with several appliers: what is already there stays as it is. Returns the position
        afterwards, which is beyond `until` when another applier was faster. ConflictError when the collection is not as
        far as `since`: entries would be missing.
        """
        ...

    def position(self, name: str) -> Position:
        """The last journal entry in the collection. Cheap however large it is: the gate asks all the time."""
        ...

    def search(self, name: str, vector: Sequence[float], k: int) -> Found:
        """The `k` nearest points."""
        ...

    def snapshot(self, name: str, sink: Sink) -> Taken:
        """Stream the collection, as of one moment, in the store's own format and in bounded memory.

        Writers are not held up. An error of `sink` comes through unchanged. Nothing stays behind on the server.
        """
        ...

    def restore(
        self, spec: CollectionSpec, source: Source, part: CollectionPart, *, point: str, floor: float, replace: bool
    ) -> Restored:
        """Fill a new place from `source`, verify count and recall there, and then switch to it atomically.

        Until the switch nothing changes for readers; a failure or a kill leaves no trace. Former data is kept under a
        name of its own, unless there was none. IntegrityError when the bytes, the count or the recall are not what
        `part` and `floor` ask for; an error of `source` comes through unchanged; ConflictError when the collection is
        not empty and `replace` is False.
        """
        ...

    def kept(self, name: str) -> list[str]:
        """The names of the former data of `name`, newest first."""
        ...

    def drop_kept(self, name: str, kept: str) -> None:
        """Drop one of them."""
        ...

    def close(self) -> None:
        """Let the connections go."""
        ...

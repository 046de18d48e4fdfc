"""The manifest: what a recovery point holds, sealed last."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeVar

from relight.clock import parse_time
from relight.errors import IntegrityError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    T = TypeVar("T", bound=DataclassInstance)

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A query whose answers are known: the ids of its ten nearest points when the snapshot was taken, nearest first.

    `vector` is little-endian 32-bit floats, base64 in JSON.
    """

    vector: bytes
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One object of a collection's snapshot; `node` tells those of a cluster apart and is empty where there is one."""

    object: str
    bytes: int
    sha256: str
    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """Where the vectors come from. A memory that is asked with other ones answers nonsense, so a mismatch is refused.

    `prefix` is put before a text when it is embedded.
    """

    model: str
    dimension: int
    distance: str
    prefix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionPart:
    """One collection's snapshot, in the format of `store`.

    `position` is the last journal entry that is surely in it (`xid:seq`); `drift` is by how much the count of `points`
    may be wrong; `configuration` is the store's own description of the collection (index, aliases, replication).
    """

    name: str
    store: str
    server_version: str
    pieces: tuple[Piece, ...]
    points: int
    drift: int
    embedding: Embedding
    configuration: dict[str, Any]
    position: str
    canaries: tuple[Canary, ...]

    @property
    def bytes(self) -> int:
        """All pieces together."""
        return sum(piece.bytes for piece in self.pieces)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatePosition:
    """Where the log of the state Postgres was when every entry that the snapshots hold was in it, and its schema."""

    lsn: str
    timeline: int
    schema_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePosition:
    """How far the queue's stream was. For people: the queue is rebuilt from the ledger."""

    stream: str
    last_sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Over the SHA-256 of the manifest without it; `value` is base64 in JSON."""

    algorithm: str
    key: str
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A recovery point.

    `region` is where its bytes were uploaded; `instead_of` names the region that could not be reached, if that is not
    where they belong. `queue` is None when the queue did not answer: no point waits for it.
    """

    id: str
    environment: str
    region: str
    instead_of: str | None
    taken_at: datetime
    sealed_at: datetime
    software: str
    previous: str | None
    state: StatePosition
    queue: QueuePosition | None
    collections: tuple[CollectionPart, ...]
    signature: Signature | None = None

    @property
    def total_bytes(self) -> int:
        """Of all collections together."""
        return sum(part.bytes for part in self.collections)

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """Of all collections, in order."""
        return tuple(piece for part in self.collections for piece in part.pieces)

    def collection(self, name: str) -> CollectionPart | None:
        """The part of that collection, or None."""
        return next((part for part in self.collections if part.name == name), None)

    def to_json(self) -> str:
        """The same text for the same value, always."""
        value = {item.name: _plain(getattr(self, item.name)) for item in fields(self)} | {"version": VERSION}
        return json.dumps(value, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, *, source: str) -> Manifest:
        """The inverse of `to_json`; IntegrityError that names `source` for anything else."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as exc:
            raise IntegrityError(f"{source} is not JSON", hint="the point is damaged: use another") from exc
        version = value.get("version") if isinstance(value, dict) else None
        if version != VERSION or isinstance(version, bool):
            raise IntegrityError(
                f"{source} has manifest version {version!r}, and this Relight reads version {VERSION}",
                hint="use the Relight that wrote it (its `software` field), or a newer one",
            )
        try:
            del value["version"]
            return _checked(
                cls(
                    **{
                        **value,
                        "taken_at": parse_time(value["taken_at"]),
                        "sealed_at": parse_time(value["sealed_at"]),
                        "state": _checked(StatePosition(**value["state"])),
                        "queue": None if value["queue"] is None else _checked(QueuePosition(**value["queue"])),
                        "collections": tuple(_part(item) for item in value["collections"]),
                        "signature": None if value["signature"] is None else _signature(value["signature"]),
                    }
                )
            )
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise IntegrityError(
                f"{source} is not a manifest: {exc}", hint="the point is damaged: use another"
            ) from exc


def _part(value: dict[str, Any]) -> CollectionPart:
    return _checked(
        CollectionPart(
            **{
                **value,
                "canaries": tuple(_canary(item) for item in value["canaries"]),
                "pieces": tuple(_checked(Piece(**item)) for item in value["pieces"]),
                "embedding": _checked(Embedding(**value["embedding"])),
            }
        )
    )


def _canary(value: dict[str, Any]) -> Canary:
    ids = value["ids"]
    if not isinstance(ids, list) or not all(isinstance(id_, str) for id_ in ids):
        raise ValueError(f"{str(ids)[:20]!r} are no ids")
    return Canary(**{**value, "vector": _bytes(value["vector"]), "ids": tuple(ids)})


def _signature(value: dict[str, Any]) -> Signature:
    return _checked(Signature(**{**value, "value": _bytes(value["value"])}))


_KINDS: dict[Any, tuple[type, ...]] = {
    "str": (str,),
    "str | None": (str, NoneType),
    "int": (int,),
    "dict[str, Any]": (dict,),
}


def _checked(value: T) -> T:
    """`value` itself; ValueError when a field does not hold what it is declared to hold, or a count is none."""
    for item in fields(value):
        got = getattr(value, item.name)
        kinds = _KINDS.get(item.type)
        if kinds and (not isinstance(got, kinds) or isinstance(got, bool) or (isinstance(got, int) and got < 0)):
            raise ValueError(f"{item.name} is {str(got)[:40]!r}")
    return value


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as exc:
        raise ValueError(f"{text[:20]!r} is not base64") from exc


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    return value

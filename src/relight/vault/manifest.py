"""The manifest: what a recovery point holds, sealed last."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from relight.clock import parse_time
from relight.errors import IntegrityError

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A query whose answers are known: the ids of its ten nearest points when the snapshot was taken, nearest first.

    `vector` is little-endian 32-bit floats, base64 in JSON.
    """

    vector: bytes
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionPart:
    """One collection's snapshot. `position` is the last journal entry in it (`xid:seq`)."""

    name: str
    store: str
    server_version: str
    object: str
    bytes: int
    sha256: str
    points: int
    dimension: int
    distance: str
    embedding_model: str
    position: str
    canaries: tuple[Canary, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StatePosition:
    """Where the log of the state Postgres was when every entry that the snapshots hold was in it."""

    lsn: str
    timeline: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A recovery point.

    `region` is where its bytes were uploaded; `instead_of` names the region that could not be reached, if that is not
    where they belong.
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
    collections: tuple[CollectionPart, ...]

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
        except ValueError as exc:
            raise IntegrityError(f"{source} is not JSON", hint="the point is damaged: use another") from exc
        version = value.get("version") if isinstance(value, dict) else None
        if version != VERSION or isinstance(version, bool):
            raise IntegrityError(
                f"{source} has manifest version {version!r}, and this Relight reads version {VERSION}",
                hint="use the Relight that wrote it (its `software` field), or a newer one",
            )
        try:
            del value["version"]
            return cls(
                **{
                    **value,
                    "taken_at": parse_time(value["taken_at"]),
                    "sealed_at": parse_time(value["sealed_at"]),
                    "state": StatePosition(**value["state"]),
                    "collections": tuple(_part(item) for item in value["collections"]),
                }
            )
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise IntegrityError(
                f"{source} is not a manifest: {exc}", hint="the point is damaged: use another"
            ) from exc


def _part(value: dict[str, Any]) -> CollectionPart:
    canaries = tuple(Canary(vector=_vector(item["vector"]), ids=tuple(item["ids"])) for item in value["canaries"])
    part = CollectionPart(**{**value, "canaries": canaries})
    if not all(isinstance(number, int) and number >= 0 for number in (part.bytes, part.points, part.dimension)):
        raise ValueError(f"bytes, points or dimension of {part.name!r} is not a count")
    return part


def _vector(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as exc:
        raise ValueError("a canary's vector is not base64") from exc


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, (Canary, CollectionPart, StatePosition)):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    return value

"""Archived parts of the journal, as they are in the vaults: gzipped lines of JSON that say what they are of."""

from __future__ import annotations

import base64
import binascii
import gzip
import hashlib
import io
import json
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from relight.errors import DeniedError, IntegrityError, NotFoundError, UnavailableError
from relight.memory.journal import Entry, Op, Position
from relight.vault.segments import prefix, segment_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from relight.memory.journal import Segment
    from relight.vault.store import Vault

FORMAT = "relight-journal"
VERSION = 1

# Vectors hardly compress, and what else there is compresses well at once (measured, with 256 dimensions: 1,071 bytes an
# entry at the first level, 1,040 at the sixth, which takes half as long again).
_LEVEL = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A segment's bytes and what is to be known of them. `object` names their content: others have another key."""

    collection: str
    after: Position
    until: Position
    object: str
    sha256: str
    data: bytes
    entries: int
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """An entry as a segment has it."""

    position: Position
    at: datetime
    data: bytes

    @classmethod
    def of(cls, entry: Entry) -> Line:
        """The line of `entry`."""
        return cls(position=entry.position, at=entry.at, data=encode(entry))


def pack(collection: str, after: Position, lines: Sequence[Line]) -> Packed:
    """Make a segment of entries that are all after `after` up to the last of them, in order; at least one.

    The first line is an object with `format`, `version`, `collection`, `after`, `until` and `entries`; each other one
    is an entry with `position`, `at`, `epoch`, `op`, `id`, `vector` (base64 of little-endian 32-bit floats, or null),
    `payload` and `task`.
    """
    until = lines[-1].position
    header = _header(collection, after, until, len(lines))
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=_LEVEL, mtime=0) as stream:
        stream.write(_line(header))
        for line in lines:
            stream.write(line.data)
    data = buffer.getvalue()
    sha256 = hashlib.sha256(data).hexdigest()
    return Packed(
        collection=collection,
        after=after,
        until=until,
        object=segment_key(collection, (after.xid, after.seq), (until.xid, until.seq), sha256),
        sha256=sha256,
        data=data,
        entries=len(lines),
        first_at=min(line.at for line in lines),
        last_at=max(line.at for line in lines),
    )


def unpack(data: bytes, segment: Segment) -> tuple[Entry, ...]:
    """The entries of `segment`; IntegrityError unless `data` is exactly what was archived as it."""
    found = hashlib.sha256(data).hexdigest()
    if found != segment.sha256:
        raise IntegrityError(
            f"{segment.object} has SHA-256 {found}, and the state database says {segment.sha256}",
            hint="it was altered or cut",
        )
    try:
        header, *lines = gzip.decompress(data).splitlines()
        said = json.loads(header)
        entries = tuple(decode(line, segment.collection) for line in lines)
    except (OSError, EOFError, ValueError, KeyError, TypeError) as exc:
        raise IntegrityError(f"{segment.object} is no segment of a journal: {exc}") from exc
    expected = _header(segment.collection, segment.after, segment.until, segment.entries)
    positions = [segment.after, *(entry.position for entry in entries)]
    ordered = all(one < two for one, two in pairwise(positions))
    if said != expected or len(entries) != segment.entries or positions[-1] != segment.until or not ordered:
        raise IntegrityError(f"{segment.object} says that it is {said}, and it should be {expected}")
    return entries


def encode(entry: Entry) -> bytes:
    """An entry's line, but for its collection."""
    return _line(
        {
            "position": str(entry.position),
            "at": entry.at.isoformat(),
            "epoch": entry.epoch,
            "op": entry.op.value,
            "id": entry.id,
            "vector": None if entry.vector is None else base64.b64encode(entry.vector).decode(),
            "payload": entry.payload,
            "task": entry.task_id,
        }
    )


def decode(line: bytes, collection: str) -> Entry:
    """The inverse of `encode`; ValueError, KeyError or TypeError for anything else."""
    value: dict[str, Any] = json.loads(line)
    try:
        vector = None if value["vector"] is None else base64.b64decode(value["vector"], validate=True)
    except binascii.Error as exc:
        raise ValueError("a vector is not base64") from exc
    return Entry(
        position=Position.parse(value["position"]),
        at=datetime.fromisoformat(value["at"]),
        epoch=value["epoch"],
        collection=collection,
        op=Op(value["op"]),
        id=value["id"],
        vector=vector,
        payload=value["payload"],
        task_id=value["task"],
    )


class Archive:
    """The archived segments, in the first of the vaults that has them whole. Safe to share between threads."""

    def __init__(self, *vaults: Vault) -> None:
        self._vaults = vaults

    def __str__(self) -> str:
        return " and ".join(str(vault) for vault in self._vaults)

    def read(self, segment: Segment) -> tuple[Entry, ...]:
        """A segment's entries, verified.

        IntegrityError when no vault has it whole; UnavailableError when one that may have it does not answer.
        """
        reasons: list[str] = []
        away = False
        for vault in self._vaults:
            try:
                return unpack(fetch(vault, segment.object), segment)
            except (IntegrityError, NotFoundError, DeniedError, UnavailableError) as exc:
                reasons.append(f"{vault.region}: {exc.problem}")
                away = away or isinstance(exc, UnavailableError)
        kind = UnavailableError if away else IntegrityError
        raise kind(
            f"the journal of {segment.collection!r} from {segment.after} to {segment.until} cannot be read: "
            + "; ".join(reasons),
            hint="what comes after it is not applied: a memory with a gap would be wrong",
        )

    def lacks(self, segments: Iterable[Segment]) -> list[Segment]:
        """Which of these no vault holds with the right size; their bytes are not read.

        Raises what the first vault says when that cannot be asked, and the others do not have all.
        """
        wanted = list(segments)
        away: DeniedError | NotFoundError | UnavailableError | None = None
        for collection in {segment.collection for segment in wanted}:
            for vault in self._vaults:
                try:
                    sizes = {item.key: item.bytes for item in vault.objects(prefix(collection))}
                except (DeniedError, NotFoundError, UnavailableError) as exc:
                    away = away or (exc if vault is self._vaults[0] else None)
                    continue
                wanted = [segment for segment in wanted if sizes.get(segment.object) != segment.bytes]
                if not wanted:
                    return []
        if away is not None and wanted:
            raise away
        return wanted


def fetch(vault: Vault, key: str) -> bytes:
    """An object's bytes; NotFoundError where there is none, and DeniedError only for who may not read it.

    S3 tells whoever may not list the whole bucket neither that it is not there nor that it is.
    """
    if key not in vault.list_keys(key):
        raise NotFoundError(f"{key} is not in {vault}")
    return vault.get_bytes(key)


def _header(collection: str, after: Position, until: Position, entries: int) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "collection": collection,
        "after": str(after),
        "until": str(until),
        "entries": entries,
    }


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode() + b"\n"

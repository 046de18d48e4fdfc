"""Between a store and a vault: where the pieces of a collection's snapshot go to and come from."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote

from relight.errors import IntegrityError, RelightError
from relight.memory.store import Place
from relight.vault.manifest import Piece
from relight.vault.points import PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relight.memory.store import Sink, Source
    from relight.vault.manifest import CollectionPart
    from relight.vault.store import ObjectReader, Vault

LOCATION_S = 3600
_READ_BYTES = 1024 * 1024


class PointSink:
    """Takes one collection's pieces for a point. See `SnapshotSink`.

    What a failure leaves in the vault is never part of another point, not even of one of the same second.
    """

    def __init__(self, vault: Vault, point: str, collection: str, extension: str) -> None:
        self._vault = vault
        self._stem = f"{PREFIX}{point}/{quote(collection, safe='')}-{secrets.token_hex(4)}"
        self._extension = extension
        self.pieces: list[Piece] = []
        self.error: RelightError | None = None
        """What the vault failed with, if it did: so that a caller can tell it from an error of the store."""

    @contextmanager
    def piece(self, node: str = "") -> Iterator[Sink]:
        """See `SnapshotSink`."""
        key = f"{self._stem}{_suffix(node)}.{self._extension}"
        writer = None
        try:
            with self._vault.writer(key) as writer:
                yield writer
        except RelightError:
            self.error = writer.error if writer is not None else None
            raise
        self.pieces.append(Piece(object=key, bytes=writer.bytes, sha256=writer.sha256, node=node))

    def place(self, node: str = "") -> Place:
        """See `SnapshotSink`."""
        return Place(bucket=self._vault.bucket, prefix=f"{self._stem}{_suffix(node)}/", region=self._vault.region)

    def take_over(self, place: Place, node: str = "") -> None:
        """See `SnapshotSink`."""
        try:
            for item in self._vault.objects(place.prefix):
                with self._vault.reader(item.key) as body:
                    while body.read(_READ_BYTES):
                        pass
                self.pieces.append(Piece(object=item.key, bytes=body.bytes, sha256=body.sha256, node=node))
        except RelightError as exc:
            self.error = exc
            raise


class PointSource:
    """Gives one collection's pieces from a vault, verified. See `SnapshotSource`.

    With `near` a server may fetch them by itself; a vector store reaches no vault but its own region's.
    """

    def __init__(self, vault: Vault, part: CollectionPart, *, near: bool = True) -> None:
        self._vault = vault
        self._part = part
        self._near = near

    @property
    def part(self) -> CollectionPart:
        """What the manifest says."""
        return self._part

    @contextmanager
    def open(self, piece: Piece) -> Iterator[Source]:
        """See `SnapshotSource`."""
        with self._vault.reader(piece.object) as body:
            yield _Checked(body, piece)

    def location(self, piece: Piece) -> str | None:
        """See `SnapshotSource`."""
        return self._vault.presigned_url(piece.object, expires_s=LOCATION_S) if self._near else None

    def place(self, node: str = "") -> Place:
        """See `SnapshotSource`."""
        first = next((piece for piece in self._part.pieces if piece.node == node), None)
        if first is None:
            raise IntegrityError(
                f"the snapshot of {self._part.name!r} has no piece of node {node!r}",
                hint="the point is damaged: use another",
            )
        prefix = "/".join(first.object.split("/")[:3]) + "/"
        return Place(bucket=self._vault.bucket, prefix=prefix, region=self._vault.region)


class _Checked:
    """Gives the object's bytes, and at their end an IntegrityError instead when they are not those of the manifest."""

    def __init__(self, body: ObjectReader, piece: Piece) -> None:
        self._body = body
        self._piece = piece

    def read(self, size: int) -> bytes:
        data = self._body.read(size)
        got, piece = self._body, self._piece
        if got.bytes > piece.bytes or (not data and (got.bytes, got.sha256) != (piece.bytes, piece.sha256)):
            raise IntegrityError(
                f"{piece.object} has {got.bytes} bytes with SHA-256 {got.sha256}, "
                f"and the manifest says {piece.bytes} with {piece.sha256}",
                hint="the object was altered or cut: use another point",
            )
        return data


def _suffix(node: str) -> str:
    return f"-{quote(node, safe='')}" if node else ""

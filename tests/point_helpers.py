"""Recovery points for tests of vaults: real manifests over small objects."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from relight.clock import parse_time
from relight.vault import points
from relight.vault.manifest import Canary, CollectionPart, Embedding, Manifest, Piece, StatePosition

if TYPE_CHECKING:
    from relight.vault.store import Vault


def make_manifest(point: str, pieces: dict[str, bytes], *, region: str = "us-east-1", **changes: Any) -> Manifest:
    """A manifest of one collection whose pieces are `pieces`, by the end of their keys."""
    part = CollectionPart(
        name="memory",
        store="pgvector",
        server_version="PostgreSQL 18.6, pgvector 0.8.6",
        pieces=tuple(
            Piece(object=f"points/{point}/{end}", bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), node=end)
            for end, data in pieces.items()
        ),
        points=1,
        drift=0,
        embedding=Embedding(model="test", dimension=2, distance="cosine", prefix=""),
        configuration={},
        position="10:1",
        canaries=(Canary(vector=bytes(8), ids=("a",)),),
    )
    at = parse_time(point) if points.is_id(point) else parse_time("20260419T020000Z")
    values: dict[str, Any] = {
        "id": point,
        "environment": "test",
        "region": region,
        "instead_of": None,
        "taken_at": at,
        "sealed_at": at,
        "software": "0",
        "previous": None,
        "state": StatePosition(lsn="0/1", timeline=1, schema_version=2),
        "queue": None,
        "collections": (part,),
    }
    return Manifest(**values | changes)


def seal_point(vault: Vault, point: str, pieces: dict[str, bytes] | None = None, **changes: Any) -> Manifest:
    """A whole point in `vault`, signed where that has a signer."""
    pieces = pieces or {"memory-0a.pgcopy": f"first of {point}".encode(), "memory-0b.pgcopy": b"second"}
    manifest = make_manifest(point, pieces, region=vault.region, **changes)
    for end, data in pieces.items():
        vault.put_bytes(f"points/{point}/{end}", data)
    manifest = points.sign(vault, manifest)
    points.seal(vault, manifest)
    return manifest

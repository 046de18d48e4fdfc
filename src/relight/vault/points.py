"""Recovery points in a vault: which there are, which could be restored, and why not the others."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from relight.errors import IntegrityError, NotFoundError
from relight.vault.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relight.vault.store import Vault

PREFIX = "points/"
MANIFEST = "manifest.json"
_ID = re.compile(r"\d{8}T\d{6}Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class PointStatus:
    """A point as one vault holds it. `reason` says why it is not eligible, and is empty when it is."""

    id: str
    manifest: Manifest | None
    reason: str

    @property
    def eligible(self) -> bool:
        """Whether it is present and whole here; the checksum is verified as the bytes are restored."""
        return not self.reason


def manifest_key(point: str) -> str:
    """The key of a point's manifest; NotFoundError for a text that cannot name a point."""
    if not _ID.fullmatch(point):
        raise NotFoundError(f"{point!r} does not name a recovery point", hint="ids look like 20260419T020000Z")
    return f"{PREFIX}{point}/{MANIFEST}"


def find(vault: Vault, point: str) -> Manifest:
    """The manifest of `point`; NotFoundError when it was never sealed here, IntegrityError when it is damaged."""
    key = manifest_key(point)
    try:
        text = vault.get_bytes(key)
    except NotFoundError as exc:
        raise NotFoundError(
            f"{vault} holds no sealed point {point}", hint="`relight points list` shows what is there"
        ) from exc
    manifest = Manifest.from_json(text, source=key)
    if manifest.id != point:
        raise IntegrityError(f"{key} is the manifest of {manifest.id!r}", hint="the point is damaged: use another")
    return manifest


def newest_id(vault: Vault) -> str | None:
    """The newest sealed point, eligible or not."""
    sealed = [key.split("/")[1] for key in vault.list_keys(PREFIX) if key.endswith(f"/{MANIFEST}")]
    return max(sealed, default=None)


def survey(vault: Vault) -> Iterator[PointStatus]:
    """Every point of `vault`, newest first; manifests are fetched as the caller advances."""
    sizes: dict[str, dict[str, int]] = {}
    for item in vault.objects(PREFIX):
        point = item.key.split("/")[1]
        if _ID.fullmatch(point):
            sizes.setdefault(point, {})[item.key] = item.bytes
    for point in sorted(sizes, reverse=True):
        yield _status(vault, point, sizes[point])


def eligible(vault: Vault) -> Iterator[Manifest]:
    """The points that could be restored from `vault`, newest first."""
    for status in survey(vault):
        if status.eligible and status.manifest is not None:
            yield status.manifest


def status_of(vault: Vault, point: str) -> PointStatus:
    """One point's status; NotFoundError when there is nothing of it."""
    manifest_key(point)
    sizes = {item.key: item.bytes for item in vault.objects(f"{PREFIX}{point}/")}
    if not sizes:
        raise NotFoundError(f"{vault} holds nothing of point {point}", hint="`relight points list` shows what is there")
    return _status(vault, point, sizes)


def _status(vault: Vault, point: str, sizes: dict[str, int]) -> PointStatus:
    if manifest_key(point) not in sizes:
        return PointStatus(id=point, manifest=None, reason="not sealed: its manifest is not here")
    try:
        manifest = find(vault, point)
    except (IntegrityError, NotFoundError) as exc:
        return PointStatus(id=point, manifest=None, reason=str(exc))
    for piece in (piece for part in manifest.collections for piece in part.pieces):
        if not piece.object.startswith(f"{PREFIX}{point}/"):
            return PointStatus(id=point, manifest=manifest, reason=f"{piece.object!r} is no object of this point")
        if piece.object not in sizes:
            return PointStatus(id=point, manifest=manifest, reason=f"{piece.object} is not here")
        if sizes[piece.object] != piece.bytes:
            reason = f"{piece.object} has {sizes[piece.object]} bytes, and the manifest says {piece.bytes}"
            return PointStatus(id=point, manifest=manifest, reason=reason)
    return PointStatus(id=point, manifest=manifest, reason="")

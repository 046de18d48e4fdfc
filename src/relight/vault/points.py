"""Recovery points in a vault: which there are, which could be restored, and why not the others."""

from __future__ import annotations

import heapq
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from relight.clock import parse_time
from relight.errors import ConfigError, IntegrityError, NotFoundError, UnavailableError
from relight.vault.manifest import Manifest
from relight.vault.signing import objection, signed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from relight.vault.store import StoredObject, Vault

log = logging.getLogger(__name__)

PREFIX = "points/"
RECORDS = "verified/"
MANIFEST = "manifest.json"
_ID = re.compile(r"\d{8}T\d{6}Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class PointStatus:
    """A point as one vault holds it. `reason` says why it is not eligible, and is empty when it is.

    `sealed` means that there is a manifest, readable or not; `bytes` is the size of all that is here, and `modified`
    when the newest of it was put. `verified_at` is when this region last read every byte and found it as the manifest
    says; None when it never did, or the objects were written anew since. `damaged` means that it read them and found
    others.
    """

    id: str
    manifest: Manifest | None
    reason: str
    sealed: bool
    bytes: int
    modified: datetime
    verified_at: datetime | None = None
    damaged: bool = False

    @property
    def eligible(self) -> bool:
        """Whether it is present, whole and signed here; its bytes are hashed once more as they are restored."""
        return not self.reason


def manifest_key(point: str) -> str:
    """The key of a point's manifest; NotFoundError for a text that cannot name a point."""
    if not is_id(point):
        raise NotFoundError(f"{point!r} does not name a recovery point", hint="ids look like 20260419T020000Z")
    return f"{PREFIX}{point}/{MANIFEST}"


def record_key(region: str, point: str) -> str:
    """The key of what `region` found when it read the point's bytes."""
    return f"{RECORDS}{region}/{point}.json"


def is_id(point: str) -> bool:
    """Whether `point` is a moment, written as ids are: no other text names anything in a vault."""
    if not _ID.fullmatch(point):
        return False
    try:
        parse_time(point)
    except ValueError:
        return False
    return True


def sign(vault: Vault, manifest: Manifest) -> Manifest:
    """The manifest as it can be sealed: with a signature where the vault has a signer."""
    return manifest if vault.signer is None else signed(manifest, vault.signer)


def seal(vault: Vault, manifest: Manifest) -> None:
    """Make the point visible. Comes last; ConflictError when another point of the same second was sealed before."""
    if vault.signer is not None and manifest.signature is None:
        raise ConfigError(f"the point {manifest.id} is not signed, and a signing key is set", hint="sign it first")
    vault.put_bytes(manifest_key(manifest.id), manifest.to_json().encode(), only_if_absent=True)


def find(vault: Vault, point: str) -> Manifest:
    """The manifest of `point`; NotFoundError when it was never sealed here, IntegrityError when it is damaged.

    A manifest that lacks the signature of the vault's signer, or was altered after it was signed, is damaged.
    """
    manifest = _read(vault, point)
    if reason := objection(manifest, vault.signer):
        raise IntegrityError(f"the point {point} cannot be trusted: {reason}", hint="use another")
    return manifest


def newest_id(vault: Vault) -> str | None:
    """The newest sealed point, eligible or not."""
    sealed = [key.split("/")[1] for key in vault.list_keys(PREFIX) if key.endswith(f"/{MANIFEST}")]
    return max(sealed, default=None)


def oldest_id(vault: Vault) -> str | None:
    """The oldest sealed point, eligible or not."""
    sealed = [key.split("/")[1] for key in vault.list_keys(PREFIX) if key.endswith(f"/{MANIFEST}")]
    return min((id_ for id_ in sealed if is_id(id_)), default=None)


def survey(vault: Vault) -> Iterator[PointStatus]:
    """Every point of `vault`, newest first; manifests are fetched as the caller advances."""
    found: dict[str, dict[str, StoredObject]] = {}
    for item in vault.objects(PREFIX):
        point = item.key.split("/")[1]
        if is_id(point):
            found.setdefault(point, {})[item.key] = item
    records = set(vault.list_keys(f"{RECORDS}{vault.region}/")) if found else set()
    for point in sorted(found, reverse=True):
        yield _status(vault, point, found[point], recorded=record_key(vault.region, point) in records)


def eligible(vault: Vault) -> Iterator[Manifest]:
    """The points that could be restored from `vault`, newest first."""
    for status in survey(vault):
        if status.eligible and status.manifest is not None:
            yield status.manifest


class NoPointError(NotFoundError):
    """The vault answers, and holds no point that could be restored."""


def survey_both(own: Vault, peer: Vault | None) -> Iterator[tuple[Vault, PointStatus]]:
    """Every point of either vault and where it is, newest first, and of the same point that in `own` first.

    `peer` is passed over while it does not answer; when `own` does not, that is raised after what `peer` has.
    DeniedError at once where either may not be asked.
    """
    if peer is None:
        for status in survey(own):
            yield own, status
        return
    failed: list[UnavailableError] = []

    def those(vault: Vault) -> Iterator[tuple[Vault, PointStatus]]:
        try:
            for status in survey(vault):
                yield vault, status
        except UnavailableError as exc:
            log.warning("vault_not_surveyed", extra={"region": vault.region, "error": str(exc)})
            if vault is own:
                failed.append(exc)

    yield from heapq.merge(those(own), those(peer), key=lambda found: found[1].id, reverse=True)
    if failed:
        raise failed[0]


def newest_eligible(vault: Vault, *, before: datetime | None = None) -> PointStatus:
    """The newest point that could be restored from `vault`, taken until `before`; NoPointError when there is none."""
    for status in survey(vault):
        taken = status.manifest.taken_at if status.manifest is not None else None
        if status.eligible and taken is not None and (before is None or taken <= before):
            return status
    raise NoPointError(
        f"{vault} holds no eligible point" + (f" of before {before:%Y-%m-%dT%H:%M:%SZ}" if before else ""),
        hint="`relight points list` says why" + ("; name a later time" if before else ""),
    )


def status_of(vault: Vault, point: str) -> PointStatus:
    """One point's status; NotFoundError when there is nothing of it."""
    manifest_key(point)
    found = {item.key: item for item in vault.objects(f"{PREFIX}{point}/")}
    if not found:
        raise NotFoundError(f"{vault} holds nothing of point {point}", hint="`relight points list` shows what is there")
    key = record_key(vault.region, point)
    return _status(vault, point, found, recorded=key in vault.list_keys(key))


def _read(vault: Vault, point: str) -> Manifest:
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


def _status(vault: Vault, point: str, found: Mapping[str, StoredObject], *, recorded: bool) -> PointStatus:
    manifest: Manifest | None = None
    verified_at: datetime | None = None
    sealed = manifest_key(point) in found
    if not sealed:
        reason = "not sealed: its manifest is not here"
    else:
        try:
            manifest = _read(vault, point)
            reason = objection(manifest, vault.signer) or _lack(point, manifest, found)
        except (IntegrityError, NotFoundError) as exc:
            reason = str(exc)
    damaged = False
    if manifest is not None and not reason and recorded:
        reason, verified_at = _verdict(vault, manifest, found)
        damaged = bool(reason)
    return PointStatus(
        id=point,
        manifest=manifest,
        reason=reason,
        sealed=sealed,
        bytes=sum(item.bytes for item in found.values()),
        modified=max(item.modified for item in found.values()),
        verified_at=verified_at,
        damaged=damaged,
    )


def _lack(point: str, manifest: Manifest, found: Mapping[str, StoredObject]) -> str:
    """What of the manifest's pieces is not here as it says, empty when all are."""
    for piece in manifest.pieces:
        if not piece.object.startswith(f"{PREFIX}{point}/"):
            return f"{piece.object!r} is no object of this point"
        if piece.object not in found:
            return f"{piece.object} is not here: replication is late, or it was lost"
        if found[piece.object].bytes != piece.bytes:
            return f"{piece.object} has {found[piece.object].bytes} bytes, and the manifest says {piece.bytes}"
    return ""


def _verdict(vault: Vault, manifest: Manifest, found: Mapping[str, StoredObject]) -> tuple[str, datetime | None]:
    """(reason, verified_at) of this region's record of the point; one of other objects than these says nothing."""
    try:
        record: dict[str, Any] = vault.get_json(record_key(vault.region, manifest.id))
        at, ok, reason, etags = parse_time(record["at"]), record["ok"], str(record["reason"]), dict(record["etags"])
    except (IntegrityError, NotFoundError, KeyError, TypeError, ValueError):
        return "", None
    if etags != {piece.object: found[piece.object].etag for piece in manifest.pieces}:
        return "", None
    return ("", at) if ok is True else (reason or "damaged", None)

"""Reading recovery points back before they are needed: damage is found while there still are other points."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from relight.errors import IntegrityError, NotFoundError
from relight.vault.points import manifest_key, record_key, status_of, survey

if TYPE_CHECKING:
    from relight.clock import Clock
    from relight.vault.manifest import Manifest, Piece
    from relight.vault.points import PointStatus
    from relight.vault.store import Vault

log = logging.getLogger(__name__)

_READ_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What reading one point's bytes found; `reason` is empty when they are what the manifest says."""

    point: str
    ok: bool
    reason: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What a verification found, newest first.

    `left` are the points that there was no time for, or that are too large. `known_damaged` were found damaged before,
    and nobody has mended them.
    """

    findings: tuple[Finding, ...]
    left: tuple[str, ...]
    known_damaged: tuple[str, ...] = ()

    @property
    def damaged(self) -> tuple[str, ...]:
        """The points that were found damaged."""
        return tuple(item.point for item in self.findings if not item.ok)

    def or_raise(self) -> Self:
        """Itself when nothing is damaged; IntegrityError otherwise, for callers whose failures are watched."""
        damaged = [item for item in self.findings if not item.ok]
        if damaged:
            raise IntegrityError(
                f"{len(damaged)} points are damaged, such as {damaged[0].point}: {damaged[0].reason}",
                hint="they are not eligible any more; `relight points copy` mends them from the other vault",
            )
        return self

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "findings": [asdict(item) for item in self.findings],
            "left": list(self.left),
            "damaged": list(self.damaged),
            "known_damaged": list(self.known_damaged),
        }


class _OutOfTimeError(Exception):
    """The time that was given is used up."""


class _PrunedError(Exception):
    """The point was removed while it was read."""


def verify_points(
    vault: Vault, *, clock: Clock, within_s: float | None, point: str | None = None, largest: int | None = None
) -> Verification:
    """Read the points that this region never verified, newest first, and record what was found of each.

    A point is verified only by having been read here: that the upload's checksums were right says nothing of what
    replication wrote, or of what became of it. A record holds for the objects that were read; one that is written anew
    is to be read again. A damaged point is no longer eligible, and that is logged as an error. With `point`, that one
    is read whatever is known of it; NotFoundError when there is nothing of it. A point of more than `largest` bytes is
    left, and holds up no other; without `within_s` there is time for all.
    """
    until = math.inf if within_s is None else clock.monotonic() + within_s
    statuses = [status_of(vault, point)] if point is not None else survey(vault)
    findings: list[Finding] = []
    left: list[str] = []
    known_damaged: list[str] = []
    in_time = True
    for status in statuses:
        if point is None and (not status.eligible or status.verified_at is not None):
            if status.damaged:
                known_damaged.append(status.id)
            continue
        if status.manifest is None:
            findings.append(Finding(point=status.id, ok=False, reason=status.reason, bytes=0))
            continue
        in_time = in_time and clock.monotonic() < until
        if not in_time or (largest is not None and status.manifest.total_bytes > largest):
            left.append(status.id)
            continue
        try:
            findings.append(_verify(vault, status, status.manifest, clock, until))
        except _OutOfTimeError:
            in_time = False
            left.append(status.id)
        except _PrunedError:
            continue
    return Verification(findings=tuple(findings), left=tuple(left), known_damaged=tuple(known_damaged))


def _verify(vault: Vault, status: PointStatus, manifest: Manifest, clock: Clock, until: float) -> Finding:
    etags: dict[str, str] = {}
    found: dict[str, str] = {}
    reason = ""
    for piece in manifest.pieces:
        etags |= {item.key: item.etag for item in vault.objects(piece.object) if item.key == piece.object}
        try:
            found[piece.object] = _read(vault, piece, clock, until)
        except NotFoundError:
            key = manifest_key(manifest.id)
            if key not in vault.list_keys(key):  # manifests go first
                raise _PrunedError from None
            reason = reason or f"{piece.object} is not here"
            continue
        if found[piece.object] != piece.sha256:
            reason = reason or (
                f"{piece.object} has SHA-256 {found[piece.object]}, and the manifest says {piece.sha256}: damaged"
            )
    # What is not eligible for another reason, as a signature, stays so; the record is of the bytes alone.
    record = {"at": clock.now().isoformat(), "ok": not reason, "reason": reason, "etags": etags, "sha256s": found}
    vault.put_json(record_key(vault.region, manifest.id), record)
    if reason:
        log.error("point_damaged", extra={"point": manifest.id, "region": vault.region, "reason": reason})
    else:
        log.info("point_verified", extra={"point": manifest.id, "region": vault.region})
    reason = reason or status.reason
    return Finding(point=manifest.id, ok=not reason, reason=reason, bytes=manifest.total_bytes)


def _read(vault: Vault, piece: Piece, clock: Clock, until: float) -> str:
    with vault.reader(piece.object) as body:
        while body.read(_READ_BYTES):
            if clock.monotonic() >= until:
                raise _OutOfTimeError
        return body.sha256

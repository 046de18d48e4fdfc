"""Catching up between two vaults, where no replication of the store does it or an outage left it behind."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from relight.errors import ConflictError, IntegrityError, NotFoundError
from relight.vault.points import manifest_key, survey
from relight.vault.retention import held_point, plan_retention

if TYPE_CHECKING:
    from datetime import datetime

    from relight.vault.manifest import Manifest, Piece
    from relight.vault.store import Vault

log = logging.getLogger(__name__)

_READ_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """One point that was carried to `region`, or would be; `reason` says why it could not be, and is empty."""

    point: str
    region: str
    bytes: int
    reason: str

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def copy_points(
    one: Vault,
    other: Vault,
    *,
    keep_hourly: int,
    keep_daily: int,
    keep_monthly: int,
    now: datetime,
    dry_run: bool = False,
) -> list[Copied]:
    """Give each vault the eligible points of the other that it lacks and that retention would keep, newest first.

    The objects go first, hashed on the way, and the manifest last and conditionally, so that a copy that is cut leaves
    no point; run again, it goes on with what is missing. A point whose bytes are not what its manifest says is reported
    and not copied. Memory is bounded, whatever the size. Raises UnavailableError when a vault fails: what was copied so
    far stays.
    """
    held = {vault.region: {status.id: status for status in survey(vault)} for vault in (one, other)}
    plan = plan_retention(
        (held_point(status) for points in held.values() for status in points.values()),
        keep_hourly=keep_hourly,
        keep_daily=keep_daily,
        keep_monthly=keep_monthly,
        now=now,
    )
    done = []
    for point in plan.keep:
        for source, target in ((one, other), (other, one)):
            here, there = held[source.region].get(point), held[target.region].get(point)
            if here is None or not here.eligible or here.manifest is None or (there is not None and there.eligible):
                continue
            reason, size = "", here.manifest.total_bytes
            if not dry_run:
                reason, size = _copy(source, target, here.manifest, anew=there is not None and there.damaged)
            done.append(Copied(point=point, region=target.region, bytes=size, reason=reason))
    return done


def _copy(source: Vault, target: Vault, manifest: Manifest, *, anew: bool) -> tuple[str, int]:
    """(reason, bytes): why the point could not be copied, empty when it was, and how much went across."""
    copied = 0
    key = manifest_key(manifest.id)
    # What is there and of the right size is from a copy that was cut; with `anew` it was read, and found damaged.
    sizes = {} if anew else {item.key: item.bytes for item in target.objects(key.rpartition("/")[0] + "/")}
    try:
        for piece in manifest.pieces:
            if sizes.get(piece.object) != piece.bytes:
                _stream(source, target, piece)
                copied += piece.bytes
        target.put_bytes(key, manifest.to_json().encode(), only_if_absent=True)
    except (ConflictError, IntegrityError, NotFoundError) as exc:
        reason = f"{target} holds another manifest of it" if isinstance(exc, ConflictError) else str(exc)
        log.error("point not copied", extra={"point": manifest.id, "region": target.region, "reason": reason})
        return reason, copied
    log.info("point copied", extra={"point": manifest.id, "region": target.region, "bytes": copied})
    return "", copied


def _stream(source: Vault, target: Vault, piece: Piece) -> None:
    with source.reader(piece.object) as body, target.writer(piece.object) as sink:
        while data := body.read(_READ_BYTES):
            sink.write(data)
        if (body.bytes, body.sha256) != (piece.bytes, piece.sha256):
            raise IntegrityError(
                f"{piece.object} in {source.region} has {body.bytes} bytes with SHA-256 {body.sha256}, "
                f"and the manifest says {piece.bytes} with {piece.sha256}",
                hint="verify the points there",
            )

"""Which recovery points stay: a ladder of hourly, daily and monthly ones, and a prune that removes the others."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

from relight.clock import parse_time
from relight.errors import NotFoundError, TransientError
from relight.vault.points import PREFIX, RECORDS, manifest_key, survey
from relight.vault.segments import PREFIX as JOURNAL
from relight.vault.segments import plan_segments
from relight.vault.store import DELETE_BATCH

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from relight.vault.points import PointStatus
    from relight.vault.store import StoredObject, Vault

log = logging.getLogger(__name__)

# For this long an upload may be under way, and replication late.
LEFTOVER_AGE = timedelta(days=1)

# How many objects are asked for their locks at once.
_AT_ONCE = 16
# A large upload is dated by its beginning, and locked from its end.
_UPLOAD = timedelta(days=1)

# How much of an id names the bucket of UTC time that it is in: `20260419T02`, `20260419`, `202604`.
_HOUR, _DAY, _MONTH = 11, 8, 6


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldPoint:
    """A point as one vault holds it. `modified` is when the newest of its objects was put.

    `locked_until` is when the last lock of one of its objects ends, of those that are to keep it.
    """

    id: str
    sealed: bool
    eligible: bool
    modified: datetime
    locked_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPlan:
    """What stays and goes, by id, newest first. `keep` says which rungs a point holds.

    `locked` are those that would go and that somebody has locked, with the end of the lock. `leftovers` were never
    sealed, and go.
    """

    keep: dict[str, tuple[str, ...]]
    locked: dict[str, datetime]
    remove: tuple[str, ...]
    leftovers: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "keep": {point: list(rungs) for point, rungs in self.keep.items()},
            "locked": {point: until.isoformat() for point, until in self.locked.items()},
            "remove": list(self.remove),
            "leftovers": list(self.leftovers),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What a prune did. `failed` says why by key; the next run tries those again.

    `segments` is how many archived parts of the journal went, or would go in a dry run.
    """

    plan: RetentionPlan
    removed: tuple[str, ...]
    objects: int
    failed: dict[str, str]
    segments: int = 0

    def or_raise(self) -> Self:
        """Itself when all was removed; TransientError otherwise, for callers whose failures are watched."""
        if self.failed:
            key, reason = next(iter(self.failed.items()))
            raise TransientError(
                f"{len(self.failed)} objects could not be removed, such as {key}: {reason}",
                hint="the next run tries them again",
            )
        return self

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "removed": list(self.removed),
            "objects": self.objects,
            "segments": self.segments,
            "failed": self.failed,
        } | {name: value for name, value in self.plan.to_json().items() if name != "remove"}


def plan_retention(
    points: Iterable[HeldPoint], *, keep_hourly: int, keep_daily: int, keep_monthly: int, now: datetime
) -> RetentionPlan:
    """Keep the newest point of each of the newest hours, days and months that hold one, and the newest of all.

    An hour without a point takes no place, so gaps cost nothing. The ladder is climbed twice, over the eligible points
    and over all that are sealed: one that is not eligible may become so when replication arrives or a key is corrected,
    and until then it must not push out the one that is. A point from the future stays, and takes nobody's place until
    its time has come. An id that comes twice is one point.

    Objects that were never sealed go when they are a day old.
    """
    held = sorted(_merged(points), key=lambda point: point.id, reverse=True)
    sealed = [point for point in held if point.sealed]
    future = [point for point in sealed if parse_time(point.id) > now]
    past = sealed[len(future) :]
    rungs: dict[str, set[str]] = {point.id: {"future"} for point in future}
    for ladder in ([point for point in past if point.eligible], past):
        for rung, length, count in (
            ("newest", 0, 1),
            ("hourly", _HOUR, keep_hourly),
            ("daily", _DAY, keep_daily),
            ("monthly", _MONTH, keep_monthly),
        ):
            for point in _newest_of_each(ladder, length)[:count]:
                rungs.setdefault(point.id, set()).add(rung)
    going = [point for point in sealed if point.id not in rungs]
    going += [point for point in held if not point.sealed and point.modified < now - LEFTOVER_AGE]
    locked = {point.id: until for point in going if (until := point.locked_until) is not None and until > now}
    return RetentionPlan(
        keep={point.id: tuple(sorted(rungs[point.id])) for point in sealed if point.id in rungs},
        locked=locked,
        remove=tuple(point.id for point in going if point.sealed and point.id not in locked),
        leftovers=tuple(point.id for point in going if not point.sealed and point.id not in locked),
    )


def prune(
    vault: Vault,
    *,
    keep_hourly: int,
    keep_daily: int,
    keep_monthly: int,
    now: datetime,
    locked_for: timedelta = timedelta(),
    dry_run: bool = False,
) -> Pruned:
    """Remove from `vault` what `plan_retention` does not keep, and what was found of points that are gone.

    The manifests go first, and only then the objects: a kill in between leaves what no longer is a point, and the next
    run sweeps it. Archived parts of the journal go when no point is left that would be brought forward with them; see
    `plan_segments`. Nothing else is touched, and nothing in another vault: deletions are not replicated.

    Where the bucket itself locks every object `locked_for` some time, such a lock keeps its bytes and not its point:
    what no rung holds is hidden, and can be brought back until the lock ends. A lock that ends later was put by
    somebody, as a legal hold is: such a point stays as it is.
    """

    def plan() -> RetentionPlan:
        return plan_retention(
            held.values(), keep_hourly=keep_hourly, keep_daily=keep_daily, keep_monthly=keep_monthly, now=now
        )

    statuses = {status.id: status for status in survey(vault)}
    held = {point: held_point(status) for point, status in statuses.items()}
    # A lock is a request for each object, so only those are asked that would go.
    first = plan()
    found = {point: [*vault.objects(f"{PREFIX}{point}/")] for point in (*first.remove, *first.leftovers)}
    locks = _locks(vault, [item for objects in found.values() for item in objects], locked_for=locked_for)
    for point, objects in found.items():
        until = max((locks[item.key] for item in objects if item.key in locks), default=None)
        held[point] = replace(held[point], locked_until=until)
    final = plan()
    archived = {item.key: item for item in vault.objects(JOURNAL)}
    segments = plan_segments(archived.values(), statuses, final.keep, keep_daily=keep_daily, now=now)
    if dry_run:
        return Pruned(plan=final, removed=(), objects=0, failed={}, segments=len(segments))
    failed = vault.delete([manifest_key(point) for point in final.remove])
    removed = [point for point in (*final.remove, *final.leftovers) if manifest_key(point) not in failed]
    going = [item.key for point in removed for item in found[point] if item.key != manifest_key(point)]
    # Those of the other region too, which replication brought.
    stays = {f"{point}.json" for point in held.keys() - set(removed)}
    records = [key for key in vault.list_keys(RECORDS) if key.rpartition("/")[2] not in stays]
    failed |= vault.delete([*going, *records])
    segments = segments[:DELETE_BATCH]
    locks = _locks(vault, [archived[key] for key in segments], locked_for=locked_for)
    segments = [key for key in segments if key not in locks or locks[key] <= now]
    kept = vault.delete(segments)
    for key, reason in (failed | kept).items():
        log.error("object_not_removed", extra={"key": key, "reason": reason})
    log.info(
        "vault pruned",
        extra={
            "region": vault.region,
            "points": len(removed),
            "kept": len(final.keep),
            "segments": len(segments) - len(kept),
        },
    )
    objects_gone = len(final.remove) + len(going) - sum(not key.startswith(RECORDS) for key in failed)
    return Pruned(
        plan=final,
        removed=tuple(removed),
        objects=objects_gone,
        failed=failed | kept,
        segments=len(segments) - len(kept),
    )


def held_point(status: PointStatus) -> HeldPoint:
    """A point as a survey found it, of whose locks nothing is known."""
    return HeldPoint(id=status.id, sealed=status.sealed, eligible=status.eligible, modified=status.modified)


def _merged(points: Iterable[HeldPoint]) -> Iterable[HeldPoint]:
    """Each id once, as the best and the most protected of what was said of it."""
    found: dict[str, HeldPoint] = {}
    for point in points:
        other = found.get(point.id, point)
        locks = [until for until in (point.locked_until, other.locked_until) if until is not None]
        found[point.id] = replace(
            point,
            sealed=point.sealed or other.sealed,
            eligible=point.eligible or other.eligible,
            modified=max(point.modified, other.modified),
            locked_until=max(locks, default=None),
        )
    return found.values()


def _newest_of_each(points: Sequence[HeldPoint], length: int) -> list[HeldPoint]:
    """The first point of each bucket, in order; `points` come newest first."""
    first: dict[str, HeldPoint] = {}
    for point in points:
        first.setdefault(point.id[:length], point)
    return list(first.values())


def _locks(vault: Vault, items: Sequence[StoredObject], *, locked_for: timedelta) -> dict[str, datetime]:
    """The ends of the locks that somebody has put, by key; asked for several at once.

    Each has to be asked for: a vault with versions refuses no deletion of a locked object, it only hides it.
    """

    def ask(item: StoredObject) -> datetime | None:
        try:
            until = vault.locked_until(item.key)
        except NotFoundError:  # another prune of this vault is at it
            return None
        if until is not None and locked_for and until <= item.modified + locked_for + _UPLOAD:
            return None
        return until

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="vault-locks") as threads:
        ends = {item.key: until for item, until in zip(items, threads.map(ask, items), strict=True)}
    return {key: until for key, until in ends.items() if until is not None}

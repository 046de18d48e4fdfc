"""A region's recovery points: taken to the vault that the objectives ask for, verified, pruned and carried across."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from relight.errors import (
    ConflictError,
    DeniedError,
    RelightError,
    UnavailableError,
)
from relight.memory.archive import ARCHIVE_S, MAX_AGE_S, archive_journal
from relight.memory.snapshot import take_snapshot
from relight.objectives import uploads_to_standby_first
from relight.queue.queues import open_queue
from relight.vault.copy import copy_points
from relight.vault.retention import prune
from relight.vault.verify import verify_points

if TYPE_CHECKING:
    from relight.memory.archive import Archived
    from relight.vault.copy import Copied
    from relight.vault.manifest import QueuePosition
    from relight.vault.retention import Pruned
    from relight.vault.verify import Verification
    from relight.wiring import Region

log = logging.getLogger(__name__)

# A function ends at 15 minutes, and has to say what it found.
VERIFY_S = 780.0


def take_point(region: Region) -> dict[str, Any]:
    """Take one point of the region's memory and return where it is and how big.

    Uploaded once: to the standby's vault where replication would come too late for the RPO, else to the own one; the
    other takes it when the first cannot be reached, and replication or a later catch-up carries it across. Skipped
    where the region does not hold the lease: a former primary that comes back would seal points of a past that nobody
    may restore. Then the journal is archived; failing there is no failure of the point, and the result says so, but for
    a permission that is missing: DeniedError.
    """
    if holder := _other_holder(region):
        return {"skipped": f"{region.settings.region} does not hold the lease, {holder} does"}
    own, peer = region.vault, region.peer_vault
    first, second = (peer, own) if uploads_to_standby_first(region.settings.objectives) else (own, peer)
    with region.state() as state:
        manifest = take_snapshot(
            store=region.store,
            specs=region.specs,
            state=state,
            vault=first,
            fallback=second,
            environment=region.settings.environment,
            clock=region.clock,
            queue=_queue_position(region),
        )
    return {
        "id": manifest.id,
        "region": manifest.region,
        "points": sum(part.points for part in manifest.collections),
        "bytes": manifest.total_bytes,
        **_archived(region),
    }


def archive_region(
    region: Region, *, max_age_s: float = MAX_AGE_S, within_s: float = ARCHIVE_S, dry_run: bool = False
) -> list[Archived]:
    """Archive the journal to the region's own vault, and prune what the other region has; see `archive_journal`.

    ConflictError where the region does not hold the lease: its journal may have parted from that of the one that does.
    """
    require_lease(region)
    settings = region.settings
    with region.state() as state:
        return archive_journal(
            database=region.database,
            state=state,
            own=region.vault,
            peer=region.peer_vault,
            collections=[spec.name for spec in region.specs],
            clock=region.clock,
            forget_after=timedelta(days=settings.keep_daily),
            carry=settings.copies_points,
            max_age_s=max_age_s,
            within_s=within_s,
            dry_run=dry_run,
        )


def require_lease(region: Region) -> None:
    """ConflictError where another region holds the lease, or nobody; what cannot be found out is no objection."""
    if holder := _other_holder(region):
        raise ConflictError(
            f"{region.settings.region} does not hold the lease, {holder} does",
            hint="do it in the region that does: add --role",
        )


def may_seal(region: Region) -> bool:
    """Whether the region holds the lease, or nobody can say so."""
    return not _other_holder(region)


def prune_points(region: Region, *, dry_run: bool = False) -> Pruned:
    """Keep the ladder of the region's own vault. See `prune`."""
    locked_for = timedelta(days=region.settings.lock_days)
    return prune(region.vault, **_ladder(region), now=region.clock.now(), locked_for=locked_for, dry_run=dry_run)


def verify_region(
    region: Region, *, point: str | None = None, within_s: float | None = VERIFY_S, largest: int | None = None
) -> Verification:
    """Read the points of the region's own vault before they are needed. See `verify_points`."""
    return verify_points(region.vault, clock=region.clock, within_s=within_s, point=point, largest=largest)


def copy_region(region: Region, *, dry_run: bool = False) -> list[Copied]:
    """Let the region's vault and its peer's catch up with one another. See `copy_points`."""
    return copy_points(region.vault, region.peer_vault, **_ladder(region), now=region.clock.now(), dry_run=dry_run)


def _ladder(region: Region) -> dict[str, Any]:
    settings = region.settings
    return {
        "keep_hourly": settings.keep_hourly,
        "keep_daily": settings.keep_daily,
        "keep_monthly": settings.keep_monthly,
    }


def _archived(region: Region) -> dict[str, Any]:
    try:
        return {"journal": [item.to_json() for item in archive_region(region)]}
    except DeniedError:
        raise
    except RelightError as exc:
        log.warning("journal_not_archived", extra={"error": str(exc)})
        return {"not_archived": str(exc)}


def _queue_position(region: Region) -> QueuePosition | None:
    async def ask() -> QueuePosition:
        async with open_queue(region.connections.queue_url, environment=region.settings.environment) as queue:
            return await queue.position()

    try:
        return asyncio.run(ask())
    except UnavailableError as exc:
        log.warning("queue_position_unknown", extra={"error": str(exc)})
        return None


def _other_holder(region: Region) -> str:
    """Who holds the lease if this region does not; empty too when that cannot be found out.

    The lease lives beside the standby's vault: when both are away the point goes to the own vault, and whether it may
    be restored is decided by its position in the database's history.
    """
    try:
        found = region.leases.read()
    except UnavailableError:
        return ""
    holder = found[0].region if found else "nobody"
    return "" if holder == region.settings.region else holder

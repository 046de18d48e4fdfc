"""Taking a recovery point in a region, to the vault that the tier's objectives ask for."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from relight.errors import UnavailableError
from relight.memory.snapshot import take_snapshot
from relight.objectives import uploads_to_standby_first
from relight.queue.jetstream import open_queue

if TYPE_CHECKING:
    from relight.vault.manifest import QueuePosition
    from relight.wiring import Region

log = logging.getLogger(__name__)


def take_point(region: Region) -> dict[str, Any]:
    """Take one point of the region's memory and return where it is and how big.

    Uploaded once: to the standby's vault where replication would come too late for the RPO, else to the own one; the
    other takes it when the first cannot be reached, and replication or a later catch-up carries it across. Skipped
    where the region does not hold the lease: a former primary that comes back would seal points of a past that nobody
    may restore.
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
    }


def _queue_position(region: Region) -> QueuePosition | None:
    async def ask() -> QueuePosition:
        async with open_queue(region.connections.queue_url, environment=region.settings.environment) as queue:
            return await queue.position()

    try:
        return asyncio.run(ask())
    except UnavailableError as exc:
        log.warning("queue position unknown", extra={"error": str(exc)})
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

"""Taking a recovery point in a region, to the vault that the tier's objectives ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relight.memory.snapshot import take_snapshot
from relight.objectives import uploads_to_standby_first

if TYPE_CHECKING:
    from relight.wiring import Region


def take_point(region: Region) -> dict[str, Any]:
    """Take one point of the region's memory and return where it is and how big.

    Uploaded once: to the standby's vault where replication would come too late for the RPO, else to the own one; the
    other takes it when the first cannot be reached, and replication or a later catch-up carries it across. Skipped
    where the region does not hold the lease: a former primary that comes back would seal points of a past that nobody
    may restore.
    """
    found = region.leases.read()
    if found is None or found[0].region != region.settings.region:
        holder = "nobody" if found is None else found[0].region
        return {"skipped": f"{region.settings.region} does not hold the lease, {holder} does"}
    own, peer = region.vault, region.peer_vault
    first, second = (peer, own) if uploads_to_standby_first(region.settings.objectives) else (own, peer)
    with region.state() as state:
        manifest = take_snapshot(
            store=region.store,
            specs=[region.spec],
            state=state,
            vault=first,
            fallback=second,
            environment=region.settings.environment,
            clock=region.clock,
        )
    return {
        "id": manifest.id,
        "region": manifest.region,
        "points": sum(part.points for part in manifest.collections),
        "bytes": sum(part.bytes for part in manifest.collections),
    }

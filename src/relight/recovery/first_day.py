"""The first day of an environment: what must be there before the agent can serve and be recovered."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from relight.errors import ConfigError
from relight.queue.jetstream import open_queue
from relight.recovery.epoch import take_first
from relight.tasks.migrate import migrate

if TYPE_CHECKING:
    from relight.wiring import Region


def prepare(region: Region) -> dict[str, Any]:
    """Make the schema, the queue and the collection, take the first epoch for this region and open its gate.

    Idempotent. Refused where another region holds an epoch already, because that is no first day.
    """
    settings = region.settings
    applied = migrate(region.database)

    async def make_queue() -> None:
        async with open_queue(region.connections.queue_url, environment=settings.environment) as queue:
            await queue.ensure()

    asyncio.run(make_queue())
    region.store.ensure(region.spec)
    lease = take_first(region.leases, region=settings.region, ttl_s=settings.lease_ttl_s, clock=region.clock)
    if lease.region != settings.region:
        raise ConfigError(
            f"{lease.region} holds epoch {lease.epoch}, so {settings.region} is not the first",
            hint="this environment is in use; nothing more was done",
        )
    region.epochs.take(lease.epoch, region=settings.region, run_id=lease.run_id)
    region.epochs.mark_verified(lease.epoch)
    region.epochs.mark_replayed(lease.epoch)
    region.epochs.mark_opened(lease.epoch)
    return {"migrations": applied, "epoch": lease.epoch, "region": settings.region}

"""The first day of an environment: what must be there before the agent can serve and be recovered."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from relight.config import Acknowledge, ConfirmBy
from relight.errors import ConfigError, NotFoundError, UnavailableError
from relight.memory import journal
from relight.memory.journal import START
from relight.queue.queues import open_queue
from relight.recovery.epoch import FIRST, take_first
from relight.tasks.confirm import Standing
from relight.tasks.migrate import migrate, schema_status

if TYPE_CHECKING:
    from relight.wiring import Region


_NOBODY = {
    ConfirmBy.COMMIT: "set synchronous_standby_names to the replica's application_name, or, in the environment file,"
    ' confirm_by = "position" or acknowledge = "local"',
    ConfirmBy.POSITION: "in the environment file, count the replicas under confirm_replicas, or set"
    ' acknowledge = "local"',
    ConfirmBy.AURORA: "in the environment file, count the other regions of the global database under confirm_replicas,"
    ' or set acknowledge = "local"',
}


def not_begun(region: Region) -> str:
    """Why there is nothing to hydrate yet: `prepare` was never run; empty once it was."""
    try:
        region.connections  # noqa: B018 - read for what it raises
    except NotFoundError as exc:
        return f"the first day has not begun: {exc.problem}"
    try:
        begun = bool(schema_status(region.database).applied)
    except UnavailableError:
        return ""  # whoever needs the database waits for it
    return "" if begun else "the first day has not begun: the state database has no schema"


def prepare(region: Region) -> dict[str, Any]:
    """Make the schema, the queue and the collections, take the first epoch for this region and open its gate.

    Idempotent. Refused, before anything is made, where this is no first day because another epoch or region is at work,
    and where acknowledged would mean nothing because no standby confirms commits.
    """
    settings = region.settings
    found = region.leases.read()
    if found is not None and (found[0].region != settings.region or found[0].run_id != FIRST):
        raise ConfigError(
            f"{found[0].region} holds epoch {found[0].epoch}, so this is no first day of {settings.region}",
            hint="this environment is in use; nothing was done",
        )
    try:
        promise = region.database.promise()
    except NotFoundError as exc:
        if settings.confirm_by is not ConfirmBy.AURORA:
            raise
        raise ConfigError(
            f'confirm_by = "aurora", and the database of {settings.region} is none: {exc.problem}',
            hint="look at state_dsn of the connections, or set confirm_by in the environment file",
        ) from exc
    if settings.acknowledge is Acknowledge.REMOTE and promise.state is Standing.NOBODY:
        raise ConfigError(
            f"{promise.reason} on the primary's side, so no standby would confirm what is acknowledged",
            hint=_NOBODY[settings.confirm_by],
        )
    applied = migrate(region.database)

    async def make_queue() -> None:
        async with open_queue(region.connections.queue_url, environment=settings.environment) as queue:
            await queue.ensure()

    asyncio.run(make_queue())
    with region.state() as state:
        for spec in region.specs:
            # Run again, it must not make in an empty store what hydration is to bring back.
            if found is None or (spec.journalled and journal.archived(state, spec.name) == START):
                region.store.ensure(spec)
    lease = take_first(region.leases, region=settings.region, ttl_s=settings.lease_ttl_s, clock=region.clock)
    region.epochs.take(lease.epoch, region=settings.region, run_id=lease.run_id)
    region.epochs.mark_verified(lease.epoch)
    region.epochs.mark_replayed(lease.epoch)
    region.epochs.mark_opened(lease.epoch)
    return {"migrations": applied, "epoch": lease.epoch, "region": settings.region}

"""The smoke test of a region: everything that a recovery would need, looked at and not changed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from relight.config import OnStandbyAway, StateKind
from relight.errors import RelightError
from relight.memory.store import DEGRADED
from relight.queue.queues import open_queue
from relight.recovery.evidence import probe
from relight.tasks.confirm import Standing
from relight.vault.points import NoPointError, newest_eligible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from relight.wiring import Region


# How many commits are tried to measure how long a confirmation takes.
CONFIRMATIONS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    found: str


def smoke_test(region: Region) -> Iterator[Check]:
    """Look at one thing after another and change no data.

    What cannot be looked at is a failed check and never an exception.
    """
    for name, look in CHECKS.items():
        try:
            ok, found = look(region)
        except RelightError as exc:
            ok, found = False, str(exc)
        yield Check(name=name, ok=ok, found=found)


def _connections(region: Region) -> tuple[bool, str]:
    _ = region.connections
    return True, f"the secret {region.settings.connections_secret} has all it needs"


def _vault(region: Region) -> tuple[bool, str]:
    try:
        manifest = newest_eligible(region.vault).manifest
    except NoPointError:
        manifest = None
    if manifest is None:
        return False, f"no eligible recovery point in {region.settings.vault_bucket}"
    age_s = (region.clock.now() - manifest.taken_at).total_seconds()
    points = sum(part.points for part in manifest.collections)
    return True, f"the newest eligible recovery point is {manifest.id}, {age_s:.0f} s old, of {points} vectors"


def _lease(region: Region) -> tuple[bool, str]:
    found = region.leases.read()
    if found is None:
        return False, "no region has taken the first epoch"
    lease = found[0]
    left_s = (lease.expires_at - region.clock.now()).total_seconds()
    state = f"live for {left_s:.0f} s" if left_s > 0 else f"run out {-left_s:.0f} s ago"
    return left_s > 0, f"epoch {lease.epoch} of {lease.region}, {state}"


def _state(region: Region) -> tuple[bool, str]:
    position = region.replica.position()
    if position.promoted:
        return True, "accepts writes"
    if region.settings.state_kind is StateKind.SNAPSHOTS:
        return True, f"no database yet, and copied backups up to {position.last_commit_at:%Y-%m-%d %H:%M:%SZ}"
    if not position.received_lsn:
        return False, "a replica that has received nothing"
    at = f", last commit at {position.last_commit_at:%H:%M:%SZ}" if position.last_commit_at else ""
    return True, f"a replica at {position.replayed_lsn}{at}"


def _acknowledged(region: Region) -> tuple[bool, str]:
    if not region.replica.position().promoted:
        if region.settings.state_kind is StateKind.SNAPSHOTS:
            return True, "what is acknowledged in the primary is here as its backups are copied"
        return True, "commits are confirmed by this replica, where the primary waits for it"
    kept, found = promise_told(region)
    if not kept:
        return False, found
    took = region.database.try_confirmation(times=CONFIRMATIONS)
    return True, (
        f"the standby confirms commits by {region.settings.confirm_by} in {took.mean_s * 1000:.1f} ms, at most"
        f" {took.longest_s * 1000:.1f} ms of {took.count}; {_MEANWHILE[region.settings.on_standby_away]}"
    )


_MEANWHILE = {
    OnStandbyAway.WAIT: "nothing is acknowledged while it is away",
    OnStandbyAway.PROCEED: "while it is away what is acknowledged is in this region alone, but for effects",
}


def promise_told(region: Region) -> tuple[bool, str]:
    """Whether what is acknowledged in the region that acts is in its standby, in words; it is asked, and not tried."""
    promise = region.database.promise()
    if promise.state is Standing.NOBODY:
        why = f"NOBODY confirms commits ({promise.reason})"
        return False, f"{why}: what is acknowledged is in this region alone; build a standby"
    meanwhile = _MEANWHILE[region.settings.on_standby_away]
    if promise.state is not Standing.KEPT:
        return False, f"the standby is away ({promise.reason}): the promise is {promise.state}, {meanwhile}"
    return True, f"the standby confirms commits by {region.settings.confirm_by}; {meanwhile}"


def _memory(region: Region) -> tuple[bool, str]:
    ok, said = True, []
    for spec in region.specs:
        found = region.store.describe(spec.name)
        if found is None:
            ok = False
            said.append(f"no collection {spec.name!r}: it is hydrated on boot, or by `relight restore`")
        else:
            index = ", searched exactly until its index is built" if found.index in DEGRADED else ""
            said.append(f"{spec.name}: {found.points} vectors, journal applied to {found.position}{index}")
    return ok, "; ".join(said)


def _queue(region: Region) -> tuple[bool, str]:
    async def look() -> None:
        async with open_queue(region.connections.queue_url, environment=region.settings.environment):
            """Connecting is the look: the standby has no stream before a recovery makes it."""

    asyncio.run(look())
    return True, "answers"


def _endpoint(url: str) -> Callable[[Region], tuple[bool, str]]:
    def look(region: Region) -> tuple[bool, str]:
        address = getattr(region.settings, url)
        error = probe(f"{address}/health", timeout_s=region.settings.probe_timeout_s)
        return not error, f"{address} {error or 'answers'}"

    return look


CHECKS: dict[str, Callable[[Region], tuple[bool, str]]] = {
    "connections": _connections,
    "vault": _vault,
    "lease": _lease,
    "state": _state,
    "acknowledged": _acknowledged,
    "memory": _memory,
    "queue": _queue,
    "service": _endpoint("service_url"),
    "primary endpoint": _endpoint("primary_url"),
    "standby endpoint": _endpoint("standby_url"),
}

"""How a region stands, as numbers: each region looks at itself every minute, for its own dashboard and alarms.

Nothing here asks the other region, but for its vault, which is what a recovery there would restore from.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from relight.config import Acknowledge, StateKind
from relight.errors import IntegrityError, LeaseLostError, RelightError, UnavailableError
from relight.providers.breaker import Phase
from relight.providers.shared import PostgresBreakers
from relight.recovery import metrics
from relight.recovery.exposure import replica_lag_s, vector_exposure
from relight.recovery.follow import SQL as FOLLOW
from relight.recovery.gate import readiness
from relight.recovery.metrics import Tally
from relight.vault.points import NoPointError, newest_eligible

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from relight.memory.journal import Position
    from relight.recovery.epoch import Lease
    from relight.recovery.exposure import Exposure
    from relight.tasks.confirm import Promise
    from relight.tasks.epochs import Epoch
    from relight.vault.points import PointStatus
    from relight.wiring import Region

_log = logging.getLogger(__name__)

EVERY_S = 60
# So that an idle primary can be told from one that does not reach its replica: what arrives there is this young.
BEAT_S = EVERY_S / 2


class Surface(StrEnum):
    """What can be lost, each by itself."""

    STATE = "state"
    MEMORY = "memory"
    TASKS = "tasks"
    EFFECTS = "effects"


def surfaces(
    *, acknowledge: Acknowledge, promise: Promise, lag_s: float | None, memory: Sequence[Exposure]
) -> dict[Surface, float | None]:
    """What each surface would lose if the region that acts were gone now, in seconds; None for everything, or unknown.

    What is acknowledged only once the standby has confirmed it loses nothing while that promise is kept, and the intent
    of a side effect never waits for less. All else loses at most what the replica lacks.
    """
    confirmed = 0.0 if promise.kept else lag_s
    of_memory = [item.seconds for item in memory]
    return {
        Surface.STATE: lag_s,
        Surface.MEMORY: None if None in of_memory else max((s for s in of_memory if s is not None), default=0.0),
        Surface.TASKS: confirmed if acknowledge is Acknowledge.REMOTE else lag_s,
        Surface.EFFECTS: confirmed,
    }


def is_served(lease: Lease | None, epoch: Epoch | None, *, now: datetime) -> bool:
    """Whether some region serves, as far as this one knows: a lease is live, and its epoch has opened its gate.

    `epoch` is the newest of the region's own database, which on a replica is what has arrived.
    """
    if lease is None or lease.expires_at <= now:
        return False
    return epoch is not None and epoch.number == lease.epoch and epoch.opened_at is not None


def observe_region(region: Region) -> dict[str, Any]:
    """Look at the region, publish what was found, and return it, with what could not be looked at and why.

    What cannot be found out is published by nobody, so that an alarm takes it for missing; `LooksFailed` counts it. A
    region that does not act exposes nothing. UnavailableError or DeniedError when nothing can be published.
    """
    now = region.clock.now()
    readings = _Readings()
    known, lease = _lease(region, readings, now)
    acts = _acts(lease, region, now) if known else None
    # Where backups are copied there is no database before a recovery has restored one.
    nowhere = region.settings.state_kind is StateKind.SNAPSHOTS and acts is not True
    epoch = None if nowhere else _epoch(region, readings)
    seen = _SeenLease(lease, region, now)
    _gate(region, readings, seen)
    if known:
        # Without a database nobody here knows whether that gate is open: that somebody acts has to do.
        served = seen.acting() is not None if nowhere else is_served(lease, epoch, now=now)
        readings.add(metrics.SERVED, float(served))
    _replication(region, readings, acts=acts, now=now)
    _exposure(region, readings, acts=acts)
    _points(region, readings, now)
    if acts is not False and not nowhere:
        _providers(region, readings)
    readings.add(metrics.LOOKS_FAILED, float(len(readings.failed)))
    region.metrics.put_tallies(readings.tallies, at=now)
    return {"region": region.settings.region, "found": readings.told, "failed": readings.failed}


@dataclass(slots=True)
class _Readings:
    """What was found so far."""

    tallies: list[Tally] = field(default_factory=list)
    told: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, value: float, **dimensions: str) -> None:
        self.tallies.append(Tally(name=name, counts={value: 1}, dimensions=dimensions))
        self.told[" ".join([name, *dimensions.values()])] = value

    @contextmanager
    def look(self, what: str) -> Iterator[None]:
        """Go on after an error of what is looked at: the rest is then all the more worth knowing."""
        try:
            yield
        except RelightError as exc:
            self.failed[what] = str(exc)
            _log.warning("look_failed", extra={"what": what, "error": str(exc)})


class _SeenLease:
    """The lease as it is stored, for the gate, which asks those who hold it the same."""

    def __init__(self, lease: Lease | None, region: Region, now: datetime) -> None:
        self._lease = lease
        self._region = region.settings.region
        self._now = now

    @property
    def epoch(self) -> int:
        if self._lease is None or self._lease.region != self._region:
            raise LeaseLostError(f"{self._region} does not hold the lease")
        return self._lease.epoch

    def check(self, for_s: float = 0.0) -> None:
        held = self._lease
        if held is None or held.region != self._region or (held.expires_at - self._now).total_seconds() <= for_s:
            raise LeaseLostError(f"{self._region} does not hold a live lease")

    def acting(self) -> str | None:
        lease = self._lease
        return None if lease is None or lease.expires_at <= self._now else lease.region


class _Memory:
    """The region's collections, for the gate; the store is opened only where it is asked for."""

    def __init__(self, region: Region) -> None:
        self._region = region

    def position(self, name: str) -> Position:
        return self._region.store.position(name)


def _acts(lease: Lease | None, region: Region, now: datetime) -> bool:
    return lease is not None and lease.region == region.settings.region and lease.expires_at > now


def _lease(region: Region, readings: _Readings, now: datetime) -> tuple[bool, Lease | None]:
    """Whether the lease could be read, and what it says."""
    with readings.look("lease"):
        found = region.leases.read()
        lease = found[0] if found else None
        if lease is not None:
            readings.add(metrics.LEASE_EPOCH, float(lease.epoch))
        readings.add(metrics.LEASE_HELD, float(_acts(lease, region, now)))
        return True, lease
    return False, None


def _epoch(region: Region, readings: _Readings) -> Epoch | None:
    with readings.look("epoch"):
        newest = region.epochs.newest()
        if newest is not None:
            readings.add(metrics.EPOCH, float(newest.number))
        return newest
    return None


def _gate(region: Region, readings: _Readings, lease: _SeenLease) -> None:
    """What the agents' own gate would say, from all that does not live in their processes."""
    settings = region.settings
    with readings.look("gate"):
        found = readiness(
            region=settings.region,
            lease=lease,
            epochs=region.epochs,
            memory=_Memory(region),
            edges=region.edges,
            collections=[spec.name for spec in region.specs],
            reads=region.following,
        )
        readings.add(metrics.GATE_OPEN, float(found.ready))
        if not found.ready:
            _log.info("gate_closed", extra={"reason": found.reason, "detail": found.detail})


def _replication(region: Region, readings: _Readings, *, acts: bool | None, now: datetime) -> None:
    """How far this region's state is behind the region that acts; nothing where it follows nobody and does not act."""
    if acts is None:
        return
    with readings.look("replication"):
        if acts:
            readings.add(metrics.REPLICATION_LAG, 0.0)
            region.database.execute(FOLLOW["beat"], {"every_s": BEAT_S})
            return
        position = region.replica.position()
        if position.promoted:
            raise IntegrityError(
                "the database takes writes while another region acts",
                hint="it follows nobody: build a replica of the other region's",
            )
        if position.last_commit_at is None:
            raise UnavailableError("nothing has arrived in the replica since it was started", hint="it is looked again")
        readings.add(metrics.REPLICATION_LAG, max(0.0, (now - position.last_commit_at).total_seconds()))


def _exposure(region: Region, readings: _Readings, *, acts: bool | None) -> None:
    """What would be lost if this region were gone now: nothing where it does not act."""
    if acts is None:
        return
    if not acts:
        for surface in Surface:
            readings.add(metrics.EXPOSURE, 0.0, **{metrics.SURFACE: surface.value})
        return
    newest: list[PointStatus] = []
    # The other region may be gone, and then its vault is a part of what is missing, and hides nothing else.
    with readings.look("the other vault"), suppress(NoPointError):
        newest = [newest_eligible(region.peer_vault)]
    with readings.look("exposure"):
        of_memory = vector_exposure(region, newest)
        with region.state() as state:
            lag_s = replica_lag_s(state)
        found = surfaces(
            acknowledge=region.settings.acknowledge, promise=region.database.promise(), lag_s=lag_s, memory=of_memory
        )
        for surface, seconds in found.items():
            if seconds is not None:
                readings.add(metrics.EXPOSURE, seconds, **{metrics.SURFACE: surface.value})
        for item in of_memory:
            if item.seconds is not None:
                readings.add(metrics.EXPOSURE, item.seconds, **{metrics.COLLECTION: item.collection})


def _points(region: Region, readings: _Readings, now: datetime) -> None:
    """How old the newest point is that could be restored here."""
    with readings.look("points"):
        try:
            newest = newest_eligible(region.vault).manifest
        except NoPointError:
            return
        if newest is not None:
            readings.add(metrics.POINT_AGE, max(0.0, (now - newest.taken_at).total_seconds()))


def _providers(region: Region, readings: _Readings) -> None:
    """Which LLM providers the workers of the region that acts leave alone, as they know it together."""
    specs = region.settings.providers
    if not specs:
        return
    with readings.look("providers"):
        known = PostgresBreakers(region.database).read()
        asked = 0
        for spec in specs:
            state = known.states.get(spec.name)
            alone = state is not None and (state.phase is not Phase.CLOSED or state.is_cooling(known.now))
            asked += not alone
            readings.add(metrics.BREAKER_OPEN, float(alone), **{metrics.PROVIDER: spec.name})
        readings.add(metrics.PROVIDERS_AVAILABLE, float(asked))

"""Rehearsal: restore the newest point where it disturbs nobody, and see whether it is worth anything."""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from relight.clock import parse_time, point_id
from relight.errors import IntegrityError, RelightError
from relight.memory.scratch import Check, scratch
from relight.memory.stores import open_store
from relight.vault.points import newest_eligible, oldest_id, status_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from relight.clock import Clock
    from relight.memory.store import CollectionSpec, VectorStore
    from relight.recovery.metrics import Metrics
    from relight.vault.store import Vault
    from relight.wiring import Region

log = logging.getLogger(__name__)

RECORDS = "rehearsals/"
AGE = "RehearsalAgeSeconds"


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsedCollection:
    """One collection as it was restored."""

    name: str
    points: int
    recall: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What a rehearsal found; `reason` says why it failed. `point` is None when there was none to restore."""

    at: datetime
    region: str
    point: str | None
    ok: bool
    reason: str
    seconds: float
    collections: tuple[RehearsedCollection, ...]

    @property
    def recall(self) -> float:
        """The poorest of the collections'; 0 when none was restored."""
        return min((item.recall for item in self.collections), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self) | {
            "at": self.at.isoformat(),
            "recall": self.recall,
            "points": sum(item.points for item in self.collections),
            "collections": [asdict(item) for item in self.collections],
        }

    def or_raise(self) -> Self:
        """Itself when it went well; IntegrityError otherwise, for callers whose failures are watched."""
        if not self.ok:
            raise IntegrityError(
                f"the rehearsal of {self.point or 'no point'} failed: {self.reason}",
                hint="until one succeeds, do not count on a recovery of the memory",
            )
        return self


def rehearse(
    *,
    store: VectorStore,
    vault: Vault,
    specs: Sequence[CollectionSpec],
    metrics: Metrics,
    clock: Clock,
    floor: float,
    check: Check | None = None,
    dsn: str = "",
    point: str | None = None,
) -> Rehearsal:
    """Restore `point`, else the newest eligible one, beside the memory; check it, record how it went, and drop it.

    Count and recall are checked as in a recovery, then `check` is run for each collection with the store's `dsn`. It is
    never passed over for an older point: whether this one works is the question. A failure is a result, recorded in
    `vault` and in `metrics` like a success; only those two failing raises.
    """
    at, began = clock.now(), clock.monotonic()
    collections: list[RehearsedCollection] = []
    reason, id_ = "", point
    try:
        status = newest_eligible(vault) if point is None else status_of(vault, point)
        id_ = status.id
        for spec in specs:
            since = clock.monotonic()
            with scratch(store=store, vault=vault, spec=spec, status=status, purpose="rehearsal", floor=floor) as found:
                collections.append(
                    RehearsedCollection(
                        name=spec.name,
                        points=found.restored.points,
                        recall=found.restored.recall,
                        seconds=round(clock.monotonic() - since, 3),
                    )
                )
                if check is not None and (wrong := check.run(found.name, dsn)):
                    reason = f"{spec.name}: {wrong}"
                    break
    except RelightError as exc:
        reason = str(exc)
    done = Rehearsal(
        at=at,
        region=vault.region,
        point=id_,
        ok=not reason,
        reason=reason,
        seconds=round(clock.monotonic() - began, 3),
        collections=tuple(collections),
    )
    log.log(
        logging.INFO if done.ok else logging.ERROR,
        "point_rehearsed",
        extra={"point": done.point, "ok": done.ok, "reason": done.reason},
    )
    vault.put_json(f"{RECORDS}{point_id(at)}.json", done.to_json())
    metrics.put(
        {"RehearsalSucceeded": float(done.ok), "RehearsalRecall": done.recall, "RehearsalSeconds": done.seconds}
    )
    return done


def rehearse_region(
    region: Region, *, point: str | None = None, check: str = "", into: str = "", within_s: float = 300.0
) -> Rehearsal:
    """Rehearse in the store at `into`, else in the one that the connections name for it, else in the region's own."""
    settings = region.settings
    command = check or settings.rehearsal_check
    dsn = into or region.connections.rehearsal_dsn or region.connections.memory_dsn
    with closing(open_store(settings.memory_store, dsn)) as store:
        return rehearse(
            store=store,
            vault=region.vault,
            specs=region.specs,
            metrics=region.metrics,
            clock=region.clock,
            floor=settings.recall_floor,
            check=Check(command=command, within_s=within_s) if command else None,
            dsn=dsn,
            point=point,
        )


def seconds_since_good(*, vault: Vault, clock: Clock) -> float:
    """How long ago the newest rehearsal in the vault's region was that went well.

    Before the first one it counts from the oldest point that is there; without any there is nothing to rehearse, and it
    is 0.
    """
    for key in sorted(vault.list_keys(RECORDS), reverse=True):
        record = vault.get_json(key)
        if record["ok"] is True:
            return (clock.now() - parse_time(record["at"])).total_seconds()
    oldest = oldest_id(vault)
    return 0.0 if oldest is None else (clock.now() - parse_time(oldest)).total_seconds()


def publish_age(region: Region) -> dict[str, Any]:
    """Put that as a metric, which an alarm looks at: a rehearsal that nobody began would tell nobody."""
    age_s = seconds_since_good(vault=region.vault, clock=region.clock)
    region.metrics.put({AGE: age_s})
    return {"age_s": round(age_s)}

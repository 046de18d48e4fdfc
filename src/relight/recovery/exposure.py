"""Exposure: what would be lost if the region that acts were gone now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from relight.errors import RelightError
from relight.memory import journal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from relight.adapters.postgres import Connection
    from relight.memory.store import CollectionSpec
    from relight.vault.points import PointStatus
    from relight.wiring import Region


# On a replica the age of the newest commit that it has is the most that can be lost. A primary knows how far behind its
# replicas are: the nearest counts, because that is the one to promote. One that has fallen silent reports no lag any
# more, and is as far behind as its last word is old. All are null where it cannot be known, or may not be.
_LAG = """
select case when pg_is_in_recovery()
            then extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp())
            else (select min(extract(epoch from greatest(
                             replay_lag,
                             case when replay_lsn < pg_current_wal_flush_lsn() then clock_timestamp() - reply_time end,
                             interval '0')))
                    from pg_stat_replication where state is not null) end
"""
_LAG_ON_AURORA = """
select min(greatest(durability_lag_in_msec / 1000.0,
                    extract(epoch from clock_timestamp() - last_lag_calculation_time)))
  from aurora_global_db_status()
 where durability_lag_in_msec >= 0
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """Of one collection. `seconds` is None when everything would be lost, or when it cannot be known; `why` says it."""

    collection: str
    seconds: float | None
    why: str


def vector_exposure(region: Region, statuses: Sequence[PointStatus]) -> list[Exposure]:
    """The exposure of each collection, given the points of the vault that would be restored from, newest first.

    What is journalled is as safe as the state database's replica. What is written to the store directly is as old as
    the newest eligible point, and so is everything where the state database cannot be asked.
    """
    try:
        with region.state() as state:
            lag_s = replica_lag_s(state)
        unknown = "" if lag_s is not None else " (no replica can be asked for its lag)"
    except RelightError as exc:
        lag_s, unknown = None, f" (the state database cannot be asked for its replica's lag: {exc.problem})"
    return [
        Exposure(collection=spec.name, seconds=lag_s, why="journalled: the most that the replica lacks")
        if spec.journalled and lag_s is not None
        else _by_point(spec, statuses, region.clock.now(), unknown if spec.journalled else "")
        for spec in region.specs
    ]


def _by_point(spec: CollectionSpec, statuses: Sequence[PointStatus], now: datetime, unknown: str) -> Exposure:
    newest = next(
        (
            status.manifest
            for status in statuses
            if status.eligible and status.manifest is not None and status.manifest.collection(spec.name) is not None
        ),
        None,
    )
    if newest is None:
        return Exposure(collection=spec.name, seconds=None, why=f"there is no eligible point of it{unknown}")
    age_s = max(0.0, (now - newest.taken_at).total_seconds())
    return Exposure(collection=spec.name, seconds=age_s, why=f"the age of the newest eligible point{unknown}")


def replica_lag_s(state: Connection) -> float | None:
    """The most that the replica to be promoted lacks, as this database knows it; None where it cannot be known.

    Asked of a replica, it is the age of the newest commit that it has.
    """
    with journal.reading(state) as cursor:
        cursor.execute("select to_regproc('aurora_global_db_status') is not null")
        on_aurora = cursor.fetchone() == (True,)
        cursor.execute(_LAG_ON_AURORA if on_aurora else _LAG)
        row = cursor.fetchone()
    return None if row is None or row[0] is None else max(0.0, float(row[0]))
